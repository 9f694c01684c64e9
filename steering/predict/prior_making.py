"""The prior of a crystal's force constants, asked of every universal force field that is there.

A force field that fails or finds the crystal unstable is left out of the box, and the reason is
kept. Where fewer than two find it stable, the box is made from the unstable ones as well, since a
soft answer is still an answer; where relaxing fails, the crystal is taken as it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from phonopy.structure.atoms import PhonopyAtoms

from simulations.arrays import FloatArray
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
    member_path,
    nearest_stable,
    prior_from_members,
    read_member,
    versions_of,
    write_member,
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
    notes: tuple[str, ...]  # what is unusual about the members or the reference
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
        walked = len(self.sample.values) - self.sample.accepted
        text = (
            f"{self.sample.acceptance:.0%} of the sets drawn from the box are dynamically stable "
            f"({self.sample.accepted} of {self.sample.drawn}; {what}, the others at their "
            "reference)"
        )
        return text + (f"; a walk among stable sets gave {walked} more" if walked else "")

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
            "notes": list(self.notes),
            "widening": record.widening.words,
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
    members_folder: Path | None = None,
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
    members_folder : Path or None
        Where every force field's answer is kept as it comes; those that are there are not asked
        again.
    progress : callable or None
        Told what is done and the share of it.

    Raises
    ------
    ValueError
        As `chosen_force_fields` and `reach`; or if fewer than two force fields give force
        constants, with the reasons.
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
    notes: list[str] = []
    for k, force_field in enumerate(names):
        if progress is not None:
            progress(f"{force_field}, {_atoms(crystal, repeats)} atoms", 0.95 * k / len(names))
        try:
            phonons, note = _kept_member(
                crystal, cell, force_field, repeats, displacement_A, members_folder
            )
        except ForceFieldUnavailableError as error:
            if force_fields:
                raise InputError(str(error)) from error
            dropped[force_field] = str(error)
        except (RuntimeError, ValueError, ArithmeticError) as error:
            dropped[force_field] = str(error)
        else:
            members.append(phonons)
            if note:
                notes.append(note)
            if not phonons.stable:
                dropped[force_field] = (
                    f"unstable: its lowest mode is {phonons.lowest_meV:.2f} meV (imaginary), below "
                    f"{STABLE_ABOVE_meV:g}"
                )
    if len(members) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dropped.items())
        raise InputError(
            f"prior: {len(members)} of {len(names)} force fields give force constants; expected at "
            f"least two, because the box is made from their range. {reasons or 'Name more'}."
        )
    if sum(m.stable for m in members) < 2:
        for m in members:
            dropped.pop(m.force_field, None)
        notes.append(
            f"{sum(m.stable for m in members)} of {len(members)} force fields find the crystal "
            "stable, so the box is made from all of them, unstable ones included"
        )
    record = prior_from_members(name, crystal, members, cutoff_A=length)
    if progress is not None:
        progress("acceptance", 0.95)
    record, note = _with_stable_reference(crystal, record)
    chosen, sample, refusal = _acceptance(crystal, record, free, samples, seed)
    return MadePrior(
        record=record,
        dropped=dropped,
        notes=(*notes, *note),
        supercell=repeats,
        longest_A=float(record.force_constants(crystal).lengths.max()),
        free=chosen,
        sample=sample,
        refusal=refusal,
    )


def _kept_member(
    crystal: Crystal,
    cell: PhonopyAtoms,
    force_field: str,
    repeats: tuple[int, int, int],
    displacement_A: float,
    folder: Path | None,
) -> tuple[ForceFieldPhonons, str]:
    """As `_member`, from the folder where it is there, and into it."""
    if folder is None:
        return _member(crystal, cell, force_field, repeats, displacement_A)
    path = member_path(folder, cell, force_field, repeats, displacement_A, versions_of(force_field))
    kept = read_member(path)
    if kept is None:
        kept = _member(crystal, cell, force_field, repeats, displacement_A)
        write_member(*kept, path)
    return kept


def _member(
    crystal: Crystal,
    cell: PhonopyAtoms,
    force_field: str,
    repeats: tuple[int, int, int],
    displacement_A: float,
) -> tuple[ForceFieldPhonons, str]:
    """One force field's constants: relaxed, or as the crystal was given where that fails."""
    try:
        phonons = force_field_phonons(
            cell, force_field, supercell=repeats, displacement_A=displacement_A
        )
        member_force_constants(crystal, phonons)
    except ForceFieldUnavailableError:
        raise
    except (RuntimeError, ValueError, ArithmeticError) as error:
        phonons = force_field_phonons(
            cell, force_field, supercell=repeats, displacement_A=displacement_A, relaxed=True
        )
        return phonons, f"{force_field}: not relaxed, taken in the given cell ({error})"
    return phonons, ""


def _looked_at(crystal: Crystal) -> FloatArray:
    """Wave vectors where sets must be stable, (Q, 3) 1/angstrom: standard path and a mesh."""
    path = seekpath_segments(crystal, 0.1).centres_hkl() @ crystal.conventional_reciprocal
    return np.concatenate([path, irreducible_mesh(crystal, _MESH).q_cart])


def _with_stable_reference(
    crystal: Crystal, record: PriorRecord
) -> tuple[PriorRecord, tuple[str, ...]]:
    """The record with a dynamically stable reference, where its own is not.

    Members may be unstable, and the truncation at the cutoff may make a stable one unstable.
    """
    model = force_constant_model(crystal, record.force_constants(crystal), None)
    q = _looked_at(crystal)
    lowest = float(np.linalg.eigvalsh(model.dynamical_matrices(q))[:, 0].min())
    if lowest >= -(STABLE_ABOVE_meV**2):
        return record, ()
    box = record.box.restricted(model.elements)
    bounds = (box.lower, box.upper)
    found = nearest_stable(model, q, model.element_values, box.sigma, within=bounds)
    inside = found is not None
    if found is None:
        found = nearest_stable(model, q, model.element_values, box.sigma)
    if found is None or record.box.names != model.elements:
        return record, (
            f"the reference is unstable (lowest mode {-np.sqrt(-lowest):.2f} meV, imaginary) and "
            "no stable set was found; free more parameters or take a longer cutoff",
        )
    where = "in the box" if inside else "outside the box, which holds none"
    return replace(record, stabilised=found), (
        f"the mean of the members is unstable (lowest mode {-np.sqrt(-lowest):.2f} meV, imaginary) "
        f"when cut off at {record.cutoff_A:g} angstrom; the reference is the nearest stable set "
        f"{where}",
    )


def _acceptance(
    crystal: Crystal, record: PriorRecord, free: int, samples: int, seed: int
) -> tuple[tuple[str, ...], PriorSample | None, str]:
    """Parameters that move the path's phonons most, and stable sets of them."""
    model = force_constant_model(crystal, record.force_constants(crystal), None)
    box = record.box.restricted(model.elements)
    path = seekpath_segments(crystal, 0.1).centres_hkl() @ crystal.conventional_reciprocal
    names = select_free(model, min(free, len(model.elements)), path, scale=box.sigma)
    q = _looked_at(crystal)
    rng = np.random.default_rng(seed)
    try:
        sample = box.restricted(names).sample(samples, rng, model.with_free(names), q)
    except PriorRejectsAllError as error:
        return names, None, str(error)
    return names, sample, ""


def _atoms(crystal: Crystal, repeats: tuple[int, int, int]) -> int:
    return int(np.prod(repeats)) * crystal.n_atoms
