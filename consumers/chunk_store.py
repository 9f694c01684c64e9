"""Closed chunks on disk: one immutable file each, so that a bad chunk can be withdrawn."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from consumers.folding import EventAccount
from simulations.cell_sums import CellSums
from simulations.exposure import Exposure
from simulations.trajectories import Trajectories

SCHEMA_VERSION = 3
LONGEST_NAME = 100  # characters of a chunk's name in the name of its file
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
            If the file is of another schema.
        """
        with safe_open(str(self.path), framework="numpy") as file:
            _header(file, self.path)
            return int(file.get_slice("voxel.weight").get_shape()[0])

    def exposure(self) -> Exposure:
        """Coverage tensor and moments, read from the chunk's file.

        Raises
        ------
        ValueError
            If the file is of another schema.
        """
        return Exposure(**self._tensors("voxel.", Exposure))

    def trajectories(self) -> Trajectories:
        """Stretches of pixel trajectories inside the tubes, read from the chunk's file.

        Raises
        ------
        ValueError
            If the file is of another schema.
        """
        return Trajectories(**self._tensors("trajectory.", Trajectories))

    def _tensors(self, prefix: str, kind: type) -> dict[str, np.ndarray]:
        with safe_open(str(self.path), framework="numpy") as file:
            _header(file, self.path)
            return {f.name: file.get_tensor(prefix + f.name) for f in fields(kind)}


def close_chunk(
    folder: Path,
    *,
    chunk: str,
    psi_deg: float,
    minutes: float,
    proton_charge: float,
    account: EventAccount,
    sums: CellSums,
    exposure: Exposure,
    trajectories: Trajectories,
    can: CellSums | None = None,
    start_time_ns: int = 0,
    generation: int = 0,
) -> ClosedChunk:
    """Write a chunk's file in one step (temporary name, flush, rename) and return its handle.

    A file is never changed: a chunk that is folded anew gets the next ``generation``, whose number
    is in the file's name.
    """
    suffix = f".g{generation}" if generation else ""
    path = folder / f"chunk_{_file_name(chunk)}{suffix}.safetensors"
    tensors = {f"voxel.{f.name}": getattr(exposure, f.name) for f in fields(Exposure)}
    tensors |= {f"trajectory.{f.name}": getattr(trajectories, f.name) for f in fields(Trajectories)}
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
    }
    temporary = path.with_suffix(".partial")
    save_file(tensors, str(temporary), metadata={"beamsteer": json.dumps(header)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
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
    )


def _file_name(chunk: str) -> str:
    """Chunk name as part of a file's; a digest keeps apart names that look alike there."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in chunk)[:LONGEST_NAME]
    return name if name == chunk else f"{name}_{sha256(chunk.encode()).hexdigest()[:12]}"


def read_chunk(path: Path) -> ClosedChunk:
    """Handle of a chunk file written by ``close_chunk``.

    Raises
    ------
    ValueError
        If the file is of another schema.
    """
    with safe_open(str(path), framework="numpy") as file:
        header = _header(file, path)
        sums = _sums(file, "cell", header["gaussian"])
        can = _sums(file, "can", header["gaussian"]) if header["can"] else None
    return ClosedChunk(
        chunk=header["chunk"],
        psi_deg=header["psi_deg"],
        minutes=header["minutes"],
        proton_charge=header["proton_charge"],
        account=EventAccount(**header["events"]),
        sums=sums,
        path=path,
        can=can,
        start_time_ns=header["start_time_ns"],
        generation=header["generation"],
    )


def _sums(file: Any, kind: str, gaussian: bool) -> CellSums:
    return CellSums(**{n: file.get_tensor(f"{kind}.{n}") for n in _SUMS}, gaussian=gaussian)


def _header(file: Any, path: Path) -> dict[str, Any]:
    """What the file says about its chunk; refuses other schemas."""
    header = json.loads(file.metadata()["beamsteer"])
    if header["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version is {header['schema_version']}; expected {SCHEMA_VERSION}. "
            "Replay the run with this version."
        )
    return header
