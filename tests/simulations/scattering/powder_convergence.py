"""Powder maps at default settings against a mesh with four times the points, over phonondb.

Both are split where modes are soft: a regular mesh of four times the points is the worse of the
two in soft crystals. That splitting itself is right is held by `test_soft_cells`.

``python -m tests.simulations.scattering.powder_convergence FILE [--crystals 30]`` appends a line
per crystal and goes on where FILE ends; ``--only ID ...`` measures those crystals.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import h5py
import numpy as np

from simulations.errors import InputError
from simulations.instrument import load_instrument
from simulations.reciprocal import irreducible_mesh
from simulations.scattering import powder_spectrum
from simulations.scattering.soft_cells import split_soft_cells
from steering.predict import Vibrations, optics, stable
from tests.simulations.phonon_oracles import phonopy_model

ENERGY_BINS, MOMENTUM_BINS = 160, 120  # of `beamsteer spectrum powder`


def crystals(folder: Path, seed: int = 13) -> list[str]:
    """Material numbers in a random order, 2 to 12 atoms."""
    with h5py.File(folder / "phonondb" / "phonondb-2018.h5") as f:
        atoms = np.diff(f["atom_offset"][:])
        cells = [abs(np.linalg.det(m)) for m in f["primitive_matrix"][:]]
        size = np.rint(atoms * np.array(cells))
        pick = np.flatnonzero((size >= 2) & (size <= 12))
        names = f["material_id"][:]
    return [names[i].decode() for i in np.random.default_rng(seed).permutation(pick)]


def measured(folder: Path, name: str) -> dict[str, object]:
    """Error of one crystal's map, and what was told of it."""
    from simulations.dynamics import phonon_dos

    _, model = phonopy_model(folder, name)
    dos = phonon_dos(model, tolerance=0.02)
    found = Vibrations(crystal=model.crystal, dos=dos, model=model, route={}, approximations=())
    try:
        found = stable(found)
    except InputError as error:
        return {"name": name, "refused": str(error)}
    top = float(dos.energy_edges_meV[-1]) / 1.05
    seen = optics(top, instrument=load_instrument("ARCS").name)
    momentum = np.linspace(0.02, 1.0, MOMENTUM_BINS + 1) * 2 * np.sqrt(seen.ei_meV / 2.0721248)
    energy = np.linspace(0.0, 1.08 * top, ENERGY_BINS + 1)
    moved = found.displacements(300.0)
    options = {
        "temperature_K": 300.0, "resolution": seen.sigma_of, "ei_meV": seen.ei_meV,
        "two_theta_deg": seen.two_theta_deg, "displacement": moved.tensors,
        "pockets": found.pockets,
    }  # fmt: skip
    begun = time.process_time()
    mine = powder_spectrum(model, momentum, energy, **options)
    seconds = time.process_time() - begun
    finer = np.ceil(4 ** (1 / 3) * np.array(mine.sampling.divisions)).astype(int)
    regular = irreducible_mesh(model.crystal, finer, shifted=True)
    zone = split_soft_cells(model, regular, 300.0, pockets=found.pockets)
    theirs = powder_spectrum(model, momentum, energy, zone=zone, **options).intensity
    reached = mine.accessible
    off = np.abs(mine.intensity - theirs)[reached].sum() / theirs[reached].sum()
    return {
        "name": name, "atoms": model.crystal.n_atoms, "error": float(off),
        "told": mine.sampling.error, "points": mine.sampling.points, "seconds": seconds,
        "pocket": found.pockets is not None, "debye_waller_told": moved.error,
    }  # fmt: skip


def run(
    folder: Path, record: Path, count: int, only: list[str] | None = None
) -> list[dict[str, object]]:
    """Measure until so many crystals made a map; those recorded are not computed again."""
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done = {row["name"] for row in rows}
    for name in only or crystals(folder):
        if not only and sum("error" in row for row in rows) >= count:
            break
        if name in done:
            continue
        rows.append(measured(folder, name))
        with record.open("a") as out:
            out.write(json.dumps(rows[-1]) + "\n")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--crystals", type=int, default=30)
    parser.add_argument("--only", nargs="+", metavar="ID", help="material numbers")
    asked = parser.parse_args()
    shared = Path(os.environ.get("BEAMSTEER_SHARED_DATA", "../shared/data"))
    run(shared, asked.record, asked.crystals, asked.only)
