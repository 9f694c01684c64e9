"""Born-von Karman force constants of a one-atom crystal fitted to measured frequencies.

Where the symmetry fixes the eigenvector of a mode, its squared frequency is linear in the force
constants, and so are the moduli of sound waves. A fit is then one linear least-squares problem.
Measured points are fewer than elements, so elements are drawn to zero, far ones more than near
ones: of all models that agree with the data, the smooth one of shortest reach is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.constants import EV_A2_IN_N_M, EV_A3_IN_GPA, MEV_PER_THZ
from simulations.crystal import Crystal
from simulations.dynamics.bonds import PairForceConstants
from simulations.dynamics.force_constants import ForceConstantModel, force_constant_model
from simulations.errors import InputError

_SAME_MODE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredMode:
    """Frequency of a mode whose polarisation the symmetry fixes."""

    hkl: tuple[float, float, float]  # conventional r.l.u.
    polarisation: tuple[float, float, float]  # Cartesian, any length
    frequency_THz: float
    precision: float = 0.005  # relative


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundModulus:
    """Modulus rho v^2 of a sound wave, a combination of elastic constants."""

    direction: tuple[float, float, float]  # Cartesian, any length
    polarisation: tuple[float, float, float]  # Cartesian, any length
    modulus_GPa: float
    precision: float = 0.01  # relative


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownElement:
    """A force constant that someone else has published.

    In the sign of our tensors: d2E/du_first du_second, negative for a spring.
    """

    name: str
    value_N_m: float
    precision_N_m: float


Datum = MeasuredMode | SoundModulus | KnownElement


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BornVonKarmanFit:
    """A fitted model and how far it misses each datum."""

    model: ForceConstantModel  # its reference holds the fitted force constants
    misses: FloatArray  # (data,) fitted over given, less 1: of frequencies, moduli and elements

    @property
    def force_constants(self) -> PairForceConstants:
        """Every bond up to the cutoff; nothing lies beyond."""
        return self.model.reference


def _unit(vector: tuple[float, float, float]) -> FloatArray:
    v = np.asarray(vector, dtype=float)
    return v / np.linalg.norm(v)


def _mode_row(model: ForceConstantModel, datum: MeasuredMode) -> tuple[FloatArray, float, float]:
    q = np.array([datum.hkl]) @ model.crystal.conventional_reciprocal
    e = _unit(datum.polarisation)
    _, basis = model.matrices(q)
    forces = basis[0] @ e  # (elements, 3)
    row = (forces @ e).real
    across = np.abs(forces - row[:, None] * e).max()
    if across > _SAME_MODE * np.abs(basis).max():
        raise InputError(
            f"mode at hkl = {list(datum.hkl)}: the symmetry does not make "
            f"{list(datum.polarisation)} an eigenvector; expected a polarisation that every model "
            "has. Leave the mode out."
        )
    target = (datum.frequency_THz * MEV_PER_THZ) ** 2
    return row, target, 2 * datum.precision * target


def _sound_row(model: ForceConstantModel, datum: SoundModulus) -> tuple[FloatArray, float, float]:
    """Row of the method of long waves, ``-1/2V sum (e Phi e) (n r)^2``, in GPa."""
    n, e = _unit(datum.direction), _unit(datum.polarisation)
    along = (model.reference.vectors @ n) ** 2
    dense = model.spread.toarray().reshape(len(along), 3, 3, -1)
    forces = np.einsum("b,bxyk,y->kx", along, dense, e)
    row = forces @ e
    if np.abs(forces - row[:, None] * e).max() > _SAME_MODE * np.abs(dense).max() * along.max():
        raise InputError(
            f"sound wave along {list(datum.direction)}: the symmetry does not make "
            f"{list(datum.polarisation)} its polarisation; expected a pure wave. Leave it out."
        )
    volume = abs(np.linalg.det(model.crystal.lattice))
    scale = EV_A3_IN_GPA / (2 * volume)
    return -scale * row, datum.modulus_GPa, datum.precision * datum.modulus_GPa


def _element_row(model: ForceConstantModel, datum: KnownElement) -> tuple[FloatArray, float, float]:
    if datum.name not in model.elements:
        raise InputError(
            f"known element {datum.name!r} is not among {list(model.elements)}; "
            "expected a name within the cutoff"
        )
    row = np.zeros(len(model.elements))
    row[model.elements.index(datum.name)] = EV_A2_IN_N_M
    return row, datum.value_N_m, datum.precision_N_m


def fit_born_von_karman(
    crystal: Crystal,
    data: Sequence[Datum],
    cutoff_A: float,
    *,
    nearest_eV_A2: float = 1.0,
    decay_A: float = 1.0,
) -> BornVonKarmanFit:
    """Fit force constants to frequencies, moduli and published elements.

    Parameters
    ----------
    crystal : Crystal
        One atom per primitive cell.
    data : sequence of MeasuredMode, SoundModulus, KnownElement
    cutoff_A : float
        Longest bond, angstrom.
    nearest_eV_A2 : float
        Size that an element of the shortest bonds may take without cost.
    decay_A : float
        That size falls by e over this length, angstrom.

    Raises
    ------
    ValueError
        If the crystal has several atoms, there are no data, a polarisation is not fixed by the
        symmetry, or an element is unknown.

    References
    ----------
    M. Born and K. Huang, Dynamical Theory of Crystal Lattices (OUP, 1954), section 26: long waves.
    """
    if crystal.n_atoms != 1:
        raise InputError(
            f"crystal has {crystal.n_atoms} atoms in its primitive cell; expected one. Fit "
            "crystals with a basis to force fields or to spectra."
        )
    if not data:
        raise InputError("data is empty; expected at least one measured frequency or modulus")
    model = force_constant_model(crystal, None, cutoff_A)
    rows, targets, widths = [], [], []
    for datum in data:
        if isinstance(datum, MeasuredMode):
            row, target, width = _mode_row(model, datum)
        elif isinstance(datum, SoundModulus):
            row, target, width = _sound_row(model, datum)
        else:
            row, target, width = _element_row(model, datum)
        rows.append(row)
        targets.append(target)
        widths.append(width)
    A, y, sigma = np.array(rows), np.array(targets), np.array(widths)
    lengths = np.linalg.norm(model.element_bonds, axis=1)
    size = nearest_eV_A2 * np.exp(-(lengths - lengths.min()) / decay_A)
    # unknown: elements over their size, so that drawing them to zero is the identity
    design = np.concatenate([A * size / sigma[:, None], np.eye(len(size))])
    wanted = np.concatenate([y / sigma, np.zeros(len(size))])
    values = size * np.linalg.lstsq(design, wanted, rcond=None)[0]
    ratio = A @ values / y
    squared = np.array([isinstance(datum, MeasuredMode) for datum in data])
    ratio = np.where(squared, np.sqrt(np.abs(ratio)), ratio)
    return BornVonKarmanFit(model=model.with_elements(values), misses=ratio - 1)
