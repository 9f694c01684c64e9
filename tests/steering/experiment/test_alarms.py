from __future__ import annotations

from datetime import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steering.experiment import dump_experiment, load_experiment, with_absolute_files
from steering.experiment.alarms import AlarmsSection, QuietHours
from steering.experiment.experiment_file import ExperimentError, parse_experiment
from steering.experiment.fingerprint_file import fingerprint_of

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
REFERENCE = (EXAMPLES / "ge-arcs.yaml").read_text()
SECRET = "T0PSECRETx"  # noqa: S105  of nobody


def with_alarms(lines: str):
    return parse_experiment(f"{REFERENCE}\nalarms:\n{lines}")


def test_a_whole_section_survives_a_dump(tmp_path):
    experiment = with_alarms(
        "  urls_file: urls\n  zone: Europe/Paris\n  repeat_minutes: 30\n"
        '  quiet: {start: "22:00", end: "07:00", despite: [beam off, disk filling]}\n'
        "  kinds: [stop, beam off]\n"
    )
    dump_experiment(experiment, tmp_path / "again.yaml")
    assert load_experiment(tmp_path / "again.yaml") == experiment


def test_the_file_of_urls_is_found_from_a_state_folder(tmp_path):
    (tmp_path / "urls").write_text("")
    kept = with_absolute_files(with_alarms("  urls_file: urls\n"), tmp_path)
    assert kept.alarms.urls_file == str(tmp_path / "urls")


def test_alarms_change_no_fold(tmp_path):
    with_some = with_alarms("  repeat_minutes: 30\n")
    assert fingerprint_of(with_some, tmp_path) == fingerprint_of(
        parse_experiment(REFERENCE), tmp_path
    )


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (f"  urls_file: slack://{SECRET}\n", "the name of a file"),
        (f"  url: slack://{SECRET}\n", "expected no such field"),
        (f"  password: {SECRET}\n", "expected no such field"),
        (f"  urls: [slack://{SECRET}]\n", "Did you mean urls_file"),
        (f"  urls_file: [slack://{SECRET}]\n", "expected text"),
        (f"  quiet: slack://{SECRET}\n", "a section with"),
        ("  zone: Mars\n", "expected a time zone such as Europe/Berlin"),
        ("  zone: ../../etc/passwd\n", "expected a time zone"),
        ('  quiet: {start: 2200, end: "07:00"}\n', "alarms.quiet.start is 2200; expected"),
        ('  quiet: {start: "24:00", end: "07:00"}\n', "expected a time of the day"),
        ('  quiet: {start: "22:00", end: "22:00"}\n', "another time than"),
        ("  kinds: [nosuch]\n", "'stop'"),
        ("  kinds: []\n", "at least 1 item"),
        ("  repeats: -1\n", ">= 0"),
        ("  repeat_minutes: 0\n", "> 0"),
        ("  beam_off_below: 1\n", "< 1"),
        ("  disk_free_MB: .inf\n", "finite"),
        ("  enabled: 3\n", "true or false"),
    ],
)
def test_a_bad_section_is_told_without_any_secret(lines, told):
    with pytest.raises(ExperimentError) as error:
        with_alarms(lines)
    assert told in str(error.value)
    assert "alarms." in str(error.value)
    assert SECRET not in str(error.value)


@given(start=st.integers(0, 1439), length=st.integers(1, 1439), at=st.integers(0, 1439))
def test_quiet_hours_hold_from_start_to_end_across_midnight(start, length, at):
    def clock(minute: int) -> time:
        return time(minute % 1440 // 60, minute % 60)

    quiet = QuietHours(start=f"{clock(start):%H:%M}", end=f"{clock(start + length):%H:%M}")
    assert quiet.hold("stop", clock(at)) is ((at - start) % 1440 < length)


def test_a_time_of_the_day_needs_no_quotes():
    quiet = with_alarms("  quiet: {start: 22:00, end: 07:00}\n").alarms.quiet
    assert (quiet.start, quiet.end) == ("22:00", "07:00")


def test_urgent_kinds_are_told_in_quiet_hours():
    quiet = QuietHours(start="22:00", end="07:00", despite=("beam off",))
    assert not quiet.hold("beam off", time(3))
    assert quiet.hold("stop", time(3))


def test_alarms_are_on_unless_somebody_turns_them_off():
    assert AlarmsSection().enabled
