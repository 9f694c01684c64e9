"""What the status API answers, as models: the answers are made of them and the schema is theirs.

A figure that is not finite is null; so is a cell without exposure.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model_server.posterior import TrustState
from steering.run import (
    AdviceWord,
    ChunkResult,
    DerivedResult,
    Figure,
    HistoryEntry,
    ParameterResult,
    RunResult,
    RunSnapshot,
    SpectrumView,
    StopResult,
    StopWord,
    Verdict,
)

Matrix = list[list[float | None]]
WorkerState = Literal["ready", "not ready", "stopped", "dead"]
WORKER_STATES: tuple[WorkerState, ...] = get_args(WorkerState)


class Answer(BaseModel):
    """An answer: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]


class RunProgress(Answer):
    """How far a run is, as one worker sees it; in chunks."""

    folded: int
    estimated: int | None = Field(
        default=None, description="those that the newest estimate answers for; null: it makes none"
    )


class WorkerAnswer(Answer):
    """A worker of a live stream, as its last sign of life tells."""

    service: str = Field(description="`consume`, `model-server`")
    partitions: list[int] = Field(description="those it owns; none: it stands by, or has none")
    state: WorkerState
    reasons: list[str] = Field(description="why it does not do its work now")
    heard_ns: int = Field(description="when it was heard last, by its clock, since the Unix epoch")
    silent_s: float = Field(default=0.0, description="since then, by the clock of this server")
    skew_s: float | None = Field(
        default=None, description="how far its clock is ahead of this server's; null: it is not"
    )
    connected: bool | None = Field(
        default=None, description="whether its stream comes; null: it has none"
    )
    lost_s: float | None = Field(default=None, description="since when it does not come")
    quiet_s: float | None = Field(default=None, description="since the last message came")
    estimating_s: float | None = Field(
        default=None, description="since when it computes an estimate; null: it does not"
    )
    runs: dict[str, RunProgress] = Field(default={}, description="by run, the newest of them")


class WorkerList(Answer):
    """Every worker of the live streams that are shown."""

    workers: list[WorkerAnswer]


class Readiness(Answer):
    """The store answers, and no worker of a live stream is dead."""

    status: Literal["ready", "not ready"]
    runs: int = Field(description="runs known")
    reasons: list[str] = Field(default=[], description="which workers are dead, since when")


class BadField(Answer):
    """A field of a request that cannot be used."""

    field: str = Field(description="where it is, e.g. `query.limit`")
    value: str = Field(description="what was sent, cut where it is long")
    expected: str


class Problem(Answer):
    """Why there is no answer, and what was expected (RFC 9457)."""

    type: str = Field(description="`about:blank`, or the kind of a problem with further members")
    title: str = Field(description="phrase of the status")
    status: int
    detail: str = Field(description="what is wrong, what was expected, and what to do")
    errors: list[BadField] = Field(default=[], description="bad fields, at most five")


class _Run(Answer):
    run_id: str
    title: str
    status: Literal["running", "finished", "failed"]
    error: str | None = Field(description="what is wrong; the run may go on")
    updated_ns: int = Field(description="since the Unix epoch")
    version: int = Field(description="grows with every publication of any run")
    trusted: bool | None
    minutes_used: float | None


class RunSummary(_Run):
    """A run in a line."""

    chunks: int = Field(description="how many, those set aside included")


class RunList(Answer):
    """Every run, last updated first."""

    runs: list[RunSummary]
    total: int = Field(description="runs there are")
    next: str | None = Field(default=None, description="path of the next page; null: none")


class RunDetails(_Run):
    """A run without its spectrum."""

    experiment: dict[str, Any] = Field(description="in the layout of `experiment.yaml`")
    chunks: list[ChunkResult]
    result: RunResult | None
    history: list[HistoryEntry] = Field(description="in few digits; `/history` has all of them")
    has_spectrum: bool
    estimate_seconds: float | None = Field(description="computing time of the newest estimate")
    lag_seconds: float | None = Field(
        description="age of the newest chunk when its estimate was ready"
    )


class SpectrumAnswer(Answer):
    """The folded spectrum along the path, in three to five significant digits.

    Matrices have a row for every path bin.
    """

    version: int = Field(description="of the run's snapshot")
    path_position: list[float | None] = Field(description="centres of the path bins")
    segment_breaks: list[int] = Field(description="first bins after gaps of the path")
    tick_positions: list[float]
    tick_labels: list[str]
    energy_edges_meV: list[float | None] = Field(description="one more than energy bins")
    intensity: Matrix = Field(description="null where D = 0: unknown, not empty")
    sigma: Matrix = Field(description="standard deviation of the intensity")
    model_intensity: Matrix = Field(description="of the newest estimate")
    residual_sigma: Matrix = Field(description="(measured - model) / sigma")
    branches: Matrix = Field(description="estimated mode energies, meV; a column per mode")
    fitted: list[list[bool]] | None = Field(
        description="cells that the fit looks at, not those of the elastic band; null: not known"
    )
    hkl: Matrix | None = Field(
        default=None, description="centres of the path bins, r.l.u. of the conventional cell"
    )
    counts: Matrix | None = Field(
        default=None, description="N; effective ones of input that is reduced; null where D = 0"
    )
    exposure: Matrix | None = Field(default=None, description="D; null where it is 0")
    scale: float | None = Field(
        default=None, description="intensity is S / (D scale), and one count 1 / (D scale)"
    )
    branches_low: Matrix | None = Field(
        default=None, description="5 % of the posterior of the mode energies, meV"
    )
    branches_high: Matrix | None = Field(default=None, description="95 %, meV")
    unit: Literal["barn/meV/sr per primitive cell"]


class EstimateAnswer(Answer):
    """Parameters with errors, derived constants, trust with its reasons."""

    parameters: list[ParameterResult]
    derived: list[DerivedResult]
    covariance: list[list[Figure]] | None = Field(
        default=None, description="of the parameters, in their order"
    )
    trusted: bool
    trust: TrustState | None = None
    reasons: list[str]
    minutes_used: Figure


class HistoryAnswer(Answer):
    """Estimate after every chunk."""

    history: list[HistoryEntry]
    total: int = Field(description="estimates there are")
    next: str | None = Field(default=None, description="path of the next page; null: none")


class AdviceLine(Answer):
    """One place to measure."""

    psi_deg: Figure
    ei_meV: Figure
    minutes: Figure | None = Field(description="null: no dwell is claimed, as nothing is trusted")
    gain_per_minute: Figure | None = Field(
        description="fall of sum sigma^2/target^2 per wall minute; null: none is claimed"
    )
    policy: str
    wanted: Literal["pinned", "approved"] | None = Field(
        default=None, description="why it comes first, whatever its gain"
    )


class AdviceAnswer(Answer):
    """Next orientations, best first, and whether to stop, in the words of the verdict.

    A run that may stop, or is closed, is sent nowhere; one that is not explained is told what to
    measure to test the model, and claims no gain, no dwell and no minutes to any target.
    """

    advice: list[AdviceLine]
    stop: StopResult
    trusted: bool
    next: AdviceWord = Field(description="what is said of where to turn")
    measure_on: StopWord = Field(description="what is said of whether to measure on")


def _head(run: RunSnapshot) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "title": run.title,
        "status": run.status,
        "error": run.error,
        "updated_ns": run.updated_ns,
        "version": run.version,
        "trusted": None if run.result is None else run.result.trusted,
        "minutes_used": None if run.result is None else run.result.minutes_used,
    }


def summary(run: RunSnapshot) -> RunSummary:
    """A run in a line."""
    return RunSummary(**_head(run), chunks=len(run.chunks))


def details(run: RunSnapshot) -> RunDetails:
    """A run without its spectrum."""
    return RunDetails(
        **_head(run),
        experiment=run.experiment,
        chunks=list(run.chunks),
        result=run.result,
        history=[_shortened(entry) for entry in run.history],
        has_spectrum=run.spectrum is not None,
        estimate_seconds=run.estimate_seconds,
        lag_seconds=run.lag_seconds,
    )


def snapshot_of(run: RunDetails, spectrum: SpectrumView | None) -> RunSnapshot:
    """The snapshot that a server's answers were made of, as far as they tell it.

    Parameters
    ----------
    run : RunDetails
    spectrum : SpectrumView, optional
    """
    return RunSnapshot(
        run_id=run.run_id,
        title=run.title,
        status=run.status,
        experiment=run.experiment,
        updated_ns=run.updated_ns,
        error=run.error,
        chunks=tuple(run.chunks),
        spectrum=spectrum,
        result=run.result,
        history=tuple(run.history),
        estimate_seconds=run.estimate_seconds,
        lag_seconds=run.lag_seconds,
        version=run.version,
    )


def _shortened(entry: HistoryEntry) -> HistoryEntry:
    """The same in few digits: a page fetches a night of them after every chunk."""
    short = tuple(
        one.model_copy(
            update={"value": float(f"{one.value:.5g}"), "sigma": float(f"{one.sigma:.3g}")}
        )
        for one in entry.parameters
    )
    return entry.model_copy(update={"parameters": short})


def spectrum_answer(view: SpectrumView, *, version: int) -> SpectrumAnswer:
    """A spectrum as lists, rows by path bin, None where unknown.

    In as many digits as people can use: a page fetches it after every chunk.
    """
    unseen = np.isnan(view.intensity)

    def seen(array: np.ndarray | None, digits: int) -> Matrix | None:
        return None if array is None else rounded(np.where(unseen, np.nan, array), digits)

    def lines(array: np.ndarray | None) -> Matrix | None:
        return None if array is None else rounded(array)

    return SpectrumAnswer(
        version=version,
        path_position=rounded(view.path_position),
        segment_breaks=list(view.segment_breaks),
        tick_positions=list(view.tick_positions),
        tick_labels=list(view.tick_labels),
        energy_edges_meV=rounded(view.energy_edges_meV),
        intensity=rounded(view.intensity, 4),
        sigma=rounded(view.sigma, 3),
        model_intensity=rounded(view.model_intensity, 3),
        residual_sigma=rounded(view.residual_sigma, 3),
        branches=rounded(view.branches),
        fitted=None if view.fitted is None else view.fitted.tolist(),
        hkl=lines(view.hkl),
        counts=seen(view.counts, 6),
        exposure=seen(view.exposure, 3),
        scale=None if view.scale is None else float(view.scale),
        branches_low=lines(view.branches_low),
        branches_high=lines(view.branches_high),
        unit="barn/meV/sr per primitive cell",
    )


def estimate_answer(result: RunResult) -> EstimateAnswer:
    """The estimate alone."""
    return EstimateAnswer(
        **{
            name: getattr(result, name)
            for name in EstimateAnswer.model_fields
            if name in result.model_fields_set
        }
    )


def advice_answer(result: RunResult, said: Verdict) -> AdviceAnswer:
    """The advice alone, claiming no more than the verdict does."""
    claimed = said.advice.code == "turn"
    nothing = {} if claimed else {"minutes": None, "gain_per_minute": None}
    lines = [AdviceLine.model_validate(one.document() | nothing) for one in result.advice]
    stop = result.stop
    if not result.explained:
        stop = stop.model_copy(update={"stop": False, "minutes_to_target": None})
    return AdviceAnswer(
        advice=[] if said.advice.code == "hidden" else lines,
        stop=stop,
        trusted=result.trusted,
        next=said.advice,
        measure_on=said.stop,
    )


def rounded(array: np.ndarray, digits: int = 5) -> list[Any]:
    """Nested lists in ``digits`` significant digits; NaN and infinity become None."""
    known = np.isfinite(array)
    values = np.where(known, array, 0.0).astype(float)
    with np.errstate(divide="ignore"):
        size = np.where(values == 0, 0, np.floor(np.log10(np.abs(values))))
    scale = 10.0 ** (digits - 1 - np.clip(size, -290, 290))
    plain = (np.round(values * scale) / scale).astype(object)
    plain[~known] = None
    return plain.tolist()


def clean(value: Any) -> Any:
    """Return dicts, lists, text and finite numbers; NaN and infinity become None."""
    if isinstance(value, BaseModel):
        return clean(value.model_dump(mode="json", exclude_unset=True))
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return clean(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
