"""Crystals of phonondb, given in three ways, held against each other and against phonopy.

    PYTHONPATH=. python -m tests.simulations.dynamics.phonondb_ways --count 200 --out FILE.jsonl

Every crystal is written as POSCAR + FORCE_SETS, as phonopy.yaml, and as POSCAR + FORCE_CONSTANTS
(BORN beside where polar), read back by `read_force_constants`, and compared. A line of JSON per
crystal; those that FILE holds are not computed again. The supercell is left for us to infer, once,
and given otherwise. Phonopy gets the symmetrised constants that we use (space group, index
permutation, acoustic sum rule), atoms where the space group puts them (with the eight digits of the
database its dipoles leave translation by 2e-5 meV^2) and neutral charges; masses are its own.

Phonopy's dipole sum ends at a radius, so that equivalent wave vectors differ: energies of phonopy
as it comes (`phonopy_random`, `phonopy_path`) are compared by our `phonopy` sum at the shortest
one; `phonopy_itself` says how far the next one is off in phonopy alone, and `converged` how far our
usual sum, which does not end there, is off from either. Lines a meV apart mix by what those sums
differ, so that S(Q) and Debye-Waller tensors are compared with phonopy's sum taken as far as ours:
`phonopy_converged` are energies of that, in our units (its unit of energy is 1.2e-7 smaller).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import spglib

from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U, MEV2_PER_FORCE_CONSTANT
from simulations.crystal import phonopy_species, place_structure
from simulations.dynamics import (
    force_constant_model,
    modes,
    read_force_constants,
    with_dipole_sum,
)
from simulations.dynamics.phonopy_file import match_atoms, to_phonopy_array
from simulations.errors import InputError
from simulations.reciprocal.brillouin_zone import ZonePoints
from simulations.scattering import displacement_tensors
from simulations.scattering.one_phonon import one_phonon_lines
from tests.simulations.phonon_oracles import MEV_PER_THZ, phonondb_crystal, set_ewald

SYMPREC_A = 1e-5
TEMPERATURE_K = 300.0
WAYS = ("force_sets", "yaml", "force_constants")
SYSTEMS = {
    "triclinic": (1, 2), "monoclinic": (3, 15), "orthorhombic": (16, 74), "tetragonal": (75, 142),
    "trigonal": (143, 167), "hexagonal": (168, 194), "cubic": (195, 230),
}  # fmt: skip


def database(shared: Path) -> Path:
    return shared / "phonondb" / "phonondb-2018.h5"


def chosen(path: Path, count: int, most_atoms: int = 40, seed: int = 13) -> list[int]:
    """Rows of the database at random, spread evenly over the crystal systems."""
    taken: dict[str, list[int]] = {name: [] for name in SYSTEMS}
    each = -(-count // len(SYSTEMS))
    with h5py.File(path) as f:
        atoms = f["atom_offset"][:]
        size = np.diff(atoms)
        order = np.random.default_rng(seed).permutation(
            np.flatnonzero((size >= 2) & (size <= most_atoms))
        )
        for i in order:
            piece = slice(*atoms[i : i + 2])
            cell = (f["lattice"][i], f["scaled_positions"][piece], f["atomic_numbers"][piece])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC_A)
            if found is None:
                continue
            system = next(s for s, (a, b) in SYSTEMS.items() if a <= found.number <= b)
            if len(taken[system]) < each:
                taken[system].append(int(i))
            if all(len(t) == each for t in taken.values()):
                break
    mixed = [row[k] for k in range(each) for row in taken.values() if k < len(row)]
    return mixed[:count]


def material(path: Path, i: int) -> str:
    """Material number of a row."""
    with h5py.File(path) as f:
        return str(f["material_id"][i].decode())


def phonopy_of(path: Path, i: int) -> tuple[str, str, Any]:
    """Material, formula and phonopy object of a row; its forces are in, its constants made."""
    from phonopy.physical_units import get_calculator_physical_units

    with h5py.File(path) as f:
        born = f["born_text"][i].decode()
        name, formula = f["material_id"][i].decode(), f["formula"][i].decode()
    coulomb = get_calculator_physical_units(None).nac_factor  # what a BORN without a factor means
    return name, formula, (phonondb_crystal(path, name, coulomb_eV_A=coulomb), born)


def well_placed(phonon: Any, place: Any) -> Any:
    """Phonopy's object with its atoms where the space group puts them; constants are left out."""
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    crystal, unit = place.crystal, phonon.unitcell
    turned = place.rotation.T @ np.linalg.inv(crystal.lattice)
    cells = np.rint(unit.cell @ turned)  # in our primitive vectors
    x = unit.positions @ turned + place.shift @ np.linalg.inv(crystal.lattice)
    atom, _ = match_atoms(crystal, x, tuple(unit.symbols), SYMPREC_A)
    x = crystal.positions[atom] + np.rint(x - crystal.positions[atom])
    return phonopy.Phonopy(
        PhonopyAtoms(
            symbols=unit.symbols,
            cell=cells @ crystal.lattice @ place.rotation,
            positions=(x @ crystal.lattice - place.shift) @ place.rotation,
            masses=unit.masses,
        ),
        phonon.supercell_matrix,
        primitive_matrix=np.linalg.inv(np.rint(np.linalg.inv(phonon.primitive_matrix))),
        symprec=SYMPREC_A,
    )


def write_ways(phonon: Any, born: str, folder: Path) -> dict[str, Path]:
    """The same crystal as three sets of files."""
    from phonopy.file_IO import write_FORCE_CONSTANTS, write_FORCE_SETS
    from phonopy.interface.vasp import get_vasp_structure_lines

    places = {way: folder / way for way in WAYS}
    for way, place in places.items():
        place.mkdir()
        if way != "yaml":
            if born:
                (place / "BORN").write_text(born)
            lines = get_vasp_structure_lines(phonon.unitcell)
            (place / "POSCAR").write_text("\n".join(lines) + "\n")
    write_FORCE_SETS(phonon.dataset, filename=str(places["force_sets"] / "FORCE_SETS"))
    write_FORCE_CONSTANTS(
        phonon.force_constants,
        filename=str(places["force_constants"] / "FORCE_CONSTANTS"),
        p2s_map=phonon.primitive.p2s_map,
    )
    phonon.save(
        places["yaml"] / "phonopy.yaml",
        settings={"force_sets": True, "displacements": True, "force_constants": False},
    )
    return {
        "force_sets": places["force_sets"] / "POSCAR",
        "yaml": places["yaml"] / "phonopy.yaml",
        "force_constants": places["force_constants"] / "POSCAR",
    }


def path_points(model: Any, steps: int = 8) -> np.ndarray:
    """Straight lines between five corners of the zone that every crystal has, off Gamma."""
    corners = np.array(
        [[0.01, 0.02, 0.005], [0.5, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5], [0, 0, 0.5]]
    )
    t = np.linspace(0, 1, steps)[:, None]
    lines = [a + t * (b - a) for a, b in zip(corners, corners[1:], strict=False)]
    return np.concatenate(lines) @ model.crystal.reciprocal


def shortest(q: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    """The shortest vectors that differ from q by whole reciprocal vectors.

    Phonopy's dipole sum ends at a radius around q, so that zones beyond the first differ a little.
    """
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for _ in range(3):
        near = q[:, None] + steps @ reciprocal
        near_length = np.round(np.linalg.norm(near, axis=2), 9)
        q = near[np.arange(len(q)), np.argmin(near_length, axis=1)]
    return q


def next_shortest(q: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    """What leads from shortest vectors to those that come next, equivalent to them."""
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    steps = steps[np.any(steps != 0, axis=1)] @ reciprocal
    return steps[np.argmin(np.linalg.norm(q[:, None] + steps, axis=2), axis=1)]


def grouped(energies: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights summed within groups closer than 1e-4 meV, by q, in a row of equal length."""
    out = np.zeros_like(weights)
    for row, (e, w) in enumerate(zip(energies, weights, strict=True)):
        group = np.cumsum(np.r_[0, np.diff(e) > 1e-4])
        sums = np.bincount(group, w)
        out[row, : len(sums)] = sums
    return out


def compare(shared: Path, i: int) -> dict[str, Any]:
    """Everything of one crystal; refusals and what they say."""
    start = time.process_time()
    name, formula, (phonon, born) = phonopy_of(database(shared), i)
    row: dict[str, Any] = {
        "row": i,
        "material": name,
        "formula": formula,
        "atoms": len(phonon.unitcell),
        "supercell_atoms": len(phonon.supercell),
        "polar": bool(born),
        "system": _system(phonon),
        "refusals": {},
        "notes": [],
    }
    matrix = np.asarray(phonon.supercell_matrix)
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, path in write_ways(phonon, born, Path(folder)).items():
            given = None
            if way != "yaml":
                try:
                    read = read_force_constants(path, symprec_A=SYMPREC_A)
                    row["notes"] += [n.split(":")[0] for n in read.notes]
                    row[f"inferred_{way}"] = _same(read, phonon)
                except InputError as error:
                    row["refusals"][f"{way}, supercell inferred"] = str(error)[:400]
                given = matrix
            try:
                read = read_force_constants(path, supercell_matrix=given, symprec_A=SYMPREC_A)
                models[way] = force_constant_model(read.crystal, read, None)
            except InputError as error:
                row["refusals"][way] = str(error).replace(folder, "")[:400]
    if len(models) == len(WAYS):
        row |= _deviations(models, phonon)
    row["cpu_s"] = round(time.process_time() - start, 2)
    return row


def _system(phonon: Any) -> str:
    number = phonon.symmetry.dataset.number
    return next(s for s, (a, b) in SYSTEMS.items() if a <= number <= b)


def _same(read: Any, phonon: Any) -> bool:
    """Whether the supercell that was inferred spans the lattice of the true one."""
    ours = read.supercell @ read.crystal.lattice
    theirs = np.asarray(phonon.supercell.cell)
    return bool(np.allclose(np.sort(np.linalg.norm(ours, axis=1)),
                            np.sort(np.linalg.norm(theirs, axis=1)), rtol=1e-4))  # fmt: skip


def _deviations(models: dict[str, Any], phonon: Any) -> dict[str, Any]:
    usual = models["yaml"]
    model = with_dipole_sum(usual, "phonopy")
    rng = np.random.default_rng(5)
    reciprocal = model.crystal.reciprocal
    random = shortest(rng.uniform(-0.5, 0.5, (10, 3)) @ reciprocal, reciprocal)
    q = np.concatenate([random, shortest(path_points(model), reciprocal)])
    energies, _ = modes(model, q)
    top = float(np.abs(energies).max())
    found: dict[str, Any] = {
        "top_meV": top,
        "ways": max(
            float(np.abs(modes(models[way], q)[0] - modes(usual, q)[0]).max()) / top
            for way in WAYS[::2]
        ),
        "converged": float(np.abs(modes(usual, q)[0] - energies).max()) / top,
        "symmetry_residual": model.symmetry_residual,
    }
    charges = phonon.nac_params
    unit = phonon.unitcell
    place = place_structure(
        unit.cell, unit.scaled_positions, tuple(unit.symbols), SYMPREC_A, phonopy_species(unit)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon = well_placed(phonon, place)
        phonon.force_constants = to_phonopy_array(model.force_constants(), phonon, SYMPREC_A)
        if charges is not None:
            charges["born"] = charges["born"] - charges["born"].mean(axis=0)
            phonon.nac_params = charges

    def theirs(q_cart: np.ndarray, vectors: bool = False) -> Any:
        phonon.run_qpoints(
            (q_cart @ place.rotation) @ phonon.primitive.cell.T / (2 * np.pi),
            with_eigenvectors=vectors,
        )
        return phonon.qpoints

    off = np.abs(energies - theirs(q).frequencies * MEV_PER_THZ)
    found["phonopy_random"] = float(off[:10].max()) / top
    found["phonopy_path"] = float(off[10:].max()) / top
    again = theirs(q + next_shortest(q, reciprocal)).frequencies * MEV_PER_THZ
    found["phonopy_itself"] = float(np.abs(again - theirs(q).frequencies * MEV_PER_THZ).max()) / top
    set_ewald(phonon, 1.0)
    usual_energies, _ = modes(usual, q)
    unit_meV = MEV2_PER_FORCE_CONSTANT**0.5 / phonon.unit_conversion_factor
    off = np.abs(usual_energies - theirs(q).frequencies * unit_meV)
    found["phonopy_converged"] = float(off.max()) / top
    G = rng.integers(-2, 3, (10, 3)) @ reciprocal
    Q = random + G
    live = usual_energies[:10].min() > 0.05
    divisions = np.maximum(1, np.ceil(25 / np.linalg.norm(model.crystal.lattice, axis=1)))
    mesh = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.37) / n for n in divisions], indexing="ij"), axis=-1
    ).reshape(-1, 3) @ reciprocal  # fmt: skip
    mesh = shortest(mesh, reciprocal)
    zone = ZonePoints(q_cart=mesh, weights=np.full(len(mesh), 1 / len(mesh)))
    try:
        tensors = displacement_tensors(usual, TEMPERATURE_K, zone=zone)
    except InputError as error:
        found["imaginary"] = str(error)[:160]
        tensors = None
    if tensors is not None:
        found["waller"] = _waller(theirs(mesh, True), unit_meV, phonon, place, tensors)
    if live:
        ours = one_phonon_lines(usual, Q, TEMPERATURE_K, displacement=tensors)
        modes_there = theirs(random, True)
        found["scattering"] = _scattering(ours, modes_there, unit_meV, phonon, place, Q, G, tensors)
    return found


def _factor(energies: np.ndarray) -> np.ndarray:
    """Phonopy's frequencies to <u^2>, angstrom^2 u, coth / 2 E."""
    size = np.where(energies > 0.1, energies, 1.0)
    coth = 1 / np.tanh(size / (2 * BOLTZMANN_MEV_PER_K * TEMPERATURE_K))
    return np.where(energies > 0.1, 0.5 * HBAR2_OVER_U * coth / size, 0.0)


def _waller(points: Any, unit_meV: float, phonon: Any, place: Any, tensors: np.ndarray) -> float:
    """Relative difference of <u^2> by kind of atom, from phonopy's modes on the same mesh."""
    n = len(phonon.primitive)
    e = np.asarray(points.eigenvectors).reshape(len(points.frequencies), n, 3, -1)
    factor = _factor(points.frequencies * unit_meV)
    square = np.einsum("qs,qias->i", factor, np.abs(e) ** 2) / len(factor)
    square /= np.asarray(phonon.primitive.masses)
    ours = np.trace(tensors, axis1=1, axis2=2)
    labels = place.crystal.symbols
    worst = 0.0
    for symbol in set(labels):
        a = np.mean([u for u, s in zip(ours, labels, strict=True) if s == symbol])
        b = np.mean(
            [u for u, s in zip(square, phonon.primitive.symbols, strict=True) if s == symbol]
        )
        worst = max(worst, abs(float(a / b) - 1))
    return worst


def _scattering(
    ours: Any,
    points: Any,
    unit_meV: float,
    phonon: Any,
    place: Any,
    Q: np.ndarray,
    G: np.ndarray,
    tensors: Any,
) -> float:
    """Largest difference of lines summed in degenerate groups, over the largest line."""
    crystal = place.crystal
    primitive = phonon.primitive
    r = primitive.positions @ place.rotation.T + place.shift
    atom, _ = match_atoms(
        crystal, r @ np.linalg.inv(crystal.lattice), tuple(primitive.symbols), SYMPREC_A
    )
    n = len(primitive)
    energies = points.frequencies * unit_meV
    e = np.asarray(points.eigenvectors).reshape(len(Q), n, 3, -1)
    e = np.einsum("ab,qibs->qias", place.rotation, e)
    length = crystal.scattering_length[atom] / np.sqrt(primitive.masses)
    decay = np.ones((len(Q), n))
    if tensors is not None:
        decay = np.exp(-0.5 * np.einsum("qa,iab,qb->qi", Q, tensors[atom], Q))
    e = e * np.exp(-1j * G @ r.T)[:, :, None, None]  # from q = Q - G to Q
    F = np.einsum("qia,qias->qs", Q[:, None] * (length * decay)[:, :, None], e.conj())
    bose = 1 / np.expm1(energies / (BOLTZMANN_MEV_PER_K * TEMPERATURE_K))
    weight = 0.5 * HBAR2_OVER_U / energies * np.abs(F) ** 2 * (bose + 1)
    a = grouped(ours.energies_meV, ours.creation)
    b = grouped(ours.energies_meV, weight)
    return float(np.abs(a - b).max() / a.max())


def main() -> None:
    """Compare crystal after crystal; print what stands out and the worst of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--redo", action="store_true", help="those that missed or were refused")
    parser.add_argument("--only", nargs="+", metavar="ID", help="material numbers")
    given = parser.parse_args()
    done: dict[int, dict[str, Any]] = {}
    if given.out.is_file():
        done = {r["row"]: r for r in map(json.loads, given.out.read_text().splitlines())}
    if given.redo:
        done = {i: r for i, r in done.items() if not misses(r)}
        given.out.write_text("".join(json.dumps(r) + "\n" for r in done.values()))
    rows = chosen(database(given.shared), given.count)
    if given.only:
        rows = [i for i in rows if material(database(given.shared), i) in given.only]
    for i in rows:
        if i in done:
            continue
        try:
            done[i] = compare(given.shared, i)
        except Exception as error:  # a library gave up on one crystal; the others go on
            done[i] = {"row": i, "refusals": {"all": f"{type(error).__name__}: {error}"[:300]}}
        with given.out.open("a") as file:
            file.write(json.dumps(done[i]) + "\n")
        print(_line(done[i]), flush=True)  # noqa: T201
    print(summary(list(done.values())))  # noqa: T201


BARS = {
    "ways": 1e-8,
    "phonopy_random": 1e-6,
    "phonopy_path": 1e-6,
    "phonopy_converged": 1e-9,
    "scattering": 1e-5,
    "waller": 1e-6,
}


def misses(row: dict[str, Any]) -> list[str]:
    """Bars that a crystal misses, and ways that were refused."""
    over = [key for key, bar in BARS.items() if row.get(key, 0.0) > bar]
    wrong = [key for key in row if key.startswith("inferred_") and not row[key]]
    return [*over, *wrong, *row["refusals"]]


def _line(row: dict[str, Any]) -> str:
    numbers = " ".join(f"{key} {row[key]:.1e}" for key in BARS if key in row)
    said = f"{row.get('material')} {row.get('formula')} {row.get('system')} {row.get('atoms')}"
    return f"{said}: {numbers} {row.get('cpu_s')} s {misses(row)}"


def summary(rows: list[dict[str, Any]]) -> str:
    """Worst of every figure, and what misses its bar."""
    lines = [f"{len(rows)} crystals"]
    for key, bar in BARS.items():
        values = [r[key] for r in rows if key in r]
        if values:
            over = [r["material"] for r in rows if r.get(key, 0.0) > bar]
            lines.append(
                f"{key}: {len(values)}, median {np.median(values):.1e}, worst {max(values):.1e}, "
                f"over {bar:.0e}: {over}"
            )
    for row in rows:
        for way, why in row["refusals"].items():
            lines.append(f"{row.get('material')} {row.get('formula')}, {way}: {why}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
