"""Folder of site densities: blocks of entries in an order drawn once, each written in one step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_server.direct import energy_edges_meV
from simulations.errors import InputError
from simulations.progress import Progress, silent
from simulations.saved_file import in_one_step
from steering.database import open_source
from steering.study.direct_targets import MOST_ATOMS, SiteDensities, site_densities

FORMAT = 1
BLOCK = 50
"""Entries of a block, the bad ones too."""
_PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Targets:
    """What there is to learn from."""

    crystals: tuple[SiteDensities, ...]
    looked_at: int  # entries
    aside: dict[str, int]  # how many were left out, by reason


def make_targets(
    source: Path,
    folder: Path,
    *,
    crystals: int,
    seed: int = 0,
    most_atoms: int = MOST_ATOMS,
    progress: Progress = silent,
) -> Targets:
    """Compute site densities until there are enough, or go on with what an earlier call left.

    Parameters
    ----------
    source : Path
        A phonon database in one HDF5 file, or a folder of phonopy files.
    folder : Path
        For the blocks; made if it is not there.
    crystals : int
        Wanted; fewer if the source has no more.
    seed : int
        Of the order in which entries are taken.
    most_atoms : int
        In the primitive cell; larger ones are left out.
    progress : callable
        Told how far it is, and when it will end.

    Raises
    ------
    InputError
        If the source cannot be read, or the folder was made from another one.
    StorageError
        If there is no room. Make some and call again: it goes on behind the last whole block.
    """
    found = open_source(source.resolve())
    folder.mkdir(parents=True, exist_ok=True)
    _agree(folder, {"format": FORMAT, "source": found.fingerprint, "seed": seed,
                    "most_atoms": most_atoms})  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(found.ids))
    edges = energy_edges_meV()
    kept: list[SiteDensities] = []
    aside: dict[str, int] = {}
    begun, begun_at, looked = time.monotonic(), 0, 0
    for start in range(0, len(order), BLOCK):
        if len(kept) >= crystals:
            break
        path = folder / f"{start:06d}.npz"
        if not path.is_file():
            begun_at = begun_at or len(kept) or 1
            block: list[SiteDensities] = []
            why: dict[str, int] = {}
            for row in order[start : start + BLOCK]:
                try:
                    one = site_densities(found.entry(int(row)), edges, most_atoms=most_atoms)
                except (OSError, MemoryError):
                    raise
                except Exception as error:  # libraries raise many kinds for bad numbers
                    reason = _reason(error)
                    why[reason] = why.get(reason, 0) + 1
                else:
                    block.append(one)
            _write(path, block, why)
        block, why = _read(path)
        kept += block
        looked += min(BLOCK, len(order) - start)
        for reason, count in why.items():
            aside[reason] = aside.get(reason, 0) + count
        share = min(1.0, len(kept) / crystals)
        left = ""
        if begun_at and len(kept) > begun_at:
            rate = (time.monotonic() - begun) / (len(kept) - begun_at)
            left = f", {max(0.0, rate * (crystals - len(kept))) / 60:.0f} min left"
        progress(f"site densities: {len(kept)} of {crystals} crystals{left}", share)
    return Targets(crystals=tuple(kept[:crystals]), looked_at=looked, aside=aside)


def read_targets(folder: Path) -> Targets:
    """All that a folder holds.

    Raises
    ------
    InputError
        If it holds none.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise InputError(
            f"targets: {folder} holds no site densities; expected a folder that "
            "`beamsteer train-direct` filled. Name the database with --data"
        )
    kept: list[SiteDensities] = []
    aside: dict[str, int] = {}
    for path in paths:
        block, why = _read(path)
        kept += block
        for reason, count in why.items():
            aside[reason] = aside.get(reason, 0) + count
    return Targets(crystals=tuple(kept), looked_at=len(kept) + sum(aside.values()), aside=aside)


def _agree(folder: Path, plan: dict[str, object]) -> None:
    """Write what the folder is made from, or refuse another one."""
    path = folder / _PLAN
    if not path.is_file():
        with in_one_step(path) as temporary:
            temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [key for key in plan if before.get(key) != plan[key]]
    if other:
        raise InputError(
            f"targets: {folder} was made with another {' and '.join(other)}; expected the same. "
            "Take another folder, or the options of before"
        )


def _reason(error: Exception) -> str:
    """A reason without its numbers, so that like ones are counted together."""
    if not isinstance(error, InputError):
        return f"{type(error).__name__} while computing"
    text = " ".join(str(error).split())
    if "atoms in the primitive cell" in text:
        return "too many atoms"
    if "a mode lies at" in text:
        return "imaginary modes"
    return text[:80]


def _write(path: Path, block: Sequence[SiteDensities], why: dict[str, int]) -> None:
    counts = [len(one.numbers) for one in block]
    n = int(np.sum(counts))
    bins = len(energy_edges_meV()) - 1
    with in_one_step(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            ids=np.array([one.id for one in block], dtype=str),
            formulas=np.array([one.formula for one in block], dtype=str),
            counts=np.array(counts, dtype=np.int64),
            lattices=np.array([one.lattice for one in block]).reshape(-1, 3, 3),
            positions=np.concatenate([np.zeros((0, 3)), *(one.positions for one in block)]),
            numbers=np.concatenate([np.zeros(0, int), *(one.numbers for one in block)]),
            shares=np.concatenate([np.zeros((0, bins)), *(one.shares for one in block)])
            .astype(np.float32)
            .reshape(n, bins),
            lowest_meV=np.array([one.lowest_meV for one in block]),
            aside=json.dumps(why),
        )


def _read(path: Path) -> tuple[list[SiteDensities], dict[str, int]]:
    with np.load(path) as file:
        stops = np.cumsum(file["counts"])
        parts: Iterator[slice] = (
            slice(int(b - n), int(b)) for b, n in zip(stops, file["counts"], strict=True)
        )
        names = ("ids", "formulas", "lattices", "positions", "numbers", "shares", "lowest_meV")
        ids, formulas, lattices, positions, numbers, shares, lowest = (file[k] for k in names)
        why = json.loads(str(file["aside"]))
    return [
        SiteDensities(
            id=str(ids[k]),
            formula=str(formulas[k]),
            lattice=lattices[k],
            positions=positions[part],
            numbers=numbers[part],
            shares=shares[part].astype(float),
            lowest_meV=float(lowest[k]),
        )
        for k, part in enumerate(parts)
    ], why
