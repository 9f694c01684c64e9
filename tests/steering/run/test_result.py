from __future__ import annotations

import json
from typing import Any

import pytest

from consumers.recorded import recorded_source
from simulations.errors import InputError
from steering.run import (
    Run,
    RunResult,
    chunk_results,
    history_entries,
    load_result,
    result_document,
    save_result,
)
from tests.steering.fabricated import snapshot
from tests.steering.virtual_scan import VirtualScan, small_measurement, virtual_scan

__all__ = ["virtual_scan"]


def written(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def whole() -> dict[str, Any]:
    made = snapshot().result
    assert made is not None
    return made.document()


def test_a_run_without_a_chunk_comes_back_byte_for_byte(tmp_path):
    run = Run(small_measurement(), run_id="empty", folder=tmp_path, estimate=False)
    document = run.result()
    result = result_document(document)
    assert result.text() == written(document)
    assert result.parameters == ()
    assert result.targets is None
    assert result.stop.reason == "nothing measured yet"


def test_a_real_run_comes_back_byte_for_byte(virtual_scan: VirtualScan, tmp_path):
    """With an estimate, a chunk set aside and one withdrawn."""
    run = Run(small_measurement(), run_id="r", folder=tmp_path)
    missing = virtual_scan.events[0].with_name("missing.nxs.h5")
    for message in recorded_source([*virtual_scan.events[:2], missing], run="r").messages():
        run.accept(message)
    run.withdraw(run.chunks[0].chunk, "the sample had moved")
    run.estimate_now()
    document = run.result()
    result = result_document(document)
    assert result.text() == written(document)
    assert result.document() == document
    assert result.goodness_of_fit is not None
    assert [target.name for target in result.targets or ()] == [p.name for p in result.parameters]
    assert sorted(chunk.status for chunk in result.chunks) == ["folded", "set aside", "withdrawn"]
    assert run.snapshot().result == result


def test_a_result_survives_the_disk_with_the_same_bytes(tmp_path):
    document = whole() | {"state_generation": 4, "chunk_keys": ["0:1", "2:b"]}
    save_result(result_document(document), tmp_path / "result.json")
    assert (tmp_path / "result.json").read_text(encoding="utf-8") == written(document)
    again = load_result(tmp_path / "result.json")
    assert again is not None
    assert again.document() == document
    assert again.chunk_keys == ("0:1", "2:b")


def test_a_damaged_or_foreign_file_is_no_result(tmp_path):
    path = tmp_path / "result.json"
    assert load_result(path) is None
    for text in ("{", "[]", json.dumps(whole() | {"unheard_of": 1})):
        path.write_text(text)
        assert load_result(path) is None


def test_a_number_that_is_none_is_kept_for_the_reader_to_see():
    document = whole()
    document["goodness_of_fit"]["p_value"] = float("nan")
    assert result_document(document).text() == written(document)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unheard_of": 1}, "unheard_of is unknown; expected only fields of schema 1"),
        ({"run": ...}, "run is missing; expected a whole result"),
        ({"trusted": 1}, "trusted is '1'"),
        ({"minutes_used": "4"}, "minutes_used is '4'"),
        ({"schema_version": 2}, "schema_version is '2'"),
        ({"stop": {"stop": False, "reason": "why"}}, "stop.minutes_to_target is missing"),
        (
            {
                "chunks": [
                    {
                        "chunk": "1",
                        "psi_deg": 4.0,
                        "minutes": 1.0,
                        "events": {"read": 1},
                        "status": "folded",
                        "reason": None,
                    }
                ]
            },
            "chunks.0.events.counts.folded is missing",
        ),
    ],
)
def test_a_field_that_is_missing_unknown_or_wrong_is_named(change, says):
    document = {name: value for name, value in (whole() | change).items() if value is not ...}
    with pytest.raises(InputError, match="^result.json: ") as error:
        result_document(document, where="result.json")
    assert says in str(error.value)


def test_a_result_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        result_document(whole()).trusted = False  # type: ignore[misc]


def test_targets_may_say_whether_they_are_met():
    document = whole()
    assert result_document(document).text() == written(document)
    for target in document["targets"]:
        target["met"] = False
    result = result_document(document)
    assert result.text() == written(document)
    assert [target.met for target in result.targets or ()] == [False] * 8


def test_only_folded_chunks_are_told_as_folded():
    shown = snapshot()
    assert isinstance(shown.result, RunResult)
    assert len(shown.result.folded_chunks) == 8
    assert chunk_results(chunk.document() for chunk in shown.chunks) == shown.result.chunks
    assert history_entries(entry.document() for entry in shown.history) == shown.history
