"""Several networks that read the same structure; how far they differ tells of their error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model_server.direct.graph import crystal_graph
from model_server.direct.network import ELEMENTS, Prepared, Shape, SiteNetwork, joined, prepared
from simulations.arrays import FloatArray, IntArray
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MemberDensities:
    """What the members say of one crystal."""

    shares: FloatArray  # (atoms, bins) mean over members; an atom sums to 1
    totals: FloatArray  # (members, bins) of the crystal; each sums to 1
    latent: FloatArray  # (atoms, readout) of the first member

    @property
    def total(self) -> FloatArray:
        """Mean over members, (bins,)."""
        return np.asarray(self.totals.mean(axis=0))

    @property
    def disagreement(self) -> float:
        """Share of the modes that a member puts elsewhere than all of them do."""
        return float(0.5 * np.abs(self.totals - self.total).sum(axis=1).mean())


def graph_of(
    lattice: FloatArray, positions: FloatArray, numbers: IntArray, shape: Shape
) -> Prepared:
    """Graph that networks of a shape read.

    Raises
    ------
    InputError
        If an element is none that networks have a place for, atoms overlap or lie too dense.
    """
    numbers = np.asarray(numbers)
    if len(numbers) == 0 or numbers.min() < 1 or numbers.max() > ELEMENTS:
        raise InputError(
            f"structure: atomic numbers are {sorted({int(n) for n in numbers})}; expected 1 to "
            f"{ELEMENTS} (fermium). Take another route"
        )
    graph = crystal_graph(lattice, positions, numbers, shape.reach_A)
    return prepared(graph, shape)


def ask_members(
    networks: Sequence[SiteNetwork], lattice: FloatArray, positions: FloatArray, numbers: IntArray
) -> MemberDensities:
    """Ask all members about a crystal; edges go in parts, so that memory stays flat.

    Parameters
    ----------
    networks : sequence of SiteNetwork
        Each reads a graph of its own shape.
    lattice : (3, 3) float64
        Rows, angstrom.
    positions : (atoms, 3) float64
        Fractional.
    numbers : (atoms,) int64
        Atomic numbers.

    Raises
    ------
    InputError
        As `graph_of`.
    """
    shapes = {network.shape for network in networks}
    batches = {one: joined([graph_of(lattice, positions, numbers, one)]) for one in shapes}
    every, latents = [], []
    with torch.no_grad():
        for network in networks:
            log_shares, latent = network(batches[network.shape])
            every.append(log_shares.exp().double().numpy())
            latents.append(latent.double().numpy())
    return MemberDensities(
        shares=np.mean(every, axis=0),
        totals=np.stack([one.mean(axis=0) for one in every]),
        latent=latents[0],
    )
