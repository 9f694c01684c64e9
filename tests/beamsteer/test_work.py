from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import beamsteer

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "examples" / "ge-small.yaml"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda place: beamsteer.fold([], SMALL, place), "files is empty"),
        (lambda place: beamsteer.fold(place / "none.nxspe", SMALL, place), "is no file"),
        (lambda place: beamsteer.fold([str(place)], SMALL, place), "is no file"),
        (lambda place: beamsteer.replay(place / "none.nxspe", SMALL), "is no file"),
        (lambda place: beamsteer.estimate(ROOT / "README.md", SMALL), "cannot be read as NPZ"),
        (lambda _: beamsteer.predict("germanium", quantity="nothing"), "quantity is 'nothing'"),
        (lambda _: beamsteer.predict("germanium", ei_meV=-1), "ei_meV is -1"),
        (lambda _: beamsteer.predict("germanium", colour="red"), "colour is 'red'"),
        (lambda _: beamsteer.predict("no-such-crystal"), "no-such-crystal"),
        (lambda _: beamsteer.plan(), "beamsteer plan germanium"),
        (lambda _: beamsteer.plan("germanium", instrument="ARCS"), "beamsteer plan germanium"),
        (lambda _: beamsteer.plan("germanium", experiment=SMALL), "STRUCTURE is given beside"),
        (
            lambda place: beamsteer.simulate(SMALL, place, psi_deg=[0.0], formats=("exe",)),
            "exe",
        ),
    ],
)
def test_bad_input_names_what_was_given_and_expected(ask, says, tmp_path):
    with pytest.raises(beamsteer.InputError) as raised:
        ask(tmp_path)
    assert says in str(raised.value)


def test_logs_of_a_program_that_said_nothing_of_them_leave_stdout_alone():
    code = (
        "import structlog, beamsteer\n"
        "beamsteer.fold\n"
        "structlog.get_logger().info('chunk_folded')\n"
        "structlog.get_logger().warning('chunk_set_aside')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == ""
    assert "chunk_set_aside" in done.stderr
    assert "chunk_folded" not in done.stderr
