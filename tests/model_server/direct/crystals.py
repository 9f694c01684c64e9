"""Crystals at random, and small networks that read them."""

from __future__ import annotations

import numpy as np
import torch

from model_server.direct.graph import crystal_graph
from model_server.direct.network import Prepared, Shape, SiteNetwork, prepared

SMALL = Shape(channels=12, tensors=6, radial=12, species=6, readout=24)


def small_network(seed: int = 0, shape: Shape = SMALL) -> SiteNetwork:
    torch.manual_seed(seed)
    return SiteNetwork(shape).eval()


def random_crystal(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eight atoms near the corners of a grid in a skewed cell."""
    rng = np.random.default_rng(seed)
    lattice = np.diag([5.2, 6.1, 7.0]) + rng.uniform(-0.4, 0.4, (3, 3))
    grid = np.indices((2, 2, 2)).reshape(3, -1).T
    positions = (grid + rng.uniform(0, 0.15, (8, 3))) / 2
    return lattice, positions, rng.integers(1, 90, 8)


def graph(
    lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray, shape: Shape = SMALL
) -> Prepared:
    return prepared(crystal_graph(lattice, positions, numbers, shape.reach_A), shape)
