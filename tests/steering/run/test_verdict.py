from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from steering.run import (
    RunSnapshot,
    Verdict,
    judge,
    result_document,
    targets_met,
    trust_word,
    words_of,
)
from tests.steering.fabricated import snapshot

NOW = 1_763_716_248 * 10**9
SECOND = 10**9


@dataclass
class Progress:
    folded: int
    estimated: int | None = None


@dataclass
class Sign:
    """A worker's sign of life."""

    service: str = "consume"
    state: str = "ready"
    reasons: tuple[str, ...] = ()
    silent_s: float = 1.0
    skew_s: float | None = None
    lost_s: float | None = None
    quiet_s: float | None = 0.5
    estimating_s: float | None = None
    runs: dict[str, Progress] = field(default_factory=lambda: {"ge-demo": Progress(8)})


def server(**how) -> Sign:
    runs = {"ge-demo": Progress(8, how.pop("estimated", 8))}
    return Sign(service="model-server", quiet_s=None, runs=runs, **how)


def told(stop=None, status="running", **changes) -> RunSnapshot:
    """The fabricated run with another answer."""
    before = snapshot(status=status, updated_ns=NOW - 60 * SECOND, estimated_ns=NOW - 60 * SECOND)
    assert before.result is not None
    document = before.result.document()
    document["stop"] |= stop or {}
    document["targets"] = [one | {"met": i < 5} for i, one in enumerate(document["targets"])]
    return replace(before, result=result_document(document | changes))


def judged(shown: RunSnapshot, *workers: Sign) -> Verdict:
    return judge(shown, workers, now_ns=NOW)


STOP = {"stop": True, "reason": "every target met for 3 chunks in a row", "minutes_to_target": 0.0}
ONCE = {"reason": "targets met for 1 of 3 chunks in a row", "minutes_to_target": 0.0}


def test_a_trusted_run_says_where_to_turn_and_how_long_and_why_it_is_trusted():
    verdict = judged(told())
    assert verdict.stop.word == "Go on: 12 min"
    assert verdict.stop.evidence[-1] == "5 of 8 targets met"
    assert (verdict.advice.code, verdict.advice.word) == ("turn", "psi = 48°")
    assert verdict.advice.evidence == ("for 4 min at Ei 40 meV",)
    assert (verdict.trust.code, verdict.trust.tone) == ("trusted", "good")
    assert verdict.trust.evidence[0] == "chi-square 1.02 per degree of freedom, p = 0.41"
    assert verdict.trust.age_s == 60.0
    assert verdict.coverage.word == "46 % covered"
    assert [title for title, _ in verdict.titled] == ["Measure on?", "Turn to", "Trust", "Coverage"]


def test_the_clock_at_which_targets_are_met_is_told_where_it_is_claimed_and_only_there():
    made = NOW - 60 * SECOND
    assert judged(told()).stop.eta_ns == made + round(11.5 * 60 * SECOND)
    past = {"minutes_to_target": 0.5}
    for shown in (
        told(stop=STOP),
        told(stop=past),  # 30 s ago by now
        told(status="finished"),
        told(trusted=False, trust="not explained"),
        told(trusted=False, trust="cannot tell yet"),
        told(stop={"minutes_to_target": None}),
    ):
        assert judged(shown).stop.eta_ns is None
    assert judged(told(), Sign(state="dead", silent_s=30.0)).stop.eta_ns is None


def test_a_stop_hides_where_to_turn():
    verdict = judged(told(stop=STOP))
    assert (verdict.stop.word, verdict.advice.code) == ("Stop now", "hidden")
    assert "Turn to" not in dict(verdict.titled)
    assert judged(told(stop=STOP, status="finished")).stop.word == "Targets met"


@pytest.mark.parametrize("left", [0.0, 0.04, None, float("nan"), float("inf")])
@pytest.mark.parametrize("status", ["running", "finished"])
def test_no_minutes_are_told_where_there_are_none(left, status):
    stop = judged(told(stop=ONCE | {"minutes_to_target": left}, status=status)).stop
    assert stop.word == ("Go on" if status == "running" else "Ended before the stop")
    assert stop.evidence[0] == ONCE["reason"]


@pytest.mark.parametrize(("left", "word"), [(0.06, "0.1 min"), (9.94, "9.9 min"), (9.96, "10 min")])
def test_minutes_are_finer_where_few_are_left(left, word):
    assert judged(told(stop={"minutes_to_target": left})).stop.word == f"Go on: {word}"
    short = judged(told(stop={"minutes_to_target": left}, status="finished")).stop.word
    assert short == f"Ended, short by {word}"


@pytest.mark.parametrize("stop", [STOP, ONCE, {}])
@pytest.mark.parametrize("status", ["running", "finished"])
def test_an_untrusted_run_claims_nothing(stop, status):
    """Whatever targets, minutes or a stop its document holds."""
    verdict = judged(told(stop=stop, status=status, trusted=False, reasons=["chunk 7 is odd"]))
    assert (verdict.stop.code, verdict.stop.tone) == ("test the model", "bad")
    assert verdict.advice.evidence == ("to test the model, at Ei 40 meV",)
    assert dict(verdict.titled)["Next"] == verdict.advice
    said = " ".join(f"{one.word} {' '.join(one.evidence)}" for _, one in verdict.titled[:3])
    assert "met" not in said
    assert " min" not in said
    assert verdict.trust.evidence == ("chunk 7 is odd",)


def test_a_run_that_cannot_tell_yet_claims_nothing_and_is_advised_as_usual():
    why = "too few counts: a model that is wrong by 45 % everywhere would pass as well"
    changes = {"trusted": False, "trust": "cannot tell yet", "reasons": [why]}
    verdict = judged(told(**changes))
    assert (verdict.trust.code, verdict.trust.word) == ("cannot tell yet", "? Cannot tell yet")
    assert verdict.trust.tone == "plain"
    assert " ".join(verdict.trust.evidence) == why
    assert verdict.stop.code == "go on"
    assert verdict.advice.code == "turn"
    result = told(**changes).result
    assert result is not None
    assert targets_met(result) is None


def test_reasons_are_two_lines_and_unfold_to_all():
    reasons = [f"parameter {n} lies {n} half-widths from the prior: " + 30 * "more " for n in "123"]
    word = trust_word(trusted=False, reasons=reasons)
    assert word.evidence[1] == "and 2 more reasons"
    assert word.evidence[0].endswith("…")
    assert all(len(line) <= 64 for line in word.evidence)
    assert word.more == tuple(reasons)
    assert trust_word(trusted=False, reasons=["short"]).more == ()
    alone = trust_word(trusted=False, reasons=[16 * "abcdef "])
    assert alone.evidence == (("abcdef " * 9).strip(), ("abcdef " * 7).strip())
    assert alone.more == (16 * "abcdef ",)
    result = told().result
    assert result is not None
    goodness = "goodness of fit: chi-square 1826 for 1790"
    said = trust_word(trusted=False, reasons=[goodness], goodness=result.goodness_of_fit)
    assert said.evidence == ("chi-square 1.02 per degree of freedom, p = 0.41",)
    assert said.more == (goodness,)


def test_a_run_without_estimate_waits_and_says_what_is_folded():
    empty = snapshot(result=None, spectrum=None, history=(), chunks=())
    verdict = judged(empty)
    assert (verdict.stop.word, verdict.trust.word) == ("Waiting", "No estimate")
    assert verdict.trust.evidence == ("no chunk is folded yet",)
    verdict = judged(empty, replace_runs(Sign(), Progress(3)))
    assert verdict.trust.evidence == ("3 chunks folded, no estimate yet",)
    assert verdict.stale[0].text.startswith("Nobody estimates: folded 3, estimated 0.")
    assert words_of(None, status="finished").stop.word == "Nothing measured"


def replace_runs(sign: Sign, progress: Progress) -> Sign:
    return replace(sign, runs={"ge-demo": progress})


@pytest.mark.parametrize(
    ("worker", "code", "text", "age_s"),
    [
        (Sign(state="dead", silent_s=9), "worker gone", "fold worker is gone: silent for 9 s", 9),
        (server(state="dead", silent_s=9), "worker gone", "The model server is gone", 9),
        (Sign(state="stopped", silent_s=200), "worker stopped", "was stopped 3 min ago", 200),
        (Sign(state="not ready", lost_s=4), "stream lost", "no sender for 5 s", 5),
        (
            Sign(state="not ready", reasons=("the disk is full.",)),
            "worker not ready",
            "The fold worker does not do its work: the disk is full.",
            1,
        ),
        (
            server(estimated=1, estimating_s=39),
            "estimate late",
            "The estimate is behind: folded 8, estimated 1, computing since 40 s.",
            40,
        ),
    ],
)
def test_words_are_old_since_what_feeds_them_is_gone(worker, code, text, age_s):
    others = [one for one in (Sign(), server()) if one.service != worker.service]
    verdict = judged(told(), worker, *others)
    (stale,) = verdict.stale
    assert stale.code == code
    assert text in stale.text
    assert verdict.as_of_ns == stale.since_ns == NOW - age_s * SECOND
    assert {one.tone for _, one in verdict.titled} == {"old"}
    assert verdict.trust.code == "trusted"  # what was said stays; that it is old is said beside it


def test_nothing_is_old_while_all_do_their_work_or_the_run_has_ended():
    verdict = judged(told(), Sign(), server(estimated=7, estimating_s=1))  # it is just computing
    assert (verdict.stale, verdict.as_of_ns) == ((), NOW)
    ended = judged(told(status="finished"), Sign(state="dead", silent_s=99))
    assert (ended.stale, ended.as_of_ns) == ((), NOW - 60 * SECOND)
    other = Sign(state="dead", runs={"another": Progress(1)})
    assert judged(told(), Sign(), server(), other).stale == ()


def test_a_live_run_that_nobody_works_on_is_old_and_a_replayed_one_is_not():
    assert judged(told()).stale == ()
    (stale,) = judged(told(state_id="abc")).stale
    assert stale.code == "no worker"
    silent = replace(told(), updated_ns=NOW - 700 * SECOND)
    (stale,) = judged(silent).stale
    assert "Nothing has come for 12 min" in stale.text
    assert judged(silent, Sign(), server()).stale == ()  # no chunk may close for long


def test_a_clock_that_is_off_and_silence_are_told_and_make_nothing_old():
    verdict = judged(told(), Sign(quiet_s=200.0), server(skew_s=-20.0))
    assert verdict.stale == ()
    quiet, skew = verdict.warnings
    assert "No message has come for 3 min" in quiet
    assert "The clock of the model server is 20 s behind that of this server" in skew
    assert verdict.trust.age_s == 40.0  # the model server dated it
