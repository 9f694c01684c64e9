"""Blurred counts: a kernel that keeps them, and as many as are independent."""

import numpy as np
import pytest

from model_server.posterior.blurring import Blurring, blur_kernel

ENERGY = np.arange(-20.0, 60.0, 0.5)


def test_a_blur_keeps_counts_and_has_its_width():
    line = np.zeros(len(ENERGY))
    line[80] = 100.0
    for blur in (1.5, 3.0, 6.0):
        spread = line @ blur_kernel(ENERGY, blur)
        assert spread.sum() == pytest.approx(100.0, rel=1e-3)
        width = np.sqrt(spread @ (ENERGY - ENERGY[80]) ** 2 / spread.sum())
        assert width == pytest.approx(blur, rel=1e-2)


def test_cells_that_are_not_usable_take_no_part():
    use = np.ones((2, len(ENERGY)), dtype=bool)
    use[0, 80] = False
    counts = np.random.default_rng(1).poisson(5.0, use.shape).astype(float)
    spread = Blurring(ENERGY).spread(use, 3.0) @ counts[use]
    kernel = blur_kernel(ENERGY, 3.0)
    wanted = np.concatenate([(kernel * use[0]) @ counts[0], kernel @ counts[1]])
    kept = np.concatenate([np.flatnonzero(use[0]), len(ENERGY) + np.arange(len(ENERGY))])
    np.testing.assert_allclose(spread, wanted[kept], rtol=1e-12)


def test_as_many_blurred_cells_are_together_as_make_their_variance_that_of_one():
    """The sum of squares of blurred noise over its variance scatters as that of so many fewer."""
    rng = np.random.default_rng(2)
    blurring, blur = Blurring(ENERGY), 3.0
    inner = slice(40, -40)
    noise = rng.standard_normal((20_000, len(ENERGY))) @ blurring.kernel(blur)
    squares = (noise**2 / noise.var(axis=0))[:, inner].mean(axis=1)
    independent = 2.0 / squares.var()
    cells = len(ENERGY[inner])
    # Squares correlate as the square of what they are of: over a length sqrt(2) shorter.
    assert blurring.together(blur) / np.sqrt(2) == pytest.approx(cells / independent, rel=0.25)
    assert blurring.together(1e-3) == 1.0
