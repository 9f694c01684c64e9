"""Closed chunks: immutable files that tell their order and generation."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from consumers.fold import EventAccount
from consumers.state import ClosedChunk, close_chunk, read_chunk
from simulations.fold import CellSums
from simulations.fold.exposure import Exposure
from simulations.fold.image_exposure import ImageExposure
from simulations.likelihood import Trajectories


def tensor(value: float, reals: int = 24) -> Exposure:
    tails = {"tensor": (reals,), "first": (3,), "second": (6,), "slope": (3,)}
    tails["slope_second"] = (6,)
    shapes = {f.name: (5, 3, *tails.get(f.name, ())) for f in fields(Exposure)}
    return Exposure(**{name: np.full(shape, value) for name, shape in shapes.items()})


def images(value: float) -> ImageExposure:
    return ImageExposure(
        moments=tensor(value, reals=0),
        start=np.arange(16) // 2,
        image=np.array([0, 1, 1, 0, 1, 0, 1], dtype=np.int32),
        sums=value + np.arange(49.0).reshape(7, 7) / 3,
        reciprocal=np.array([[0, 0, 1], [-2, 0, 3]], dtype=np.int32),
        displacement=np.full((2, 3, 3), 0.004),
    )


def walked() -> Trajectories:
    """Two pixels, three stretches, ten steps, two atoms."""
    return Trajectories(
        direction=np.eye(3)[:2],
        weight=np.array([0.1, 0.2]),
        pixel=np.array([0, 1, 1], dtype=np.int32),
        first_step=np.array([0, 1, 6], dtype=np.int32),
        start=np.array([0, 2, 4, 8]),
        cell=np.array([0, 1, 5, -1, 2, 2, 3, 3], dtype=np.int32),
        beam=np.array([0.0, 0.0, 4.4]),
        step_edges_meV=np.linspace(0, 5, 11),
        displacement=np.full((2, 6), 0.004),
        reduced=np.array([False]),
    )


def a_chunk(
    folder: Path, chunk: str = "7", *, value: float = 1.0, by_images: bool = False, **more
) -> ClosedChunk:
    """A chunk of two path bins, three energies and five voxels; its exposure is of two atoms."""
    cells = np.full((2, 3), value)
    return close_chunk(
        folder,
        chunk=chunk,
        psi_deg=1.0,
        minutes=1.0,
        proton_charge=0.1,
        account=EventAccount(read=6, folded=6),
        sums=CellSums(signal=cells, variance=cells, counts=cells, exposure=cells, flat=cells),
        exposure=images(value) if by_images else tensor(value),
        trajectories=walked(),
        **more,
    )


def rewritten(path: Path, header=None, **changes) -> None:
    """The chunk file with other words in its header and other arrays; None drops them."""
    with safe_open(str(path), framework="numpy") as file:
        said = json.loads(file.metadata()["beamsteer"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, array in changes.items():
        tensors[name.replace("__", ".")] = array
    kept = {name: array for name, array in tensors.items() if array is not None}
    said = {k: v for k, v in (said | (header or {})).items() if v is not None}
    save_file(kept, str(path), metadata={"beamsteer": json.dumps(said)})


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
    rewritten(closed.path, header={"schema_version": 3})
    for read in (lambda: read_chunk(closed.path), closed.exposure, closed.trajectories):
        with pytest.raises(ValueError, match="schema_version is 3; expected 4. Replay the run"):
            read()


@pytest.mark.parametrize("by_images", [False, True])
def test_either_form_of_exposure_reads_back_to_the_bit(by_images, tmp_path):
    closed = a_chunk(tmp_path, value=1 / 7, by_images=by_images)
    again = read_chunk(closed.path)
    assert again.form == closed.form == ("images" if by_images else "tensor")
    assert again.n_voxels == 5
    exposure, written = again.exposure(), images(1 / 7) if by_images else tensor(1 / 7)
    assert type(exposure) is type(written)
    assert exposure.arrays().keys() == written.arrays().keys()
    for name, array in written.arrays().items():
        stored = exposure.arrays()[name]
        assert (stored.dtype, stored.shape) == (array.dtype, array.shape)
        assert stored.tobytes() == array.tobytes()


FAULTS = {
    "an array is missing": {"voxel__sums": None},
    "an array too many": {"voxel__tensor": np.zeros((5, 3, 24))},
    "image beyond the vectors": {"voxel__image": np.full(7, 2, dtype=np.int32)},
    "entries beyond the end": {"voxel__start": np.arange(16)},
    "another form than it says": {"header": {"exposure": "tensor"}},
    "an unknown form": {"header": {"exposure": "sparse"}},
    "no form": {"header": {"exposure": None}},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_exposure_that_does_not_fit_together_is_refused(fault, tmp_path):
    closed = a_chunk(tmp_path, by_images=True)
    rewritten(closed.path, **FAULTS[fault])
    with pytest.raises(ValueError, match=r"chunk_7.safetensors: is no closed chunk \(.*Replay"):
        closed.exposure()


def test_trajectories_read_back_to_the_bit(tmp_path):
    again = read_chunk(a_chunk(tmp_path).path).trajectories()
    for name, array in walked().arrays().items():
        assert again.arrays()[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays()[name], array)


STRAY = {
    "an array is missing": {"trajectory__beam": None},
    "a pixel that is not there": {"trajectory__pixel": np.array([0, 1, 2], dtype=np.int32)},
    "steps beyond the last": {"trajectory__first_step": np.array([0, 1, 7], dtype=np.int32)},
    "a stretch that runs back": {"trajectory__start": np.array([0, 5, 4, 8])},
    "fewer cells than steps": {"trajectory__start": np.array([0, 2, 4, 9])},
    "a cell below none": {"trajectory__cell": np.full(8, -2, dtype=np.int32)},
}


@pytest.mark.parametrize("fault", STRAY)
def test_trajectories_that_point_outside_are_refused(fault, tmp_path):
    closed = a_chunk(tmp_path)
    rewritten(closed.path, **STRAY[fault])
    with pytest.raises(ValueError, match=r"chunk_7.safetensors: is no closed chunk \(.*Replay"):
        closed.trajectories()


@pytest.mark.parametrize("by_images", [False, True])
def test_a_truncated_file_is_refused_wherever_it_ends(by_images, tmp_path):
    closed = a_chunk(tmp_path, by_images=by_images)
    whole = closed.path.read_bytes()
    for length in [*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        closed.path.write_bytes(whole[:length])
        for read in (lambda: read_chunk(closed.path), closed.exposure, lambda: closed.n_voxels):
            with pytest.raises(
                ValueError, match=r"is no closed chunk \(.*Replay its recorded file"
            ):
                read()


def test_files_of_others_are_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3)}, str(other))
    with pytest.raises(ValueError, match="is no closed chunk"):
        read_chunk(other)
    for header in ("{", "[]", '"x"', '{"schema_version": 4}'):
        save_file({"a": np.zeros(3)}, str(other), metadata={"beamsteer": header})
        with pytest.raises(ValueError, match="is no closed chunk"):
            read_chunk(other)
