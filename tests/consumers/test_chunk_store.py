"""Closed chunks: immutable files that tell their order and generation."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from consumers.chunk_store import ClosedChunk, close_chunk, read_chunk
from consumers.folding import EventAccount
from simulations.cell_sums import CellSums
from simulations.exposure import Exposure
from simulations.trajectories import Trajectories


def a_chunk(folder: Path, chunk: str = "7", *, value: float = 1.0, **more) -> ClosedChunk:
    """A chunk of two path bins, three energies and five voxels."""
    cells = np.full((2, 3), value)
    voxels = {f.name: np.full((5, 3), value) for f in fields(Exposure)}
    walked = {f.name: np.full(4, value) for f in fields(Trajectories)}
    return close_chunk(
        folder,
        chunk=chunk,
        psi_deg=1.0,
        minutes=1.0,
        proton_charge=0.1,
        account=EventAccount(read=6, folded=6),
        sums=CellSums(signal=cells, variance=cells, counts=cells, exposure=cells, flat=cells),
        exposure=Exposure(**voxels),
        trajectories=Trajectories(**walked),
        **more,
    )


def test_start_time_and_generation_read_back(tmp_path):
    closed = a_chunk(tmp_path, start_time_ns=1_700_000_000_123_456_789, generation=2)
    again = read_chunk(closed.path)
    assert again.start_time_ns == closed.start_time_ns == 1_700_000_000_123_456_789
    assert again.generation == closed.generation == 2
    assert again.n_voxels == 5
    assert again.key == closed.key


def test_another_generation_leaves_the_file_before_as_it_was(tmp_path):
    old = a_chunk(tmp_path)
    before = old.path.read_bytes()
    new = a_chunk(tmp_path, value=2.0, generation=1)
    assert new.path.name == "chunk_7.g1.safetensors"
    assert old.path.read_bytes() == before
    assert old.key != new.key


@pytest.mark.parametrize("names", [("a/b", "a_b"), ("7.g1", "7_g1"), ("x" * 300, "x" * 299)])
def test_names_that_look_alike_get_files_of_their_own(names, tmp_path):
    files = {a_chunk(tmp_path, name).path for name in names}
    assert len(files) == 2
    assert {read_chunk(f).chunk for f in files} == set(names)
    assert all(f.parent == tmp_path for f in files)


def test_a_file_of_another_schema_is_refused_with_what_to_do(tmp_path):
    closed = a_chunk(tmp_path)
    with safe_open(str(closed.path), framework="numpy") as file:
        header = json.loads(file.metadata()["beamsteer"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["schema_version"] = 3
    save_file(tensors, str(closed.path), metadata={"beamsteer": json.dumps(header)})
    for read in (lambda: read_chunk(closed.path), closed.exposure, closed.trajectories):
        with pytest.raises(ValueError, match="schema_version is 3; expected 4. Replay the run"):
            read()
