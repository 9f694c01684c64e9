"""Rules of alarms: which conditions hold at one moment of a live state folder.

No clock, no file: a condition is a function of what was observed, and of since when nothing came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steering.alarms.published import Observed, ObservedRun
from steering.experiment import AlarmKind, AlarmsSection

ABANDONED_S = 24 * 3600.0  # of silence, after which nobody is expected to work on a folder
PASSING: frozenset[AlarmKind] = frozenset(
    {"stream lost", "state stale", "beam off", "disk filling", "untrusted"}
)
"""Kinds that must last for a while before they are told, since they may pass by themselves."""
SHOWN = 300  # characters of a reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Something that people may have to know, and that holds now."""

    kind: AlarmKind
    subject: str  # run, worker or disk
    text: str
    level: int = 1  # grows when there is more to say, e.g. the number of chunks set aside
    hold_s: float | None = None  # that it must last before it is told; None: as usual

    @property
    def key(self) -> str:
        """What makes it the same condition as a moment ago."""
        return f"{self.kind}: {self.subject}"


def attended(observed: Observed) -> bool:
    """Whether somebody works on the folder, or did until a short while ago and did not stop."""
    return any(
        one.state != "stopped" and observed.at_ns - one.heard_ns < ABANDONED_S * 1e9
        for one in observed.workers
    )


def conditions(
    observed: Observed, section: AlarmsSection, *, bytes_since_ns: int | None = None
) -> tuple[Condition, ...]:
    """Every condition that holds.

    Parameters
    ----------
    observed : Observed
    section : AlarmsSection
        Its thresholds, and the kinds that are asked for.
    bytes_since_ns : int, optional
        Since when no byte of the stream came; None: not known.

    Returns
    -------
    tuple of Condition
        Keys are unique. None where nobody works on the folder: what ended well is not stale.
    """
    if not attended(observed):
        return ()
    found: dict[str, Condition] = {}
    for one in _all(observed, section, bytes_since_ns):
        if one.kind in section.kinds:
            found.setdefault(one.key, one)
    return tuple(found.values())


def _all(
    observed: Observed, section: AlarmsSection, bytes_since_ns: int | None
) -> Iterator[Condition]:
    yield from _of_workers(observed)
    yield from _of_disk(observed, section)
    for run in observed.runs:
        yield from _of_answer(run)
        yield from _of_estimates(run, section)
        yield from _of_stream(run, observed, section, bytes_since_ns)


def _of_workers(observed: Observed) -> Iterator[Condition]:
    for one in observed.workers:
        lost = one.stream_lost
        if lost is not None and one.state == "not ready":
            yield Condition(kind="stream lost", subject=one.service, text=_short(lost))
        others = [reason for reason in one.reasons if reason != lost]
        if one.state == "dead" and observed.at_ns - one.heard_ns < ABANDONED_S * 1e9:
            yield Condition(kind="state stale", subject=one.service, text=_short(*one.reasons))
        elif one.state == "not ready" and others:
            yield Condition(kind="state stale", subject=one.service, text=_short(*others))
    for number, fault in enumerate(observed.faults):
        yield Condition(kind="state stale", subject=f"manifest {number}", text=_short(fault))


def _of_disk(observed: Observed, section: AlarmsSection) -> Iterator[Condition]:
    free = observed.free_bytes
    if free is not None and free < section.disk_free_MB * 1e6:
        yield Condition(
            kind="disk filling",
            subject="state folder",
            text=f"{free / 1e6:.0f} MB are free on the disk of the state folder; expected at least "
            f"{section.disk_free_MB:g} MB. Make room: folding pauses when it is full, and goes on "
            "when there is room again.",
        )


def _of_answer(run: ObservedRun) -> Iterator[Condition]:
    """An untrusted run claims nothing: neither a stop nor a target."""
    if run.set_aside:
        chunk, reason = run.set_aside[-1]
        number = len(run.set_aside)
        many = f"{number} chunks are set aside, the newest is" if number > 1 else "Set aside:"
        yield Condition(
            kind="chunk set aside",
            subject=run.name,
            text=f"{many} {chunk}: {_short(reason)}",
            level=number,
        )
    if not run.estimated:
        return
    if run.doubted:
        yield Condition(
            kind="untrusted",
            subject=run.name,
            text=f"The model does not explain the data of {run.folded} chunks: "
            f"{_short(*run.reasons)}",
        )
        return
    if run.stop:
        yield Condition(
            kind="stop", subject=run.name, text=f"The run may stop: {_short(run.stop_reason)}"
        )
    if run.targets and run.targets_met == run.targets:
        yield Condition(
            kind="target met",
            subject=run.name,
            text=f"All {run.targets} targets are met after {run.folded} chunks, and the run is "
            "trusted.",
        )


def _of_stream(
    run: ObservedRun, observed: Observed, section: AlarmsSection, bytes_since_ns: int | None
) -> Iterator[Condition]:
    if (
        run.rate is not None
        and run.usual_rate is not None
        and run.rate < section.beam_off_below * run.usual_rate
    ):
        yield Condition(
            kind="beam off",
            subject=run.name,
            text=f"The newest dwell counted {run.rate:.3g} events a minute, {_share(run)} of the "
            f"usual {run.usual_rate:.3g}. Look at beam, shutter and choppers.",
        )
    if run.newest_stop_ns is None:
        return
    # Data that go on coming, e.g. of a long dwell, are news.
    news = max(run.newest_stop_ns, bytes_since_ns or run.newest_stop_ns)
    silent_s = (observed.at_ns - news) / 1e9
    if silent_s > 60 * section.stale_minutes:
        yield Condition(
            kind="state stale",
            subject=run.name,
            text=f"No data came for {_minutes(silent_s)}; expected some within "
            f"{section.stale_minutes:g} min. Look at the beamline. If "
            "the run is over, stop `beamsteer consume`.",
        )


def _of_estimates(run: ObservedRun, section: AlarmsSection) -> Iterator[Condition]:
    """By how long it lasts, not by times of the data: a tape may be of last year."""
    if run.waiting_chunks:
        yield Condition(
            kind="state stale",
            subject=f"estimate of {run.name}",
            text=f"{run.waiting_chunks} of {run.folded} chunks have had no estimate for "
            f"{section.late_minutes:g} min. Look at `beamsteer model-server`.",
            hold_s=60 * section.late_minutes,
        )


def _share(run: ObservedRun) -> str:
    return f"{(run.rate or 0.0) / (run.usual_rate or 1.0):.0%}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _short(*texts: str) -> str:
    joined = "; ".join(texts)
    return joined if len(joined) <= SHOWN else f"{joined[: SHOWN - 3]}..."
