"""Crystals for the physics tests, and the same force constants inside phonopy and Euphonic."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulations.constants import COULOMB_EV_A
from simulations.crystal_file import (
    from_phonopy,
    load_phonopy,
    place_structure,
    read_crystal,
    read_force_constants,
    to_phonopy_array,
)
from simulations.force_constants import ForceConstantModel, force_constant_model, to_supercell

MEV_PER_THZ = 4.135667696923859

# supercells of the phonopy-test files that do not say theirs
SUPERCELLS = {"P2": [3, 2, 2], "Pc": [2, 2, 2], "Amm2": [3, 2, 2], "P-3m1": [3, 3, 2]}


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
        if (tests / name).is_dir():
            phonon = load_phonopy(tests / name)
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


def phonopy_model(folder: Path, name: str) -> tuple[Any, ForceConstantModel]:
    """A phonopy object and our model with equal, symmetrised force constants and masses."""
    phonon = phonopy_crystal(folder, name)
    pairs = from_phonopy(phonon, source=name)
    model = force_constant_model(pairs.crystal, pairs, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon.force_constants = to_phonopy_array(model.force_constants(), phonon)
        mass = dict(zip(model.crystal.symbols, model.crystal.masses_u, strict=True))
        phonon.masses = [mass[s] for s in phonon.primitive.symbols]
    return phonon, model


def phonopy_energies(phonon: Any, q_cart: np.ndarray) -> np.ndarray:
    """Energies in meV at Cartesian q of our frame."""
    unit = phonon.unitcell
    place = place_structure(unit.cell, unit.scaled_positions, tuple(unit.symbols))
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
        return euphonic.ForceConstants(*arguments)
    return euphonic.ForceConstants.from_total_fc_with_dipole(
        *arguments,
        born=pairs.dipole.born * ureg.e,
        dielectric=pairs.dipole.dielectric * ureg("e**2/(bohr*hartree)"),
    )


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
