"""Simulated spectra on the coarse grid, and counts that are drawn of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_server.training.recipes import AnyRecipe
from simulations.arrays import FloatArray, SingleArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingSpectra:
    """Simulated spectra on the coarse grid; every array starts with (spectra,)."""

    parameters: FloatArray  # (spectra, parameters) eV/angstrom^2
    rate: SingleArray  # (spectra, rows, columns) expected phonon counts per unit scale
    exposure: SingleArray  # (spectra, rows, columns) D
    flat: SingleArray  # (spectra, rows, columns) F: exposure of what is flat in time of flight
    coverage: SingleArray  # (spectra, rows, columns) share of fine cells with D > 0

    def __len__(self) -> int:
        """Number of spectra."""
        return len(self.parameters)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> TrainingSpectra:
        """Some of the spectra."""
        return TrainingSpectra(
            parameters=self.parameters[rows],
            rate=self.rate[rows],
            exposure=self.exposure[rows],
            flat=self.flat[rows],
            coverage=self.coverage[rows],
        )


def joined_spectra(parts: Sequence[TrainingSpectra]) -> TrainingSpectra:
    """Spectra of several simulations, interleaved so that any tail holds some of each."""
    shortest = min(len(p) for p in parts)
    return TrainingSpectra(
        **{
            name: np.stack([getattr(p, name)[:shortest] for p in parts], axis=1).reshape(
                shortest * len(parts), *getattr(parts[0], name).shape[1:]
            )
            for name in ("parameters", "rate", "exposure", "flat", "coverage")
        }
    )


def end_to_end(parts: Sequence[TrainingSpectra]) -> TrainingSpectra:
    """Spectra of several simulations, one after the other."""
    return TrainingSpectra(
        **{
            name: np.concatenate([getattr(p, name) for p in parts])
            for name in ("parameters", "rate", "exposure", "flat", "coverage")
        }
    )


def noisy_counts(
    spectra: TrainingSpectra, recipe: AnyRecipe, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw scale, background and counts.

    A background is a mixture of one that is flat in time of flight and one of the shape of the
    exposure, its slope along energy drawn; a quarter of them is of the first kind alone, and a
    quarter of the second.

    Returns
    -------
    drawn : (spectra, rows, columns) float64
        Counts.
    signal : (spectra, rows, columns) float64
        Phonon counts that are expected.
    """
    rate = spectra.rate.astype(float)
    D = spectra.exposure.astype(float)
    n = len(spectra)
    low, high = np.log(recipe.counts)
    counts = np.exp(rng.uniform(low, high, n))[:, None, None]
    signal = counts * _unit(rate)
    ratio = rng.uniform(*recipe.background, n)[:, None, None]
    slope = rng.uniform(-recipe.tilt, recipe.tilt, n)[:, None, None] * np.linspace(
        -1, 1, D.shape[2]
    )
    flat = np.clip(rng.uniform(-0.5, 1.5, n), 0.0, 1.0)[:, None, None]
    shape = flat * _unit(spectra.flat.astype(float)) + (1 - flat) * _unit(D * (1 + slope))
    background = ratio * counts * shape
    return rng.poisson(signal + background).astype(float), signal


def _unit(shape: FloatArray) -> FloatArray:
    """Every spectrum with the sum 1."""
    return shape / np.maximum(shape.sum(axis=(1, 2), keepdims=True), 1e-300)
