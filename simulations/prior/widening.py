"""How far a box of force constants reaches beyond what force fields say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray

TOWARDS_ZERO = 0.25
"""Share of the members' range added to the box on the side of zero."""

TOWARDS_STIFF = 1.5
"""Share of the members' range added to the box on the side of larger magnitude."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Widening:
    """Shares that a box grows by on either side, of the members' range and of their size.

    The size of an element is the magnitude of the members' mean; that of its bond is the largest
    one among the elements of that bond, so that an element near zero on a strong bond is not taken
    for one that is known exactly because all members agree on it.
    """

    range_towards_zero: float
    range_towards_stiff: float
    size_towards_zero: float
    size_towards_stiff: float
    bond: float  # of the bond's size, on both sides

    @property
    def words(self) -> str:
        """The rule as a sentence."""
        text = (
            f"w = max - min over the members; {self.range_towards_zero:g} w added on the side of "
            f"zero, {self.range_towards_stiff:g} w on the side of larger magnitude"
        )
        if self.size_towards_zero or self.size_towards_stiff or self.bond:
            text += (
                f"; besides {self.size_towards_zero:g} and {self.size_towards_stiff:g} of the "
                f"mean's magnitude, and {self.bond:g} of the largest mean of the same bond"
            )
        return text


RANGE_ALONE = Widening(
    range_towards_zero=TOWARDS_ZERO,
    range_towards_stiff=TOWARDS_STIFF,
    size_towards_zero=0.0,
    size_towards_stiff=0.0,
    bond=0.0,
)
"""Of the shipped priors; Sable (2026): -25 % and +150 % around universal force fields."""

MEASURED = Widening(
    range_towards_zero=0.25,
    range_towards_stiff=0.5,
    size_towards_zero=0.15,
    size_towards_stiff=0.9,
    bond=0.08,
)
"""Of new priors: fitted to DFT constants of crystals of phonondb, where the force fields' mean is a
factor of 1.35 too small in the median (1.05 to 1.9 for four of five), however well they agree with
each other. The figures are in docs/decisions.md, the command in
tests/steering/predict/prior_coverage.py."""


def widened_box(
    values: ArrayLike,
    widening: Widening = RANGE_ALONE,
    bonds: Sequence[object] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Box of an ensemble whose members are all too soft.

    Where the range holds zero, the end of larger magnitude is the stiff side.

    Parameters
    ----------
    values : (members, parameters) array_like
        eV/angstrom^2; at least two members.
    widening : Widening
    bonds : sequence, optional
        (parameters,) Anything that tells which parameters belong to one bond; needed where
        ``widening.bond`` is not zero.

    Returns
    -------
    lower, upper : (parameters,) float64

    Raises
    ------
    ValueError
        If there are fewer than two members: one has no range.
    """
    members = np.asarray(values, dtype=float)
    if members.ndim != 2 or len(members) < 2:
        raise ValueError(
            f"prior: values has shape {members.shape}; expected at least two members, "
            "because the box is made from their range. Add force fields."
        )
    low, high = members.min(axis=0), members.max(axis=0)
    width = high - low
    size = np.abs(members.mean(axis=0))
    of_bond = size.copy()
    for k, bond in enumerate(bonds or ()):
        of_bond[k] = max(s for s, b in zip(size, bonds or (), strict=True) if b == bond)
    towards_zero = widening.range_towards_zero * width + widening.size_towards_zero * size
    towards_stiff = widening.range_towards_stiff * width + widening.size_towards_stiff * size
    stiff_is_high = np.abs(high) >= np.abs(low)
    below = np.where(stiff_is_high, towards_zero, towards_stiff) + widening.bond * of_bond
    above = np.where(stiff_is_high, towards_stiff, towards_zero) + widening.bond * of_bond
    return low - below, high + above
