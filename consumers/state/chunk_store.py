"""Closed chunks on disk: one immutable file each, so that a bad chunk can be withdrawn."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from consumers.fold import EventAccount
from simulations.errors import InputError
from simulations.fold import (
    CellSums,
    Form,
    VoxelExposure,
    exposure_of_arrays,  # pyright: ignore[reportUnknownVariableType]
)
from simulations.likelihood import Trajectories
from simulations.saved_file import in_one_step

SCHEMA_VERSION = 4
LONGEST_NAME = 100  # characters of a chunk's name in the name of its file
_safe_open: Any = safe_open  # says nothing of its types
_SUMS = ("signal", "variance", "counts", "exposure", "flat")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClosedChunk:
    """One orientation after its stop: sums in memory, what makes them exact on disk."""

    chunk: str
    psi_deg: float
    minutes: float
    proton_charge: float  # coulomb
    account: EventAccount
    sums: CellSums
    path: Path
    can: CellSums | None = None  # the empty can alone, folded with this orientation
    start_time_ns: int = 0  # since the Unix epoch; 0 when the source has none
    generation: int = 0  # how often the chunk was folded anew after it had closed
    form: Form = "tensor"  # in which the exposure is kept
    fingerprint: Mapping[str, str] = field(default_factory=dict[str, str])  # of its fold, if known

    @property
    def key(self) -> str:
        """Name of what was folded: another generation of the chunk is another one."""
        return f"{self.generation}:{self.chunk}"

    @property
    def n_voxels(self) -> int:
        """Voxels of the map the chunk was folded with, from the chunk's file.

        Raises
        ------
        ValueError
            If the file is broken or of another schema.
        """
        with _opened(self.path) as (file, _):
            return int(file.get_slice("voxel.weight").get_shape()[0])

    def exposure(self) -> VoxelExposure:
        """Coverage tensor, or the images it is summed from, and moments, from the chunk's file.

        Raises
        ------
        ValueError
            If the file is broken or of another schema, or its arrays do not fit together.
        """
        with _opened(self.path) as (file, header):
            return exposure_of_arrays(header["exposure"], _arrays(file, "voxel."))

    def trajectories(self) -> Trajectories:
        """Stretches of pixel trajectories inside the tubes, read from the chunk's file.

        Raises
        ------
        ValueError
            If the file is broken or of another schema, or its arrays do not fit together.
        """
        with _opened(self.path) as (file, _):
            arrays = _arrays(file, "trajectory.")
            return Trajectories.from_arrays(arrays)  # pyright: ignore[reportUnknownMemberType]


def close_chunk(
    folder: Path,
    *,
    chunk: str,
    psi_deg: float,
    minutes: float,
    proton_charge: float,
    account: EventAccount,
    sums: CellSums,
    exposure: VoxelExposure,
    trajectories: Trajectories,
    can: CellSums | None = None,
    start_time_ns: int = 0,
    generation: int = 0,
    fingerprint: Mapping[str, str] | None = None,
) -> ClosedChunk:
    """Write a chunk's file in one step (temporary name, flush, rename) and return its handle.

    A file is never changed: a chunk that is folded anew gets the next ``generation``, whose number
    is in the file's name.

    Raises
    ------
    StorageError
        If it cannot be written; nothing is left behind.
    """
    suffix = f".g{generation}" if generation else ""
    path = folder / f"chunk_{_file_name(chunk)}{suffix}.safetensors"
    voxel: dict[str, NDArray[Any]] = exposure.arrays()  # pyright: ignore
    stretch: dict[str, NDArray[Any]] = trajectories.arrays()  # pyright: ignore
    tensors = {f"voxel.{name}": array for name, array in voxel.items()}
    tensors |= {f"trajectory.{name}": array for name, array in stretch.items()}
    tensors |= {f"cell.{n}": np.ascontiguousarray(getattr(sums, n), dtype=float) for n in _SUMS}
    if can is not None:
        tensors |= {f"can.{n}": np.ascontiguousarray(getattr(can, n), dtype=float) for n in _SUMS}
    header = {
        "schema_version": SCHEMA_VERSION,
        "chunk": chunk,
        "psi_deg": psi_deg,
        "minutes": minutes,
        "proton_charge": proton_charge,
        "events": asdict(account),
        "gaussian": sums.gaussian,
        "can": can is not None,
        "start_time_ns": start_time_ns,
        "generation": generation,
        "exposure": exposure.form,
        "fingerprint": dict(fingerprint or {}),
    }
    with in_one_step(path) as temporary:
        _save(tensors, temporary, header)
    return ClosedChunk(
        chunk=chunk,
        psi_deg=psi_deg,
        minutes=minutes,
        proton_charge=proton_charge,
        account=account,
        sums=sums,
        path=path,
        can=can,
        start_time_ns=start_time_ns,
        generation=generation,
        form=exposure.form,
        fingerprint=dict(fingerprint or {}),
    )


def _save(tensors: dict[str, NDArray[Any]], path: Path, header: dict[str, Any]) -> None:
    try:
        save_file(tensors, str(path), metadata={"beamsteer": json.dumps(header)})
    except SafetensorError as error:
        if "I/O error" not in str(error):
            raise
        number = re.search(r"os error (\d+)", str(error))  # the serialiser tells it in words only
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def _file_name(chunk: str) -> str:
    """Chunk name as part of a file's; a digest keeps apart names that look alike there."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in chunk)[:LONGEST_NAME]
    return name if name == chunk else f"{name}_{sha256(chunk.encode()).hexdigest()[:12]}"


def read_chunk(path: Path) -> ClosedChunk:
    """Handle of a chunk file written by ``close_chunk``.

    Raises
    ------
    ValueError
        If the file is broken or of another schema.
    """
    with _opened(path) as (file, header):
        return ClosedChunk(
            chunk=header["chunk"],
            psi_deg=header["psi_deg"],
            minutes=header["minutes"],
            proton_charge=header["proton_charge"],
            account=EventAccount(**header["events"]),
            sums=_sums(file, "cell", header["gaussian"]),
            path=path,
            can=_sums(file, "can", header["gaussian"]) if header["can"] else None,
            start_time_ns=header["start_time_ns"],
            generation=header["generation"],
            form=header["exposure"],
            fingerprint=header.get("fingerprint", {}),
        )


def _arrays(file: Any, prefix: str) -> dict[str, Any]:
    """Arrays whose name begins so, by the rest of their name."""
    names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
    return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def _sums(file: Any, kind: str, gaussian: bool) -> CellSums:
    return CellSums(**{n: file.get_tensor(f"{kind}.{n}") for n in _SUMS}, gaussian=gaussian)


@contextmanager
def _opened(path: Path) -> Generator[tuple[Any, dict[str, Any]]]:
    """An open chunk file and what it says about its chunk; refuses others and broken ones."""
    try:
        with _safe_open(str(path), framework="numpy") as file:
            header = json.loads(file.metadata()["beamsteer"])
            if header["schema_version"] == SCHEMA_VERSION:
                yield file, header
                return
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is no closed chunk ({error or type(error).__name__}); expected a file that "
            "a run closed. Replay its recorded file."
        ) from error
    raise InputError(
        f"{path}: schema_version is {header['schema_version']}; expected {SCHEMA_VERSION}. "
        "Replay the run with this version."
    )
