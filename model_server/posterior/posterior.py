"""The Laplace posterior, and what stands where in theta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from model_server.posterior._scipy import solve_transposed
from model_server.posterior.aside import Aside
from simulations.arrays import FloatArray

NUISANCES = ("ln scale", "ln flat background", "ln exposure background", "ln resolution width")
CAN_STRENGTH = "ln can strength"
SAME = 9.0  # of chi-square between two answers: not one more
COVERED_SIGMAS = 3.0  # of the chi-square of a draw
RULED_OUT = -6.0  # of log odds: 1 to 400


@dataclass(frozen=True, kw_only=True, slots=True)
class ThetaLayout:
    """What stands where in theta, (P,): K parameters, ``NUISANCES``, a can, parts, what is mis-set.

    ``NUISANCES`` and the strengths of the can and of expected parts are natural logarithms; the G
    last are in their own units.
    """

    parameter_names: tuple[str, ...]
    parameter_units: tuple[str, ...]
    has_can: bool = False  # the logarithm of the can's strength follows the nuisances
    part_names: tuple[str, ...] = ()  # then those of expected parts
    off_names: tuple[str, ...] = ()  # (G,) ways the set-up may be off
    off_units: tuple[str, ...] = ()

    @property
    def n_parameters(self) -> int:
        """K."""
        return len(self.parameter_names)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every entry, (P,)."""
        can = (CAN_STRENGTH,) if self.has_can else ()
        parts = tuple(f"ln {name} strength" for name in self.part_names)
        return (*self.parameter_names, *NUISANCES, *can, *parts, *self.off_names)

    @property
    def size(self) -> int:
        """P."""
        return len(self.names)

    @property
    def parameters(self) -> slice:
        """The model's parameters, K entries."""
        return slice(0, self.n_parameters)

    @property
    def nuisances(self) -> slice:
        """All the rest."""
        return slice(self.n_parameters, self.size)

    @property
    def log_amplitudes(self) -> slice:
        """Scale, flat background and exposure background, three entries."""
        return slice(self.log_scale, self.log_width)

    @property
    def centred_at_zero(self) -> slice:
        """Nuisances whose prior is centred at zero: width, strengths, what is mis-set."""
        return slice(self.log_width, self.size)

    @property
    def off(self) -> slice:
        """How far the set-up is off in each way, G entries."""
        return slice(self.size - len(self.off_names), self.size)

    @property
    def walked(self) -> list[int]:
        """What exact rates depend on beside the amplitudes: parameters, width, what is mis-set."""
        off = range(self.off.start, self.off.stop)
        return [*range(self.n_parameters), self.log_width, *off]

    @property
    def log_scale(self) -> int:
        """Counts over rate of the model."""
        return self.n_parameters

    @property
    def log_flat_background(self) -> int:
        """Strength of the background that is flat in time of flight."""
        return self.n_parameters + 1

    @property
    def log_exposure_background(self) -> int:
        """Strength of the background that is proportional to exposure."""
        return self.n_parameters + 2

    @property
    def log_width(self) -> int:
        """Width of the resolution over the nominal one."""
        return self.n_parameters + 3

    @property
    def log_can(self) -> int | None:
        """Strength of the can over what was measured or predicted; None without."""
        return self.n_parameters + 4 if self.has_can else None

    @property
    def log_parts(self) -> slice:
        """Strengths of expected parts over what was predicted."""
        return slice(self.off.start - len(self.part_names), self.off.start)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posterior:
    """Laplace posterior of the model's parameters and nuisances."""

    model: str  # what the forward model calls itself
    layout: ThetaLayout
    theta: FloatArray  # (P,) most probable
    precision: FloatArray  # (P, P), prior included
    covariance: FloatArray  # (K, K) of the parameters, marginal over nuisances
    objective: float  # minus log posterior up to a constant
    converged: bool
    iterations: int
    expected: FloatArray = field(repr=False)  # (path_bins, energy_bins) lambda, all orientations
    phonon: FloatArray = field(repr=False)  # the model's part of the same
    totals: FloatArray = field(repr=False)  # (orientations,) expected counts in the usable cells
    can: FloatArray | None = field(default=None, repr=False)  # the can's part of ``expected``
    told: float | None = None  # degrees of freedom that the fit takes from grouped cells; None: P
    aside: Aside | None = field(default=None, repr=False)  # marginalised beside theta, and tested
    believing: Posterior | None = field(default=None, repr=False)
    """The fit of a set-up that is as believed, of which this one is the marginal; None: itself."""
    one_place: FloatArray | None = field(default=None, repr=False)
    """Covariance by derivatives as the descent had them, (K, K), where the other is by ones that
    were averaged over it."""
    others: tuple[Posterior, ...] = field(default=(), repr=False)
    """Other answers to the same counts that these do not rule out, likeliest first."""
    ways: tuple[FloatArray, ...] = field(default=(), repr=False)
    """Theta that may lead to other answers, which the fit had no walks left to follow."""
    halted: bool = False  # unsettled for want of walks: the next fit goes on from it
    share: float = 1.0  # of the step that it begins with
    owed: bool = False  # so that other answers were not looked for when they should have been

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, (K,)."""
        return self.layout.parameter_names

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the parameters, (K,)."""
        return self.layout.parameter_units

    @property
    def values(self) -> FloatArray:
        """Most probable parameters, (K,)."""
        return self.theta[self.layout.parameters]

    @property
    def sigma(self) -> FloatArray:
        """Standard deviations of the parameters, (K,)."""
        return np.sqrt(np.diag(self.covariance))

    def in_layout(self, layout: ThetaLayout) -> Posterior:
        """The marginal one over a theta that leaves out the last entries, a set-up's, of this."""
        if layout.size == self.layout.size:
            return self
        some = slice(0, layout.size)
        covariance = self.theta_covariance[some, some]
        precision = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        return replace(self, layout=layout, theta=self.theta[some], precision=precision)

    @property
    def unfinished(self) -> bool:
        """Whether a fit that is warm by this one has something left to do."""
        return self.halted or self.owed or bool(self.ways)

    @property
    def scale(self) -> float:
        """Counts over rate of the model."""
        return float(np.exp(self.theta[self.layout.log_scale]))

    @property
    def can_scale(self) -> float | None:
        """Scale times strength of the can; None where theta has no can."""
        at = self.layout.log_can
        if at is None:
            return None
        return float(np.exp(self.theta[self.layout.log_scale] + self.theta[at]))

    @property
    def theta_covariance(self) -> FloatArray:
        """Covariance of all of theta, (P, P)."""
        return np.asarray(np.linalg.inv(self.precision), dtype=np.float64)

    @property
    def theta_sigma(self) -> FloatArray:
        """Standard deviations of all of theta, (P,)."""
        return np.sqrt(np.diag(self.theta_covariance))

    @property
    def explained(self) -> float:
        """Objective with all that is marginalised beside it at its best, to first order."""
        gain = 0.0 if self.aside is None else self.aside.gain
        return (self.believing or self).objective - gain

    def log_odds_of(self, other: Posterior) -> float:
        """How much likelier another answer is, natural logarithm: of its peak and its volume.

        Volumes are by the derivatives of the descents, which every answer has.
        """
        widths = (
            one.covariance if one.one_place is None else one.one_place for one in (other, self)
        )
        theirs, ours = (0.5 * float(np.linalg.slogdet(width)[1]) for width in widths)
        return self.explained - other.explained + theirs - ours

    def apart(self, other: Posterior) -> float:
        """Chi-square between the parameters of two answers, by the wider of both."""
        step = self.values - other.values
        return min(float(step @ np.linalg.solve(one.covariance, step)) for one in (self, other))

    def covers(self, other: Posterior) -> bool:
        """Whether another answer lies where draws of this one do, so that its errors tell of it."""
        step, count = self.values - other.values, self.layout.n_parameters
        distance = float(step @ np.linalg.solve(self.covariance, step))
        return distance < count + COVERED_SIGMAS * np.sqrt(2 * count)

    def beside(self, others: Sequence[Posterior]) -> Posterior:
        """The same answer, with others that its errors do not cover and counts do not rule out."""
        told: list[Posterior] = []
        for one in sorted(others, key=self.log_odds_of, reverse=True):
            far = any(p.aside is not None and p.aside.far for p in (self, one))
            known = self.covers(one) or any(one.apart(other) < SAME for other in told)
            if not (far or known) and self.log_odds_of(one) > RULED_OUT:
                told.append(replace(one, others=()))
        return replace(self, others=tuple(told))

    def chi_square_of(self, theta: FloatArray) -> float:
        """How far another theta (P,) is, by this precision."""
        step = self.theta - theta
        return float(step @ self.precision @ step)

    def part_strengths(self) -> dict[str, tuple[float, float]]:
        """Strength of every expected part over that predicted, and its standard deviation."""
        at = self.layout.log_parts
        strength = np.exp(self.theta[at])
        sigma = strength * self.theta_sigma[at]
        pairs = zip(strength.tolist(), sigma.tolist(), strict=True)
        return dict(zip(self.layout.part_names, pairs, strict=True))

    def draws(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draw theta ``n`` times, (n, P)."""
        lower = np.asarray(np.linalg.cholesky(self.precision), dtype=np.float64)
        normal = rng.standard_normal((self.layout.size, n))
        return self.theta + solve_transposed(lower, normal).T
