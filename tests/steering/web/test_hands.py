"""People at work on a run: real workers, a real server, real browsers, two people at once."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from consumers.state import read_manifest
from steering.experiment import dump_experiment, with_absolute_files
from steering.run import ActionLog, load_result
from steering.web import add_person
from tests.steering.live_stream import live_experiment
from tests.steering.service.test_pulse import started
from tests.steering.virtual_scan import EXAMPLES
from tests.steering.web.conftest import keep
from tests.steering.web.test_staleness import folded, quiet_tape

pytestmark = pytest.mark.browser
WAIT_MS = 120_000  # of workers that fit
TOLD_MS = 10_000  # of a page that is to say so
PSI = (5.0, 17.0, 29.0)


@dataclass
class Night:
    """A run with all that works on it."""

    root: Path
    url: str
    tokens: dict[str, str]
    processes: dict[str, Any]

    @property
    def run(self) -> Path:
        return self.root / "state" / "partition-0" / "night"

    @property
    def log(self) -> ActionLog:
        return ActionLog(self.run)

    def statuses(self) -> list[str]:
        manifest = read_manifest(self.root / "state" / "partition-0")
        return [] if manifest is None else [one.status for one in manifest.runs["night"].chunks]

    def result(self):
        found = load_result(self.run / "estimate" / "result.json")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Three orientations, a fold worker, a model server and a page, all processes of their own."""
    root = tmp_path_factory.mktemp("night")
    experiment = with_absolute_files(live_experiment(), EXAMPLES)
    dump_experiment(experiment, root / "live.yaml")
    folded(root / "state", PSI)
    dump_experiment(experiment, root / "state" / "experiment.yaml")
    state, people = str(root / "state"), root / "people.yaml"
    tokens = {
        "Vic": add_person(people, name="Vic", role="viewer"),
        "Ada": add_person(people, name="Ada", role="operator"),
        "Ben": add_person(people, name="Ben", role="admin"),
    }
    with contextlib.ExitStack() as stack:

        def start(*arguments: str):
            process, told = started(*arguments, environment={"BEAMSTEER_PEOPLE": str(people)})
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process, told

        consume = ("consume", str(root / "live.yaml"), "-o", state, "--run", "live")
        tape = ("--tape", quiet_tape(root), "--health-port", "0")
        processes = {
            "consume": start(*consume, *tape)[0],
            "model": start("model-server", state, "--port", "0")[0],
        }
        server, told = start("serve", state, "--port", "0")
        until = time.monotonic() + 120
        while not (root / "state/partition-0/night/estimate/result.json").is_file():
            assert time.monotonic() < until
            time.sleep(0.2)
        yield Night(root, told["url"], tokens, processes | {"serve": server, "start": start})


@pytest.fixture
def people(browser, night):
    """Open the page as somebody, in a browser of their own."""
    with contextlib.ExitStack() as stack:

        def come(name: str) -> Page:
            context = browser.new_context(
                viewport={"width": 1400, "height": 1000}, timezone_id="Europe/Berlin"
            )
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: pytest.fail(str(error)))
            page.goto(night.url)
            page.fill("#token", night.tokens[name])
            page.click("text=Log in")
            page.wait_for_selector("#actions-card:not([hidden])", timeout=WAIT_MS)
            expect(page.locator("#who-name")).to_contain_text(name)
            return page

        yield come


def ask(page: Page, button, why: str, *, choice: str = "", value: str | None = None) -> None:
    button.click()
    if choice:
        page.locator("#ask-choices label", has_text=choice).locator("input").check()
    if value is not None:
        page.fill("#ask-value", value)
    expect(page.locator("#ask-send")).to_be_disabled()  # not without a reason
    page.fill("#ask-why", why)
    page.click("#ask-send")


def newest(page: Page):
    return page.locator("#actions tbody tr").first


def row(page: Page, chunk: str):
    return page.locator("#chunks tbody tr", has_text=chunk)


def shown(page: Page, tmp_path: Path, name: str) -> None:
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    keep(page, f"hands-{name}")


def test_a_chunk_is_withdrawn_and_restored_before_the_eyes_of_another(people, night, tmp_path):
    ada, vic = people("Ada"), people("Vic")
    assert vic.locator("button.ask").count() == 0  # a viewer has no hands
    before = night.result()
    ask(ada, row(ada, "night-101").locator("button"), "the shutter was closed")
    began = time.monotonic()
    for page in (ada, vic):
        expect(newest(page)).to_contain_text("withdraw chunk night-101", timeout=TOLD_MS)
        expect(newest(page)).to_contain_text("Ada")
        expect(newest(page)).to_contain_text("the shutter was closed")
    for page in (ada, vic):
        expect(newest(page)).to_contain_text("applied", timeout=WAIT_MS)
        expect(page.locator("#aside")).to_contain_text("night-101 withdrawn", timeout=TOLD_MS)
    sys.stdout.write(f"withdrawn after {time.monotonic() - began:.1f} s\n")
    shown(vic, tmp_path, "withdrawn")
    assert night.statuses() == ["folded", "withdrawn", "folded"]
    assert night.result().folded_chunks == ("night-100", "night-102")
    ask(ada, ada.locator("#aside button"), "it was open after all")
    expect(newest(vic)).to_contain_text("restore chunk night-101", timeout=TOLD_MS)
    expect(row(vic, "night-101")).to_be_visible(timeout=WAIT_MS)
    expect(newest(vic)).to_contain_text("applied", timeout=WAIT_MS)
    after = night.result()
    assert after.parameters == before.parameters  # to the bit
    assert after.advice == before.advice


def test_who_asks_second_is_told_of_the_first_and_asks_again_or_not(people, night, tmp_path):
    ada, ben = people("Ada"), people("Ben")
    version = night.log.read().number
    for page, psi in ((ada, "40"), (ben, "50")):  # both have the dialog open
        page.click("#other-psi button")
        page.fill("#ask-value", psi)
        page.fill("#ask-why", f"a gap at {psi}")
    ada.evaluate("() => document.getElementById('ask-send').click()")
    expect(ada.locator("#ask")).to_be_hidden()
    # Ben's page shows it behind the dialog, but he has not seen it.
    expect(newest(ben)).to_contain_text("pin ψ 40", timeout=TOLD_MS)
    ben.evaluate("() => document.getElementById('ask-send').click()")
    expect(ben.locator("#ask-fault")).to_contain_text("meanwhile Ada: pin (a gap at 40)")
    shown(ben, tmp_path, "conflict")
    ben.click("text=Ask all the same")
    expect(ben.locator("#ask")).to_be_hidden()
    actions = night.log.read().actions[version:]
    assert [(one.by, one.asked.what) for one in actions] == [("Ada", "pin"), ("Ben", "pin")]
    for page in (ada, ben):
        expect(page.locator("#ranking tbody tr").first).to_contain_text(
            "40°pinned", timeout=WAIT_MS
        )
        expect(page.locator("#next-psi")).to_contain_text("40")
        expect(page.locator("#next-more")).to_contain_text("pinned by a person")
    shown(ada, tmp_path, "pinned")
    expect(newest(ada)).to_contain_text("pin ψ 50", timeout=TOLD_MS)
    for left in (1, 0):
        ask(ada, ada.locator("#wishes button").first, "no more")
        expect(ada.locator("#wishes li")).to_have_count(left, timeout=TOLD_MS)


def test_advice_is_approved_rejected_and_vetoed(people, night, tmp_path):
    ada = people("Ada")
    ranking = ada.locator("#ranking tbody tr")

    def ranked() -> list[float]:
        """The ranking as the newest answer has it, once the page shows that one."""
        psis = [one.psi_deg for one in night.result().advice]
        for k, psi in enumerate(psis[:3]):
            begins = re.compile(rf"^\s*{psi:g}°")
            expect(ranking.nth(k).locator("td").nth(1)).to_have_text(begins, timeout=WAIT_MS)
        return psis

    first = ranked()
    ask(ada, ranking.nth(0).locator("button"), "the magnet is there", choice="Veto")
    expect(ada.locator("#wishes")).to_contain_text("the magnet is there", timeout=TOLD_MS)
    expect(newest(ada)).to_contain_text("applied", timeout=WAIT_MS)
    second = ranked()  # without the vetoed one others may be worth more than before
    assert first[0] not in second
    ask(ada, ranking.nth(1).locator("button"), "it is near", choice="Approve")
    approved = ranking.first.locator("td").nth(1)
    expect(approved).to_have_text(re.compile(rf"^\s*{second[1]:g}°\s*approved"), timeout=WAIT_MS)
    third = ranked()
    assert third[0] == second[1]
    ask(ada, ranking.nth(1).locator("button"), "it is far", choice="Reject")
    expect(newest(ada)).to_contain_text("reject", timeout=TOLD_MS)
    expect(newest(ada)).to_contain_text("applied", timeout=WAIT_MS)
    shown(ada, tmp_path, "decided")
    left = ranked()
    assert left[0] == third[0]
    assert first[0] not in left
    assert third[1] not in left


def test_targets_and_budget_are_set(people, night, tmp_path):
    ben = people("Ben")
    ben.locator("text=Targets…").hover()
    ben.mouse.down()
    ben.evaluate("dispatchEvent(new Event('hashchange'))")  # the page draws anew meanwhile
    ben.wait_for_timeout(1000)
    ben.mouse.up()
    expect(ben.locator("#ask-value")).to_be_visible()
    ben.click("#ask-cancel")
    ask(ben, ben.locator("text=Targets…"), "a rough answer will do", value="2.5")
    expect(newest(ben)).to_contain_text("targets 2.5", timeout=TOLD_MS)
    ask(ben, ben.locator("text=Budget…"), "the beam is late", value="45")
    expect(newest(ben)).to_contain_text("budget 45 min", timeout=TOLD_MS)
    expect(newest(ben)).to_contain_text("applied", timeout=WAIT_MS)
    shown(ben, tmp_path, "targets")
    asked = night.result().asked
    assert asked is not None
    assert (asked.relative_sigma, asked.budget_minutes) == (2.5, 45.0)


def test_a_run_is_closed_by_an_admin_alone_and_opened_again_through_a_killed_worker(
    people, night, tmp_path
):
    ada, ben = people("Ada"), people("Ben")
    assert ada.locator("text=Close the run…").count() == 0
    night.processes["model"].send_signal(signal.SIGKILL)
    ask(ben, ben.locator("text=Close the run…"), "all is measured")
    expect(ben.locator("#closed")).to_contain_text("all is measured (Ben)", timeout=TOLD_MS)
    expect(newest(ben)).to_contain_text("waits for the model server", timeout=TOLD_MS)
    # A closed run takes no action; that somebody knows of an alarm may be said all the same.
    expect(ada.locator("button.ask:not(#alarms *)")).to_have_count(0, timeout=TOLD_MS)
    start, state = night.processes["start"], str(night.root / "state")
    night.processes["model"] = start("model-server", state, "--port", "0")[0]
    for page in (ada, ben):
        expect(newest(page)).to_contain_text("applied", timeout=WAIT_MS)
        expect(page.locator("#verdict-next")).to_be_hidden(timeout=TOLD_MS)
        expect(page.locator("#status")).to_have_text("finished")
    shown(ben, tmp_path, "closed")
    assert night.result().advice == ()
    headers = {"Authorization": f"Bearer {night.tokens['Ada']}"}
    document = {"version": night.log.read().number, "why": "y", "asked": {"what": "reopen"}}
    answer = httpx.post(f"{night.url}runs/night/actions", json=document, headers=headers)
    assert answer.status_code == 403
    ask(ben, ben.locator("text=Reopen the run…"), "one more orientation")
    expect(ben.locator("#status")).to_have_text("running", timeout=WAIT_MS)
    assert night.result().advice


def test_who_logs_out_is_out_and_a_wrong_token_is_told(people, night, tmp_path):
    ada = people("Ada")
    ada.click("#logout")
    ada.wait_for_selector("#token")
    ada.goto(night.url)
    ada.wait_for_selector("#token")
    ada.fill("#token", "not-a-token")
    ada.click("text=Log in")
    expect(ada.locator(".failure")).to_contain_text("not known")
    shown(ada, tmp_path, "login")
    assert ada.context.cookies() == []
