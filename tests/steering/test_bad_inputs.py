"""Bad inputs of the corpus, and what Hypothesis makes, end in words: no traceback, 2 or 4xx."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steering import cli
from steering.cli._served_app import served_app
from steering.cli._verbs import verb
from steering.web import BoundedPredictor, People
from tests.steering.bad_inputs import (
    PATHS,
    PLACES,
    RUN,
    WORD,
    BadCommand,
    BadRequest,
    bad_paths,
    bad_requests,
    bad_values,
    lay_out,
)
from tests.steering.fabricated import store
from tests.steering.web.test_acting import live_state

ALL_PATHS = bad_paths()
SOME_PATHS = [case for i, case in enumerate(ALL_PATHS) if i % 7 == 0]
"""Every place and every kind comes; all pairs are a slow test."""
VALUES = bad_values()
REQUESTS = bad_requests()
STEP = re.compile(
    r"expected|should|Correct|Give|give|Write|Name|Make|Use|Set|Take|Try|Run|Mend|Remove|Check|"
    r"is not|wrong or odd|Missing|Did you mean|No such|Known|does not take|requires|Got unexpected"
)
LONGEST_S = 240  # on a machine that does much else; a command that waits for a pipe never ends


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("bad")
    lay_out(found)
    return found


@contextmanager
def ending() -> Iterator[None]:
    """An alarm for what would wait for ever."""

    def wake(*_: Any) -> None:
        raise TimeoutError("the command waits for something")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(case: BadCommand, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in folder.iterdir()}
    with ending():
        status = cli.run([word.replace("{folder}", str(folder)) for word in case.arguments])
    told = capsys.readouterr()
    text = told.out + told.err
    assert status in (cli.BAD_INPUT, cli.AWAY), text
    assert "Traceback" not in text
    assert "fault of Beamsteer" not in text
    flat = re.sub(r"[\s│]+", " ", text)
    for word in case.says:
        assert word in text or word in flat
    assert STEP.search(text), text
    made = {path.name for path in folder.iterdir()} - before
    assert not {name for name in made if name.endswith((".yaml", ".tar", ".partial"))}


@pytest.mark.parametrize("case", SOME_PATHS, ids=lambda case: case.name)
def test_a_path_to_none_of_what_is_wanted_is_refused_in_words(case, folder, capsys):
    check(case, folder, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL_PATHS, ids=lambda case: case.name)
def test_every_place_refuses_every_kind_of_bad_path_in_words(case, folder, capsys):
    check(case, folder, capsys)


def marked(cases: list[BadCommand]) -> list[Any]:
    """The cases, those that compute a crystal's vibrations first as slow ones."""
    costly = ("spectrum", "powder")
    return [
        pytest.param(case, marks=pytest.mark.slow, id=case.name)
        if case.arguments[:2] == costly and "HUBBLE" not in case.arguments
        else pytest.param(case, id=case.name)
        for case in cases
    ]


@pytest.mark.parametrize("case", marked(VALUES))
def test_a_value_that_makes_no_sense_is_refused_in_words(case, folder, capsys):
    check(case, folder, capsys)


def test_the_corpus_is_large_and_says_everything_once():
    assert len(VALUES) + len(REQUESTS) >= 150
    assert len(ALL_PATHS) >= 300
    names = [case.arguments for case in (*ALL_PATHS, *VALUES)]
    assert len(set(names)) == len(names)
    assert {case.name.partition(":")[0] for case in SOME_PATHS} == set(PLACES)
    assert {case.name.partition(": ")[2] for case in SOME_PATHS} == set(PATHS)


@pytest.mark.parametrize(
    "name", ["inspect: a pipe that nobody feeds", "restore: a link to itself", "act: nothing"]
)
def test_a_process_of_its_own_ends_alike(name, folder):
    (case,) = (one for one in ALL_PATHS if one.name == name)
    done = subprocess.run(
        [sys.executable, "-m", "steering.cli"]
        + [word.replace("{folder}", str(folder)) for word in case.arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == cli.BAD_INPUT
    assert "Traceback" not in done.stderr
    assert case.says[0] in done.stdout + done.stderr


def test_a_name_that_is_no_text_is_shown_as_it_can_be(tmp_path):
    """Linux has names of any bytes; a terminal of UTF-8 has not."""
    name = b"caf\xe9.nxs"
    (tmp_path / "x").mkdir()
    Path(tmp_path, "x", name.decode(errors="surrogateescape")).write_bytes(b"no file of ours")
    done = subprocess.run(
        [
            sys.executable.encode(),
            b"-m",
            b"steering.cli",
            b"inspect",
            bytes(tmp_path / "x") + b"/" + name,
        ],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == cli.BAD_INPUT, done.stderr
    assert b"caf\\udce9.nxs" in done.stdout + done.stderr


LIGHT = (
    "inspect",
    "phonons",
    "alarms",
    "act",
    "status",
    "backup",
    "restore",
    "simulate",
    "model-server",
)
HOSTILE = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "-", "--", "nan", "1e999", "-0", "../..", "\n", "{}", "[]", "0x10", "٣"]),
)


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, ...]:
    """A command whose path is bad, with options of its verb and values of any kind."""
    place = draw(st.sampled_from(LIGHT))
    bad = draw(st.sampled_from(sorted(set(PATHS.values()) - {"/dev/null"})))
    words = [word.replace("{bad}", "{folder}/" + bad) for word in PLACES[place]]
    options = [
        option
        for param in verb(words[0]).params
        for option in param.opts
        if option.startswith("--") and option not in ("--help", "--schema", "--output")
    ]
    for _ in range(draw(st.integers(0, 3))):
        words.append(draw(st.sampled_from(options)))
        if draw(st.booleans()):
            words.append(draw(HOSTILE))
    if draw(st.booleans()):
        words.insert(draw(st.integers(1, len(words))), draw(HOSTILE))
    return tuple(words)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(words=commands())
def test_whatever_options_come_the_command_ends_in_words(words, folder, capsys):
    with ending():
        status = cli.run([word.replace("{folder}", str(folder)) for word in words])
    text = "".join(capsys.readouterr())
    assert status in (0, cli.BAD_INPUT, cli.AWAY), text
    assert status or "--help" in words or "-h" in " ".join(words), text
    assert "Traceback" not in text
    assert "fault of Beamsteer" not in text
    assert text.strip()


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    """The whole API that `serve` serves, over a live state folder."""
    state = tmp_path_factory.mktemp("api") / "state"
    live_state(state, RUN)
    app = served_app(
        store(), BoundedPredictor(), people=People(), names=(), folders=[state], workers=tuple
    )
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def sent(client: TestClient, case: BadRequest) -> httpx.Response:
    more: dict[str, Any] = {} if case.body is None else {"json": case.body}
    if case.raw is not None:
        more = {"content": case.raw, "headers": {"content-type": "application/json"}}
    return client.request(case.method, case.path, **more)


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.name)
def test_a_bad_request_is_answered_in_words(case, client):
    answer = sent(client, case)
    assert answer.status_code in case.status, answer.text[:500]
    assert "Traceback" not in answer.text
    assert any(word in answer.text for word in WORD), answer.text[:500]
    for word in case.says:
        assert word in answer.text, answer.text[:500]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.one_of(
        NUMBERS,
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = ("ei_meV", "temperature_K", "quantity", "instrument", "route", "can", "supercell", "by")


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(["/predict", f"/runs/{RUN}/actions", "/alarms/x/acknowledge"]),
    body=st.one_of(JSON, st.dictionaries(st.sampled_from(FIELDS), JSON)),
)
def test_whatever_body_comes_it_is_refused_in_words(path, body, client):
    """None of them names a structure, an action or an alarm that is there."""
    answer = client.post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert answer.json()["detail"]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(["/runs", "/alarms/log", f"/runs/{RUN}/actions", f"/runs/{RUN}/spectrum"]),
    name=st.sampled_from(["last", "format", "other"]),
    value=st.text(max_size=20),
    run=st.text(min_size=1, max_size=20),
)
def test_whatever_parameters_come_no_answer_is_a_fault(path, name, value, run, client):
    assert client.get(path, params={name: value}).status_code in (200, 422)
    found = client.get(f"/runs/{quote(run, safe='')}/verdict")
    assert found.status_code in (200, 307, 404, 405, 422), found.text[:200]
