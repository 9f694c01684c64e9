"""The prior of a crystal's force constants, asked of every universal force field that is there.

A force field that fails or finds the crystal unstable is left out of the box, and the reason is
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from phonopy.structure.atoms import PhonopyAtoms

from simulations.crystal import Crystal
from simulations.dynamics import force_constant_model, select_free, supercell_bonds
from simulations.errors import InputError
from simulations.prior import (
    FORCE_FIELDS,
    FROM_FILE,
    ForceFieldPhonons,
    ForceFieldUnavailableError,
    PriorRecord,
    PriorRejectsAllError,
    PriorSample,
    STABLE_ABOVE_meV,
    default_supercell,
    force_field_phonons,
    member_force_constants,
    prior_from_members,
)
from simulations.progress import Progress
from simulations.reciprocal import irreducible_mesh, seekpath_segments
from steering.predict.force_field_route import MAX_SUPERCELL_ATOMS

CUTOFF_A = 6.0
SHORTEST_CUTOFF_A = 3.0
FREE = 8  # parameters that acceptance is measured for
SAMPLES = 200
_MARGIN = 1.05  # of the cutoff: relaxed cells are smaller or larger by a few per cent
_MESH = 6  # of the points where sampled sets must be stable, beside the standard path


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MadePrior:
    """A prior, what was left out of it, and how much of its box is stable."""

    record: PriorRecord
    dropped: dict[str, str]  # reason by force field
    supercell: tuple[int, int, int]
    longest_A: float  # bond with a range; the largest cutoff_A that an experiment may have
    free: tuple[str, ...]  # parameters that were drawn, the others at their reference
    sample: PriorSample | None  # None: hardly any set is stable
    refusal: str  # why there is no sample

    @property
    def acceptance_words(self) -> str:
        """Share of stable sets in words."""
        what = f"the {len(self.free)} parameters that move the phonons most"
        if self.sample is None:
            return f"Of {what}: {self.refusal}"
        return (
            f"{self.sample.acceptance:.0%} of the sets drawn from the box are dynamically stable "
            f"({len(self.sample.values)} of {self.sample.drawn}; {what}, the others at their "
            "reference)"
        )

    def content(self) -> dict[str, Any]:
        """All of it as plain names and arrays, units in the names."""
        record = self.record
        return {
            "crystal": record.crystal,
            "cutoff_A": record.cutoff_A,
            "longest_A": self.longest_A,
            "supercell": list(self.supercell),
            "members": [
                {
                    "force_field": m.force_field,
                    "stable": m.stable,
                    "lowest_meV": m.lowest_meV,
                    "highest_meV": m.highest_meV,
                    "relaxed_lattice_A": m.relaxed_lattice_A,
                    "versions": m.versions,
                }
                for m in record.members
            ],
            "dropped": [
                {"force_field": name, "reason": reason} for name, reason in self.dropped.items()
            ],
            "parameters": [
                {
                    "name": name,
                    "lower_eV_A2": record.box.lower[k],
                    "upper_eV_A2": record.box.upper[k],
                    "members_eV_A2": [m.values[k] for m in record.members],
                }
                for k, name in enumerate(record.box.names)
            ],
            "acceptance": {
                "free": list(self.free),
                "sets": 0 if self.sample is None else len(self.sample.values),
                "drawn": None if self.sample is None else self.sample.drawn,
                "share": None if self.sample is None else self.sample.acceptance,
                "words": self.acceptance_words,
            },
        }


def installed_force_fields() -> tuple[str, ...]:
    """Names of the force fields whose package is installed."""
    return tuple(name for name, field in FORCE_FIELDS.items() if find_spec(field.package))


def chosen_force_fields(names: Sequence[str]) -> tuple[str, ...]:
    """Force fields by name, or all that are installed.

    Raises
    ------
    ValueError
        Unknown name, missing weight file, or nothing installed; says what to install.
    """
    if not names:
        found = installed_force_fields()
        if not found:
            raise InputError(
                "no universal force field is installed; expected chgnet or sevenn. Install them "
                "with: pip install 'beamsteer[forcefields]', or name one with your own weights "
                "(mace:FILE, m3gnet:FOLDER)."
            )
        return found
    for name in names:
        kind, _, path = name.partition(":")
        if name not in FORCE_FIELDS and not (kind in FROM_FILE and path):
            raise InputError(
                f"force field is {name!r}; expected one of {', '.join(FORCE_FIELDS)}, mace:FILE or "
                "m3gnet:FOLDER with your weights."
            )
        if kind in FROM_FILE and not Path(path).exists():
            raise InputError(f"force field is {name!r}, but {path} is not there. Correct the path.")
    return tuple(dict.fromkeys(names))


def reach(
    crystal: Crystal, cutoff_A: float | None, supercell: tuple[int, int, int] | None
) -> tuple[float, tuple[int, int, int]]:
    """Cutoff and supercell that fit each other, checked before any force field runs.

    Without a cutoff it is 6 angstrom, or less where the supercell would hold too many atoms; in a
    given supercell, at most the radius of the sphere that fits into it.

    Raises
    ------
    ValueError
        If the supercell is too small for the cutoff (says the largest allowed), or too large.
    """
    if supercell is None:
        length = CUTOFF_A if cutoff_A is None else cutoff_A
        if not (np.isfinite(length) and length > 0):
            raise InputError(f"cutoff_A is {cutoff_A}; expected a positive length")
        found = default_supercell(crystal.lattice, _MARGIN * length)
        while _atoms(crystal, found) > MAX_SUPERCELL_ATOMS:
            if cutoff_A is not None or length <= SHORTEST_CUTOFF_A:
                raise InputError(
                    f"cutoff_A is {length:g} angstrom, which takes a supercell of "
                    f"{_atoms(crystal, found)} atoms; expected at most {MAX_SUPERCELL_ATOMS}. "
                    "Lower the cutoff, or give a supercell."
                )
            length = round(length - 0.25, 2)
            found = default_supercell(crystal.lattice, _MARGIN * length)
        return length, found
    bonds, _ = supercell_bonds(crystal, np.diag(supercell))
    longest = float(bonds.lengths.max(initial=0.0))
    if cutoff_A is None:
        spacing = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
        inscribed = 0.5 * float(np.min(spacing * supercell))  # beyond it, images share a bond
        nearest = float(bonds.lengths[bonds.lengths > 1e-6].min(initial=longest))
        return min(CUTOFF_A, max(inscribed, nearest)), supercell
    if not 0 < cutoff_A <= longest + 1e-6:
        raise InputError(
            f"cutoff_A is {cutoff_A:g} angstrom; bonds of the supercell "
            f"{' x '.join(map(str, supercell))} reach {longest:.4f} angstrom, the largest allowed. "
            "Lower the cutoff or enlarge the supercell."
        )
    return cutoff_A, supercell


def make_prior(
    name: str,
    crystal: Crystal,
    *,
    force_fields: Sequence[str] = (),
    cutoff_A: float | None = None,
    supercell: tuple[int, int, int] | None = None,
    displacement_A: float = 0.01,
    free: int = FREE,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> MadePrior:
    """Relax the crystal in every force field, take force constants, and widen their range.

    Parameters
    ----------
    name : str
        Kept in the record.
    crystal : Crystal
    force_fields : sequence of str
        As `chosen_force_fields`; none: all that are installed.
    cutoff_A, supercell
        As `reach`.
    displacement_A : float
        Of an atom, both ways.
    free : int
        Parameters drawn to measure acceptance.
    samples : int
        Stable sets wanted for it.
    seed : int
    progress : callable or None
        Told what is done and the share of it.

    Raises
    ------
    ValueError
        As `chosen_force_fields` and `reach`; or if fewer than two force fields are stable, with
        the reasons.
    """
    if not (np.isfinite(displacement_A) and 0 < displacement_A <= 0.1):
        raise InputError(f"displacement_A is {displacement_A}; expected 0 to 0.1 angstrom")
    names = chosen_force_fields(force_fields)
    length, repeats = reach(crystal, cutoff_A, supercell)
    cell = PhonopyAtoms(
        symbols=list(crystal.elements), cell=crystal.lattice, scaled_positions=crystal.positions
    )
    members: list[ForceFieldPhonons] = []
    dropped: dict[str, str] = {}
    for k, force_field in enumerate(names):
        if progress is not None:
            progress(f"{force_field}, {_atoms(crystal, repeats)} atoms", 0.95 * k / len(names))
        try:
            phonons = force_field_phonons(
                cell, force_field, supercell=repeats, displacement_A=displacement_A
            )
            member_force_constants(crystal, phonons)
        except ForceFieldUnavailableError as error:
            if force_fields:
                raise InputError(str(error)) from error
            dropped[force_field] = str(error)
        except (RuntimeError, ValueError) as error:
            dropped[force_field] = str(error)
        else:
            members.append(phonons)
            if not phonons.stable:
                dropped[force_field] = (
                    f"unstable: its lowest mode is {phonons.lowest_meV:.2f} meV (imaginary), below "
                    f"{STABLE_ABOVE_meV:g}"
                )
    stable = [m for m in members if m.stable]
    if len(stable) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dropped.items())
        raise InputError(
            f"prior: {len(stable)} of {len(names)} force fields give a stable crystal; expected at "
            f"least two, because the box is made from their range. {reasons or 'Name more'}."
        )
    record = prior_from_members(name, crystal, members, cutoff_A=length)
    if progress is not None:
        progress("acceptance", 0.95)
    chosen, sample, refusal = _acceptance(crystal, record, free, samples, seed)
    return MadePrior(
        record=record,
        dropped=dropped,
        supercell=repeats,
        longest_A=float(record.force_constants(crystal).lengths.max()),
        free=chosen,
        sample=sample,
        refusal=refusal,
    )


def _acceptance(
    crystal: Crystal, record: PriorRecord, free: int, samples: int, seed: int
) -> tuple[tuple[str, ...], PriorSample | None, str]:
    """Parameters that move the path's phonons most, and stable sets of them."""
    model = force_constant_model(crystal, record.force_constants(crystal), None)
    box = record.box.restricted(model.elements)
    path = seekpath_segments(crystal, 0.1).centres_hkl() @ crystal.conventional_reciprocal
    names = select_free(model, min(free, len(model.elements)), path, scale=box.sigma)
    q = np.concatenate([path, irreducible_mesh(crystal, _MESH).q_cart])
    rng = np.random.default_rng(seed)
    try:
        sample = box.restricted(names).sample(samples, rng, model.with_free(names), q)
    except PriorRejectsAllError as error:
        return names, None, str(error)
    return names, sample, ""


def _atoms(crystal: Crystal, repeats: tuple[int, int, int]) -> int:
    return int(np.prod(repeats)) * crystal.n_atoms
