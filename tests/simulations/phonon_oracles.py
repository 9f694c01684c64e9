"""Crystals for the physics tests, and the same force constants inside phonopy and Euphonic."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from simulations.constants import COULOMB_EV_A
from simulations.crystal import Crystal, place_structure, read_crystal
from simulations.dynamics import ForceConstantModel, force_constant_model, read_force_constants
from simulations.dynamics.phonopy_file import from_phonopy, load_phonopy, to_phonopy_array
from simulations.dynamics.supercell import to_supercell

MEV_PER_THZ = 4.135667696923859
SYMPREC_A = 1e-5  # phonopy shares constants among images equidistant to this, as we do

# supercells of the phonopy-test files, which do not say theirs
SUPERCELLS = {
    "Amm2": [3, 2, 2], "I4_1a": [2, 2, 1], "P-3m1": [3, 3, 2], "P-4": [1, 1, 2],
    "P-42_1m": [2, 2, 3], "P-43m": [2, 2, 2], "P-6": [1, 1, 3], "P-62m": [1, 1, 2],
    "P-6m2": [2, 2, 3], "P2": [3, 2, 2], "P222_1": [2, 2, 1], "P2_13": [2, 2, 2],
    "P31m": [1, 1, 3], "P3m1": [4, 4, 2], "P4_1": [2, 2, 1], "P4_332": [1, 1, 1],
    "P4mm": [3, 3, 2], "P6": [2, 2, 1], "P6_222": [2, 2, 2], "Pa-3": [2, 2, 2],
    "Pc": [2, 2, 2],
}  # fmt: skip


def germanium(cutoff_A: float | None = 7.0) -> ForceConstantModel:
    return force_constant_model(
        read_crystal("germanium"), read_force_constants("germanium"), cutoff_A
    )


def aluminium() -> ForceConstantModel:
    """Near-neighbour springs of about the right size; no claim to be aluminium's constants."""
    model = force_constant_model(read_crystal("aluminium"), None, 5.0)
    values = dict.fromkeys(model.elements, 0.0)
    values.update({"1NN xx": -0.66, "1NN xy": -0.72, "1NN zz": 0.09, "2NN xx": -0.15})
    return model.with_elements([values[name] for name in model.elements])


def phonopy_crystal(folder: Path, name: str) -> Any:
    """A phonopy object of the test set with neutral Born charges and CODATA constants."""
    tests = folder / "phonopy-test"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("mp-"):
            phonon = phonondb_crystal(folder / "phonondb" / "phonondb-2018.h5", name)
        elif name == "Ge":
            phonon = load_phonopy(folder / "ge")[0]
        elif (tests / name).is_dir():
            phonon = load_phonopy(tests / name)[0]
        else:
            phonon = _from_force_sets(tests, name)
        if phonon.nac_params is not None:
            born = phonon.nac_params["born"]
            phonon.nac_params = {
                "born": born - born.mean(axis=0),
                "dielectric": phonon.nac_params["dielectric"],
                "factor": COULOMB_EV_A,
            }
    return phonon


def _from_force_sets(tests: Path, name: str) -> Any:
    phonopy = pytest.importorskip("phonopy")
    from phonopy.interface.vasp import read_vasp

    return phonopy.load(
        unitcell=read_vasp(str(tests / f"POSCAR_{name}")),
        supercell_matrix=np.diag(SUPERCELLS[name]).tolist(),
        primitive_matrix="auto",
        force_sets_filename=str(tests / f"FORCE_SETS_{name}"),
        symmetrize_fc=False,
        log_level=0,
    )


def phonondb_crystal(path: Path, material: str, *, coulomb_eV_A: float = COULOMB_EV_A) -> Any:  # noqa: N803
    """A crystal of phonondb by its material number; its README tells the layout."""
    phonopy = pytest.importorskip("phonopy")
    from phonopy.file_IO import parse_BORN_from_strings
    from phonopy.structure.atoms import PhonopyAtoms

    with h5py.File(path) as f:
        i = int(np.flatnonzero(f["material_id"][:] == material.encode())[0])
        atoms = slice(*f["atom_offset"][i : i + 2])
        moves = slice(*f["displacement_offset"][i : i + 2])
        zigzag = f["forces_zigzag"][slice(*f["force_offset"][i : i + 2])].astype(np.int64)
        cell = PhonopyAtoms(
            numbers=f["atomic_numbers"][atoms],
            cell=f["lattice"][i],
            scaled_positions=f["scaled_positions"][atoms],
        )
        phonon = phonopy.Phonopy(
            cell,
            f["supercell_matrix"][i],
            primitive_matrix=f["primitive_matrix"][i],
            symprec=SYMPREC_A,
        )
        shifted, step = f["displaced_atom"][moves], f["displacement"][moves]
        born = f["born_text"][i].decode()
    forces = 1e-5 * ((zigzag >> 1) ^ -(zigzag & 1)).reshape(len(shifted), -1, 3)
    phonon.dataset = {
        "natom": len(phonon.supercell),
        "first_atoms": [
            {"number": int(a), "displacement": d, "forces": f}
            for a, d, f in zip(shifted, step, forces, strict=True)
        ],
    }
    phonon.produce_force_constants()
    if born:
        charges = parse_BORN_from_strings(born, phonon.primitive, symprec=SYMPREC_A)
        phonon.nac_params = {**charges, "factor": coulomb_eV_A}
    return phonon


def phonopy_model(folder: Path, name: str) -> tuple[Any, ForceConstantModel]:
    """A phonopy object and our model with equal, symmetrised force constants and masses."""
    phonon = phonopy_crystal(folder, name)
    pairs = from_phonopy(phonon, source=name, symprec_A=SYMPREC_A)
    model = force_constant_model(pairs.crystal, pairs, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon.force_constants = to_phonopy_array(model.force_constants(), phonon, SYMPREC_A)
        mass = dict(zip(model.crystal.symbols, model.crystal.masses_u, strict=True))
        phonon.masses = [mass[s] for s in phonon.primitive.symbols]
    return phonon, model


def phonopy_energies(phonon: Any, q_cart: np.ndarray) -> np.ndarray:
    """Energies in meV at Cartesian q of our frame."""
    unit = phonon.unitcell
    place = place_structure(unit.cell, unit.scaled_positions, tuple(unit.symbols), SYMPREC_A)
    q = (q_cart @ place.rotation) @ phonon.primitive.cell.T / (2 * np.pi)
    phonon.run_qpoints(q)
    return phonon.qpoints.frequencies * MEV_PER_THZ


def euphonic_constants(model: ForceConstantModel, supercell: np.ndarray | None = None) -> Any:
    """The model's force constants as a Euphonic object."""
    euphonic = pytest.importorskip("euphonic", reason="euphonic is the oracle")
    ureg = euphonic.ureg
    pairs, crystal = model.force_constants(), model.crystal
    cells, constants = to_supercell(pairs, supercell)
    matrix = pairs.supercell if supercell is None else supercell
    n = 3 * crystal.n_atoms
    table = constants.transpose(1, 0, 3, 2, 4).reshape(len(cells), n, n)
    arguments = (
        euphonic.Crystal(
            crystal.lattice * ureg.angstrom,
            crystal.positions,
            np.array(crystal.symbols),
            crystal.masses_u * ureg.amu,
        ),
        table * ureg("eV/angstrom^2"),
        matrix,
        cells,
    )
    if pairs.dipole is None:
        out = euphonic.ForceConstants(*arguments)
    else:
        out = euphonic.ForceConstants.from_total_fc_with_dipole(
            *arguments,
            # Euphonic contracts the second index of a charge with q, phonopy the first
            born=pairs.dipole.born.transpose(0, 2, 1) * ureg.e,
            dielectric=pairs.dipole.dielectric * ureg("e**2/(bohr*hartree)"),
        )
    _cut_images(out, crystal, matrix)
    return out


def _cut_images(constants: Any, crystal: Crystal, supercell: np.ndarray) -> None:
    """Let Euphonic share a constant among images as near as ours and phonopy's: 1e-5 angstrom.

    Its own tolerance is 1e-3 of a supercell vector; where atoms lie within that of the half-way
    plane, as in seven of the 29 crystals of phonopy's tests, energies differ by 1e-2 and more.
    """
    from euphonic.util import get_all_origins

    shells = 2
    constants._calculate_supercell_images(shells)
    steps = get_all_origins(np.repeat(shells, 3) + 1, min_xyz=-np.repeat(shells, 3)) @ supercell
    images, counts = constants._sc_image_i, constants._n_sc_images
    x, cells = crystal.positions, constants.cell_origins
    listed = np.arange(images.shape[3]) < counts[..., None]
    base = cells[:, None, None] + x[None, None] - x[None, :, None]  # (cells, i, j, 3)
    place = base[:, :, :, None] + steps[images]
    length = np.where(listed, np.linalg.norm(place @ crystal.lattice, axis=-1), np.inf)
    keep = listed & (length < length.min(axis=-1, keepdims=True) + 1e-5)
    order = np.argsort(~keep, axis=-1, kind="stable")
    constants._sc_image_i = np.take_along_axis(np.where(keep, images, -1), order, axis=-1)
    constants._n_sc_images = keep.sum(axis=-1).astype(counts.dtype)


def with_ewald(model: ForceConstantModel, ewald: float) -> ForceConstantModel:
    """The model with another Ewald parameter; itself where there are no charges."""
    dipole = model.reference.dipole
    if dipole is None:
        return model
    dipole = replace(dipole, ewald=ewald)
    return replace(model, reference=replace(model.reference, dipole=dipole))


def set_ewald(phonon: Any, ewald: float) -> None:
    """Give phonopy the same Ewald parameter, with more reciprocal vectors than its rule takes.

    Its vectors fill a sphere; ours fill the ellipsoid of the dielectric tensor, within it.
    """
    if phonon.nac_params is None:
        return
    cutoff = (3 * 300 / (4 * np.pi) / phonon.primitive.volume) ** (1 / 3) * ewald
    dielectric = phonon.nac_params["dielectric"]
    mean = np.trace(dielectric) / 3
    split = np.sqrt(-(cutoff**2) * mean / 4 / np.log(1e-10))
    reach = 1.35 * cutoff * np.sqrt(mean / np.linalg.eigvalsh(dielectric)[0])
    phonon.nac_params = {**phonon.nac_params, "G_cutoff": reach, "Lambda": split}


def zone_vectors(model: ForceConstantModel, count: int, seed: int = 0) -> np.ndarray:
    """Random q inside the first zone's inner part, 1/angstrom."""
    x = np.random.default_rng(seed).uniform(-0.42, 0.42, size=(count, 3))
    return x @ model.crystal.reciprocal


def degenerate_sums(energies: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum weights inside groups closer than 1e-4 meV; other entries are zero."""
    out = np.zeros_like(weights)
    for row, (e, w) in enumerate(zip(energies, weights, strict=True)):
        group = np.cumsum(np.r_[0, np.diff(e) > 1e-4])
        sums = np.bincount(group, w)
        out[row, : len(sums)] = sums
    return out
