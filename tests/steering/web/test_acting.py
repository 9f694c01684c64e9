"""Actions over the API: who may, what is written, and what two people at once are told."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.state import (
    ChunkRecord,
    Manifest,
    RunRecord,
    claim_state,
    partition_folder,
    run_folder,
    write_manifest,
)
from steering.experiment import dump_experiment
from steering.run import ACTION_VERBS, ActionLog, RunStore, result_document, save_result
from steering.web import People, add_person, create_app, serving
from steering.web.people_file import People as Door
from tests.steering.fabricated import snapshot, store
from tests.steering.virtual_scan import small_experiment

CHUNKS = tuple(f"{178900 + i}" for i in range(8))


def live_state(state: Path, run: str = "ge-demo", chunks: Sequence[str] = CHUNKS) -> Path:
    """A state folder as workers leave it; returns the folder of its run."""
    state.mkdir(parents=True, exist_ok=True)
    claim_state(state, {"program.fold": "1"})
    dump_experiment(small_experiment(), state / "experiment.yaml")
    partition = partition_folder(state, 0)
    records = [
        ChunkRecord(
            chunk=name, job=name, generation=0, start_time_ns=100 + i, stop_time_ns=200 + i,
            status="folded", file=f"{run}/chunks/{name}",
        )
        for i, name in enumerate(chunks)
    ]  # fmt: skip
    folder = run_folder(partition, run)
    (folder / "estimate").mkdir(parents=True)
    runs = {run: RunRecord(chunks=tuple(records))}
    write_manifest(partition, Manifest(partition=0, runs=runs))
    result = snapshot(run).result
    assert result is not None
    save_result(result_document(result.document()), folder / "estimate" / "result.json")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return live_state(tmp_path / "state")


def app_of(tmp_path: Path, people: Door | None = None):
    return create_app(store(), people=people, folders=[tmp_path])


@pytest.fixture
def client(tmp_path, folder) -> TestClient:
    return TestClient(app_of(tmp_path), base_url="http://127.0.0.1")


def body(version: int, what: str = "withdraw", why: str = "the shutter was closed", **fields):
    asked = fields or ({"chunk": "178903"} if what == "withdraw" else {})
    return {"version": version, "why": why, "asked": {"what": what, **asked}}


PATH = "/runs/ge-demo/actions"


def test_an_action_is_logged_with_who_when_and_why_and_told_once_it_is_applied(client, folder):
    assert client.get(PATH).json() == {
        "run_id": "ge-demo",
        "live": True,
        "version": 0,
        "orders": client.get(PATH).json()["orders"],
        "actions": [],
        "next": None,
    }
    answer = client.post(PATH, json=body(0) | {"by": "Ada"})
    assert answer.status_code == 201
    told = answer.json()
    assert (told["number"], told["by"], told["way"]) == (1, "Ada (local)", "api")
    assert (told["before"], told["after"]) == ("folded", "withdrawn")
    assert told["waits_for"] == ["model server", "fold worker"]
    log = ActionLog(folder)
    for worker, state in (("model-server", "asked for"), ("consume", "applied")):
        log.note_applied(1, worker, told["at_ns"] + 5)
        (one,) = client.get(PATH).json()["actions"]
        assert one["state"] == state
    assert one["applied_ns"] == told["at_ns"] + 5
    assert one["what"] == "withdraw chunk 178903"
    assert one["why"] == "the shutter was closed"
    assert client.get(PATH).json()["orders"]["withdrawn"] == {
        "178903": "the shutter was closed (Ada (local))"
    }


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("withdraw", {"chunk": "178901"}),
        ("targets", {"relative_sigma": 0.02, "per_parameter": {"1NN xx": 0.01}}),
        ("budget", {"minutes": 60}),
        ("pin", {"psi_deg": 33}),
        ("veto", {"psi_deg": 10, "within_deg": 3}),
        ("approve", {"psi_deg": 48.0}),
        ("reject", {"psi_deg": 84.0}),
        ("close", {}),
    ],
)
def test_every_action_is_taken_and_its_undoing(client, what, fields):
    undo = {
        "withdraw": "restore", "pin": "unpin", "veto": "unveto", "close": "reopen",
        "approve": "reject", "reject": "approve",
    }  # fmt: skip
    empty = client.get(PATH).json()["orders"]
    told = client.post(PATH, json=body(0, what, **fields) if fields else body(0, what))
    assert told.status_code == 201, told.text
    changed = client.get(PATH).json()["orders"]
    assert changed != empty | {"number": 1}
    back = {name: value for name, value in fields.items() if name in ("chunk", "psi_deg")}
    back |= {"minutes": None} if what == "budget" else {}
    document = {"version": 1, "why": "back", "asked": {"what": undo.get(what, what), **back}}
    assert client.post(PATH, json=document).status_code == 201
    if what not in ("approve", "reject"):
        assert client.get(PATH).json()["orders"] == empty | {"number": 2}


def test_who_comes_second_is_told_what_came_before_and_loses_nothing(client):
    assert client.post(PATH, json=body(0) | {"by": "Ada"}).status_code == 201
    late = client.post(PATH, json=body(0, "pin", psi_deg=33.0) | {"by": "Ben"})
    assert late.status_code == 409
    told = late.json()
    assert told["version"] == 1
    assert [one["by"] for one in told["actions"]] == ["Ada (local)"]
    assert "Ada (local): withdraw (the shutter was closed)" in told["detail"]
    again = client.post(PATH, json=body(told["version"], "pin", psi_deg=33.0) | {"by": "Ben"})
    assert again.status_code == 201
    assert client.get(PATH).json()["version"] == 2


EVERY = {
    "withdraw": {"chunk": "178901"},
    "restore": {"chunk": "178907"},
    "targets": {"relative_sigma": 0.02},
    "budget": {"minutes": 60.0},
    "pin": {"psi_deg": 33.0},
    "unpin": {"psi_deg": 20.0},
    "veto": {"psi_deg": 10.0},
    "unveto": {"psi_deg": 100.0},
    "approve": {"psi_deg": 48.0},
    "reject": {"psi_deg": 84.0},
    "close": {},
}


def test_of_two_who_ask_for_anything_at_once_one_is_told_of_the_other(tmp_path, folder):
    """Every action, by two people in the same moment, who both saw the same version."""
    begin = threading.Barrier(2)
    with serving(app_of(tmp_path)) as url, ThreadPoolExecutor(2) as beside:

        def ask(who: str, version: int, what: str, fields: dict[str, Any]) -> httpx.Response:
            asked = {"what": what, **fields}
            document = {"version": version, "why": what, "asked": asked, "by": who}
            begin.wait(20)
            return httpx.post(url + PATH[1:], json=document, timeout=30)

        def both(version: int, what: str, fields: dict[str, Any]) -> dict[int, dict[str, Any]]:
            sent = [beside.submit(ask, who, version, what, fields) for who in ("Ada", "Ben")]
            return {one.result().status_code: one.result().json() for one in sent}

        for what, fields in (
            ("pin", EVERY["unpin"]), ("veto", EVERY["unveto"]), ("withdraw", EVERY["restore"]),
            *EVERY.items(), ("reopen", {}),
        ):  # fmt: skip
            version = ActionLog(folder).read().number
            told = both(version, what, fields)
            assert set(told) == {201, 409}, (what, told)
            first, (seen,) = told[201], told[409]["actions"]
            assert seen["by"] == first["by"]
            assert f"meanwhile {first['by']}: {what}" in told[409]["detail"]
            assert ActionLog(folder).read().number == version + 1


def test_of_many_at_once_exactly_one_is_first_each_time(tmp_path, folder):
    """Ten people pin at once, each until it is taken: ten actions, none twice, none lost."""
    with serving(app_of(tmp_path)) as url:
        conflicts = threading.Semaphore(0)

        def pin(psi: int) -> int:
            with httpx.Client(base_url=url, timeout=30) as person:
                while True:
                    version = person.get(PATH).json()["version"]
                    answer = person.post(PATH, json=body(version, "pin", psi_deg=float(psi)))
                    if answer.status_code == 201:
                        return answer.json()["number"]
                    assert answer.status_code == 409, answer.text
                    conflicts.release()

        with ThreadPoolExecutor(10) as beside:
            numbers = sorted(beside.map(pin, range(10)))
        assert numbers == list(range(1, 11))
        orders = httpx.get(url + PATH[1:]).json()["orders"]
        assert sorted(one["psi_deg"] for one in orders["pinned"]) == [float(i) for i in range(10)]


@pytest.mark.parametrize(
    ("document", "status", "says"),
    [
        (body(0, chunk="9"), 422, "expected a folded one: 178900"),
        (body(0, "restore", chunk="178903"), 409, "not withdrawn"),
        (body(0, "pin", psi_deg=4000.0), 422, "psi_deg"),
        (body(0, "pin", psi_deg=300.0), 422, "limits of motion"),
        (body(0, "approve", psi_deg=7.0), 409, "advised now: 48, 84"),
        (body(0, "reopen"), 409, "the run is open"),
        (body(0, "targets", per_parameter={"9NN": 0.1}), 422, "expected one that has a target"),
        (body(7), 409, "version is 7; expected 0"),
        (body(-1), 422, "version"),
        (body(0) | {"version": "0"}, 422, "version"),
        (body(0) | {"version": None}, 422, "version"),
        (body(0, why=""), 422, "why"),
        (body(0, why="  "), 422, "why"),
        (body(0, why="a\nb"), 422, "why"),
        (body(0, why="x" * 600), 422, "why"),
        (body(0) | {"by": ""}, 422, "by"),
        (body(0) | {"by": "x" * 90}, 422, "by"),
        (body(0) | {"role": "admin"}, 422, "role"),
        (body(0, "explode"), 422, "asked"),
        ({"version": 0, "why": "y", "asked": {}}, 422, "asked"),
        ({"version": 0, "why": "y", "asked": None}, 422, "asked"),
        ({"version": 0, "why": "y", "asked": []}, 422, "asked"),
        ({"version": 0, "asked": {"what": "close"}}, 422, "why"),
        ({"why": "y", "asked": {"what": "close"}}, 422, "version"),
        ([], 422, "body"),
        (None, 422, "body"),
        ("close", 422, "body"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words_and_leaves_no_line(
    client, folder, document, status, says
):
    answer = client.post(PATH, json=document)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert isinstance(answer.json()["detail"], str)
    assert ActionLog(folder).read().number == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "version": st.integers(-1, 3) | JSON,
        "why": st.text(max_size=10) | JSON,
        "by": st.text(max_size=10) | JSON,
        "asked": st.fixed_dictionaries(
            {"what": st.sampled_from(ACTION_VERBS) | JSON},
            optional={
                "chunk": st.sampled_from(CHUNKS) | JSON,
                "psi_deg": st.sampled_from([48.0, 84.0, -3.0]) | st.floats() | JSON,
                "within_deg": st.floats() | JSON,
                "minutes": st.floats() | JSON,
                "relative_sigma": st.floats() | JSON,
                "per_parameter": st.dictionaries(st.text(max_size=8), st.floats()) | JSON,
            },
        )
        | JSON,
    },
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=NEARLY | JSON)
def test_whatever_is_sent_is_taken_or_refused_in_words(client, document):
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    answer = client.post(PATH, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (201, 400, 409, 422), answer.text
    if answer.status_code != 201:
        assert isinstance(answer.json()["detail"], str)
        assert answer.json()["detail"]
    assert client.get(PATH).status_code == 200  # the log is whole


def test_a_body_that_is_no_json_is_refused(client):
    for content in (b"{", b"\xff", b"[" * 10_000, b""):
        answer = client.post(PATH, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert isinstance(answer.json()["detail"], str)


def test_a_run_that_is_not_live_shows_nothing_and_takes_nothing(tmp_path):
    client = TestClient(create_app(store(), folders=[tmp_path]), base_url="http://127.0.0.1")
    assert client.get(PATH).json()["live"] is False
    answer = client.post(PATH, json=body(0))
    assert answer.status_code == 404
    assert "replayed again" in answer.json()["detail"]
    assert client.get("/runs/none/actions").status_code == 404
    assert client.post("/runs/none/actions", json=body(0)).status_code == 404


@pytest.mark.parametrize(
    "name", ["..", "../../etc", "ge-demo/..", "%2e%2e%2f", "partition-0", "a" * 5000, "\u202e"]
)
def test_names_that_are_paths_reach_no_file(client, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    assert client.post(f"/runs/{name}/actions", json=body(0)).status_code in (404, 405)
    assert client.get(f"/runs/{name}/actions").status_code in (200, 404)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_of_two_state_folders_is_refused(tmp_path, folder):
    live_state(tmp_path / "other")
    client = TestClient(app_of(tmp_path), base_url="http://127.0.0.1")
    answer = client.post(PATH, json=body(0))
    assert answer.status_code == 409
    assert "2 state folders" in answer.json()["detail"]


def test_a_damaged_log_is_told_and_nothing_is_written(client, folder):
    (folder / "actions.jsonl").write_text("?\n")
    for answer in (client.get(PATH), client.post(PATH, json=body(0))):
        assert answer.status_code in (422, 503)
        assert "Restore it from a backup" in answer.json()["detail"]
    assert (folder / "actions.jsonl").read_text() == "?\n"


# --- roles ---------------------------------------------------------------------------------------


@pytest.fixture
def tokens(tmp_path) -> dict[str, str]:
    path = tmp_path / "people.yaml"
    return {
        role: add_person(path, name=f"{role.title()} Person", role=role)  # type: ignore[arg-type]
        for role in ("viewer", "operator", "admin")
    }


def test_a_role_may_what_it_may_and_no_more(tmp_path, folder, tokens):
    people = People(path=tmp_path / "people.yaml")
    client = TestClient(app_of(tmp_path, people), base_url="http://beamline.example")
    wanted = [
        ("withdraw", (403, 201, 201)),
        ("close", (403, 403, 201)),
        ("reopen", (403, 403, 201)),
    ]
    for what, expected in wanted:
        got = []
        for role in tokens:
            headers = {"Authorization": f"Bearer {tokens[role]}"}
            version = client.get(PATH, headers=headers).json()["version"]
            chunk = {"chunk": CHUNKS[len(got)]} if what == "withdraw" else {}
            asked: dict[str, Any] = {"what": what, **chunk}
            document = {"version": version, "why": "y", "asked": asked, "by": "somebody else"}
            got.append(client.post(PATH, json=document, headers=headers).status_code)
        assert tuple(got) == expected, what
    headers = {"Authorization": f"Bearer {tokens['viewer']}"}
    names = {one["by"] for one in client.get(PATH, headers=headers).json()["actions"]}
    assert names == {"Operator Person", "Admin Person"}  # whatever they call themselves
    me = client.get("/me", headers=headers).json()
    assert (me["name"], me["role"], me["may"]) == ("Viewer Person", "viewer", [])
    me = client.get("/me", headers={"Authorization": f"Bearer {tokens['operator']}"}).json()
    assert "withdraw" in me["may"]
    assert "close" not in me["may"]
    assert client.get(PATH).status_code == 401


def test_the_one_token_acts_as_token_and_loopback_as_local(tmp_path, folder):
    token = "a-token-of-good-length"  # noqa: S105
    app = create_app(store(), token=token, folders=[tmp_path])
    client = TestClient(app, base_url="http://127.0.0.1")
    told = client.post(PATH, json=body(0), headers={"Authorization": f"Bearer {token}"})
    assert told.json()["by"] == "token"
    client = TestClient(app_of(tmp_path), base_url="http://127.0.0.1")
    assert client.get("/me").json()["name"] == "local"
    assert client.post(PATH, json=body(1, "pin", psi_deg=3.0)).json()["by"] == "local"


# --- the command line ----------------------------------------------------------------------------


def test_the_verb_asks_and_lists(tmp_path, folder, capsys):
    from steering import cli

    state = str(tmp_path / "state")
    assert cli.run(["act", state]) == 0
    assert "nobody has asked" in capsys.readouterr().out
    asked = [
        ["withdraw", "178903", "--why", "shutter"],
        ["pin", "33.5", "--why", "gap"],
        ["veto", "60", "--within", "5", "--why", "cable"],
        ["targets", "0.03", "1NN xx=0.01", "--why", "beam is weak", "--by", "Ada"],
        ["budget", "90", "--why", "user"],
        ["close", "--why", "done", "--version", "5"],
        ["reopen", "--why", "not done"],
        ["targets", "file", "--why", "as before"],
    ]
    for words in asked:
        assert cli.run(["act", state, *words]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert cli.run(["act", state, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == 8
    assert told["orders"]["pinned"][0]["psi_deg"] == 33.5
    assert told["actions"][3]["by"] == "Ada"
    assert told["actions"][3]["asked"]["per_parameter"] == {"1NN xx": 0.01}
    assert told["actions"][3]["way"] == "cli"
    assert cli.run(["act", state]) == 0
    assert "178903" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["withdraw", "9", "--why", "y"], "expected a folded one"),
        (["withdraw", "--why", "y"], "expected one: the chunk"),
        (["withdraw", "178903"], "--why is missing"),
        (["withdraw", "178903", "--why", "a\nb"], "one line"),
        (["withdraw", "178903", "--why", "y", "--by", " "], "--by"),
        (["withdraw", "178903", "178904", "--why", "y"], "2 values"),
        (["pin", "north", "--why", "y"], "psi in degrees"),
        (["pin", "nan", "--why", "y"], "psi_deg"),
        (["pin", "-5", "--why", "y"], "limits of motion"),
        (["budget", "-3", "--why", "y"], "minutes"),
        (["targets", "1NN xx=much", "--why", "y"], "relative sigmas"),
        (["close", "now", "--why", "y"], "takes nothing more"),
        (["close", "--why", "y", "--version", "4"], "version is 4; expected 0"),
        (["explode", "--why", "y"], "explode"),
        (["reopen", "--why", "y"], "the run is open"),
        (["--run", "none"], "no live run"),
    ],
)
def test_the_verb_refuses_in_words(tmp_path, folder, capsys, words, says):
    from steering import cli

    assert cli.run(["act", str(tmp_path / "state"), *words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert ActionLog(folder).read().number == 0


def test_the_verbs_refuse_what_is_no_state_and_make_tokens(tmp_path, capsys):
    from steering import cli

    assert cli.run(["act", str(tmp_path)]) == 2
    assert "holds no live run" in capsys.readouterr().err
    people = str(tmp_path / "people.yaml")
    made = ["token", "Ada Lovelace", "--role", "operator", "--people", people, "--json"]
    assert cli.run([*made, "--days", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = People(path=Path(people)).who(told["token"])
    assert found is not None
    assert (found.name, found.role) == ("Ada Lovelace", "operator")
    assert cli.run(["token", "Ada"]) == 2
    assert "--people is missing" in capsys.readouterr().err
    assert RunStore().list() == ()


def test_the_log_is_read_in_pages_that_stay_true_while_it_grows(client, folder):
    for number in range(5):
        asked = {"what": "veto", "psi_deg": 10.0 * number}
        answer = client.post(PATH, json={"version": number, "why": "dark", "asked": asked})
        assert answer.status_code == 201
    first = client.get(f"/v1{PATH}?limit=2")
    assert [one["number"] for one in first.json()["actions"]] == [5, 4]
    assert first.headers["link"] == f'<{first.json()["next"]}>; rel="next"'
    client.post(PATH, json={"version": 5, "why": "dark", "asked": asked | {"psi_deg": 77.0}})
    seen, following = [], first.json()["next"]
    while following is not None:
        page = client.get(following).json()
        seen += [one["number"] for one in page["actions"]]
        following = page["next"]
    assert seen == [3, 2, 1]
