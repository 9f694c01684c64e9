"""State folders of other versions; those in ``old_states`` were written by the code of then."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from consumers.state import (
    check_fingerprint,
    claim_state,
    read_chunk,
    read_manifest,
    read_state,
    versions_of,
    write_manifest,
)
from consumers.state import versions_store as module
from simulations.errors import InputError
from steering import cli

ROOT = Path(__file__).resolve().parents[3]
OLD = Path(__file__).parent / "old_states"
"""2026-11-21 by revision 160e69a (before states had names), 2026-11-22 by fcfe639 (fold 1)."""


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def by_kind(state: Path) -> dict[str, module.FoundVersion]:
    return {one.kind: one for one in versions_of(state)}


def test_a_manifest_from_before_states_had_names_opens_and_its_chunks_say_what_to_do(old):
    state = old / "2026-11-21"
    manifest = read_manifest(state / "partition-0")
    assert manifest is not None
    assert manifest.state_id == ""
    assert manifest.positions["p_detector"].has(10)
    (chunk,) = manifest.runs["night"].chunks
    with pytest.raises(InputError, match=r"schema_version is 3; expected 4\. Replay the run"):
        read_chunk(state / "partition-0" / str(chunk.file))
    found = by_kind(state)
    assert (found["manifest.json"].version, found["manifest.json"].verdict) == ("1", "opens")
    assert (found["closed chunks"].version, found["closed chunks"].verdict) == ("3", "older")
    assert "beamsteer replay" in found["closed chunks"].remedy
    # The newer code writes on in it, and gives it a name.
    written = write_manifest(state / "partition-0", manifest)
    assert written.generation == 2
    assert claim_state(state, {"program.fold": "2"}).state_id


def test_a_state_of_an_older_fold_opens_and_is_refused_with_the_key_and_what_to_do(old):
    state = old / "2026-11-22"
    identity = read_state(state)
    assert identity is not None
    (chunk,) = read_manifest(state / "partition-0").runs["night"].chunks
    assert read_chunk(state / "partition-0" / str(chunk.file)).chunk == "178921"
    with pytest.raises(InputError, match=r"program\.fold was 1 and is 2.*empty state folder"):
        check_fingerprint(
            "state", identity.fingerprint, {**identity.fingerprint, "program.fold": "2"}
        )
    found = by_kind(state)
    assert found["fold (program.fold)"].verdict == "older"
    assert {one.verdict for kind, one in found.items() if not kind.startswith("fold")} == {"opens"}


def test_what_is_newer_or_damaged_is_told_as_such(old):
    state = old / "2026-11-22"
    file = state / "state.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"schema_version": 9}))
    assert by_kind(state)["state.json"].verdict == "newer"
    assert "upgrade this one" in by_kind(state)["state.json"].remedy
    for content in (b"", b"{}", b"[]", b"\xff", b'{"schema_version": "x"}'):
        file.write_bytes(content)
        assert by_kind(state)["state.json"].verdict == "damaged"
        assert "state.json cannot be read" in by_kind(state)["state.json"].remedy
    recorded = state / "partition-0" / "night" / "recorded"
    recorded.mkdir()
    (recorded / "a.nxs.h5").write_bytes(b"no HDF5")
    next(state.rglob("*.safetensors")).write_bytes(b"{}")
    assert by_kind(state)["recordings"].verdict == "damaged"
    assert by_kind(state)["closed chunks"].verdict == "damaged"


def test_the_verb_says_so_and_ends_with_2_where_workers_would_not_go_on(old, capsys):
    assert cli.run(["doctor", str(old / "2026-11-22")]) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert "fold (program.fold)" in told.out
    assert "docs/upgrade.md" in told.err
    assert cli.run(["doctor", str(old / "2026-11-21"), "--json"]) == cli.BAD_INPUT
    assert json.loads(capsys.readouterr().out)["opens"] is False
    claim_state(old / "new", {"program.fold": str(module.FOLD_VERSION)})
    assert cli.run(["doctor", str(old / "new")]) == 0
    assert "go on from it" in capsys.readouterr().err
    assert cli.run(["doctor", str(old)]) == cli.BAD_INPUT
    assert "is no state folder" in capsys.readouterr().err


def test_the_page_of_upgrades_tells_the_versions_of_the_code(old):
    page = (ROOT / "docs" / "upgrade.md").read_text()
    rows = dict(re.findall(r"(?m)^\| ([^|]+?) \| (\d+) \|", page))
    for one in versions_of(old / "2026-11-22"):
        assert rows[one.kind] == one.known
