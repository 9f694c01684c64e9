"""Route of networks that read site densities of states from the structure alone, in a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal, atomic_numbers, neutron_data
from simulations.dynamics import PhononDos
from steering.predict.route import RouteUnavailableError, Structure, refuse_large
from steering.predict.vibrations import DosBand, Uncertainty, Vibrations

if TYPE_CHECKING:  # torch is loaded when the networks are asked
    from model_server.direct import DirectBundle, MemberDensities

MOST_ATOMS = 20_000
GROUPED_ABOVE = 64
"""Atoms of a cell above which like sites share their mean, so that spectra take seconds."""
_GROUPS = 12  # of an element
_TOP_SHARE = 0.99  # of the modes of every site lie below the highest energy that is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectRoute:
    """Site densities of states of the shipped networks."""

    name: str = "direct"

    @property
    def needs(self) -> str:
        """Nothing else."""
        return "the structure alone"

    @property
    def approximation(self) -> str:
        """Of all answers."""
        return (
            "site-projected densities of states of networks that learned DFT (PBEsol) phonons; "
            "motion counts as isotropic at every site; no force constants"
        )

    @property
    def uncertainty(self) -> Uncertainty | None:
        """As measured on formulas that took no part in training."""
        from model_server.direct import DirectBundleError, load_direct_bundle

        try:
            return _uncertainty(load_direct_bundle())
        except DirectBundleError:
            return None

    def vibrations(self, structure: Structure) -> Vibrations:
        """Ask the networks.

        Raises
        ------
        RouteUnavailableError
            If the bundle is missing or damaged, or a species is none that networks know.
        InputError
            If there are too many atoms, they overlap or lie too dense.
        """
        from model_server.direct import DirectBundleError, load_direct_bundle, site_stiffness

        crystal = structure.crystal
        refuse_large(crystal, MOST_ATOMS, "structure")
        try:
            bundle = load_direct_bundle()
        except DirectBundleError as error:
            raise RouteUnavailableError(f"route: {error}", why=str(error)) from error
        numbers = atomic_numbers(crystal)
        said = bundle.ask(crystal.lattice, crystal.positions, numbers)
        shares, moved = _with_masses(said.shares, crystal)
        shares, alike, grouped = _grouped(shares, crystal)
        dos = _density(shares, alike)
        return Vibrations(
            crystal=crystal,
            dos=dos,
            model=None,
            route={"kind": "direct", "source": bundle.card["name"]},
            approximations=(self.approximation, *moved, *grouped),
            uncertainty=_uncertainty(bundle),
            warnings=_far(bundle, said, numbers),
            band=_band(bundle, said, crystal.n_atoms),
            stiffness=site_stiffness(said.shares, numbers),
        )


def _uncertainty(bundle: DirectBundle) -> Uncertainty:
    from model_server.direct import LEVEL

    known = bundle.calibration
    count = bundle.card["training"]["crystals for calibration"]
    return Uncertainty(
        words=f"on {count} crystals of formulas that the networks never saw, 90 % of the mean "
        f"energies of all modes were off by {100 * known.energy_low:+.0f} to "
        f"{100 * known.energy_high:+.0f} %; the band of the density holds {LEVEL:.0%} of true "
        "intensities in bins of 20 cm^-1, for crystals like those",
        energies=(known.energy_low, known.energy_high),
    )


def _far(bundle: DirectBundle, said: MemberDensities, numbers: IntArray) -> tuple[str, ...]:
    """Why a crystal is unlike the training set, as one warning; none where it is not."""
    import periodictable

    known, reasons = bundle.calibration, []
    table: Any = periodictable.elements
    rare = known.rare(numbers)
    if rare:
        told = ", ".join(f"{table[n].symbol} ({int(known.seen[n])})" for n in rare)
        reasons.append(f"training crystals hardly hold {told}")
    if known.lonely(numbers):
        symbol = table[int(numbers[0])].symbol
        reasons.append(f"training has no crystal of {symbol} alone")
    distance = known.distance(said)
    if distance > known.far:
        reasons.append(
            f"its atoms lie {distance:.1f} times as far from those of training as is usual "
            f"(expected at most {known.far:.1f})"
        )
    if len(numbers) > known.most_atoms:
        reasons.append(
            f"its cell has {len(numbers):,} atoms; none of more than {known.most_atoms} was tried"
        )
    if not reasons:
        return ()
    return (
        f"far from training: {'; '.join(reasons)}. Bands and stated errors do not hold for it; "
        "compare with another route.",
    )


def _band(bundle: DirectBundle, said: MemberDensities, atoms: int) -> DosBand:
    from model_server.direct import LEVEL, band_edges_meV

    edges = band_edges_meV()
    low, high = bundle.calibration.band(said)
    scale = 3.0 * atoms / np.diff(edges)
    return DosBand(
        energy_edges_meV=edges,
        low=low * scale,
        high=high * scale,
        level=LEVEL,
        words=f"split-conformal band of the density; {LEVEL:.0%} of the true intensities of "
        "unseen formulas lay inside, counted over bins; natural isotopes",
    )


def _with_masses(shares: FloatArray, crystal: Crystal) -> tuple[FloatArray, tuple[str, ...]]:
    """Energies of sites whose mass is not the natural one, moved by the root of the ratio."""
    from model_server.direct import energy_edges_meV

    natural, _, _ = neutron_data(crystal.elements)
    ratio = np.sqrt(natural / crystal.masses_u)
    other = np.flatnonzero(np.abs(ratio - 1) > 2e-3)
    if len(other) == 0:
        return shares, ()
    edges, out = energy_edges_meV(), shares.copy()
    for atom in other:
        whole = np.concatenate([[0.0], np.cumsum(shares[atom])])
        moved = np.interp(edges / ratio[atom], edges, whole)
        moved[-1] = whole[-1]
        out[atom] = np.diff(moved)
    return out, (
        "energies of sites with isotopes are moved by the root of the mass ratio, as if each "
        "moved alone",
    )


def _grouped(
    shares: FloatArray, crystal: Crystal
) -> tuple[FloatArray, IntArray | None, tuple[str, ...]]:
    """In a large cell, sites of a species with like energies share their mean density."""
    from model_server.direct import energy_edges_meV

    if crystal.n_atoms <= GROUPED_ABOVE:
        return shares, None, ()
    edges = energy_edges_meV()
    energy = shares @ (0.5 * (edges[1:] + edges[:-1]))
    alike, out = np.arange(crystal.n_atoms), shares.copy()
    symbols = np.array(crystal.symbols)
    for symbol in dict.fromkeys(crystal.symbols):
        members = np.flatnonzero(symbols == symbol)
        members = members[np.argsort(energy[members], kind="stable")]
        for group in np.array_split(members, min(_GROUPS, len(members))):
            alike[group] = group.min()
            out[group] = shares[group].mean(axis=0)
    note = (
        f"sites of a species with like energies share their mean density, at most {_GROUPS} kinds "
        "of a species; that of species and crystal is untouched"
    )
    return out, alike, (note,)


def _density(shares: FloatArray, alike: IntArray | None) -> PhononDos:
    """Up to where nearly all modes of every site lie; each site keeps its three modes."""
    from model_server.direct import energy_edges_meV

    edges = energy_edges_meV()
    whole = np.cumsum(shares, axis=1)
    top = min(shares.shape[1], int((whole < _TOP_SHARE).sum(axis=1).max()) + 1)
    kept = shares[:, :top] / whole[:, top - 1 : top]
    return PhononDos(
        energy_edges_meV=edges[: top + 1],
        partial=3.0 * kept / np.diff(edges[: top + 1]),
        imaginary_share=0.0,
        alike=alike,
    )
