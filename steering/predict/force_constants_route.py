"""Route of force constants that come with the structure: phonopy files, or a built-in crystal's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulations.crystal import with_isotopes
from simulations.dynamics import (
    compare_dipole_sums,
    force_constant_model,
    phonon_dos,
    read_force_constants,
    with_dipole_sum,
)
from simulations.errors import InputError, NoForceConstantsError
from steering.predict.route import RouteUnavailableError, Structure
from steering.predict.vibrations import Uncertainty, Vibrations

MAX_ATOMS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenForceConstants:
    """Force constants as they were given."""

    name: str = "force_constants"

    @property
    def needs(self) -> str:
        """Files beside the structure."""
        return "force constants with the structure (phonopy.yaml, FORCE_CONSTANTS, FORCE_SETS)"

    @property
    def approximation(self) -> str:
        """Of all answers."""
        return "harmonic force constants"

    @property
    def uncertainty(self) -> Uncertainty | None:
        """That of whatever made them, which no file tells."""
        return None

    def vibrations(self, structure: Structure) -> Vibrations:
        """Read them.

        Raises
        ------
        RouteUnavailableError
            If none come with the structure.
        InputError
            If some come with it and cannot be used, or there are too many atoms: no other route
            takes the place of what was given.
        """
        try:
            given = read_force_constants(structure.source, supercell_matrix=structure.supercell)
        except NoForceConstantsError as error:
            raise RouteUnavailableError(
                f"route is {self.name!r} but the structure has no force constants "
                f"({error}). Give a phonopy.yaml with them, or take route force_field.",
                why=f"no force constants came with the structure ({error})",
            ) from error
        if structure.crystal.n_atoms > MAX_ATOMS:
            raise InputError(
                f"structure: {structure.crystal.n_atoms} atoms in the primitive cell; expected at "
                f"most {MAX_ATOMS} with force constants"
            )
        given = replace(given, crystal=with_isotopes(given.crystal, structure.isotopes))
        source = given.source or "given"
        model = force_constant_model(given.crystal, given, None)
        model = with_dipole_sum(model, structure.dipole_sum)
        dipoles = compare_dipole_sums(model)
        return Vibrations(
            crystal=model.crystal,
            dos=phonon_dos(model),
            model=model,
            route={"kind": "force_constants", "source": source},
            approximations=(
                f"{self.approximation}: {source}",
                *given.notes,
                *(() if dipoles is None else (dipoles.note,)),
            ),
            uncertainty=self.uncertainty,
        )
