"""Closed chunks on disk: one immutable file each, so that a bad chunk can be withdrawn."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from consumers.folding import EventAccount
from simulations.cell_sums import CellSums
from simulations.exposure import Exposure
from simulations.trajectories import Trajectories

SCHEMA_VERSION = 2
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
            header = json.loads(file.metadata()["beamsteer"])
            if header["schema_version"] != SCHEMA_VERSION:
                raise ValueError(
                    f"{self.path}: schema_version is {header['schema_version']}; expected "
                    f"{SCHEMA_VERSION}. Replay the run with this version."
                )
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
) -> ClosedChunk:
    """Write a chunk's file in one step (temporary name, flush, rename) and return its handle."""
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in chunk)
    path = folder / f"chunk_{name}.safetensors"
    tensors = {f"voxel.{f.name}": getattr(exposure, f.name) for f in fields(Exposure)}
    tensors |= {f"trajectory.{f.name}": getattr(trajectories, f.name) for f in fields(Trajectories)}
    tensors |= {f"cell.{n}": np.ascontiguousarray(getattr(sums, n), dtype=float) for n in _SUMS}
    header = {
        "schema_version": SCHEMA_VERSION,
        "chunk": chunk,
        "psi_deg": psi_deg,
        "minutes": minutes,
        "proton_charge": proton_charge,
        "events": asdict(account),
        "gaussian": sums.gaussian,
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
    )


def read_chunk(path: Path) -> ClosedChunk:
    """Handle of a chunk file written by ``close_chunk``.

    Raises
    ------
    ValueError
        If the file is of another schema.
    """
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()["beamsteer"])
        if header["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema_version is {header['schema_version']}; expected {SCHEMA_VERSION}"
            )
        sums = CellSums(
            **{n: file.get_tensor(f"cell.{n}") for n in _SUMS}, gaussian=header["gaussian"]
        )
    return ClosedChunk(
        chunk=header["chunk"],
        psi_deg=header["psi_deg"],
        minutes=header["minutes"],
        proton_charge=header["proton_charge"],
        account=EventAccount(**header["events"]),
        sums=sums,
        path=path,
    )
