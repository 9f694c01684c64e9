"""What a run's result says about the crystal: phonons and what follows from them, with error bars.

Force constants are drawn from the posterior, and every quantity is computed of each draw; a band is
where the draws lie. Harmonic, at constant volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.constants import GAS_CONSTANT_J_PER_MOL_K, NOISE_MEV
from simulations.crystal import space_group_operations
from simulations.dynamics import (
    VOIGT,
    ForceConstantModel,
    PhononDos,
    compare_dipole_sums,
    densities_of_sets,
    elastic_constants,
    energies_of_sets,
    heat_capacity,
    phonon_dos,
    rebinned,
)
from simulations.errors import InputError
from simulations.progress import Progress, silent
from simulations.scattering import converged_displacements, displacements_of_sets
from steering.predict.path_points import PathPoints, path_points
from steering.predict.vibrations import formula
from steering.run import RunResult

QUANTILES = (0.05, 0.16, 0.84, 0.95)
UNIT = "eV/angstrom^2"
VOIGT_NAMES = ("xx", "yy", "zz", "yz", "xz", "xy")
_TOLERANCE = 0.01  # of the density of states of each draw
_DOS_BINS = 300
_FEWEST = 20  # stable draws that bands are made of
_MOST_WORK = 1e9  # draws times points times (modes cubed + 500): a minute
_LEAST_DIVISIONS = 8
_MOST_SAMPLES = 10_000
_NEGATIVE = 1e-6  # of the largest eigenvalue: what rounding may make of a covariance


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Band:
    """A quantity at the posterior mean, and where the stable draws have it. All of one shape."""

    value: FloatArray
    sigma: FloatArray  # standard deviation of the draws
    low90: FloatArray  # 5 %
    low68: FloatArray  # 16 %
    high68: FloatArray  # 84 %
    high90: FloatArray  # 95 %

    def content(self) -> dict[str, FloatArray]:
        """Names and arrays."""
        return {
            "value": self.value,
            "sigma": self.sigma,
            "p05": self.low90,
            "p16": self.low68,
            "p84": self.high68,
            "p95": self.high90,
        }

    def select(self, pick: Callable[[FloatArray], Any]) -> Band:
        """The same band of a part of the quantity."""
        return Band(
            value=pick(self.value),
            sigma=pick(self.sigma),
            low90=pick(self.low90),
            low68=pick(self.low68),
            high68=pick(self.high68),
            high90=pick(self.high90),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResultPosterior:
    """Gaussian posterior of the free parameters of a model."""

    model: ForceConstantModel  # with the parameters free, in the order of the result
    values: FloatArray  # (K,) eV/angstrom^2
    covariance: FloatArray  # (K, K)

    def draws(self, count: int, seed: int) -> FloatArray:
        """Sets of parameters, (count, K); the same for a seed."""
        squared, axes = np.linalg.eigh(self.covariance)
        steps = np.random.default_rng(seed).normal(size=(count, len(squared)))
        return self.values + (steps * np.sqrt(np.maximum(squared, 0.0))) @ axes.T


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PosteriorPhonons:
    """Phonons, elastic constants, heat capacity and displacements of a result."""

    title: str
    run: str
    trusted: bool
    explained: bool  # nothing speaks against the model; of too few counts nothing does
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    posterior: ResultPosterior
    drawn: int
    unstable: int  # of the draws, left out of every band
    mean_stable: bool
    draws: FloatArray  # (stable, K)
    path: PathPoints
    energies_meV: Band  # (Q, modes) ascending; negative: imaginary
    dos_edges_meV: FloatArray  # (E + 1,)
    dos: Band  # (E,) modes/meV per primitive cell
    element_dos: Mapping[str, Band]
    elastic_GPa: Band  # (6, 6) order xx yy zz yz xz xy, Cartesian frame of the lattice
    elastic_misfit: float  # of the mean: share of the slopes that no elastic tensor explains
    temperatures_K: FloatArray  # (T,)
    heat_capacity: Band  # (T,) J/(mol K), a mole of primitive cells
    displacements_A2: Band  # (T, atoms, 6) order as above
    isotropic_A2: Band  # (T, atoms) a third of the trace

    @property
    def verdict(self) -> str:
        """Whether the run was trusted, in one line."""
        if self.trusted:
            return "TRUSTED: the model explains the data of this run"
        why = "; ".join(self.reasons) or "no reason was given"
        if self.explained:
            return f"CANNOT TELL YET: {why}. The numbers below claim nothing"
        return f"NOT TRUSTED: {why}. The numbers below claim nothing"

    def distinct_atoms(self) -> list[tuple[str, int]]:
        """Atoms that move differently: species, with the number where it has several, and index."""
        symbols, moved = self.posterior.model.crystal.symbols, self.isotropic_A2.value
        shown: list[int] = []
        for atom, symbol in enumerate(symbols):
            same = [k for k in shown if symbols[k] == symbol]
            if not any(
                np.allclose(moved[:, k], moved[:, atom], rtol=1e-4, equal_nan=True) for k in same
            ):
                shown.append(atom)
        kinds = [symbols[k] for k in shown]
        return [
            (symbols[k] if kinds.count(symbols[k]) == 1 else f"{symbols[k]} {k + 1}", k)
            for k in shown
        ]

    def content(self) -> dict[str, Any]:
        """All of it as plain names and arrays, units in the names."""
        posterior, crystal = self.posterior, self.posterior.model.crystal
        return {
            "verdict": self.verdict,
            "trusted": self.trusted,
            "reasons": list(self.reasons),
            "run": self.run,
            "title": self.title,
            "notes": list(self.notes),
            "samples": {
                "drawn": self.drawn,
                "unstable": self.unstable,
                "mean_stable": self.mean_stable,
                "parameters_eV_per_A2": self.draws,
            },
            "parameters": {
                "names": list(posterior.model.names),
                "values_eV_per_A2": posterior.values,
                "covariance": posterior.covariance,
            },
            "crystal": {
                "symbols": list(crystal.symbols),
                "lattice_A": crystal.lattice,
                "conventional_lattice_A": crystal.conventional_lattice,
                "positions": crystal.positions,
            },
            "dispersion": {
                "position_inverse_A": self.path.position,
                "hkl_rlu": self.path.hkl,
                "tick_positions_inverse_A": self.path.tick_positions,
                "tick_labels": list(self.path.tick_labels),
                "breaks": list(self.path.breaks),
                "energies_meV": self.energies_meV.content(),
            },
            "dos": {
                "unit": "modes/meV per primitive cell",
                "energy_edges_meV": self.dos_edges_meV,
                "total_per_meV": self.dos.content(),
                "partial_per_meV": {k: band.content() for k, band in self.element_dos.items()},
            },
            "elastic": {
                "order": list(VOIGT_NAMES),
                "voigt_GPa": self.elastic_GPa.content(),
                "misfit": self.elastic_misfit,
            },
            "thermal": {
                "temperature_K": self.temperatures_K,
                "heat_capacity_J_per_mol_K": self.heat_capacity.content(),
                "displacements_A2": self.displacements_A2.content(),
                "isotropic_A2": self.isotropic_A2.content(),
            },
        }


def rounded(value: float, sigma: float) -> tuple[str, str]:
    """Value and sigma as text, in the digits that two of sigma leave."""
    decimals = max(0, 1 - math.floor(math.log10(sigma))) if sigma > 0 else 4
    return f"{value:.{decimals}f}", f"{sigma:.{decimals}f}"


def posterior_of(result: RunResult, model: ForceConstantModel, *, where: str) -> ResultPosterior:
    """Posterior of a result on the force constants that it was measured with.

    Parameters
    ----------
    result : RunResult
    model : ForceConstantModel
        Of the result's experiment, all elements free.
    where : str
        What errors name, e.g. the path of the file.

    Raises
    ------
    InputError
        If there is no estimate, a name is unknown, or numbers are no posterior.
    """
    if not result.parameters:
        why = "; ".join(result.reasons)
        raise InputError(
            f"{where}: parameters is empty ({why}); expected an estimate. Replay the run with "
            "estimates, or wait for the first one"
        )
    names = [p.name for p in result.parameters]
    unknown = [name for name in names if name not in model.elements]
    if unknown:
        raise InputError(
            f"{where}: parameters holds {unknown[:4]}; expected elements of the experiment such as "
            f"{list(model.elements[:4])}. Give the experiment that the run was measured with: -e "
            "FILE"
        )
    units = {p.unit for p in result.parameters} - {UNIT}
    if units:
        raise InputError(
            f"{where}: parameters are in {sorted(units)}; expected force constants in {UNIT}"
        )
    if result.covariance is None:
        raise InputError(
            f"{where}: covariance is missing; expected that of the parameters. Replay the run with "
            "this version of Beamsteer"
        )
    count = len(names)
    if len(result.covariance) != count or any(len(row) != count for row in result.covariance):
        raise InputError(
            f"{where}: covariance is not {count} x {count}; expected a row and a column for each "
            "of the parameters. Replay the run again"
        )
    values = np.array([p.value for p in result.parameters])
    covariance = np.array(result.covariance)
    if not (np.isfinite(values).all() and np.isfinite(covariance).all()):
        raise InputError(
            f"{where}: parameters or covariance hold NaN or infinity; expected finite numbers. "
            "Replay the run again"
        )
    covariance = 0.5 * (covariance + covariance.T)
    squared = np.linalg.eigvalsh(covariance)
    if squared[0] < -_NEGATIVE * max(squared[-1], 0.0) or squared[-1] <= 0:
        raise InputError(
            f"{where}: covariance has the eigenvalue {squared[0]:.3g}; expected none below zero. "
            "Replay the run again"
        )
    return ResultPosterior(model=model.with_free(names), values=values, covariance=covariance)


def posterior_phonons(
    result: RunResult,
    model: ForceConstantModel,
    *,
    where: str = "result",
    samples: int = 200,
    seed: int = 0,
    path: str | None = None,
    points: int = 400,
    temperatures_K: ArrayLike = (300.0,),
    progress: Progress | None = None,
) -> PosteriorPhonons:
    """Phonons and what follows from them, with error bars, of the result of a run.

    Parameters
    ----------
    result : RunResult
    model : ForceConstantModel
        Of the result's experiment (`force_constants_of`), all elements free.
    where : str
        What errors name, e.g. the path of the file.
    samples : int
        Draws from the posterior. Those with imaginary modes count in no band.
    seed : int
    path, points
        As `path_points`.
    temperatures_K : (T,) array_like
        At which heat capacity and displacements are given.
    progress : callable, optional
        Called with (message, fraction).

    Raises
    ------
    InputError
        As `posterior_of` and `path_points`; if samples or temperatures are out of range.
    """
    say = progress or silent
    temperatures = np.unique(np.asarray(temperatures_K, dtype=float))
    if not (len(temperatures) and np.isfinite(temperatures).all() and temperatures[0] >= 0):
        raise InputError(f"temperatures are {temperatures_K}; expected kelvins, 0 or more")
    if not _FEWEST <= samples <= _MOST_SAMPLES:
        raise InputError(f"samples is {samples}; expected {_FEWEST} to {_MOST_SAMPLES:,}")
    posterior = posterior_of(result, model, where=where)
    model, mean = posterior.model, posterior.values
    sets = np.concatenate([mean[None], posterior.draws(samples, seed)])
    along = path_points(model.crystal, path, points=points)
    say("dispersion", 0.05)
    energies = energies_of_sets(model, along.hkl @ model.crystal.conventional_reciprocal, sets)
    elastic = elastic_constants(model, sets)
    say("density of states of the mean", 0.1)
    coarse, told = _dos_mesh(model, mean, samples)
    stable = energies.min(axis=(1, 2)) >= -NOISE_MEV

    edges = np.linspace(0.0, 1.06 * float(energies.max()), _DOS_BINS + 1)
    symbols = model.crystal.symbols
    kinds = {s: [k for k, t in enumerate(symbols) if t == s] for s in dict.fromkeys(symbols)}
    density = np.empty((len(sets), len(kinds), _DOS_BINS))
    capacity = np.full((len(sets), len(temperatures)), np.nan)
    for k, dos in enumerate(densities_of_sets(model, sets, coarse)):
        if k % 20 == 0:
            say(f"density of states of draw {k} of {samples}", 0.15 + 0.6 * k / len(sets))
        stable[k] &= dos.imaginary_share == 0
        shown = rebinned(dos, edges)
        density[k] = [shown.partial[atoms].sum(axis=0) for atoms in kinds.values()]
        capacity[k] = _heat_capacity(dos, temperatures)
    say("displacements", 0.75)
    moved = _displacements(model, sets, stable, temperatures)
    stable &= np.isfinite(moved).all(axis=(1, 2, 3))
    capacity[~stable] = moved[~stable] = np.nan
    keep = stable[1:]
    kept = int(keep.sum())
    isotropic = moved[..., :3].mean(axis=-1)
    return PosteriorPhonons(
        title=formula(model.crystal),
        run=result.run,
        trusted=result.trusted,
        explained=result.explained,
        reasons=result.reasons,
        notes=_notes(posterior, samples, kept, bool(stable[0]), told, float(elastic.misfit[0])),
        posterior=posterior,
        drawn=samples,
        unstable=samples - kept,
        mean_stable=bool(stable[0]),
        draws=sets[1:][keep],
        path=along,
        energies_meV=_band(energies, keep),
        dos_edges_meV=edges,
        dos=_band(density.sum(axis=1), keep),
        element_dos={s: _band(density[:, k], keep) for k, s in enumerate(kinds)},
        elastic_GPa=_band(elastic.voigt_GPa, keep),
        elastic_misfit=float(elastic.misfit[0]),
        temperatures_K=temperatures,
        heat_capacity=_band(capacity, keep),
        displacements_A2=_band(moved, keep),
        isotropic_A2=_band(isotropic, keep),
    )


def _dos_mesh(
    model: ForceConstantModel, mean: FloatArray, samples: int
) -> tuple[tuple[int, int, int], str]:
    """Mesh of the density of states of every draw, and words on it."""
    sampling = phonon_dos(model, phi=mean, tolerance=_TOLERANCE).sampling
    if sampling is None:
        raise ValueError("the density of states has no sampling; expected one of a converged mesh")
    a, b, c = _bounded(sampling.divisions, sampling.points, model.n_modes, samples)
    error = sampling.error * float(np.prod(sampling.divisions) / (a * b * c)) ** (2 / 3)
    return (a, b, c), f"mesh {a} x {b} x {c}, error {error:.1%} of the modes in a wrong bin of 100"


def _displacements(
    model: ForceConstantModel, sets: FloatArray, stable: Any, temperatures_K: FloatArray
) -> FloatArray:
    """Tensors (sets, T, atoms, 6) in the order of `VOIGT`; NaN where modes are imaginary."""
    out = np.full((len(sets), len(temperatures_K), model.crystal.n_atoms, 6), np.nan)
    use = np.flatnonzero(stable)
    for k in use:
        try:
            found = converged_displacements(model, float(temperatures_K[-1]), sets[k])
            break
        except InputError:  # imaginary modes that the density of states did not meet
            continue
    else:
        return out
    mesh = _bounded(found.divisions, found.points, model.n_modes, len(use))
    for k, tensors in zip(
        use, displacements_of_sets(model, sets[use], temperatures_K, mesh), strict=True
    ):
        if tensors is not None:
            out[k] = np.stack([tensors[..., a, b] for a, b in VOIGT], axis=-1)
    return out


def _bounded(
    divisions: tuple[int, int, int], points: int, n_modes: int, samples: int
) -> tuple[int, int, int]:
    """A mesh, or a coarser one where all draws on it would take too long; even divisions."""
    work = float(samples) * points * (n_modes**3 + 500)
    shrink = min(1.0, (_MOST_WORK / work) ** (1 / 3))
    a, b, c = (n if shrink == 1 else max(min(n, _LEAST_DIVISIONS), 2 * round(0.5 * shrink * n))
               for n in divisions)  # fmt: skip
    return a, b, c


def _heat_capacity(dos: PhononDos, temperatures_K: FloatArray) -> FloatArray:
    return GAS_CONSTANT_J_PER_MOL_K * np.array(
        [heat_capacity(dos, float(T)) for T in temperatures_K]
    )


def _band(of_sets: FloatArray, keep: Any) -> Band:
    """Band of (1 + draws, ...) values, the mean's first; NaN where too few draws are stable."""
    draws = of_sets[1:][keep]
    if len(draws) < _FEWEST:
        unknown = np.full(of_sets.shape[1:], np.nan)
        return Band(
            value=of_sets[0], sigma=unknown, low90=unknown, low68=unknown, high68=unknown,
            high90=unknown,
        )  # fmt: skip
    low90, low68, high68, high90 = np.quantile(draws, QUANTILES, axis=0)
    return Band(
        value=of_sets[0],
        sigma=draws.std(axis=0, ddof=1),
        low90=low90,
        low68=low68,
        high68=high68,
        high90=high90,
    )


def _notes(
    posterior: ResultPosterior, drawn: int, stable: int, mean_stable: bool, dos: str, misfit: float
) -> tuple[str, ...]:
    """What was done, and what the error bars leave out."""
    model = posterior.model
    held = len(model.elements) - len(model.names)
    beyond = model.beyond_elements() > 0
    source = model.reference.source or "the reference"
    said = [
        f"bands: 16-84 % and 5-95 % of {stable} draws from the Gaussian posterior; harmonic, at "
        "constant volume"
    ]
    if stable < drawn:
        said.append(
            f"{drawn - stable} of {drawn} draws are dynamically unstable (imaginary modes): they "
            "are left out of every band and written nowhere"
        )
    if stable < _FEWEST:
        said.append(
            f"only {stable} draws are stable, fewer than {_FEWEST}: no bands. Measure longer, or "
            "look at the modes with `beamsteer phonons` of the FORCE_CONSTANTS written"
        )
    if not mean_stable:
        said.append(
            "the mean itself has imaginary modes (negative energies): it has no heat capacity and "
            "no displacements"
        )
    if held or beyond:
        parts = []
        if held:
            parts.append(
                f"{held} of the {len(model.elements)} constants within {model.cutoff_A:g} angstrom"
            )
        if beyond:
            parts.append("all constants beyond the cutoff" if held else "constants beyond it")
        said.append(
            f"held at {source} and without an error bar: {' and '.join(parts)}; the bands are too "
            "narrow by what is not known of them"
        )
    said.append(f"density of states and heat capacity: {dos}")
    said.append(
        "elastic constants: slopes of acoustic waves with atoms of the cell relaxed (long waves), "
        "in the Cartesian frame of the lattice; rotational sum rules are not imposed, and "
        f"{misfit:.1e} of the slopes fits no elastic tensor"
    )
    dipoles = compare_dipole_sums(model)
    if dipoles is not None:
        said.append(dipoles.note)
        whole = space_group_operations(model.crystal).cartesian
        if not np.isclose(whole, -np.eye(3)).all(axis=(1, 2)).any():
            said.append(
                "polar without a centre of inversion: waves and elastic constants are stiffened by "
                "their own field"
            )
    return tuple(said)
