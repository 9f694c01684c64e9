"""The published one-dimensional recipe, to compare with: structure in, S(E) out.

e3nn's own network of gated convolutions with the settings that Chen et al. published for densities
of states and Cheng et al. took for S(E) in 120 bins of 10 cm^-1. No weights of it ship.

References
----------
Z. Chen et al., Adv. Sci. 8, 2004214 (2021); Y. Cheng et al., Mach. Learn.: Sci. Technol. 4, 015010
(2023).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from e3nn import o3
from e3nn.math import soft_one_hot_linspace
from e3nn.nn.models.gate_points_2101 import Network, smooth_cutoff
from torch import Tensor, nn

from model_server.direct.bins import MEV_PER_CM1
from model_server.direct.graph import Graph
from model_server.direct.network import ELEMENTS, atomic_masses
from model_server.direct.training import Progressed, kept, restore
from simulations.arrays import FloatArray
from simulations.progress import Progress, silent

BINS = 120
EDGES_MEV: FloatArray = np.linspace(0.0, BINS * 10.0 * MEV_PER_CM1, BINS + 1, dtype=np.float64)
"""Energies of S(E), (BINS + 1,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRecipe:
    """Settings as published; how many epochs is not among them."""

    embedding: int = 64
    layers: int = 2
    multiplicity: int = 32
    degree: int = 1
    reach_A: float = 4.0
    basis: int = 10
    radial: int = 100
    rate: float = 5e-3
    decay: float = 0.05
    fade: float = 0.96  # of the rate, every epoch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PublishedLesson:
    """A crystal and what is to be said of it."""

    graph: Graph
    target: Tensor  # (BINS,) S(E) over its highest value; (latent,) of a map


class Convolutions(nn.Module):
    """Numbers of every atom of one crystal, of e3nn's gated convolutions."""

    def __init__(self, recipe: PublishedRecipe, neighbours: float, outputs: int) -> None:
        super().__init__()
        self.recipe = recipe
        irreps: Any = o3.Irreps  # untyped
        scalars, multiplicity = irreps(f"{recipe.embedding}x0e"), recipe.multiplicity
        hidden = [(multiplicity, (d, p)) for d in range(recipe.degree + 1) for p in (-1, 1)]
        self.mass = nn.Linear(ELEMENTS + 1, recipe.embedding)
        self.kind = nn.Linear(ELEMENTS + 1, recipe.embedding)
        self.body = Network(
            irreps_in=scalars,
            irreps_hidden=irreps(hidden),
            irreps_out=irreps(f"{outputs}x0e"),
            irreps_node_attr=scalars,
            irreps_edge_attr=irreps.spherical_harmonics(recipe.degree),
            layers=recipe.layers,
            max_radius=recipe.reach_A,
            number_of_basis=recipe.basis,
            radial_layers=1,
            radial_neurons=recipe.radial,
            num_neighbors=neighbours,
            num_nodes=1.0,
            reduce_output=False,
        )
        self.register_buffer("masses", torch.as_tensor(atomic_masses(), dtype=torch.float32))
        self.masses: Tensor

    def of_atoms(self, graph: Graph) -> Tensor:
        """(atoms, outputs)."""
        body = self.body
        numbers = torch.as_tensor(graph.numbers, dtype=torch.int64)
        sender, receiver = torch.as_tensor(graph.sender), torch.as_tensor(graph.receiver)
        vector = torch.as_tensor(graph.vector_A, dtype=torch.float32)
        length = vector.norm(dim=1)
        basis = soft_one_hot_linspace(
            length, 0.0, body.max_radius, body.number_of_basis, basis="gaussian", cutoff=False
        )
        basis = basis * body.number_of_basis**0.5
        degrees = list(range(self.recipe.degree + 1))
        harmonics = o3.spherical_harmonics(
            degrees, vector, normalize=True, normalization="component"
        )
        edges = smooth_cutoff(length / body.max_radius)[:, None] * harmonics
        which = nn.functional.one_hot(numbers, ELEMENTS + 1).float()
        x = torch.relu(self.mass(which * self.masses[numbers][:, None]))
        z = torch.relu(self.kind(which))
        for layer in body.layers:
            x = layer(x, z, sender, receiver, edges, basis)
        return x


class PublishedNetwork(Convolutions):
    """S(E) over its highest value of one crystal."""

    def __init__(self, recipe: PublishedRecipe, neighbours: float) -> None:
        super().__init__(recipe, neighbours, BINS)

    def forward(self, graph: Graph) -> Tensor:
        """S(E) over its highest value, (BINS,)."""
        said = torch.relu(self.of_atoms(graph)).mean(dim=0)
        return said / said.max().clamp_min(1e-9)


def mean_neighbours(graphs: Sequence[Graph]) -> float:
    """Of an atom, over all crystals."""
    edges = sum(len(one.sender) for one in graphs)
    return edges / max(1, sum(len(one.numbers) for one in graphs))


def train_published(
    network: Convolutions,
    lessons: Sequence[PublishedLesson],
    *,
    epochs: int,
    seed: int = 0,
    begun: Progressed | None = None,
    after: Callable[[Progressed], None] | None = None,
    progress: Progress = silent,
) -> None:
    """Train a published network, one crystal at a step, or go on with it.

    Parameters
    ----------
    network : Convolutions
        Changed in place, and left ready to predict.
    lessons : sequence of PublishedLesson
    epochs : int
        How many there are to be in the end; not part of what was published.
    seed : int
        Of the order of crystals. The same network, lessons and seed, the same weights, interrupted
        or not.
    begun : Progressed or None
        What ``after`` was given in an interrupted training.
    after : callable or None
        Told after every epoch.
    progress : callable
    """
    recipe = network.recipe
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.rate, weight_decay=recipe.decay, fused=True
    )

    def losses(epoch: int) -> Iterator[Tensor]:
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * recipe.fade**epoch
        for k in np.random.default_rng((seed, epoch)).permutation(len(lessons)):
            yield nn.functional.mse_loss(network(lessons[k].graph), lessons[k].target)

    run_epochs(
        network, optimiser, losses, epochs=epochs, begun=begun, after=after, progress=progress
    )


def run_epochs(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses: Callable[[int], Iterable[Tensor]],
    *,
    epochs: int,
    begun: Progressed | None,
    after: Callable[[Progressed], None] | None,
    progress: Progress,
) -> None:
    """Train until so many epochs are done, a step for every loss; a loss is asked for after a step.

    Parameters
    ----------
    network, optimiser
        Changed in place.
    losses : callable
        Of the number of an epoch.
    epochs, begun, after, progress
        As of `train_published`.
    """
    named: dict[str, nn.Parameter] = dict(network.named_parameters())
    device = str(next(iter(named.values())).device)
    first = 0
    if begun is not None:
        first = begun.epoch
        restore(begun, named, named, optimiser, device)
    started = time.monotonic()
    for epoch in range(first, epochs):
        network.train()
        told = []
        for value in losses(epoch):
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            told.append(float(value.detach()))
        network.eval()
        left = (time.monotonic() - started) / (epoch + 1 - first) * (epochs - epoch - 1)
        progress(
            f"epoch {epoch + 1} of {epochs}, mean squared error {np.mean(told):.5f}, "
            f"{left / 60:.0f} min left",
            (epoch + 1) / epochs,
        )
        if after is not None:
            after(kept(epoch + 1, named, named, optimiser))
    network.eval()
