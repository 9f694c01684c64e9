"""Refinement of a thousand path spectra at once: scoring on the Poisson likelihood of their counts.

Every spectrum has expected counts ``A S(phi) + B``: the scale A and a flat background B are fitted
with the force constants. The search starts blurred, as plain weighted least squares, and ends
sharp, as Fisher scoring; every spectrum has a damping of its own, and leaves when it has converged.
This serves comparisons on simulated path spectra, where the lesser constants are known; runs are
fitted by `model_server.posterior`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from simulations.arrays import BoolArray, FloatArray
from simulations.dynamics import lowest_eigenvalues
from simulations.scattering import PathModel, path_spectra, path_spectra_gradients

BLURS_MEV = (6.0, 3.0, 1.5, 0.0)
STEPS = 20  # most of the last stage
BLURRED_STEPS = 4
LONGEST = 1.0  # prior sigmas that one step moves a parameter
CONVERGED = 5e-3  # fall of minus log posterior that a full step promises
MISFIT = 0.05  # of the highest blurred cell: blurred spectra are not fitted better than this
UNSTABLE_MEV = 0.5  # imaginary modes beyond this are no crystal
LEAST_BACKGROUND = 1e-9  # of the highest cell
BLOCK = 256
FREEDOM = 7.0  # of the t distribution that is drawn from
WIDER = 1.1  # than the Laplace covariance
FEWEST_EFFECTIVE = 8.0  # draws, for their mean to be taken
DRAWN_TOGETHER = 8192


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GaussianPrior:
    """Mean and covariance of stable sets of a box."""

    mean: FloatArray  # (K,) eV/angstrom^2
    covariance: FloatArray  # (K, K)
    lower: FloatArray  # (K,) of the box
    upper: FloatArray  # (K,)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PathFits:
    """Where the fits ended; every array starts with (spectra,)."""

    values: FloatArray  # (spectra, K) eV/angstrom^2, inside the box
    sigma: FloatArray  # (spectra, K) of the Laplace covariance, scale and background marginal
    objective: FloatArray  # (spectra,) minus log posterior, without constants of the data
    excess: FloatArray  # (spectra,) deviance above what is expected, in its standard deviations
    converged: BoolArray  # (spectra,)
    theta: FloatArray  # (spectra, K + 2) phi, which may leave the box, ln A and B
    covariance: FloatArray  # (spectra, K + 2, K + 2) Laplace, of theta


_FIELDS = ("values", "sigma", "objective", "excess", "converged", "theta", "covariance")


def path_fits(
    path: PathModel,
    prior: GaussianPrior,
    counts: FloatArray,
    starts: FloatArray,
    *,
    blurs_meV: Sequence[float] = BLURS_MEV,
) -> PathFits:
    """Fit force constants, scale and background of many spectra.

    Parameters
    ----------
    path : PathModel
        Its free parameters are fitted.
    prior : GaussianPrior
    counts : (spectra, Q, E) float64
        Need not be whole: expected counts fit as well.
    starts : (spectra, K) float64
        One place to begin at for every spectrum, eV/angstrom^2.
    blurs_meV : sequence of float
        Standard deviations of the stages; the last is 0.

    Returns
    -------
    PathFits

    Raises
    ------
    ValueError
        If shapes differ.
    """
    if counts.shape[1:] != path.shape or starts.shape != (len(counts), len(prior.mean)):
        raise ValueError(
            f"counts has shape {counts.shape} and starts {starts.shape}; expected (spectra, "
            f"{path.shape[0]}, {path.shape[1]}) and (spectra, {len(prior.mean)})"
        )
    parts = [
        _Block(path, prior, counts[k : k + BLOCK], starts[k : k + BLOCK]).fit(blurs_meV)
        for k in range(0, len(counts), BLOCK)
    ]
    return PathFits(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS}
    )


def best_fits(first: PathFits, second: PathFits, rows: NDArray[np.int64]) -> PathFits:
    """``first`` with those ``rows`` replaced by ``second``, one each, that explain more."""
    better = second.objective < first.objective[rows]
    arrays = {}
    for name in _FIELDS:
        array = getattr(first, name).copy()
        array[rows[better]] = getattr(second, name)[better]
        arrays[name] = array
    return PathFits(**arrays)


def nearest_sets(
    path: PathModel,
    counts: FloatArray,
    parameters: FloatArray,
    spectra: NDArray[np.floating],
    *,
    places: int = 2,
    blur_meV: float = 1.5,
) -> FloatArray:
    """Places to begin at: simulated sets whose blurred spectra are most like the counts.

    Likeness is the correlation over cells, for which scale and flat background drop out. Those
    taken differ from one another by more than one standard deviation in some parameter, so that
    they lie in different minima where there are several.

    Parameters
    ----------
    path : PathModel
    counts : (n, Q, E) float64
    parameters : (sets, K) float64
        eV/angstrom^2.
    spectra : (sets, Q, E)
        Theirs.
    places : int
        Wanted of every spectrum.
    blur_meV : float

    Returns
    -------
    (places, n, K) float64
        eV/angstrom^2, most alike first.
    """
    kernel = _kernel(path, blur_meV)
    weight = 1 / np.sqrt(np.maximum(np.mean(spectra, axis=0) @ kernel, 1e-300))

    def features(values: NDArray[np.floating]) -> FloatArray:
        blurred = ((values @ kernel) * weight).reshape(len(values), -1)
        offset = weight.ravel() / np.linalg.norm(weight)
        blurred = blurred - (blurred @ offset)[:, None] * offset
        return blurred / np.linalg.norm(blurred, axis=1, keepdims=True)

    alike = features(counts) @ features(spectra).T
    spread = parameters.std(axis=0)
    found = np.empty((places, len(counts), parameters.shape[1]))
    for place in range(places):
        best = alike.argmax(axis=1)
        found[place] = parameters[best]
        gap = np.abs(parameters[None] - found[place][:, None]) / spread
        alike[gap.max(axis=2) < 1.0] = -2.0
    return found


def _kernel(path: PathModel, blur_meV: float) -> FloatArray:
    """Gaussian smoothing along energy, (E, E)."""
    edges = path.energy.edges_meV
    centres = 0.5 * (edges[1:] + edges[:-1])
    kernel = np.exp(-0.5 * ((centres[:, None] - centres[None]) / blur_meV) ** 2)
    return kernel / kernel.sum(axis=0)


def information(spectra: FloatArray, slopes: FloatArray, rate: FloatArray) -> FloatArray:
    """Fisher information of (phi, A, B) at A = 1 in units of it, (spectra, K + 2, K + 2).

    Parameters
    ----------
    spectra : (spectra, Q, E) float64
        Expected counts without background.
    slopes : (spectra, K, Q, E) float64
        Their derivatives by the parameters.
    rate : (spectra, Q, E) float64
        Expected counts with background.
    """
    columns = _columns(spectra, slopes)
    return np.einsum(
        "sac,sbc->sab", columns / rate.reshape(len(rate), 1, -1), columns, optimize=True
    )


def _columns(spectra: FloatArray, slopes: FloatArray) -> FloatArray:
    """Derivatives by (phi, ln A, B), (spectra, K + 2, cells)."""
    n, K = slopes.shape[:2]
    out = np.empty((n, K + 2, spectra[0].size))
    out[:, :K] = slopes.reshape(n, K, -1)
    out[:, K] = spectra.reshape(n, -1)
    out[:, K + 1] = 1.0
    return out


def bound_of(fisher: FloatArray, prior: GaussianPrior) -> FloatArray:
    """Variances of the Cramer-Rao bound with prior, (spectra, K); A and B are unknown.

    References
    ----------
    H. L. Van Trees, Detection, Estimation, and Modulation Theory I (1968), section 2.4.
    """
    K = len(prior.mean)
    return np.diagonal(covariance_of(fisher, prior), axis1=1, axis2=2)[:, :K]


def covariance_of(fisher: FloatArray, prior: GaussianPrior) -> FloatArray:
    """Inverse of Fisher information and the prior's precision, (spectra, K + 2, K + 2)."""
    K = len(prior.mean)
    whole = fisher.copy()
    whole[:, :K, :K] += np.linalg.inv(prior.covariance)
    size = np.sqrt(np.maximum(np.diagonal(whole, axis1=1, axis2=2), 1e-300))
    both = size[:, :, None] * size[:, None, :]
    inverse = np.linalg.inv(whole / both + 1e-12 * np.eye(K + 2)) / both
    return 0.5 * (inverse + inverse.transpose(0, 2, 1))


def posterior_means(
    path: PathModel,
    prior: GaussianPrior,
    counts: FloatArray,
    fits: PathFits,
    *,
    draws: int = 128,
) -> tuple[FloatArray, FloatArray]:
    """Means of the posterior under the box, by importance sampling around fits.

    Counts that are few leave a posterior that is no Gaussian: its mean, not its mode, has the least
    mean square error. Draws are those of a t distribution (Sobol points, the same for all spectra)
    with the fit's Laplace covariance; unstable ones and those outside the box have no weight.

    Parameters
    ----------
    path, prior, counts
        As ``path_fits``.
    fits : PathFits
    draws : int
        A power of two.

    Returns
    -------
    means : (spectra, K) float64
        eV/angstrom^2; those of the fit where weights are too uneven.
    effective : (spectra,) float64
        Effective number of draws.
    """
    from scipy.stats import chi2, qmc  # slow to import, and rarely asked for

    K = len(prior.mean)
    points = qmc.Sobol(K + 3, rng=20269).random(draws)
    normal = ndtri(np.clip(points[:, : K + 2], 1e-9, 1 - 1e-9))
    stretch = np.sqrt(FREEDOM / chi2.ppf(points[:, K + 2], FREEDOM))
    unit = WIDER * normal * stretch[:, None]
    square = (unit**2).sum(axis=1)
    log_q = -0.5 * (FREEDOM + K + 2) * np.log1p(square / (WIDER**2 * FREEDOM))
    means, effective = fits.values.copy(), np.zeros(len(counts))
    each = max(1, DRAWN_TOGETHER // draws)
    for first in range(0, len(counts), each):
        rows = slice(first, min(first + each, len(counts)))
        squares, axes = np.linalg.eigh(fits.covariance[rows])
        root = axes * np.sqrt(np.maximum(squares, 0.0))[:, None, :]
        theta = fits.theta[rows, None] + np.einsum("sab,db->sda", root, unit)
        flat = theta.reshape(-1, K + 2)
        phi = np.clip(flat[:, :K], prior.lower, prior.upper)
        inside = (phi == flat[:, :K]).all(axis=1) & (flat[:, K + 1] >= 0)
        some = np.flatnonzero(inside)
        some = some[lowest_eigenvalues(path.matrices, phi[some]) > -(UNSTABLE_MEV**2)]
        log_p = np.full(len(flat), -np.inf)
        spectra = path_spectra(path, phi[some], imaginary_tolerance_meV=np.inf)
        rate = np.exp(flat[some, K])[:, None, None] * spectra + flat[some, K + 1][:, None, None]
        d = counts[rows][some // draws]
        log_p[some] = (d * np.log(np.maximum(rate, 1e-300)) - rate).sum(axis=(1, 2))
        log_w = log_p.reshape(-1, draws) - log_q
        top = log_w.max(axis=1, keepdims=True)
        w = np.where(np.isfinite(top), np.exp(log_w - np.where(np.isfinite(top), top, 0.0)), 0.0)
        total = w.sum(axis=1)
        some_weight = total > 0
        w[some_weight] /= total[some_weight, None]
        count = np.where(some_weight, 1.0 / np.maximum((w**2).sum(axis=1), 1e-300), 0.0)
        mean = np.einsum("sd,sda->sa", w, theta[:, :, :K])
        enough = count >= FEWEST_EFFECTIVE
        means[rows] = np.where(enough[:, None], mean, means[rows])
        effective[rows] = count
    return means, effective


class _Block:
    """Some spectra that are fitted together; arrays start with (spectra,)."""

    def __init__(
        self, path: PathModel, prior: GaussianPrior, counts: FloatArray, starts: FloatArray
    ) -> None:
        self.path, self.prior = path, prior
        self.counts = counts.astype(float)
        self.precision = np.linalg.inv(prior.covariance)
        self.spread = np.sqrt(np.diag(prior.covariance))
        self.K = len(prior.mean)
        self.phi = starts.astype(float)
        unstable = self._unstable(self.phi)
        self.phi[unstable] = prior.mean
        halfway = 0.5 * (starts + prior.mean)
        fine = unstable & ~self._unstable(halfway)
        self.phi[fine] = halfway[fine]
        self.top = np.maximum(self.counts.max(axis=(1, 2)), 1.0)
        self.scale = np.zeros(len(counts))
        self.background = np.zeros(len(counts))

    def _unstable(self, phi: FloatArray) -> BoolArray:
        return lowest_eigenvalues(self.path.matrices, phi) < -(UNSTABLE_MEV**2)

    def _spectra(self, phi: FloatArray) -> tuple[FloatArray, FloatArray]:
        return path_spectra_gradients(self.path, phi, imaginary_tolerance_meV=np.inf)

    def fit(self, blurs_meV: Sequence[float]) -> PathFits:
        spectra, slopes = self._spectra(self.phi)
        objective = np.zeros(len(self.counts))
        converged = np.zeros(len(self.counts), dtype=bool)
        for number, blur in enumerate(blurs_meV):
            stage = _Stage(self, blur)
            self._linear(spectra, stage, np.ones(len(self.counts), dtype=bool), number == 0)
            objective, converged = self._descend(stage, spectra, slopes)
        rate = self._rate(spectra, np.arange(len(spectra)))
        d = self.counts
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.where(d > 0, d * np.log(np.where(d > 0, d, 1.0) / rate), 0.0)
        deviance = 2 * (log - d + rate).sum(axis=(1, 2))
        mean, variance = _deviance_of(rate)
        fisher = information(
            self.scale[:, None, None] * spectra,
            self.scale[:, None, None, None] * slopes,
            rate,
        )
        covariance = covariance_of(fisher, self.prior)
        return PathFits(
            values=np.clip(self.phi, self.prior.lower, self.prior.upper),
            sigma=np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)[:, : self.K]),
            theta=np.column_stack([self.phi, np.log(self.scale), self.background]),
            covariance=covariance,
            objective=objective,
            excess=(deviance - mean) / np.sqrt(variance),
            converged=converged,
        )

    def _rate(self, spectra: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
        return self.scale[rows, None, None] * spectra + self.background[rows, None, None]

    def _linear(self, spectra: FloatArray, stage: _Stage, rows: BoolArray, first: bool) -> None:
        """Scale and background by least squares, where a stage begins."""
        if not first:
            return
        S, d = stage.blurred(spectra), stage.data
        w = 1.0 / stage.variance
        total = w.sum(axis=(1, 2))
        ms, md = (w * S).sum(axis=(1, 2)) / total, (w * d).sum(axis=(1, 2)) / total
        ds, dd = S - ms[:, None, None], d - md[:, None, None]
        A = (w * ds * dd).sum(axis=(1, 2)) / np.maximum((w * ds * ds).sum(axis=(1, 2)), 1e-300)
        B = md - A * ms
        alone = md / np.maximum(ms, 1e-300)
        low = LEAST_BACKGROUND * self.top
        bad = (A <= 0) | (B < low)
        A = np.where(bad, 0.9 * alone, A)
        B = np.where(bad, 0.1 * md, B)
        self.scale[rows], self.background[rows] = A[rows], np.maximum(B, low)[rows]

    def _descend(
        self, stage: _Stage, spectra: FloatArray, slopes: FloatArray
    ) -> tuple[FloatArray, BoolArray]:
        """Damped scoring of one stage; ``spectra`` and ``slopes`` follow in place."""
        n, K = len(self.counts), self.K
        value = self._value(stage, spectra, np.arange(n))
        damping = np.full(n, 1e-3)
        converged = np.zeros(n, dtype=bool)
        for _ in range(STEPS if stage.blur == 0 else BLURRED_STEPS):
            rows = np.flatnonzero(~converged)
            if len(rows) == 0:
                break
            step, promise = self._step(stage, spectra[rows], slopes[rows], rows, damping[rows])
            converged[rows[promise < stage.enough]] = True
            go = promise >= stage.enough
            rows, step = rows[go], step[go]
            if len(rows) == 0:
                continue
            before = self.phi[rows], self.scale[rows], self.background[rows]
            phi = before[0] + step[:, :K]
            good = ~self._unstable(phi)
            damping[rows[~good]] *= 8
            rows, step, phi = rows[good], step[good], phi[good]
            if len(rows) == 0:
                continue
            before = tuple(one[good] for one in before)
            new, new_slopes = self._spectra(phi)
            self.phi[rows] = phi
            self.scale[rows] *= np.exp(np.clip(step[:, K], -1.0, 1.0))
            low = LEAST_BACKGROUND * self.top[rows]
            self.background[rows] = np.maximum(self.background[rows] + step[:, K + 1], low)
            trial = self._value(stage, new, rows)
            better = trial < value[rows]
            kept = rows[better]
            value[kept], spectra[kept], slopes[kept] = (
                trial[better],
                new[better],
                new_slopes[better],
            )
            damping[kept] = np.maximum(damping[kept] / 5, 1e-7)
            back = rows[~better]
            damping[back] *= 6
            for array, old in zip((self.phi, self.scale, self.background), before, strict=True):
                array[back] = old[~better]
            converged[damping > 1e6] = True
        return value, converged

    def _value(self, stage: _Stage, spectra: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
        """Minus log posterior, (rows,)."""
        move = self.phi[rows] - self.prior.mean
        prior = 0.5 * np.einsum("sa,ab,sb->s", move, self.precision, move)
        rate = self._rate(spectra, rows)
        if stage.blur == 0:
            d = self.counts[rows]
            return prior + (rate - d * np.log(rate)).sum(axis=(1, 2))
        gap = stage.data[rows] - stage.blurred(rate)
        return prior + 0.5 * (gap**2 / stage.variance[rows]).sum(axis=(1, 2))

    def _step(
        self,
        stage: _Stage,
        spectra: FloatArray,
        slopes: FloatArray,
        rows: NDArray[np.int64],
        damping: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Damped step of (phi, ln A, B), and the fall that a full one promises."""
        K, A = self.K, self.scale[rows]
        columns = _columns(A[:, None, None] * spectra, A[:, None, None, None] * slopes)
        rate = self._rate(spectra, rows)
        if stage.blur == 0:
            weight = 1.0 / rate
            gap = self.counts[rows] - rate
        else:
            n = len(rows)
            columns = stage.blurred(columns.reshape(n, K + 2, *self.path.shape)).reshape(
                n, K + 2, -1
            )
            weight = 1.0 / stage.variance[rows]
            gap = stage.data[rows] - stage.blurred(rate)
        flat = weight.reshape(len(rows), 1, -1)
        H = np.matmul(columns * flat, columns.transpose(0, 2, 1))
        g = np.matmul(columns * flat, gap.reshape(len(rows), -1, 1))[..., 0]
        H[:, :K, :K] += self.precision
        g[:, :K] -= (self.phi[rows] - self.prior.mean) @ self.precision
        empty = (self.background[rows] <= 1.01 * LEAST_BACKGROUND * self.top[rows]) & (
            g[:, K + 1] < 0
        )
        g[empty, K + 1] = 0.0
        H[empty, K + 1, :] = 0.0
        H[empty, :, K + 1] = 0.0
        size = np.sqrt(np.maximum(np.diagonal(H, axis1=1, axis2=2), 1e-300))
        size[empty, K + 1] = 1.0
        scaled = H / (size[:, :, None] * size[:, None, :])
        unit = np.eye(K + 2)
        scaled[empty, K + 1, K + 1] = 1.0
        full = np.linalg.solve(scaled + 1e-12 * unit, (g / size)[..., None])[..., 0]
        promise = 0.5 * np.einsum("sa,sa->s", full, g / size)
        x = np.linalg.solve(scaled + damping[:, None, None] * unit, (g / size)[..., None])[..., 0]
        step = x / size
        longest = np.abs(step[:, :K] / self.spread).max(axis=1)
        return step * np.minimum(1.0, LONGEST / np.maximum(longest, 1e-12))[:, None], promise


class _Stage:
    """Data of one blur, and what it blurs with."""

    def __init__(self, block: _Block, blur_meV: float) -> None:
        self.blur = blur_meV
        edges = block.path.energy.edges_meV
        centres = 0.5 * (edges[1:] + edges[:-1])
        self.enough = CONVERGED
        if blur_meV == 0:
            self.kernel = np.eye(len(centres))
            self.data, self.variance = block.counts, np.maximum(block.counts, 1.0)
            return
        self.kernel = _kernel(block.path, blur_meV)
        self.data = self.blurred(block.counts)
        expected = np.maximum(self.data, 1e-3)
        independent = max(1.0, 2 * np.sqrt(np.pi) * blur_meV / (centres[1] - centres[0]))
        floor = (MISFIT * self.data.max(axis=(1, 2), keepdims=True)) ** 2
        self.variance = independent * (expected @ self.kernel**2 + floor) + 1e-9
        self.enough = 0.05

    def blurred(self, values: FloatArray) -> FloatArray:
        """Smoothed along energy, (..., E)."""
        return values if self.blur == 0 else values @ self.kernel


def _deviance_of(rate: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of the deviance of Poisson counts, summed over cells, (spectra,).

    Small rates by their exact distribution on a grid, large ones by their limit, 1 and 2.
    """
    grid = np.concatenate([[1e-12], np.geomspace(1e-6, 50.0, 200)])
    n = np.arange(400)[:, None]
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 400)))])[:, None]
    probability = np.exp(n * np.log(grid) - grid - log_factorial)
    each = 2 * (np.where(n > 0, n * np.log(np.maximum(n, 1) / grid), 0.0) - n + grid)
    mean = (probability * each).sum(axis=0)
    square = (probability * each**2).sum(axis=0)
    flat = rate.reshape(len(rate), -1)
    m = np.interp(flat, grid, mean, right=1.0)
    v = np.interp(flat, grid, square - mean**2, right=2.0)
    return m.sum(axis=1), v.sum(axis=1)
