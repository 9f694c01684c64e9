"""A conditional density: from a folded spectrum with its exposure to the posterior of parameters.

A summary network reads the spectrum and how much was counted; a normalising flow turns normal noise
into draws of the posterior. The flow works on ``z``, the normal deviate of where a parameter stands
in its box: there the box prior is the standard normal, so that a spectrum that says nothing needs
nothing learned. Its first step is a Gaussian with all correlations, its others neural splines
(C. Durkan et al., Neural Spline Flows, 2019) in coupled halves, so that draws take milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.flows import NSF, Flow
from zuko.lazy import LazyTransform

from simulations.arrays import FloatArray, SingleArray

DRAWS = 256  # behind a reading
LEVEL = 0.9  # of its intervals
LOG_TWO_PI = float(np.log(2 * np.pi))
MOST_ROWS = 16_384  # draws of one pass
GROUPS = 8  # of channels that are normalised together
HALF_BOX = np.sqrt(3.0)  # of a uniform density, in its standard deviations
_INSIDE = 1e-6  # share of a box that is kept from its walls: beyond, z is not finite
_FEW = np.float32(0.5)  # counts that are added to both sides of a ratio
_LOG_COUNTS = (9.0, 3.0)  # middle and width of what is usual


def counted_input(signal: ArrayLike, exposure: ArrayLike, coverage: ArrayLike) -> SingleArray:
    """What a density sees of coarse counts.

    Scale drops out of the spectrum, but counts do not: they say how wide a posterior is.

    Parameters
    ----------
    signal : (..., rows, columns) array_like
        Counts of every coarse cell, as many as are independent.
    exposure : (..., rows, columns) array_like
        Sum of exposure; 0 means unknown.
    coverage : (..., rows, columns) array_like
        Share of the fine cells that were measured; where it is 0, nothing is known.

    Returns
    -------
    (..., 2 * rows * columns + 1) float32
        Square root of counts over those of a flat spectrum, less one, both shrunk to one by half a
        count; logarithm of one plus the flat spectrum's counts; that of all counts.
    """
    D = np.asarray(exposure, dtype=float)
    known = (D > 0) & (np.asarray(coverage) > 0)
    D = np.where(known, D, 0.0)
    share = D / np.maximum(D.sum(axis=(-2, -1), keepdims=True), 1e-300)
    S = np.where(known, np.asarray(signal, dtype=np.float32).clip(0.0), np.float32(0.0))
    counts = S.sum(axis=(-2, -1), keepdims=True)
    expected = counts * share.astype(np.float32)
    relative = np.sqrt((S + _FEW) / (expected + _FEW)) - 1
    middle, width = _LOG_COUNTS
    flat = (*S.shape[:-2], -1)
    parts = (
        relative.reshape(flat),
        0.3 * np.log1p(expected).reshape(flat),
        (np.log1p(counts).reshape(flat) - middle) / width,
    )
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def normal_deviates(standardised: ArrayLike) -> Tensor:
    """Deviates z (..., parameters) of parameters in prior sigmas from the middle of their box."""
    share = torch.as_tensor(np.asarray(standardised, dtype=float)) / (2 * HALF_BOX) + 0.5
    return torch.special.ndtri(share.clamp(_INSIDE, 1 - _INSIDE))


def from_normal_deviates(z: Tensor) -> FloatArray:
    """Parameters in prior sigmas from the middle of their box, of deviates (..., parameters)."""
    share = torch.special.ndtr(z.double())
    return np.asarray((2 * HALF_BOX * (share - 0.5)).numpy(), dtype=float)


class _Whiten(Transform):
    """w = L^-1 (z - mean), L lower triangular."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, mean: Tensor, lower: Tensor) -> None:
        super().__init__()
        self.mean, self.lower = mean, lower

    def _call(self, x: Tensor) -> Tensor:
        step = (x - self.mean).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.lower, step, upper=False).squeeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.mean + (self.lower @ y.unsqueeze(-1)).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        size = -self.lower.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return size.expand(x.shape[:-1])


class _Gaussian(LazyTransform):
    """Mean and triangular factor of a Gaussian, read off a context."""

    def __init__(self, features: int, context: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.net = nn.Sequential(
            nn.Linear(context, hidden),
            nn.GELU(),
            nn.Linear(hidden, features + features * (features + 1) // 2),
        )
        last: Any = self.net[-1]
        nn.init.normal_(last.weight, std=1e-2)  # begins at the prior
        nn.init.zeros_(last.bias)
        self.below: Tensor
        self.register_buffer("below", torch.tril_indices(features, features, -1), persistent=False)

    def forward(self, c: Tensor | None = None) -> Transform:
        n = self.features
        mean, size, below = self.net(c).split((n, n, n * (n - 1) // 2), dim=-1)
        size = size.clamp(-8.0, 3.0).exp()
        lower = torch.diag_embed(size)
        rows, columns = self.below[0], self.below[1]
        lower[..., rows, columns] = below * size[..., rows]
        return _Whiten(mean, lower)


class _Residual(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Block(nn.Module):
    """Two convolutions over half as many rows and columns, and the way around them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1),
            nn.GroupNorm(GROUPS, after),
            nn.GELU(),
            nn.Conv2d(after, after, 3, 1, 1),
            nn.GroupNorm(GROUPS, after),
        )
        self.around = nn.Conv2d(before, after, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.body(x) + self.around(x))


class _Look(nn.Module):
    """All inputs at once, and as two images by convolutions that keep every place apart."""

    def __init__(self, shape: tuple[int, int], channels: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.shape = shape
        rows, columns = shape
        self.whole = nn.Linear(2 * rows * columns + 1, hidden)
        layers: list[nn.Module] = []
        for before, after in zip((2, *channels), channels, strict=False):
            layers.append(_Block(before, after))
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        self.images = nn.Sequential(*layers)
        self.out = nn.Linear(channels[-1] * rows * columns, hidden)

    def forward(self, x: Tensor) -> Tensor:
        images = x[..., :-1].reshape(-1, 2, *self.shape)
        seen = self.out(self.images(images).flatten(1))
        return self.whole(x) + seen.reshape(*x.shape[:-1], -1)


class Density(nn.Module):
    """Summary network and flow, untrained.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the grid that ``counted_input`` is of.
    parameters : int
    channels : sequence of int
        Of convolutions of the summary network, each over half as many rows and columns; none: it
        sees all cells at once alone.
    hidden, context : int
        Widths of the summary network and of what it tells the flow.
    transforms, bins, flow_hidden : int
        Couplings, knots of their splines, width of their networks.
    dropout : float
        Share of the summary network's nodes that a step of the training leaves out.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        parameters: int,
        *,
        hidden: int,
        context: int,
        transforms: int,
        bins: int,
        flow_hidden: int,
        dropout: float = 0.0,
        channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.parameters_read = parameters
        first: nn.Module = nn.Linear(2 * shape[0] * shape[1] + 1, hidden)
        if channels:
            first = _Look(shape, tuple(channels), hidden)
        self.summary = nn.Sequential(
            first,
            nn.GELU(),
            nn.Dropout(dropout),
            _Residual(hidden, dropout),
            _Residual(hidden, dropout),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, context),
        )
        splines = NSF(
            parameters,
            context,
            transforms=transforms,
            bins=bins,
            passes=2,
            hidden_features=(flow_hidden, flow_hidden),
        )
        couplings: Any = splines.transform
        self.widening: Tensor
        self.register_buffer("widening", torch.ones(()))  # of the noise, as unseen spectra want it
        self.flow = Flow(
            [_Gaussian(parameters, context, hidden), *couplings.transforms], splines.base
        )

    def log_prob(self, context: Tensor, z: Tensor) -> Tensor:
        """Log density of deviates z (..., parameters) in contexts (..., context)."""
        distribution: Any = self.flow(context)
        noise, volume = distribution.transform.call_and_ladj(z)
        size = self.parameters_read * (self.widening.log() + 0.5 * LOG_TWO_PI)
        return volume - 0.5 * ((noise / self.widening) ** 2).sum(dim=-1) - size

    @torch.no_grad()
    def widen(self, context: Tensor, z: Tensor) -> None:
        """Widen or narrow all posteriors by the one factor that makes unseen deviates likeliest."""
        distribution: Any = self.flow(context)
        noise = distribution.transform(z)
        self.widening.copy_((noise**2).mean().sqrt())

    def of_noise(self, context: Tensor, noise: Tensor) -> Tensor:
        """Draws z of normal noise, both (draws, ..., parameters)."""
        distribution: Any = self.flow(context)
        return distribution.transform.inv(self.widening * noise)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConditionalDensity:
    """A frozen ``Density``; as a ``Network`` it reads the mean and width of its posterior."""

    density: Density
    latent_mean: FloatArray  # (context,) over the training spectra
    latent_precision: FloatArray  # (context, context) inverse covariance of the same

    @property
    def architecture(self) -> str:
        """Name in ``ARCHITECTURES``."""
        return "flow"

    @classmethod
    def from_tensors(
        cls,
        sizes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        shape: tuple[int, int],
        parameters: int,
    ) -> ConditionalDensity:
        """Build it from the sizes in a card and stored weights; ``shape`` is the grid's."""
        density = Density(shape, parameters, **sizes)
        start = "density."
        density.load_state_dict(
            {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        )
        density.eval()
        density.requires_grad_(False)
        return cls(
            density=density,
            latent_mean=tensors["latent.mean"].numpy().astype(float),
            latent_precision=tensors["latent.precision"].numpy().astype(float),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        tensors = {f"density.{k}": v for k, v in self.density.state_dict().items()}
        tensors["latent.mean"] = torch.from_numpy(self.latent_mean.astype(np.float32))
        tensors["latent.precision"] = torch.from_numpy(self.latent_precision.astype(np.float32))
        return tensors

    def draws(
        self, inputs: SingleArray, n: int, *, seed: int = 0, shared: bool = True
    ) -> FloatArray:
        """Draws of the posterior (n, ..., parameters), in prior sigmas from the prior mean.

        The same inputs, number and seed give the same draws. ``shared``: every spectrum gets the
        same normal noise, so that its draws do not depend on those beside it.
        """
        return self._draws(self._context(inputs), n, seed, shared)[0]

    def weighed_draws(
        self, inputs: SingleArray, n: int, *, seed: int = 0
    ) -> tuple[FloatArray, FloatArray]:
        """Draws, and the logarithm of their density over that of the box, (n, ...)."""
        context = self._context(inputs)
        values, z = self._draws(context, n, seed)
        of_box = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=-1)
        wide = context.expand(n, *context.shape)
        ratio = self.density.log_prob(wide, z) - of_box
        return values, ratio.numpy().astype(float)

    def intervals(
        self, inputs: SingleArray, *, level: float = LEVEL, n: int = DRAWS
    ) -> tuple[FloatArray, FloatArray]:
        """Ends (..., parameters) of central intervals of a level, in prior sigmas."""
        draws = self.draws(inputs, n)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def centres(self, inputs: SingleArray) -> FloatArray:
        """Mean of the posterior."""
        return self.read(inputs)[0]

    def read(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Mean of the posterior and its standard deviation."""
        draws = self.draws(inputs, DRAWS)
        return draws.mean(axis=0), draws.std(axis=0)

    def codes(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """What the summary network tells the flow, and zeros: nothing is sampled there."""
        codes = self._context(inputs).numpy().astype(float)
        return codes, np.zeros_like(codes)

    def of_codes(self, codes: FloatArray) -> FloatArray:
        """Mean of the posterior in given contexts."""
        context = torch.from_numpy(codes.astype(np.float32))
        return self._draws(context, DRAWS, 0)[0].mean(axis=0)

    def distance(self, inputs: SingleArray) -> float:
        """Mahalanobis distance of the context over the square root of its dimension."""
        step = self._context(inputs).numpy().astype(float) - self.latent_mean
        return float(np.sqrt(step @ self.latent_precision @ step / len(step)))

    def _context(self, inputs: SingleArray) -> Tensor:
        with torch.no_grad():
            return self.density.summary(torch.from_numpy(np.asarray(inputs, dtype=np.float32)))

    def _draws(
        self, context: Tensor, n: int, seed: int, shared: bool = True
    ) -> tuple[FloatArray, Tensor]:
        """Draws (n, ..., parameters), and their deviates."""
        beside = [1] * (context.ndim - 1) if shared else list(context.shape[:-1])
        shape = (n, *beside, self.density.parameters_read)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        noise = noise.expand(n, *context.shape[:-1], -1)
        with torch.no_grad():
            if context.ndim == 1:
                z = self.density.of_noise(context.expand(n, -1), noise)
            else:
                size = max(1, MOST_ROWS // n)
                pairs = zip(context.split(size), noise.split(size, dim=1), strict=True)
                z = torch.cat(
                    [self.density.of_noise(c.expand(n, *c.shape), e) for c, e in pairs], dim=1
                )
        return from_normal_deviates(z), z


def halves(draws: FloatArray) -> FloatArray:
    """Mean of draws (n, parameters), then those of their halves across the widest direction."""
    mean = draws.mean(axis=0)
    widest = np.linalg.eigh(np.cov(draws.T))[1][:, -1]
    along = (draws - mean) @ widest
    upper = along > np.median(along)
    return np.stack([mean, draws[~upper].mean(axis=0), draws[upper].mean(axis=0)])
