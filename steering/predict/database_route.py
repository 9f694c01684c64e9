"""Route of a database of force constants: the entry that has the structure, or that has the id."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulations.crystal import Crystal, Isotopes, is_natural, with_isotopes
from simulations.dynamics import (
    DipoleWay,
    PairForceConstants,
    carried_onto,
    compare_dipole_sums,
    force_constant_model,
    phonon_dos,
    with_dipole_sum,
)
from simulations.errors import InputError
from steering.database import Database, Match, matches
from steering.predict.density_bands_file import bands_of, density_band
from steering.predict.route import RouteUnavailableError, Structure
from steering.predict.vibrations import Uncertainty, Vibrations

STRAIN = 0.03
"""Largest principal strain at which an entry stands for a structure."""
SHIFT_A = 0.3
_GRUNEISEN = 2.0  # of most solids, 1 to 3
KYOTO = "phonondb@kyoto-u"
DFT = Uncertainty(
    words="DFT (PBEsol) forces of one supercell, rounded to 1e-5 eV/angstrom (0.005 meV rms); mean "
    "energies of nine in ten of 910 crystals are within -1 to +2 % of another calculation with the "
    "same functional (Petretto et al. 2018); against crystals themselves 5 % to either side are "
    "taken, not measured (silicon's highest is 1.7 % low)",
    energies=(-0.05, 0.05),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseRoute:
    """Force constants of the nearest entry of a database that was named."""

    database: Database | None
    name: str = "database"

    @property
    def needs(self) -> str:
        """A store with the structure in it."""
        return "a database (--database STORE) with an entry that has the structure"

    @property
    def approximation(self) -> str:
        """Of all answers."""
        return "harmonic force constants of a database's entry"

    @property
    def uncertainty(self) -> Uncertainty | None:
        """That of the source of the entry."""
        return None

    def vibrations(self, structure: Structure) -> Vibrations:
        """Find the entry and take its constants.

        Raises
        ------
        RouteUnavailableError
            If no database is named, or no entry has the structure.
        InputError
            If the database cannot be read.
        """
        if self.database is None:
            raise RouteUnavailableError(
                "route is 'database' but none is named; expected --database STORE. Build one with "
                "`beamsteer database build`, or take route auto",
                why="no database is named",
            )
        crystal = structure.crystal
        found = matches(
            self.database,
            crystal.lattice,
            crystal.positions,
            crystal.elements,
            largest_strain=STRAIN,
            largest_shift_A=SHIFT_A,
        )
        if not found:
            why = (
                f"no entry of the database {self.database.folder.name!r} has the structure within "
                f"{100 * STRAIN:g} % of strain and {SHIFT_A} angstrom"
            )
            raise RouteUnavailableError(
                f"route is 'database' but {why}. Look for it with `beamsteer database search`, or "
                "take another route",
                why=why,
            )
        best = found[0]
        constants = self.database.force_constants(best.card.id)
        constants, placed = _onto(crystal, constants)
        others = f"; {len(found) - 1} more match" if len(found) > 1 else ""
        moved, uncertainty = _strained(_uncertainty(self.database, best.card.id), best)
        constants = replace(constants, crystal=with_isotopes(constants.crystal, structure.isotopes))
        notes = (f"the structure against the entry: {best.words}{others}", placed, moved)
        answer = _answer(
            self.database, best.card.id, constants, structure.dipole_sum, notes, uncertainty
        )
        known = bands_of(self.name)
        if known is None or uncertainty is None or answer.dos.imaginary_share > 0:
            return answer
        return replace(answer, band=density_band(answer.dos, known))


def entry_vibrations(
    database: Database,
    entry_id: str,
    isotopes: Isotopes | None = None,
    dipole_sum: DipoleWay = "converged",
    *,
    tolerance: float | None = None,
) -> Vibrations:
    """Vibrations of an entry itself.

    Parameters
    ----------
    database : Database
    entry_id : str
    isotopes : mapping or None
        What species are made of, as `with_isotopes` takes it.
    dipole_sum : "converged", "phonopy" or "ewald"
        As `with_dipole_sum`.
    tolerance : float or None
        Of the density of states, as `phonon_dos`; None: its own.

    Raises
    ------
    InputError
        If there is no such entry.
    """
    constants = database.force_constants(entry_id)
    constants = replace(constants, crystal=with_isotopes(constants.crystal, isotopes or {}))
    known = _uncertainty(database, entry_id)
    return _answer(database, entry_id, constants, dipole_sum, (), known, tolerance)


def _answer(
    database: Database,
    entry_id: str,
    constants: PairForceConstants,
    dipole_sum: DipoleWay,
    notes: tuple[str, ...],
    uncertainty: Uncertainty | None,
    tolerance: float | None = None,
) -> Vibrations:
    card = database.card(entry_id)
    model = force_constant_model(constants.crystal, constants, None)
    model = with_dipole_sum(model, dipole_sum)
    dipoles = compare_dipole_sums(model)
    return Vibrations(
        crystal=model.crystal,
        dos=phonon_dos(model) if tolerance is None else phonon_dos(model, tolerance=tolerance),
        model=model,
        route={"kind": "database", "source": f"{entry_id} of {card.source}"},
        approximations=(
            f"harmonic force constants of {card.words}",
            f"source: {database.source_words(card)}",
            *notes,
            *constants.notes,
            *(() if dipoles is None else (dipoles.note,)),
            *(() if uncertainty is None else (f"uncertainty: {uncertainty.words}",)),
        ),
        uncertainty=uncertainty,
    )


def _onto(crystal: Crystal, constants: PairForceConstants) -> tuple[PairForceConstants, str]:
    """Constants on the structure's own cell where they can be laid on it, else as they are."""
    try:
        laid = carried_onto(crystal, constants)
    except InputError:
        if any(not is_natural(crystal, k) for k in range(crystal.n_atoms)):
            raise InputError(
                "structure: it names isotopes or masses, and its cell is not that of the entry; "
                "expected the primitive cell, or natural elements. Name them with --isotopes"
            ) from None
        return constants, "the entry's own cell is used: hkl refer to it, not to the structure's"
    return laid, "in the structure's own cell"


def _uncertainty(database: Database, entry_id: str) -> Uncertainty | None:
    """Of an entry's source, as far as known."""
    return DFT if KYOTO in database.source_words(database.card(entry_id)) else None


def _strained(own: Uncertainty | None, match: Match) -> tuple[str, Uncertainty | None]:
    """What another volume does to the entry's energies, in words and in its uncertainty."""
    shift = _GRUNEISEN * abs(match.volume)
    words = (
        f"the structure's volume is {100 * match.volume:+.2f} % off that of the entry, which moves "
        f"energies by some {100 * shift:.1f} % (Grueneisen parameter of 2)"
    )
    if own is None:
        return words, None
    low, high = own.energies
    return words, Uncertainty(words=f"{own.words}; {words}", energies=(low - shift, high + shift))
