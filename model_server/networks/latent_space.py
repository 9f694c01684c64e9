"""What the latent of a network holds: which dimensions say something, and of which parameter.

Arrays in, arrays out. Codes are latent means, (spectra, latent); parameters are in prior sigmas
from the prior mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_server.networks.architectures import Network
from simulations.arrays import BoolArray, FloatArray, SingleArray
from simulations.errors import InputError

AT_ONCE = 256  # spectra that a network sees in one pass
_MAP = ("mean", "axes", "shares")
ACTIVE_VARIANCE = 0.01
"""Of a latent mean over spectra, where the prior of the latent has variance 1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatentActivity:
    """How much each dimension says of spectra; arrays are (latent,)."""

    variance: FloatArray  # of its mean over spectra
    noise: FloatArray  # mean variance of its samples; 0 where nothing is sampled
    divergence: FloatArray  # mean Kullback-Leibler divergence from the normal, nats; NaN likewise
    active: BoolArray


def latent_activity(codes: FloatArray, deviations: FloatArray) -> LatentActivity:
    """Which dimensions of a latent say something.

    Parameters
    ----------
    codes, deviations : (spectra, latent) float64
        Latent means, and standard deviations of latent samples.

    Raises
    ------
    InputError
        If there are fewer than two spectra.

    References
    ----------
    Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted Autoencoders (ICLR 2016), section
    5.1: a dimension is active where the variance of its mean is above 0.01. Without a prior on the
    latent, where it is above a hundredth of the largest.
    """
    if len(codes) < 2:
        raise InputError(f"codes is of {len(codes)} spectra; expected at least 2. Simulate more.")
    variance = codes.var(axis=0)
    noise = (deviations**2).mean(axis=0)
    if not deviations.any():
        return LatentActivity(
            variance=variance,
            noise=noise,
            divergence=np.full_like(variance, np.nan),
            active=variance > ACTIVE_VARIANCE * variance.max(),
        )
    divergence = 0.5 * (codes**2 + deviations**2 - 1 - 2 * np.log(deviations)).mean(axis=0)
    return LatentActivity(
        variance=variance, noise=noise, divergence=divergence, active=variance > ACTIVE_VARIANCE
    )


def codes_of(network: Network, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
    """Codes and deviations of many spectra (spectra, inputs), some at a time."""
    parts = [network.codes(inputs[k : k + AT_ONCE]) for k in range(0, len(inputs), AT_ONCE)]
    return np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])


def sensitivity(
    network: Network, below: SingleArray, above: SingleArray, step: float
) -> FloatArray:
    """How far each dimension moves with each parameter, (latent, parameters).

    Parameters
    ----------
    network : Network
    below, above : (places, parameters, inputs) float32
        What it sees where one parameter after the other is ``step`` below and above a place.
    step : float
        In prior sigmas.

    Returns
    -------
    (latent, parameters) float64
        Root mean square over places of d code / d parameter, per prior sigma.
    """
    places, parameters, inputs = below.shape
    low, _ = codes_of(network, below.reshape(-1, inputs))
    high, _ = codes_of(network, above.reshape(-1, inputs))
    slope = ((high - low) / (2 * step)).reshape(places, parameters, -1)
    return np.sqrt((slope**2).mean(axis=0)).T


def correlation(first: FloatArray, second: FloatArray) -> FloatArray:
    """Pearson correlations of the columns of two tables, (columns, columns).

    Parameters
    ----------
    first : (rows, columns) float64
    second : (rows, other columns) float64

    Returns
    -------
    (columns, other columns) float64
        0 where a column does not vary.
    """

    def normal(table: FloatArray) -> FloatArray:
        step = table - table.mean(axis=0)
        size = np.sqrt((step**2).sum(axis=0))
        return step / np.where(size > 1e-12 * np.abs(table).max(initial=1e-300), size, np.inf)

    return normal(first).T @ normal(second)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrincipalMap:
    """Principal components of codes: where a spectrum lies among others in two dimensions."""

    mean: FloatArray  # (latent,)
    axes: FloatArray  # (components, latent), rows orthonormal, by falling variance
    shares: FloatArray  # (components,) of the variance

    def place(self, codes: FloatArray) -> FloatArray:
        """Coordinates (..., components) of codes (..., latent)."""
        return (codes - self.mean) @ self.axes.T

    def to_card(self) -> dict[str, Any]:
        """What a card keeps of it."""
        return {
            "mean": np.round(self.mean, 5).tolist(),
            "axes": np.round(self.axes, 5).tolist(),
            "shares": np.round(self.shares, 4).tolist(),
        }

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> PrincipalMap | None:
        """The map that a card keeps; None where it keeps none."""
        kept = card.get("latent map")
        if kept is None:
            return None
        mean, axes, shares = (np.array(kept[key], dtype=float) for key in _MAP)
        return cls(mean=mean, axes=axes, shares=shares)


def principal_map(codes: FloatArray, components: int = 2) -> PrincipalMap:
    """Principal components of codes (spectra, latent).

    The sign of an axis is such that its largest element is positive.
    """
    mean = codes.mean(axis=0)
    _, size, axes = np.linalg.svd(codes - mean, full_matrices=False)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    share = size**2 / max(float((size**2).sum()), 1e-300)
    return PrincipalMap(mean=mean, axes=axes[:components], shares=share[:components])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Interpolation:
    """A straight line in the latent beside a straight line in the parameters."""

    steps: FloatArray  # (steps,) from 0 to 1
    read: FloatArray  # (steps, parameters) along the line in the latent
    given: FloatArray  # (steps, parameters) along the line in the parameters
    read_of_given: FloatArray  # (steps, parameters) off spectra of the latter
    bend: float  # root mean square distance of their codes from the line, over its length


def interpolation(network: Network, inputs: SingleArray, given: FloatArray) -> Interpolation:
    """Compare the line between two codes with the codes of the line between two parameter sets.

    Parameters
    ----------
    network : Network
    inputs : (steps, inputs) float32
        What it sees of spectra of ``given``.
    given : (steps, parameters) float64
        Evenly from one set to another.
    """
    codes, _ = network.codes(inputs)
    steps = np.linspace(0, 1, len(given))
    line = codes[0] + steps[:, None] * (codes[-1] - codes[0])
    length = float(np.linalg.norm(codes[-1] - codes[0]))
    away = np.linalg.norm(codes - line, axis=1)[1:-1]
    return Interpolation(
        steps=steps,
        read=network.of_codes(line),
        given=given,
        read_of_given=network.of_codes(codes),
        bend=float(np.sqrt((away**2).mean())) / length if length > 0 and len(away) else 0.0,
    )
