"""How often a prior's box holds the DFT constants of the phonon database; resumable.

    python -m tests.steering.predict.prior_coverage FOLDER --crystals 50

Crystals of 2 to 12 atoms that DFT finds stable are drawn from the database with a fixed seed, at
most a fifth of them from one crystal system, dear ones left out (many displacements times many
atoms). For each, `make_prior` asks all installed force fields, and the members and the DFT values
of the same constants go to FOLDER/<material>.json; what is there is not computed again. The table
says, for half of the crystals that a widening may be fitted to and for the other half, how many
constants lie inside the box: of the eight largest of each crystal, of all, and how wide the box is
beside one that follows the members' range alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import spglib

from simulations.crystal import Crystal, read_crystal
from simulations.dynamics import force_constant_model
from simulations.dynamics.phonopy_file import from_phonopy
from simulations.errors import InputError
from simulations.prior import STABLE_ABOVE_meV
from simulations.prior.force_field import THZ_TO_MEV, default_supercell
from simulations.prior.record import element_values
from simulations.prior.widening import MEASURED, RANGE_ALONE, Widening, widened_box
from steering.predict import make_prior
from tests.simulations.phonon_oracles import SYMPREC_A, phonondb_crystal

ATOMS = (2, 12)
SUPERCELL_ATOMS = 72
DISPLACED_ATOMS = 420  # displacements times atoms of a supercell: dearer crystals are left out
SHORTEST_CUTOFF_A = 3.2
SYSTEMS = {
    "triclinic": 2,
    "monoclinic": 15,
    "orthorhombic": 74,
    "tetragonal": 142,
    "trigonal": 167,
    "hexagonal": 194,
    "cubic": 230,
}


def gather(database: Path, folder: Path, crystals: int, seed: int) -> None:
    """Make priors until so many crystals of the database are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(database) as f:
        materials = [m.decode() for m in np.asarray(f["material_id"])]
    count: Counter[str] = Counter()
    for k in np.random.default_rng(seed).permutation(len(materials)):
        if count.total() >= crystals:
            return
        path = folder / f"{materials[k]}.json"
        if path.exists():
            count[json.loads(path.read_text())["system"]] += 1
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _crystal(database, materials[k])
            if found is None or count[found["system"]] > crystals // 5:
                continue
            started = time.process_time()
            path.write_text(json.dumps(_with_members(found, folder)))
        count[found["system"]] += 1
        sys.stdout.write(
            f"{count.total():3d} {materials[k]} {found['formula']} {found['system']} "
            f"{time.process_time() - started:.0f} s of processor\n"
        )
        sys.stdout.flush()


def _crystal(database: Path, material: str) -> dict[str, Any] | None:
    """DFT values of a crystal's named constants; None where it is not taken."""
    import phonopy

    try:
        phonon = phonondb_crystal(database, material)
    except InputError:  # charges or a dielectric tensor that cannot be
        return None
    cell = phonon.primitive
    if not ATOMS[0] <= len(cell) <= ATOMS[1]:
        return None
    reference = from_phonopy(phonon, source=material, symprec_A=SYMPREC_A)
    crystal = reference.crystal
    length = 6.0
    while True:
        supercell = default_supercell(crystal.lattice, 1.05 * length)
        if np.prod(supercell) * len(cell) <= SUPERCELL_ATOMS or length < SHORTEST_CUTOFF_A:
            break
        length = round(length - 0.1, 2)
    asked = phonopy.Phonopy(cell, np.diag(supercell), primitive_matrix=np.eye(3))
    asked.generate_displacements(is_plusminus=True)
    if len(asked.displacements) * len(asked.supercell) > DISPLACED_ATOMS:
        return None
    if reference.supercell is None or not _reads_back(crystal):
        return None
    inverse = np.linalg.inv(reference.supercell @ crystal.lattice)
    length = min(length, 0.5 / np.linalg.norm(inverse, axis=0).max() - 1e-3)
    phonon.run_mesh([8] * 3)
    lowest = float(phonon.mesh.frequencies.min() * THZ_TO_MEV)
    if lowest < STABLE_ABOVE_meV:
        return None
    model = force_constant_model(crystal, None, length)
    values = element_values(model, reference)
    group = spglib.get_symmetry_dataset(
        (cell.cell, cell.scaled_positions, cell.numbers), symprec=SYMPREC_A
    )
    if group is None:
        return None
    return {
        "id": material,
        "formula": "".join(crystal.symbols),
        "symbols": list(crystal.symbols),
        "lattice_A": crystal.lattice.tolist(),
        "positions": crystal.positions.tolist(),
        "system": next(name for name, last in SYSTEMS.items() if group.number <= last),
        "cutoff_A": length,
        "supercell": list(supercell),
        "truth": dict(zip(model.elements, values.tolist(), strict=True)),
    }


def _reads_back(crystal: Crystal) -> bool:
    """Whether a POSCAR of the crystal is placed as it was, so that constants bear equal names."""
    with tempfile.TemporaryDirectory() as folder:
        again = read_crystal(_poscar(crystal.symbols, crystal.lattice, crystal.positions, folder))
    return np.allclose(again.lattice, crystal.lattice, atol=1e-4) and np.allclose(
        again.positions, crystal.positions, atol=1e-3
    )


def _poscar(symbols: Any, lattice: Any, positions: Any, folder: str | Path) -> Path:
    from phonopy.interface.vasp import write_vasp
    from phonopy.structure.atoms import PhonopyAtoms

    path = Path(folder) / "POSCAR"
    write_vasp(path, PhonopyAtoms(symbols=list(symbols), cell=lattice, scaled_positions=positions))
    return path


def _with_members(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with what every force field says, or why there is no prior."""
    with tempfile.TemporaryDirectory() as work:
        path = _poscar(found["symbols"], found["lattice_A"], found["positions"], work)
        crystal = read_crystal(path)
    try:
        made = make_prior(
            found["id"],
            crystal,
            cutoff_A=found["cutoff_A"],
            supercell=tuple(found["supercell"]),
            samples=50,
            members_folder=folder / "members",
        )
    except InputError as error:
        return {**found, "members": {}, "refused": str(error)}
    names = made.record.box.names
    return {
        **found,
        "members": {
            m.force_field: {
                "values": dict(zip(names, m.values.tolist(), strict=True)),
                "lowest": m.lowest_meV,
            }
            for m in made.record.members
        },
        "notes": list(made.notes),
        "acceptance": None if made.sample is None else made.sample.acceptance,
        "stabilised": made.record.stabilised is not None,
    }


def held(found: dict[str, Any], widening: Widening) -> dict[str, Any] | None:
    """Which constants of a crystal its box holds; None where fewer than two members answered."""
    answers = [m for m in found["members"].values() if "values" in m]
    stable = [m for m in answers if m["lowest"] >= STABLE_ABOVE_meV]
    used = stable if len(stable) >= 2 else answers
    if len(used) < 2:
        return None
    names = [n for n in found["truth"] if all(n in m["values"] for m in used)]
    truth = np.array([found["truth"][n] for n in names])
    values = np.array([[m["values"][n] for n in names] for m in used])
    bonds = [n.rsplit(" ", 1)[0] for n in names]
    lower, upper = widened_box(values, widening, bonds)
    bare_lower, bare_upper = widened_box(values, RANGE_ALONE)
    inside = (truth >= lower) & (truth <= upper)
    largest = np.argsort(-np.abs(truth))[:8]
    width = (upper - lower) / np.maximum(bare_upper - bare_lower, 1e-12)
    return {"inside": inside, "largest": inside[largest], "width": width}


def table(folder: Path, widenings: dict[str, Widening]) -> str:
    """Coverage of either half of the crystals under several widenings."""
    crystals = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = ["half     widening       crystals  eight largest      all constants     median width"]
    for half, parity in (("fitted", 0), ("unseen", 1)):
        chosen = [c for c in crystals if zlib.crc32(c["id"].encode()) % 2 == parity]
        for name, widening in widenings.items():
            rows = [row for c in chosen if (row := held(c, widening)) is not None]
            if not rows:
                continue
            largest = np.concatenate([row["largest"] for row in rows])
            inside = np.concatenate([row["inside"] for row in rows])
            width = np.median(np.concatenate([row["width"] for row in rows]))
            lines.append(
                f"{half:8s} {name:14s} {len(rows):3d} of {len(chosen):3d} "
                f"{largest.sum():5d} of {len(largest):5d} {largest.mean():5.1%} "
                f"{inside.sum():6d} of {len(inside):6d} {inside.mean():5.1%} {width:6.2f}"
            )
    return "\n".join(lines)


def main() -> None:
    """Gather what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crystals", type=int, default=50, help="0: only the table")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("BEAMSTEER_SHARED_DATA", "../shared/data")
    )
    given = parser.parse_args()
    gather(given.data / "phonondb" / "phonondb-2018.h5", given.folder, given.crystals, given.seed)
    sys.stdout.write(table(given.folder, {"range alone": RANGE_ALONE, "measured": MEASURED}) + "\n")


if __name__ == "__main__":
    main()
