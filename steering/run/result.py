"""The answer of a run: one typed document for ``result.json``, the API, Kafka and the page.

A document keeps what it was made of: fields that were left out stay out, so a file that is read
and written again has the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
)

from model_server.posterior import TrustState
from simulations.errors import InputError
from steering.run.actions import Wishes

SCHEMA_VERSION = 1

# In JSON that others read, a figure that is not finite is null.
_OPEN = WithJsonSchema({"type": ["number", "null"]}, mode="serialization")
Figure = Annotated[float, Field(strict=True), _OPEN]
Count = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
ChunkStatus = Literal["folded", "set aside", "withdrawn"]


class ResultPart(BaseModel):
    """A part of a result: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    def document(self) -> dict[str, Any]:
        """Plain values for JSON; what was not given is not in it."""
        return self.model_dump(mode="json", exclude_unset=True)


class EventCounts(ResultPart):
    """Where events went; ``read`` is the sum of the other five."""

    read: Count
    folded: Count = Field(description="into cells of the path")
    outside_path: Count
    outside_energy: Count
    masked: Count = Field(description="in masked pixels")
    filtered: Count = Field(description="left out by the source")


class NoCounts(ResultPart):
    """A chunk that is not folded counts nowhere."""


def _kind_of_counts(events: object) -> str:
    none = isinstance(events, NoCounts) or (isinstance(events, Mapping) and not events)
    return "none" if none else "counts"


class ChunkResult(ResultPart):
    """One chunk of a run, and what became of it."""

    chunk: str
    psi_deg: Figure | None
    minutes: Figure = Field(description="beam minutes; 0 unless folded")
    events: Annotated[
        Annotated[EventCounts, Tag("counts")] | Annotated[NoCounts, Tag("none")],
        Discriminator(_kind_of_counts),
    ]
    status: ChunkStatus
    reason: str | None = Field(description="why it is not folded")


class ParameterValue(ResultPart):
    """A parameter after some chunk."""

    name: str
    value: Figure
    sigma: Figure = Field(description="standard deviation, marginal over the others")


class HistoryEntry(ResultPart):
    """The estimate after one chunk."""

    chunk: str = Field(description="the newest chunk of that estimate")
    minutes_used: Figure
    parameters: tuple[ParameterValue, ...]
    trusted: Flag


class ParameterResult(ResultPart):
    """A free parameter with its error."""

    name: str = Field(description="tensor element, e.g. `1NN xx`")
    unit: str
    value: Figure
    sigma: Figure = Field(description="standard deviation, marginal over the others")
    interval90: tuple[Figure, Figure] = Field(description="90 % interval")
    informed: Flag | None = Field(
        default=None, description="false: the data say little, it is still the prior's"
    )


class SetUpResult(ResultPart):
    """How far the set-up is off in one way, as the data see it."""

    name: str
    unit: str
    value: Figure
    sigma: Figure
    prior_sigma: Figure = Field(description="standard deviation before any data")


class OtherAnswer(ResultPart):
    """Other parameters that explain the same counts, of a posterior with more than one peak."""

    log_odds: Figure = Field(description="natural logarithm of how much likelier than the answer")
    parameters: tuple[ParameterValue, ...]


class DerivedResult(ResultPart):
    """What follows from the parameters, with its error."""

    name: str
    unit: str
    value: Figure
    sigma: Figure


class Target(ResultPart):
    """How well a parameter is to be known, and whether it is."""

    name: str = Field(description="of the parameter")
    sigma: Figure = Field(description="wanted standard deviation, unit of the parameter")
    met: Flag | None = Field(
        default=None,
        description="whether the newest sigma is at most the wanted one; null: not trusted, so "
        "nothing is claimed",
    )


class AdviceResult(ResultPart):
    """One place to measure, with what it is worth."""

    psi_deg: Figure
    ei_meV: Figure
    minutes: Figure
    gain_per_minute: Figure = Field(
        description="fall of sum sigma^2/target^2 per wall minute, or of misfit measured again"
    )
    policy: str = Field(description="`information` or `falsification`")
    wanted: Literal["pinned", "approved"] | None = Field(
        default=None, description="why it comes first, whatever its gain"
    )


class StopResult(ResultPart):
    """Whether to stop, and why."""

    stop: Flag
    reason: str
    minutes_to_target: Figure | None = Field(description="null: out of reach, or not known")


class GoodnessOfFit(ResultPart):
    """How well the model explains the cells."""

    chi_square: Figure
    degrees_of_freedom: Count
    reduced_chi_square: Figure
    p_value: Figure
    alarm_below: Figure = Field(description="p-value below which this look is not trusted")
    unnoticed_error: Figure | None = Field(
        default=None,
        description="relative error of the model, everywhere, that these counts would not show",
    )


class RunResult(ResultPart):
    """Newest answer of a run, as ``result.json`` holds it.

    ``covariance``, ``goodness_of_fit``, ``policy`` and ``targets`` come with the first estimate;
    ``state_generation``, ``state_id``, ``fingerprint`` and ``chunk_keys`` from a model service,
    which answers a state folder.
    """

    schema_version: Literal[1]
    run: str
    parameters: tuple[ParameterResult, ...] = Field(
        description="all that are fitted; those with a target first"
    )
    covariance: tuple[tuple[Figure, ...], ...] | None = Field(
        default=None, description="of the parameters, in their order"
    )
    set_up: tuple[SetUpResult, ...] | None = Field(
        default=None, description="how far orientation, lattice, Ei and time zero are off"
    )
    derived: tuple[DerivedResult, ...]
    other_answers: tuple[OtherAnswer, ...] | None = Field(
        default=None, description="that these counts do not rule out, likeliest first"
    )
    trusted: Flag = Field(
        description="whether the model explains the data, and they could have told if it did not"
    )
    trust: TrustState | None = Field(
        default=None,
        description="cannot tell yet: nothing speaks against it, but little could have",
    )
    reasons: tuple[str, ...] = Field(description="why it is not trusted")
    goodness_of_fit: GoodnessOfFit | None = None
    advice: tuple[AdviceResult, ...] = Field(description="next orientations, best first")
    policy: str | None = Field(default=None, description="that ranked the advice")
    targets: tuple[Target, ...] | None = Field(
        default=None, description="of the first parameters, in their order"
    )
    stop: StopResult
    minutes_used: Figure = Field(description="beam minutes of the folded chunks")
    coverage_fraction: Figure = Field(description="share of path cells with exposure")
    events: EventCounts = Field(description="of all folded chunks")
    chunks: tuple[ChunkResult, ...]
    notes: tuple[str, ...] = Field(description="what the experiment leaves to be known")
    state_generation: Count | None = Field(
        default=None, description="of the manifest it was made from; grows with the state"
    )
    state_id: str | None = Field(
        default=None, description="of the state folder; generations of two states do not compare"
    )
    fingerprint: str | None = Field(
        default=None, description="SHA-256 of everything that the folds depend on"
    )
    chunk_keys: tuple[str, ...] | None = Field(
        default=None, description="generation and name of the chunks it was made from"
    )
    actions: Count | None = Field(
        default=None, description="number of the last action of people that it heeds"
    )
    asked: Wishes | None = Field(default=None, description="what people want of it")

    def text(self) -> str:
        """The bytes of ``result.json``; the same result gives the same text."""
        return json.dumps(self.document(), indent=2, sort_keys=True) + "\n"

    @property
    def explained(self) -> bool:
        """Whether nothing speaks against the model; of too few counts nothing does."""
        return self.trusted or self.trust == "cannot tell yet"

    @property
    def folded_chunks(self) -> tuple[str, ...]:
        """Names of the folded chunks, in order."""
        return tuple(c.chunk for c in self.chunks if c.status == "folded")


def result_document(document: Mapping[str, Any], *, where: str = "result") -> RunResult:
    """Read a document in the layout of ``result.json``.

    Parameters
    ----------
    document : mapping
        Plain values.
    where : str
        What errors name, e.g. the path of a file.

    Raises
    ------
    InputError
        If a field is missing, unknown, or holds something else.
    """
    try:
        return RunResult.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{where}: {'; '.join(_faults(error))}") from error


def chunk_results(documents: Iterable[Mapping[str, Any]]) -> tuple[ChunkResult, ...]:
    """Read the chunks of a result; ValueError as of :func:`result_document`."""
    return tuple(ChunkResult.model_validate(one) for one in documents)


def history_entries(documents: Iterable[Mapping[str, Any]]) -> tuple[HistoryEntry, ...]:
    """Read the estimates of a run so far; ValueError as of :func:`result_document`."""
    return tuple(HistoryEntry.model_validate(one) for one in documents)


def _faults(error: ValidationError) -> list[str]:
    told: list[str] = []
    for fault in error.errors(include_url=False):
        place = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            told.append(f"{place} is missing; expected a whole result")
        elif fault["type"] == "extra_forbidden":
            told.append(f"{place} is unknown; expected only fields of schema {SCHEMA_VERSION}")
        else:
            told.append(f"{place} is {str(fault['input'])[:60]!r}: {fault['msg']}")
    return told
