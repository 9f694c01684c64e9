"""How stiff bonds are, along and across: learned from the structure and how stiff its sites are.

Force constants of a bond are taken as ``t 1 + (l - t) r r^T`` with its direction ``r``. A network
reads both over the root of the product of both sites' stiffness (a third of the trace of on-site
constants), from the elements, the length and how many neighbours lie closer. What results tells
which atoms move together; energies are better taken from densities of states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model_server.direct.bins import energy_edges_meV
from model_server.direct.network import atomic_masses, covalent_radii_A, element_properties
from simulations.arrays import FloatArray, IntArray
from simulations.constants import MEV2_PER_FORCE_CONSTANT
from simulations.progress import Progress, silent

REACH_A = 6.0
"""Longest bond."""
_LENGTHS = np.linspace(1.0, REACH_A, 16)
_RATIOS = np.linspace(0.7, 3.5, 14)
_CLOSER_A = 0.05
_FEATURES = len(_LENGTHS) + len(_RATIOS) + 6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bonds:
    """Bonds of a crystal up to `REACH_A`, each and its reverse."""

    numbers: IntArray  # (atoms,) atomic numbers
    first: IntArray  # (bonds,)
    second: IntArray  # (bonds,)
    length_A: FloatArray  # (bonds,)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpringLesson:
    """Bonds, the stiffness of sites, and that of bonds over it."""

    bonds: Bonds
    stiffness: FloatArray  # (atoms,) eV/angstrom^2
    target: FloatArray  # (bonds, 2) along and across, over the root of both sites' stiffness


@dataclass(frozen=True, kw_only=True, slots=True)
class SpringShape:
    """Sizes of the network."""

    site: int = 64
    hidden: int = 128
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class SpringRecipe:
    """How it is trained."""

    epochs: int = 25
    crystals: int = 8  # of a step
    bonds: int = 4000  # of a crystal in a step, drawn anew
    rate: float = 3e-3
    decay: float = 1e-3
    seed: int = 0


class SpringNetwork(nn.Module):
    """Stiffness of bonds along and across, over the root of both sites' stiffness."""

    def __init__(self, shape: SpringShape) -> None:
        super().__init__()
        self.shape = shape
        table = torch.as_tensor(element_properties(), dtype=torch.float32)
        self.register_buffer("properties", table, persistent=False)
        self.properties: Tensor
        self.site = nn.Sequential(
            nn.Linear(table.shape[1] + 1, shape.site), nn.SiLU(), nn.Dropout(shape.dropout)
        )
        self.pair = nn.Sequential(
            nn.Linear(2 * shape.site + _FEATURES, shape.hidden),
            nn.SiLU(),
            nn.Linear(shape.hidden, shape.hidden),
            nn.SiLU(),
            nn.Linear(shape.hidden, 2),
        )

    def forward(
        self, numbers: Tensor, stiffness: Tensor, first: Tensor, second: Tensor, features: Tensor
    ) -> Tensor:
        """(bonds, 2); the same for a bond and its reverse."""
        site = self.site(
            torch.cat([self.properties[numbers], torch.log(stiffness)[:, None]], dim=1)
        )
        a, b = site[first], site[second]
        return self.pair(torch.cat([a + b, a * b, features], dim=1))


def bond_features(bonds: Bonds) -> FloatArray:
    """What tells a bond from others of its elements, (bonds, features)."""
    radii, length, atoms = covalent_radii_A(), bonds.length_A, len(bonds.numbers)
    of_atom = [np.sort(length[bonds.first == atom]) for atom in range(atoms)]
    shortest = np.array([one[0] if len(one) else REACH_A for one in of_atom])
    closer = np.empty((len(length), 2))
    for atom, sorted_lengths in enumerate(of_atom):
        for end, belongs in enumerate((bonds.first == atom, bonds.second == atom)):
            closer[belongs, end] = np.searchsorted(sorted_lengths, length[belongs] - _CLOSER_A)
    ranks = np.log1p(closer)
    shares = shortest[np.stack([bonds.first, bonds.second], axis=1)] / length[:, None]
    numbers = bonds.numbers
    ratio = length / (radii[numbers[bonds.first]] + radii[numbers[bonds.second]])
    symmetric = [
        form(of) for of in (ranks, shares) for form in (_sum, _product, _difference)
    ]  # the same from either end
    return np.concatenate(
        [
            np.exp(-0.5 * ((length[:, None] - _LENGTHS) / 0.3) ** 2),
            np.exp(-0.5 * ((ratio[:, None] - _RATIOS) / 0.15) ** 2),
            np.stack(symmetric, axis=1),
        ],
        axis=1,
    )


def _sum(ends: FloatArray) -> FloatArray:
    return np.asarray(ends.sum(axis=1))


def _product(ends: FloatArray) -> FloatArray:
    return np.asarray(ends.prod(axis=1))


def _difference(ends: FloatArray) -> FloatArray:
    return np.asarray(np.abs(ends[:, 0] - ends[:, 1]))


def site_stiffness(shares: FloatArray, numbers: IntArray) -> FloatArray:
    """A third of the trace of on-site constants, from the second moment of each site's density.

    Parameters
    ----------
    shares : (atoms, BINS) float64
        Of a site's modes in every bin of `energy_edges_meV`, for natural masses.
    numbers : (atoms,) int64

    Returns
    -------
    (atoms,) float64
        eV/angstrom^2.
    """
    edges = energy_edges_meV()
    second = shares @ (0.5 * (edges[1:] + edges[:-1])) ** 2
    return np.asarray(second * atomic_masses()[numbers] / MEV2_PER_FORCE_CONSTANT)


def ask_springs(network: SpringNetwork, bonds: Bonds, stiffness: FloatArray) -> FloatArray:
    """Stiffness of bonds along and across, (bonds, 2), eV/angstrom^2.

    Parameters
    ----------
    network : SpringNetwork
    bonds : Bonds
    stiffness : (atoms,) float64
        From `site_stiffness`.
    """
    with torch.no_grad():
        said = network(*_tensors(bonds, stiffness, bond_features(bonds)))
    root = np.sqrt(stiffness[bonds.first] * stiffness[bonds.second])
    return np.asarray(said.double().numpy() * root[:, None])


def _tensors(bonds: Bonds, stiffness: FloatArray, features: FloatArray) -> tuple[Tensor, ...]:
    return (
        torch.as_tensor(bonds.numbers),
        torch.as_tensor(stiffness, dtype=torch.float32),
        torch.as_tensor(bonds.first),
        torch.as_tensor(bonds.second),
        torch.as_tensor(features, dtype=torch.float32),
    )


def train_springs(
    lessons: Sequence[SpringLesson],
    shape: SpringShape,
    recipe: SpringRecipe,
    progress: Progress = silent,
) -> SpringNetwork:
    """Train a network; the same lessons and recipe, the same network.

    Parameters
    ----------
    lessons : sequence of SpringLesson
    shape : SpringShape
    recipe : SpringRecipe
    progress : callable
    """
    torch.manual_seed(recipe.seed)
    network = SpringNetwork(shape)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    steps = -(-len(lessons) // recipe.crystals)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=recipe.epochs * steps + 1
    )
    given = [
        (*_tensors(one.bonds, one.stiffness, bond_features(one.bonds)), _float(one.target))
        for one in lessons
    ]
    for epoch in range(recipe.epochs):
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(given))
        losses = []
        for step in range(steps):
            optimiser.zero_grad()
            some = order[step * recipe.crystals : (step + 1) * recipe.crystals]
            for k in some:
                numbers, stiffness, first, second, features, target = given[k]
                pick = torch.randperm(len(first))[: recipe.bonds]
                said = network(numbers, stiffness, first[pick], second[pick], features[pick])
                value = 100.0 / len(some) * nn.functional.mse_loss(said, target[pick])
                value.backward()
                losses.append(float(value.detach()) * len(some))
            optimiser.step()
            cycle.step()
        progress(
            f"epoch {epoch + 1} of {recipe.epochs}, loss {np.mean(losses):.4f}",
            (epoch + 1) / recipe.epochs,
        )
    return network.eval()


def _float(values: FloatArray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def explained(network: SpringNetwork, lessons: Sequence[SpringLesson]) -> tuple[float, float]:
    """Share of the square of stiffness along and across bonds that is told right, R^2 about 0."""
    missed, whole = np.zeros(2), np.zeros(2)
    for one in lessons:
        with torch.no_grad():
            said = network(*_tensors(one.bonds, one.stiffness, bond_features(one.bonds))).numpy()
        missed += ((said - one.target) ** 2).mean(axis=0)
        whole += (one.target**2).mean(axis=0)
    along, across = 1 - missed / whole
    return float(along), float(across)
