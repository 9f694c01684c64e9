"""Command lines of the README and of predictions to try run as they stand, and say their time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PREDICTIONS = (ROOT / "examples" / "predictions" / "README.md").read_text(encoding="utf-8")
QUICK_S = 6


@dataclass(frozen=True, kw_only=True)
class Line:
    """A command line of a code block."""

    command: str
    seconds: int | None  # None: the README does not say
    needs: str | None  # what a clone does not have

    @property
    def verb(self) -> str:
        return self.command.split()[1]


def lines_of(text: str) -> list[Line]:
    found = []
    for one in re.findall(r"^    (beamsteer .*)$", text, re.MULTILINE):
        command, _, told = one.partition("  # ")
        took = re.fullmatch(r"(\d+) s", told.strip())
        needs = re.fullmatch(r"needs (.+)", told.strip())
        found.append(
            Line(
                command=command.strip(),
                seconds=None if took is None else int(took[1]),
                needs=None if needs is None else needs[1],
            )
        )
    return found


LINES = [*lines_of(README), *lines_of(PREDICTIONS)]
RUN = [line for line in LINES if line.seconds is not None]
QUICK = [  # those that need nothing of the lines before
    line
    for line in RUN
    if (line.seconds or 0) <= QUICK_S and not re.search(r"build/\S+/", line.command)
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A folder with what the lines read, and the command."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "bin").mkdir()
    command = folder / "bin" / "beamsteer"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m steering.cli "$@"\n')
    command.chmod(0o755)
    return folder


def run(line: Line, clone: Path) -> str:
    path = f"{clone / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", line.command],
        cwd=clone,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 3), f"{line.command}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def test_every_command_line_says_how_long_it_takes_or_what_it_needs():
    assert len(RUN) > 10
    assert len(QUICK) > 3
    assert [line.command for line in LINES if line.seconds is None and line.needs is None] == []


def test_a_line_without_its_duration_is_seen():
    (line,) = lines_of("x\n\n    beamsteer doctor\n")
    assert (line.seconds, line.needs) == (None, None)
    (line,) = lines_of("    beamsteer fold a -o b    # 12 s\n")
    assert (line.command, line.seconds) == ("beamsteer fold a -o b", 12)
    (line,) = lines_of("    beamsteer fold a  # needs a broker\n")
    assert line.needs == "a broker"


@pytest.mark.parametrize(
    "line",
    QUICK,
    ids=lambda line: line.verb,
)
def test_a_quick_line_runs_from_a_clone(line, clone):
    assert run(line, clone)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_line_that_a_clone_can_run_does_in_the_order_of_the_readme(clone, capsys):
    for line in RUN:
        before = os.times()
        assert run(line, clone)
        spent = os.times()
        seconds = spent.children_user + spent.children_system
        seconds -= before.children_user + before.children_system
        with capsys.disabled():
            sys.stdout.write(f"{seconds:6.1f} s (README: {line.seconds} s)  {line.command}\n")
