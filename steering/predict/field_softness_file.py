"""How soft universal force fields were found to be, by field and kind of bond: what ships.

``field_softness.yaml`` was learned on crystals of a phonon database; it names the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import numpy as np
import yaml

from simulations.crystal import Crystal
from simulations.dynamics import PairForceConstants


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldSoftness:
    """What a field's force constants are to be multiplied by, bond by bond.

    The factor of a bond is the exponential of ``common`` and of what ``elements`` have for both of
    its ends; in a crystal of one element, of which fields are softer, of ``common`` and ``alone``.
    Nine in ten of the crystals that taught nothing had their mean energy over the true one, minus
    1, within ``energies`` when corrected, and ``energies_before`` as the field has it.
    """

    field: str
    common: float
    elements: Mapping[str, float]  # none: 0
    taught: int  # crystals
    measured: int  # crystals that taught nothing
    energies: tuple[float, float]
    energies_before: tuple[float, float]
    density: float  # mean absolute error over its highest value, corrected
    density_before: float
    alone: float  # of crystals of one element
    alone_taught: int
    alone_energies: tuple[float, float]  # of nine in ten of these, each by what others teach

    @property
    def words(self) -> str:
        """What was done, on how many crystals it stands, and what is left."""
        low, high = (f"{100 * bound:+.0f}" for bound in self.energies)
        return (
            f"constants stiffened by kind of bond as {self.taught} crystals of a database ask for; "
            f"mean energies of nine in ten of {self.measured} others came out {low} to {high} % off"
        )

    @property
    def words_alone(self) -> str:
        """The same of a crystal of one element."""
        low, high = (f"{100 * bound:+.0f}" for bound in self.alone_energies)
        return (
            f"constants stiffened as {self.alone_taught} crystals of one element ask for, of which "
            "the field is softer than of compounds; energies of nine in ten of them, each by the "
            f"others, came out {low} to {high} % off"
        )


def softness_of(field: str) -> FieldSoftness | None:
    """What was learned of a field; None where nothing was."""
    return _known().get(field)


def stiffened(constants: PairForceConstants, softness: FieldSoftness) -> PairForceConstants:
    """Force constants of a field with the stiffness that a database asks for.

    Bonds of a pair of elements are multiplied by one number, so the space group stays; on-site
    constants follow by the acoustic sum rule.

    Parameters
    ----------
    constants : PairForceConstants
        eV/angstrom^2, as the field has them.
    softness : FieldSoftness

    Returns
    -------
    PairForceConstants
    """
    if is_alone(constants.crystal):
        factor = np.exp(softness.common + softness.alone)
        return replace(constants, tensors=constants.tensors * factor)
    own = np.array([softness.elements.get(one, 0.0) for one in constants.crystal.elements])
    factor = np.exp(softness.common + own[constants.first] + own[constants.second])
    return replace(constants, tensors=constants.tensors * factor[:, None, None])


def is_alone(crystal: Crystal) -> bool:
    """Whether a crystal is of one element."""
    return len(set(crystal.elements)) == 1


@cache
def _known() -> dict[str, FieldSoftness]:
    text = resources.files("steering.predict").joinpath("field_softness.yaml").read_text("utf-8")
    found = {}
    for field, row in (yaml.safe_load(text) or {}).items():
        row = dict(row)
        for name in ("energies", "energies_before", "alone_energies"):
            low, high = row[name]
            row[name] = (low, high)
        found[field] = FieldSoftness(field=field, **row)
    return found
