"""What refinement, trust, advice and runs know of a model: nothing of phonons.

A model gives the expected intensity of path cells for its parameters. Folded phonons are one, spin
waves may be another, and a sum of models is one as well. ``ForwardModel`` answers for sums of
exposure and is quick; ``ExactModel`` may stand beside it and answers for single trajectories, and
a ``RoughModel`` beside that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from simulations.arrays import FloatArray, IntArray, SingleArray
from simulations.fold import Form, VoxelExposure
from simulations.likelihood.drift import Drift
from simulations.likelihood.missetting import Missetting
from simulations.likelihood.trajectories import Trajectories
from simulations.prior import BoxPrior

State: TypeAlias = Any
"""What a model computes of its parameters alone. Only the model that made it may look inside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """A quantity that follows from the parameters, with their covariance carried through."""

    name: str
    unit: str
    value: float
    sigma: float


@runtime_checkable
class ForwardModel(Protocol):
    """Expected intensity of path cells for given parameters, from sums of exposure."""

    @property
    def name(self) -> str:
        """What it computes, in words: reasons not to trust say what does not explain the data."""
        ...

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the K parameters, in the order of every ``phi``."""
        ...

    @property
    def parameter_units(self) -> tuple[str, ...]:
        """Unit of each parameter."""
        ...

    @property
    def form(self) -> Form:
        """Form in which the model would have exposure kept; it reads the other one as well."""
        ...

    def prepare(self, phi: FloatArray) -> State:
        """What depends on the parameters (K,) alone, shared by all orientations."""
        ...

    def rates(
        self,
        exposure: VoxelExposure,
        state: State,
        *,
        log_width: float,
        gradient: bool,
        drift: Drift | None = None,
        off: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Rate of every path cell for one exposure, at scale 1.

        Parameters
        ----------
        exposure : VoxelExposure
        state : State
            Of ``prepare`` of this very model.
        log_width : float
            Logarithm of the resolution's width over the nominal one.
        gradient : bool
            False leaves the jacobian without components.
        drift : Drift, optional
            How the same neutrons move where the set-up is off; given only where it may be.
        off : (G,) float64, optional
            How far it is off in each of them; None: not at all.

        Returns
        -------
        rate : (path_bins, energy_bins) float64
            Expected counts; zero where nothing was exposed. Proportional to the exposure.
        jacobian : (path_bins, energy_bins, K + 1 [+ G]) float64
            Derivatives by the parameters, by ``log_width`` and, with a ``drift``, by what is
            mis-set; without components without ``gradient``.
        """
        ...

    def derived(self, phi: FloatArray, covariance: FloatArray) -> tuple[Derived, ...]:
        """What people want to know beside the parameters (K,) with covariance (K, K)."""
        ...

    def branches(self, hkl: FloatArray, phi: FloatArray) -> FloatArray:
        """Energies to draw over the map at points (points, 3) in r.l.u., (points, n) meV.

        NaN where a line has no energy; n may be 0.
        """
        ...

    def draw(self, prior: BoxPrior, n: int, rng: np.random.Generator) -> FloatArray:
        """Sets (n, K) drawn from a prior over ``parameter_names`` for which the model holds.

        The same state of ``rng`` gives the same sets.
        """
        ...


@runtime_checkable
class ExactModel(Protocol):
    """The same rates from the trajectories of single pixels, as exact as the model can be."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Those of the forward model that it stands beside, in the same order."""
        ...

    @property
    def missetting(self) -> Missetting:
        """Ways that the set-up may be off that are fitted, G of them."""
        ...

    @property
    def aside(self) -> Missetting:
        """Others, H of them, that rates are known along to first order."""
        ...

    def doubting(self) -> ExactModel:
        """The same with all ways fitted that the set-up may be off."""
        ...

    def typical(self) -> ExactModel | None:
        """The same with a typical spread of q; None where q is blurred as somebody said."""
        ...

    def prepare(self, phi: FloatArray) -> State:
        """What depends on the parameters (K,) alone; not the forward model's.

        At once where it was asked for lately, as every orientation asks for it.
        """
        ...

    def rates(
        self,
        trajectories: Trajectories,
        state: State,
        *,
        log_width: float,
        off: FloatArray | None,
        gradient: bool,
        steepness: SingleArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Rate of every path cell for one orientation, in the unit and at the scale of the other.

        Parameters
        ----------
        trajectories : Trajectories
        state : State
        log_width : float
        off : (G,) float64 or None
            How far the set-up is off in each way of ``missetting``; None: not at all.
        gradient : bool
        steepness : (stretches,) float32, optional
            Filled with what each trajectory adds to derivatives, for ``steepest``; given only with
            ``gradient`` and where a ``RoughModel`` stands beside this one.

        Returns
        -------
        rate : (path_bins, energy_bins) float64
        jacobian : (path_bins, energy_bins, K + 1 + G + H) float64
            Derivatives by the parameters, by ``log_width`` and by what is mis-set, fitted or not;
            without components without ``gradient``.
        """
        ...


@runtime_checkable
class RoughModel(ExactModel, Protocol):
    """An approximate one at a lower price; it may be told which trajectories count for much."""

    def doubting(self) -> RoughModel:
        """The same with all ways fitted that the set-up may be off."""
        ...

    def rates(
        self,
        trajectories: Trajectories,
        state: State,
        *,
        log_width: float,
        off: FloatArray | None,
        gradient: bool,
        steepness: SingleArray | None = None,
        steep: IntArray | None = None,
        over: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """As of an ``ExactModel``; trajectories ``steep`` (few,) are to be walked as they are.

        Averaged, approximately, over a covariance ``over`` (K + G, K + G) of parameters and of what
        is mis-set, if there is one and derivatives are asked for.
        """
        ...
