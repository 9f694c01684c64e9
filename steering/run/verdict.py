"""One verdict on a run: page, command line, API and alarms say these words and no others.

``judge`` makes it of a snapshot, of the workers that feed the run, and of a time; it is a function
of them, so whoever wants to know again asks again. What builds on it needs no more than that:

- ``verdict.trust.code``, ``.stop.code``, ``.advice.code``, ``.coverage.code``: what is said, as one
  of few words for machines; ``word`` and ``evidence`` are for people.
- ``verdict.stale``: why the words are old, each with a code and since when; empty while all that
  feeds a running run does its work. Old words stay as they were and have the tone ``old``.
- ``verdict.warnings``: what is odd but makes nothing old, e.g. a clock that is off.

A run that is not trusted claims nothing: no target is met, no minutes are left, no dwell is
advised. A run that may stop is sent nowhere.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from pydantic import Field

from steering.run.result import AdviceResult, Figure, GoodnessOfFit, ResultPart, RunResult
from steering.run.store import RunSnapshot
from steering.run.wall_time import age_text

Tone = Literal["good", "bad", "plain", "old"]
TrustCode = Literal["trusted", "not trusted", "cannot tell yet", "unknown"]
StopCode = Literal["stop", "go on", "test the model", "waiting", "met", "short"]
AdviceCode = Literal["turn", "test the model", "nowhere", "hidden", "unknown"]
CoverageCode = Literal["covered", "unknown"]
StaleCode = Literal[
    "worker gone", "worker stopped", "worker not ready", "stream lost", "estimate late", "no worker"
]
LATE_SECONDS = 3.0  # of computing, beyond which an estimate that is behind is told
QUIET_SECONDS = 60.0  # without a message, though connected
SILENT_SECONDS = 600.0  # of a run that no worker is known of
LEAST_MINUTES = 0.05  # less is not told: it would read as nothing
LINE = 64  # characters of a line of evidence
NAMES = {"consume": "fold worker", "model-server": "model server"}
RESTART = {"consume": "beamsteer consume", "model-server": "beamsteer model-server"}


class VerdictWord(ResultPart):
    """What is said of one thing, and why; each has a ``code`` of its own."""

    word: str = Field(description="as people read it; empty: nothing is to be shown")
    tone: Tone = Field(description="`old`: its inputs are no longer those of now")
    evidence: tuple[str, ...] = Field(description="why, in at most two lines")
    more: tuple[str, ...] = Field(
        default=(), description="all that there is to say, where two lines are few"
    )
    made_ns: int | None = Field(default=None, description="when it was made, since the Unix epoch")
    age_s: Figure | None = Field(default=None, description="since it was made")


class TrustWord(VerdictWord):
    """Whether the model explains the data."""

    code: TrustCode


class StopWord(VerdictWord):
    """Whether to measure on."""

    code: StopCode
    eta_ns: int | None = Field(
        default=None,
        description="when every target is met if the advice is followed without a pause, since "
        "the Unix epoch; null: nothing is claimed",
    )


class AdviceWord(VerdictWord):
    """Where to turn to."""

    code: AdviceCode


class CoverageWord(VerdictWord):
    """Share of path cells with exposure, D > 0."""

    code: CoverageCode


class Staleness(ResultPart):
    """Why words are no longer those of now."""

    code: StaleCode
    text: str = Field(description="what is wrong, and what to do")
    since_ns: int = Field(description="by the clock of who judges, since the Unix epoch")


class Words(ResultPart):
    """The four words of a run."""

    trust: TrustWord
    stop: StopWord
    advice: AdviceWord
    coverage: CoverageWord

    @property
    def titled(self) -> tuple[tuple[str, VerdictWord], ...]:
        """Each under its title, as page and command line order them; what is hidden is left out."""
        advised = "Turn to" if self.advice.code == "turn" else "Next"
        every = (
            ("Measure on?", self.stop),
            (advised, self.advice),
            ("Trust", self.trust),
            ("Coverage", self.coverage),
        )
        return tuple((title, one) for title, one in every if one.word)


class Verdict(Words):
    """All that is said of a run at one moment; immutable."""

    run_id: str
    status: Literal["running", "finished", "failed"]
    version: int = Field(description="of the run's snapshot")
    now_ns: int = Field(description="when it was judged, by the clock of who judged")
    as_of_ns: int = Field(
        description="until when all inputs were those of the moment; of an ended run its end"
    )
    stale: tuple[Staleness, ...] = Field(description="why the words are old; none: they are not")
    warnings: tuple[str, ...] = Field(description="what is odd, and makes nothing old")


class Progress(Protocol):
    """How far a run is, as a worker sees it."""

    @property
    def folded(self) -> int:
        """Folded chunks."""
        ...

    @property
    def estimated(self) -> int | None:
        """Those that the newest estimate answers for; None: this worker does not estimate."""
        ...


class Sign(Protocol):
    """A worker's last sign of life; ``steering.web.read_heartbeats`` has them."""

    @property
    def service(self) -> str:
        """`consume` or `model-server`."""
        ...

    @property
    def state(self) -> str:
        """`ready`, `not ready`, `stopped` or `dead`."""
        ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why it does not do its work."""
        ...

    @property
    def silent_s(self) -> float:
        """Since it was heard last, by the clock of who listens."""
        ...

    @property
    def skew_s(self) -> float | None:
        """How far its clock is ahead of that of who listens; None: it is not, or not known."""
        ...

    @property
    def lost_s(self) -> float | None:
        """Since when its stream is lost; None: it is not, or there is none."""
        ...

    @property
    def quiet_s(self) -> float | None:
        """Since the last message of its stream came; None: none came."""
        ...

    @property
    def estimating_s(self) -> float | None:
        """Since when it computes an estimate; None: it does not."""
        ...

    @property
    def runs(self) -> Mapping[str, Progress]:
        """How far its runs are, by name."""
        ...


def judge(snapshot: RunSnapshot, workers: Iterable[Sign] = (), *, now_ns: int) -> Verdict:
    """Say what is to be said of a run.

    Parameters
    ----------
    snapshot : RunSnapshot
        The newest one.
    workers : iterable of Sign
        Of all live streams; those that do not name the run are passed over.
    now_ns : int
        Since the Unix epoch, by the clock that ages are told by.
    """
    mine = [one for one in workers if snapshot.run_id in one.runs]
    stale = _stale(snapshot, mine, now_ns) if snapshot.status == "running" else ()
    made = snapshot.estimated_ns or (snapshot.updated_ns if snapshot.result is not None else None)
    if made is not None:
        made -= round(1e9 * _skew_of_estimates(snapshot.run_id, mine))
    words = words_of(snapshot.result, status=snapshot.status, folded=_folded(snapshot, mine))
    ended = snapshot.status != "running"
    return Verdict(
        trust=_dated(words.trust, made, now_ns, old=bool(stale)),
        stop=_dated(words.stop, made, now_ns, old=bool(stale)).model_copy(
            update={"eta_ns": None if stale else _eta_ns(snapshot.result, words.stop, made, now_ns)}
        ),
        advice=_dated(words.advice, made, now_ns, old=bool(stale)),
        coverage=_dated(words.coverage, made, now_ns, old=bool(stale)),
        run_id=snapshot.run_id,
        status=snapshot.status,
        version=snapshot.version,
        now_ns=now_ns,
        as_of_ns=snapshot.updated_ns if ended else min([now_ns, *(one.since_ns for one in stale)]),
        stale=stale,
        warnings=tuple(w for one in mine for w in _odd(one)),
    )


def words_of(
    result: RunResult | None,
    *,
    status: Literal["running", "finished", "failed"] = "running",
    folded: int = 0,
) -> Words:
    """Make the words of a result, without their age.

    Parameters
    ----------
    result : RunResult, optional
        None: there is no estimate yet.
    status : str
        Of the run.
    folded : int
        Chunks that are folded, where there is no result to tell.
    """
    if result is None or not result.parameters:
        waits = "Nothing measured" if status != "running" else "Waiting"
        why = (
            f"{_chunks(folded)} folded, no estimate yet" if folded else "no chunk is folded yet",
        )
        return Words(
            trust=TrustWord(code="unknown", word="No estimate", tone="plain", evidence=why),
            stop=StopWord(code="waiting", word=waits, tone="plain", evidence=why),
            advice=AdviceWord(code="unknown", word="", tone="plain", evidence=()),
            coverage=_coverage(result),
        )
    return Words(
        trust=trust_word(
            trusted=result.trusted,
            explained=result.explained,
            reasons=result.reasons,
            goodness=result.goodness_of_fit,
        ),
        stop=_stop(result, ended=status != "running"),
        advice=_advice(result),
        coverage=_coverage(result),
    )


def trust_word(
    *,
    trusted: bool,
    reasons: Sequence[str],
    goodness: GoodnessOfFit | None = None,
    explained: bool = False,
) -> TrustWord:
    """Whether the model explains the data, with its evidence in at most two lines.

    Parameters
    ----------
    trusted : bool
    reasons : sequence of str
        As of the estimate; all of them are in ``more`` where the two lines do not hold them whole.
    goodness : GoodnessOfFit, optional
    explained : bool
        Of an answer that is not trusted: whether nothing speaks against it, as little could have.
    """
    fit = () if goodness is None else (_goodness(goodness),)
    if trusted:
        lines = [*fit, "no chunk, parameter or part of the set-up stands out"] if fit else reasons
        word, tone, otherwise = "✓ Trusted", "good", "nothing speaks against it"
    elif explained:
        lines = list(reasons)
        word, tone, otherwise = "? Cannot tell yet", "plain", "no reason was given"
    else:
        lines = [_short(reason, fit) for reason in reasons]
        word, tone, otherwise = "✗ Not trusted", "bad", "no reason was given"
    if len(lines) == 1:
        short = textwrap.wrap(lines[0], LINE, max_lines=2, placeholder=" …")
    else:
        short = [textwrap.shorten(line, LINE, placeholder=" …") for line in lines] or [otherwise]
    if len(short) > 2:
        short = [short[0], f"and {len(short) - 1} more reasons"]
    return TrustWord(
        code="trusted" if trusted else "cannot tell yet" if explained else "not trusted",
        word=word,
        tone=tone,
        evidence=tuple(short),
        more=() if " ".join(short) == " ".join(reasons) else tuple(reasons),
    )


def targets_met(result: RunResult) -> tuple[int, int] | None:
    """How many targets are met, of how many; None where nothing may be claimed, or is not known."""
    if not result.trusted or not result.targets or any(t.met is None for t in result.targets):
        return None
    return sum(bool(t.met) for t in result.targets), len(result.targets)


# --- words -------------------------------------------------------------------------------------

_Word = TypeVar("_Word", bound=VerdictWord)


def _dated(word: _Word, made_ns: int | None, now_ns: int, *, old: bool) -> _Word:
    return word.model_copy(
        update={
            "more": word.more,
            "made_ns": made_ns,
            "age_s": None if made_ns is None else max((now_ns - made_ns) / 1e9, 0.0),
            "tone": "old" if old else word.tone,
        }
    )


def _goodness(fit: GoodnessOfFit) -> str:
    return f"chi-square {fit.reduced_chi_square:.2f} per degree of freedom, p = {fit.p_value:.2g}"


def _short(reason: str, fit: tuple[str, ...]) -> str:
    """A reason in a line; the one of the fit says its figures first."""
    return fit[0] if fit and reason.startswith("goodness of fit") else reason


def _stop(result: RunResult, *, ended: bool) -> StopWord:
    stop, left = result.stop, result.stop.minutes_to_target

    def word(code: StopCode, text: str, tone: Tone, *evidence: str) -> StopWord:
        return StopWord(code=code, word=text, tone=tone, evidence=evidence)

    if not result.explained:
        text = "Ended untrusted" if ended else "Test the model"
        return word("test the model", text, "bad", "look at why it is not trusted before all else")
    if stop.stop:
        code: StopCode = "met" if ended else "stop"
        return word(code, "Targets met" if ended else "Stop now", "good", stop.reason)
    met = targets_met(result)
    lines = [stop.reason, *([f"{met[0]} of {met[1]} targets met"] if met else [])]
    known = left is not None and math.isfinite(left) and left >= LEAST_MINUTES
    minutes = _minutes(left) if known and left is not None else ""
    if ended:
        text = f"Ended, short by {minutes}" if minutes else "Ended before the stop"
        return word("short", text, "plain", *lines)
    return word("go on", f"Go on: {minutes}" if minutes else "Go on", "plain", *lines)


def _eta_ns(
    result: RunResult | None, stop: StopWord, made_ns: int | None, now_ns: int
) -> int | None:
    """When the targets are met; None where that is not claimed, or would be past already."""
    if result is None or made_ns is None or stop.code != "go on" or not result.trusted:
        return None
    left = result.stop.minutes_to_target
    if left is None or not math.isfinite(left) or left < LEAST_MINUTES:
        return None
    eta = made_ns + round(60e9 * left)
    return eta if eta > now_ns else None


def _advice(result: RunResult) -> AdviceWord:
    best = next(iter(result.advice), None)
    where = "" if best is None else f"psi = {_number(best.psi_deg)}°"

    def word(code: AdviceCode, text: str, *evidence: str) -> AdviceWord:
        return AdviceWord(code=code, word=text, tone="plain", evidence=evidence)

    closed = result.asked is not None and result.asked.closed is not None
    if closed or (result.trusted and result.stop.stop):
        return word("hidden", "")
    if best is None:
        return word("nowhere", "Nowhere", "no orientation is worth a move")
    why = () if best.wanted is None else (f"{best.wanted} by a person",)
    if not result.explained:
        text = f"to test the model, at Ei {_number(best.ei_meV)} meV"
        return word("test the model", where, text, *why)
    return word("turn", where, f"for {_dwell(best)} at Ei {_number(best.ei_meV)} meV", *why)


def _coverage(result: RunResult | None) -> CoverageWord:
    if result is None:
        return CoverageWord(code="unknown", word="Unknown", tone="plain", evidence=())
    folded = len(result.folded_chunks)
    aside = len(result.chunks) - folded
    events = result.events
    return CoverageWord(
        code="covered",
        word=f"{100 * result.coverage_fraction:.0f} % covered",
        tone="plain",
        evidence=(
            "share of path cells with exposure (D > 0)",
            f"{_chunks(folded)} folded{f', {aside} left out' if aside else ''}; "
            f"{result.minutes_used:.1f} min used",
        ),
        more=(f"{events.folded:,} of {events.read:,} events folded",),
    )


def _minutes(left: float) -> str:
    return f"{left:.1f} min" if left < 9.95 else f"{left:.0f} min"


def _dwell(best: AdviceResult) -> str:
    return f"{_number(best.minutes, 3)} min"


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "–"


def _chunks(number: int) -> str:
    return f"{number} {'chunk' if number == 1 else 'chunks'}"


# --- how old -----------------------------------------------------------------------------------


def _skew_of_estimates(run_id: str, workers: list[Sign]) -> float:
    """How far the clock is ahead that dates estimates, s; 0 where that is not known."""
    known = (one.skew_s for one in workers if one.runs[run_id].estimated is not None)
    return next((skew for skew in known if skew is not None), 0.0)


def _folded(snapshot: RunSnapshot, workers: list[Sign]) -> int:
    here = sum(chunk.status == "folded" for chunk in snapshot.chunks)
    return max([here, *(one.runs[snapshot.run_id].folded for one in workers)])


def _stale(snapshot: RunSnapshot, workers: list[Sign], now_ns: int) -> tuple[Staleness, ...]:
    """Why the words of a running run are old, the gravest first."""
    found: list[Staleness] = []

    def add(code: StaleCode, seconds: float, text: str) -> None:
        since = now_ns - round(1e9 * max(seconds, 0.0))
        found.append(Staleness(code=code, text=text, since_ns=since))

    for one in workers:
        name, verb = NAMES.get(one.service, one.service), RESTART.get(one.service, one.service)
        goes_on = f"start `{verb}` again: it goes on from its state folder."
        if one.state == "dead":
            text = f"The {name} is gone: silent for {age_text(one.silent_s)}. Look at its log, and"
            add("worker gone", one.silent_s, f"{text} {goes_on}")
        elif one.state == "stopped":
            text = f"The {name} was stopped {age_text(one.silent_s)} ago. To go on,"
            add("worker stopped", one.silent_s, f"{text} {goes_on}")
        elif one.lost_s is not None:
            add(
                "stream lost",
                one.silent_s + one.lost_s,
                f"The stream is lost: no sender for {age_text(one.silent_s + one.lost_s)}. Look at "
                "the publisher or broker, and at the network.",
            )
        elif one.state == "not ready":
            text = f"The {name} does not do its work: {' '.join(one.reasons)}"
            add("worker not ready", one.silent_s, text)
    if not workers and snapshot.result is not None and snapshot.result.state_id is not None:
        add(
            "no worker",
            (now_ns - snapshot.updated_ns) / 1e9,
            "Nobody works on this run now. To go on, start `beamsteer consume` and `beamsteer "
            "model-server` again: they go on from its state folder.",
        )
    elif not workers and now_ns - snapshot.updated_ns > SILENT_SECONDS * 1e9:
        silent = (now_ns - snapshot.updated_ns) / 1e9
        add(
            "no worker",
            silent,
            f"Nothing has come for {age_text(silent)}, and no worker is known. Look whether the "
            "command that works on this run still does.",
        )
    estimators = [one for one in workers if one.runs[snapshot.run_id].estimated is not None]
    folded, result = _folded(snapshot, workers), snapshot.result
    estimated = 0 if result is None else len(result.folded_chunks)
    if workers and not estimators and folded > estimated:
        add(
            "no worker",
            (now_ns - (snapshot.estimated_ns or snapshot.updated_ns)) / 1e9,
            f"Nobody estimates: folded {folded}, estimated {estimated}. Start `beamsteer "
            "model-server` on the state folder.",
        )
    late = _late(snapshot, workers)
    if late is not None:
        text, seconds = late
        add("estimate late", seconds, text)
    return tuple(found)


def _late(snapshot: RunSnapshot, workers: list[Sign]) -> tuple[str, float] | None:
    """What is told of an estimate that is behind the fold, and for how long it is, s."""
    alive = [one for one in workers if one.state in ("ready", "not ready")]
    told = [one.runs[snapshot.run_id].estimated for one in alive]
    estimated = max((n for n in told if n is not None), default=None)
    folded = _folded(snapshot, workers)
    if estimated is None or folded <= estimated:
        return None
    since = [one.silent_s + one.estimating_s for one in alive if one.estimating_s is not None]
    computing = max(since, default=None)
    if computing is None or computing < LATE_SECONDS:
        return None
    return (
        f"The estimate is behind: folded {folded}, estimated {estimated}, computing since "
        f"{age_text(computing)}.",
        computing,
    )


def _odd(one: Sign) -> list[str]:
    """What is odd about a worker that does its work."""
    found: list[str] = []
    if one.skew_s is not None:
        found.append(
            f"The clock of the {NAMES.get(one.service, one.service)} is "
            f"{age_text(abs(one.skew_s))} {'ahead of' if one.skew_s > 0 else 'behind'} that of "
            "this server. Ages here do not hang on it; times that it wrote do. Set the clocks."
        )
    quiet = None if one.quiet_s is None else one.quiet_s + one.silent_s
    if one.state == "ready" and quiet is not None and quiet > QUIET_SECONDS:
        found.append(
            f"No message has come for {age_text(quiet)}, though the stream is connected. Is the "
            "beam off, or has the publisher left a proxy or broker that stayed?"
        )
    return found
