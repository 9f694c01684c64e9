"""A box of force constants, and dynamically stable samples of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray
from simulations.dynamics import ForceConstantModel
from simulations.errors import InputError
from simulations.prior.stable_sets import is_stable, nearest_stable, walk

_DRAWN_BEFORE_WALK = 1024


class PriorRejectsAllError(RuntimeError):
    """No set of a box is dynamically stable, so it cannot be sampled."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriorSample:
    """Dynamically stable sets of a box, and how many had to be drawn for them."""

    values: FloatArray  # (sets, parameters) eV/angstrom^2
    drawn: int
    accepted: int  # of those drawn; fewer than the sets where a walk gave the rest

    @property
    def acceptance(self) -> float:
        """Share of the drawn sets that were stable."""
        return self.accepted / self.drawn if self.drawn else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BoxPrior:
    """Uniform prior: every named parameter between two bounds, eV/angstrom^2."""

    names: tuple[str, ...]  # (parameters,)
    lower: FloatArray  # (parameters,)
    upper: FloatArray  # (parameters,)

    def __post_init__(self) -> None:
        for field, values in (("lower", self.lower), ("upper", self.upper)):
            if values.shape != (len(self.names),):
                raise ValueError(
                    f"prior: {field} has shape {values.shape}; expected one bound for each of the "
                    f"{len(self.names)} names"
                )
        wrong = [n for n, a, b in zip(self.names, self.lower, self.upper, strict=True) if not a < b]
        if wrong:
            raise InputError(f"prior: lower is not below upper for {', '.join(wrong)}")

    @property
    def mean(self) -> FloatArray:
        """Centre of the box, (parameters,)."""
        return (self.lower + self.upper) / 2

    @property
    def sigma(self) -> FloatArray:
        """Standard deviation of the uniform density, width / sqrt(12), (parameters,)."""
        return (self.upper - self.lower) / np.sqrt(12.0)

    def contains(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Which parameters lie inside.

        Parameters
        ----------
        values : (..., parameters) array_like
            eV/angstrom^2.

        Returns
        -------
        (..., parameters) bool
        """
        x = np.asarray(values, dtype=float)
        return (x >= self.lower) & (x <= self.upper)

    def around(self, values: Mapping[str, float]) -> BoxPrior:
        """The box moved, as wide as it is, to have these values (eV/angstrom^2) in its middle."""
        half = 0.5 * (self.upper - self.lower)
        middle = np.array([values.get(n, m) for n, m in zip(self.names, self.mean, strict=True)])
        return BoxPrior(names=self.names, lower=middle - half, upper=middle + half)

    def restricted(self, names: Sequence[str]) -> BoxPrior:
        """The box of some parameters, in the order asked for.

        Raises
        ------
        ValueError
            If the box lacks one of the names; the message lists what it has.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise InputError(
                f"prior has no bounds for {', '.join(missing)}; it has {', '.join(self.names)}. "
                "Free other parameters or store a prior with a larger cutoff."
            )
        order = [self.names.index(name) for name in names]
        return BoxPrior(names=tuple(names), lower=self.lower[order], upper=self.upper[order])

    def sample(
        self,
        n: int,
        rng: np.random.Generator,
        model: ForceConstantModel | None = None,
        q_cart: ArrayLike | None = None,
        *,
        tolerance_meV: float = 0.5,
        least_acceptance: float = 0.05,
    ) -> PriorSample:
        """Draw sets uniformly and keep the dynamically stable ones.

        Where few are, a walk among the stable ones draws the rest (`walk`): still uniform, but
        neighbours are a little correlated.

        Parameters
        ----------
        n : int
            Sets wanted.
        rng : numpy.random.Generator
            Source of randomness; the same state gives the same sets.
        model : ForceConstantModel, optional
            Model whose free parameters are this prior's, in this order. Without it nothing is
            rejected.
        q_cart : (Q, 3) array_like, optional
            Where stability is looked at, 1/angstrom; needed with ``model``.
        tolerance_meV : float
            How far below zero a mode may come out (imaginary, counted negative).
        least_acceptance : float
            Walk when fewer than this share of at least 1,024 sets are stable.

        Returns
        -------
        PriorSample
            ``values`` (n, parameters) and the number drawn.

        Raises
        ------
        ValueError
            If the model's parameters are not this prior's, or ``q_cart`` is missing.
        PriorRejectsAllError
            If no set of the box is stable.
        """
        if model is None:
            values = rng.uniform(self.lower, self.upper, (n, len(self.names)))
            return PriorSample(values=values, drawn=n, accepted=n)
        if tuple(model.names) != self.names:
            raise InputError(
                f"prior is for {', '.join(self.names)} but the model frees "
                f"{', '.join(model.names)}; restrict the prior to the model's names"
            )
        if q_cart is None:
            raise InputError("prior: q_cart is missing; give the q points that decide on stability")
        q = np.asarray(q_cart, dtype=float)
        fixed, basis = model.matrices(q)
        kept: list[FloatArray] = []
        drawn = 0
        while len(kept) < n and not (
            drawn >= _DRAWN_BEFORE_WALK and len(kept) < least_acceptance * drawn
        ):
            for phi in rng.uniform(self.lower, self.upper, (256, len(self.names))):
                drawn += 1
                if is_stable(fixed, basis, phi, tolerance_meV):
                    kept.append(phi)
                    if len(kept) == n:
                        break
        accepted = len(kept)
        if accepted < n:
            start = kept[-1] if kept else self._stable_start(model, q, tolerance_meV)
            rest = walk(
                start,
                self.lower,
                self.upper,
                fixed,
                basis,
                n - accepted,
                rng,
                tolerance_meV=tolerance_meV,
            )
            kept.extend(rest)
        return PriorSample(values=np.array(kept), drawn=drawn, accepted=accepted)

    def _stable_start(
        self, model: ForceConstantModel, q: FloatArray, tolerance_meV: float
    ) -> FloatArray:
        """The stable set nearest to the centre, pulled into the box."""
        found = nearest_stable(
            model,
            q,
            self.mean,
            self.sigma,
            tolerance_meV=0.5 * tolerance_meV,
            within=(self.lower, self.upper),
        )
        if found is None:
            raise PriorRejectsAllError(
                "no set of the prior's box is dynamically stable, as far as was looked; free more "
                "parameters, take a longer cutoff, or widen the box"
            )
        return np.clip(found, self.lower, self.upper)
