from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from steering.report.run_report import (
    ChunkFacts,
    Decision,
    PriorFacts,
    RunFacts,
    run_report,
    with_error,
)
from steering.run import chunk_results, result_document
from tests.steering.fabricated import snapshot

MADE_NS = 1_763_720_000_000_000_000
FACTS = RunFacts(
    chunks={
        f"{178900 + i}": ChunkFacts(
            start_time_ns=1_763_716_000_000_000_000 + i * 90_000_000_000, proton_charge=0.5
        )
        for i in range(8)
    },
    prior={"1NN xx": PriorFacts(mean=6.0, sigma=1.5)},
    decisions=[
        Decision(at_ns=MADE_NS, what="acknowledged: chunk set aside", who="Ada", why="on my way")
    ],
    fingerprint={"source.t0_us": "null"},
    versions={"report made with": "beamsteer 0.1.0"},
    experiment_yaml="title: germanium\n",
)


def page(run=None, facts: RunFacts = FACTS, zone: str = "Europe/Berlin", drawn=False) -> str:
    """The page, without its maps where a test reads text alone: they take two seconds."""
    run = run or snapshot()
    run = run if drawn else replace(run, spectrum=None)
    return run_report(run, facts, zone=zone, made_ns=MADE_NS)


def words(html: str) -> str:
    """What a reader sees, without style and pictures."""
    text = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def judged(**changes) -> object:
    run = snapshot()
    assert run.result is not None
    return replace(run, result=result_document(run.result.document() | changes))


class Requests(HTMLParser):
    """Whatever a browser would fetch or run, and tags that are not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name.startswith("on") or tag in ("script", "link", "iframe", "object", "base"):
                self.asked.append(f"{tag} {name}")
            if name in ("src", "href", "srcset", "action") and not value.startswith("data:image/"):
                self.asked.append(f"{tag} {value[:60]}")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_asks_for_nothing_and_is_well_formed():
    html = page(drawn=True)
    reader = Requests()
    reader.feed(html)
    assert reader.asked == []
    assert reader.open == []
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "http" not in re.sub(r"http-equiv", "", words(html))


def test_the_same_run_gives_the_same_bytes():
    assert page(drawn=True) == page(drawn=True)


def test_every_chunk_and_every_reason_is_there_in_full():
    run = snapshot()
    reason = "psi is NaN; expected degrees. " + "Look again. " * 40
    changed = [c.document() for c in run.chunks]
    changed[4]["reason"] = reason
    seen = words(page(replace(run, chunks=chunk_results(changed))))
    for chunk in run.chunks:
        assert chunk.chunk in seen
    assert " ".join(reason.split()) in seen
    assert "set aside / withdrawn 1 / 0" in seen


def test_times_have_their_zone():
    seen = words(page())
    assert "2025-11-21 10:06:40 CET" in seen  # start of the first dwell
    assert "All times are in Europe/Berlin" in seen
    assert "09:06:40 UTC" in words(page(zone="UTC"))


def test_charge_is_summed_only_where_every_chunk_has_one():
    assert "proton charge 4 C" in words(page())
    some = replace(FACTS, chunks={"178900": ChunkFacts(proton_charge=0.5)})
    assert "proton charge \u2013 C" in words(page(facts=some))


def test_every_event_is_accounted_for():
    seen = words(page())
    assert "all folded chunks 168,280 48,828 96,100 20,352 2,500 500 0" in seen


def test_a_run_whose_events_do_not_add_up_shows_how_many_are_missing():
    run = snapshot()
    assert run.result is not None
    events = run.result.events.document() | {"folded": 48_000}
    assert "2,500 500 828" in words(page(judged(events=events)))


def test_parameters_have_error_prior_and_target():
    seen = words(page())
    assert re.search(r"1NN xx 7\.01 0\.15 6\.77 \.\. 7\.26 6 \u00b1 1\.5 10 \u00d7 0\.35 met", seen)
    assert re.search(r"2NN xx .* \u2013 \u2013 0\.0093 ", seen)  # no prior is known
    assert "eV/angstrom^2" in seen


def test_a_target_that_is_not_met_is_called_so():
    run = snapshot()
    assert run.result is not None
    document = run.result.document()
    targets = [one | {"met": i > 0} for i, one in enumerate(document["targets"])]
    seen = words(page(judged(targets=targets)))
    assert seen.count("not met") == 1
    assert "0.35 not met" in seen


def test_an_untrusted_run_claims_nothing():
    told = {
        "trusted": False,
        "reasons": ["chunk 178903 disagrees with the others"],
        "stop": {"stop": True, "reason": "every target met", "minutes_to_target": 0.0},
    }
    html = page(judged(**told))
    seen = words(html)
    assert "Not trusted: this run claims nothing." in seen
    assert "chunk 178903 disagrees with the others" in seen
    assert "may stop" not in seen
    assert not re.search(r"\d met", seen)
    assert "no claim, since the run is not trusted" in seen
    assert "To test the model" in seen
    assert html.count('class="unclaimed"') == 2  # parameters, what follows from them


def test_a_run_without_an_estimate_is_told_as_what_was_measured():
    seen = words(page(replace(snapshot(), result=None, history=(), spectrum=None)))
    assert "No estimate." in seen
    assert "Nothing was folded." in seen
    assert "178900" in seen


def test_an_open_run_is_called_interim():
    assert "Interim." in words(page())
    assert "Interim." not in words(page(replace(snapshot(), status="finished")))


def test_decisions_are_shown_with_who_and_when():
    seen = words(page())
    assert "2025-11-21 11:13:20 CET acknowledged: chunk set aside Ada on my way" in seen


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}"


def test_script_in_any_text_is_shown_and_never_run():
    run = snapshot(SCRIPT)
    assert run.result is not None
    document = run.result.document()
    document["reasons"] = [SCRIPT]
    document["notes"] = [SCRIPT]
    document["stop"] = document["stop"] | {"reason": SCRIPT}
    document["parameters"] = [
        one | {"name": SCRIPT, "unit": SCRIPT} for one in document["parameters"]
    ]
    document["chunks"] = [c | {"chunk": SCRIPT} for c in document["chunks"]]
    run = replace(
        run,
        title=SCRIPT,
        error=SCRIPT,
        result=result_document(document),
        chunks=chunk_results(document["chunks"]),
        experiment={"sample": {"structure": SCRIPT}},
    )
    facts = RunFacts(
        decisions=[Decision(at_ns=0, what=SCRIPT, who=SCRIPT, why=SCRIPT)],
        versions={SCRIPT: SCRIPT},
        fingerprint={SCRIPT: SCRIPT},
        experiment_yaml=SCRIPT,
        notes=[SCRIPT],
    )
    html = page(run, facts)
    reader = Requests()
    reader.feed(html)
    assert reader.asked == []
    assert "<script" not in html
    assert "{{ 7*7 }}" in html


@pytest.mark.parametrize(
    ("value", "sigma", "shown"),
    [
        (-2.94523, 0.0067, ("\u22122.9452", "0.0067")),
        (12.2241, 0.018, ("12.224", "0.018")),
        (0.5, 3.2, ("0.5", "3.2")),
        (1234.5, 320.0, ("1234.5", "3.2e+02")),
        (1.0, 0.0, ("1", "\u2013")),
        (float("nan"), 1.0, ("\u2013", "\u2013")),
        (1.0, float("inf"), ("1", "\u2013")),
        (0.0, 0.0999, ("0.000", "0.100")),
    ],
)
def test_a_value_is_told_to_the_second_digit_of_its_error(value, sigma, shown):
    assert with_error(value, sigma) == shown
