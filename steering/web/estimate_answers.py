"""What ``/v1/estimate`` and ``/v1/models`` take and answer, as models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from steering.web.answers import Answer

MOST_SPECTRA = 100
MOST_BINS = 4000
Row = Annotated[list[float | None], Field(max_length=MOST_BINS)]
Cells = Annotated[list[Row], Field(max_length=MOST_BINS)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]
Words = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=1000)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SumsAsked(_Asked):
    """A folded spectrum as sums; a cell is null where nothing is known."""

    name: str | None = Field(default=None, max_length=200, description="comes back in the answer")
    signal: Cells = Field(description="S, (path bins, energy bins)")
    exposure: Cells = Field(description="D, (path bins, energy bins); 0 or null: unknown")
    counts: Cells | None = Field(
        default=None, description="N, (path bins, energy bins); without it there are no errors"
    )
    path_hkl_rlu: list[Triple] = Field(max_length=MOST_BINS, description="centres of path bins")
    energy_edges_meV: list[float] = Field(max_length=MOST_BINS + 1)
    parameter_names: Words | None = Field(default=None, description="held against the model's")
    isotopes: Words | None = Field(default=None, description="held against the model's")


class EstimateAsked(_Asked):
    """Spectra for a model; several in one request are read at once."""

    model: str = Field(max_length=200, description="one of /v1/models")
    experiment: str | None = Field(
        default=None, max_length=100, description="hash of the experiment, held against the model's"
    )
    spectra: list[SumsAsked] = Field(min_length=1, max_length=MOST_SPECTRA)


class LearnedParameter(Answer):
    """A force constant as a network reads it."""

    name: str
    unit: str
    value: float | None
    typical_error: float | None = Field(
        description="root mean square error on simulated spectra of as many counts; null: nobody "
        "said how many"
    )
    spread: float | None = Field(
        description="over latent samples; no error bar. Of a flow: standard deviation of its "
        "posterior"
    )
    low: float | None = Field(
        description="lower end of the 90 % interval of a flow's posterior; null: no posterior"
    )
    high: float | None = Field(description="upper end of the same")
    prior_mean: float
    prior_sigma: float


class LearnedEstimate(Answer):
    """What a network reads off one spectrum."""

    name: str
    parameters: list[LearnedParameter]
    counts: float | None = Field(description="in the cells that the network sees")
    known: float = Field(description="share of these cells that were measured")
    latent_distance: float = Field(description="about 1 for spectra like those trained on")
    latent_share: float | None = Field(
        description="of simulated spectra of as many counts that lie nearer; null: not calibrated"
    )
    inside: bool | None = Field(description="whether that share is at most 0.99")
    latent_place: list[float] | None = Field(
        default=None, description="in the map of /v1/models/{name}/latent; null: it has none"
    )
    checked: list[str] = Field(description="parts of the experiment that agree with the model's")


class LearnedAnswer(Answer):
    """Estimates of a frozen network, in the order of the spectra."""

    model: str
    architecture: str
    experiment: str = Field(description="hash of the experiment that the model is for")
    estimates: list[LearnedEstimate]
    notes: list[str]


class ModelEntry(Answer):
    """A model that may be asked."""

    name: str
    title: str | None = None
    architecture: str | None = None
    experiment: str | None = Field(default=None, description="hash of what it was trained for")
    parameters: list[str] = []
    shipped: bool
    loaded: bool = Field(description="whether it is in memory")
    fault: str | None = Field(default=None, description="why it cannot be asked")


class ModelList(Answer):
    """Every model."""

    models: list[ModelEntry]


class ModelCard(BaseModel):
    """The card of a model as it is kept; `beamsteer train` writes it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format: int
    title: str
    purpose: str


class LatentActivity(Answer):
    """How much each dimension of a latent says; lists are (latent,)."""

    variance: list[float] = Field(description="of its mean over simulated spectra")
    noise: list[float] = Field(description="mean variance of its samples; 0: nothing is sampled")
    active: list[bool]


class LatentMap(Answer):
    """Simulated spectra in the plane of the two largest principal components of their codes."""

    shares: list[float] = Field(description="of the variance, (components,)")
    simulated: list[list[float]] = Field(description="(spectra, components)")
    parameters: list[list[float]] = Field(description="their truth, (spectra, parameters)")


class LatentPsi(Answer):
    """Root mean square errors of single orientations over prior widths."""

    psi_deg: list[float]
    minutes: list[float] = Field(description="counting times")
    error_over_prior: list[list[list[float]]] = Field(description="(minutes, psi, parameters)")
    all_orientations: list[list[float]] = Field(
        description="of all together in the same time, (minutes, parameters)"
    )


class LatentAnswer(Answer):
    """What the latent of a model holds, on simulated spectra of its experiment."""

    title: str
    architecture: str
    experiment: str = Field(description="hash of the experiment that the model is for")
    parameter_names: list[str]
    unit: str
    spectra: int = Field(description="that were simulated")
    activity: LatentActivity
    sensitivity: list[list[float]] = Field(
        description="spreads of a code per prior sigma of a parameter, (latent, parameters)"
    )
    correlation: list[list[float]] = Field(
        description="of codes and parameters, (latent, parameters)"
    )
    map: LatentMap
    psi: LatentPsi
    distance: dict[str, Any] = Field(description="of simulated spectra by counts, as on the card")
