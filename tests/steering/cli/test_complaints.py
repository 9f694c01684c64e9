from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steering import cli
from steering.cli._complaints import complaint_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (
            "experiment.yaml: motion.limits is [40, -40] degrees; expected lower < upper. Swap.",
            [("experiment.yaml", "motion.limits")],
        ),
        ("--psi is 'x'; expected degrees as 0,30,60. Correct it.", [(None, "--psi")]),
        ("a: sample.u is 1; expected 3.\na: sample.v is 2; expected 3.", [("a", "sample.u")] * 0),
        ("build/none: is no file; expected a recorded file.", [("build/none", None)]),
        ("the topics are unknown; give --prefix, e.g. hyspec", [(None, "the topics")]),
        ("no such thing", [(None, None)]),
    ],
)
def test_file_and_field_are_told_apart(message, wrong):
    told = complaint_of(message, 2)
    assert (told["status"], told["kind"], told["message"]) == (2, "bad input", message)
    if wrong:
        assert [(one["file"], one["field"]) for one in told["errors"]] == wrong
    else:
        assert [one["field"] for one in told["errors"]] == ["sample.u", "sample.v"]


@pytest.fixture
def wrong_field(tmp_path) -> Path:
    text = (ROOT / "examples" / "ge-arcs.yaml").read_text()
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace("limits_deg: [0, 120]", "limits_deg: [40, -40]"))
    return path


@pytest.mark.parametrize(
    ("arguments", "status", "field"),
    [
        (["simulate", "WRONG", "-o", "OUT"], 2, "motion.limits_deg"),
        (["fold"], 2, "FILES"),
        (["predict", "germanium", "--ei", "abc"], 2, "--ei"),
        (["predict", "germanium", "--nonsense"], 2, "--nonsense"),
        (["plan", "germanium", "--psi", "x"], 2, "--psi"),
        (["serve", "--port", "99999"], 2, "--port"),
        (["status", "WRONG/none"], 2, None),
        (["nosuch"], 2, None),
    ],
)
def test_with_json_what_is_wrong_is_one_object_on_stdout_and_words_on_stderr(
    arguments, status, field, wrong_field, tmp_path, capsys
):
    put = {"WRONG": str(wrong_field), "OUT": str(tmp_path)}
    given = [part.replace("WRONG", put["WRONG"]).replace("OUT", put["OUT"]) for part in arguments]
    assert cli.run([*given, "--json"]) == status
    shown = capsys.readouterr()
    told = json.loads(shown.out)["error"]
    assert told["status"] == status
    assert told["errors"]
    if field is not None:
        assert told["errors"][0]["field"] == field
    assert " ".join(shown.err.replace("error:", "").split()) == " ".join(told["message"].split())
    assert cli.run(given) == status
    assert capsys.readouterr().out == ""


def test_faults_and_what_may_pass_have_their_own_kind(capsys, monkeypatch):
    for error, status, kind in (
        (ConnectionError("the broker is away"), 75, "try again later"),
        (ZeroDivisionError("of ours"), 1, "fault"),
    ):

        def fail(*_: object, error=error, **__: object) -> None:
            raise error

        monkeypatch.setattr("steering.report.inspect", fail)
        assert cli.run(["inspect", str(ROOT / "README.md"), "--json"]) == status
        told = json.loads(capsys.readouterr().out)["error"]
        assert (told["status"], told["kind"]) == (status, kind)
        assert str(error) in told["message"]


def test_the_version_is_that_of_the_package(capsys):
    from importlib import metadata

    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"beamsteer {metadata.version('beamsteer')}\n"


def completed(*words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "steering.cli"],
        cwd=ROOT,
        env=os.environ
        | {
            "_BEAMSTEER_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


def test_the_tabulator_completes_verbs_and_their_options():
    assert sorted(completed("beamsteer", "re")) == ["record", "replay", "report", "restore"]
    assert completed("beamsteer", "replay", "--ps") == ["--psi"]
