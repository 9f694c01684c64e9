"""Training of one member: AdamW, one cycle of the rate, a running mean of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_server.direct.bins import BINS, energy_edges_meV
from model_server.direct.map_loss import maps_unlike
from model_server.direct.network import (
    Batch,
    Prepared,
    Shape,
    SiteNetwork,
    joined,
    mean_over_crystals,
)
from simulations.progress import Progress, silent

Loss = Callable[[Tensor, Batch, Tensor], Tensor]
"""Of logarithms of shares (atoms, bins), what they belong to, and targets."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """A crystal and what is to be said of it."""

    graph: Prepared
    target: Tensor  # (atoms, bins) shares; or (1, points) of the whole crystal


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a member is trained."""

    epochs: int = 30
    atoms: int = 160  # of a batch, about
    large: int = 20  # crystals of more atoms take turns
    turns: int = 3  # a large crystal is learned in every so many epochs
    rate: float = 2.5e-3
    decay: float = 0.02
    mean: float = 0.995  # share of the running mean that a step keeps
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Progressed:
    """Where a training stands: all that going on needs."""

    epoch: int  # done
    tensors: dict[str, Tensor]  # weights, their running mean, moments of the optimiser


def train_member(
    lessons: Sequence[Lesson],
    loss: Loss,
    shape: Shape,
    recipe: Recipe,
    *,
    device: str = "cpu",
    start: SiteNetwork | None = None,
    begun: Progressed | None = None,
    after: Callable[[Progressed, SiteNetwork], bool] | None = None,
    progress: Progress = silent,
) -> SiteNetwork:
    """Train a network, or go on with one.

    Parameters
    ----------
    lessons : sequence of Lesson
    loss : callable
    shape : Shape
    recipe : Recipe
        The same seed and lessons, the same network, interrupted or not.
    device : str
        ``cpu``, ``cuda``, as torch names them.
    start : SiteNetwork or None
        Whose weights to begin with; None: with random ones.
    begun : Progressed or None
        What ``after`` was given in an interrupted training.
    after : callable or None
        Told after every epoch, with the network of the mean weights; ends training by True.
    progress : callable
        Told how far it is, and when it will end.

    Returns
    -------
    SiteNetwork
        With the running mean of the weights, ready to predict.
    """
    torch.manual_seed(recipe.seed)
    network = SiteNetwork(shape)
    if start is not None:
        network.load_state_dict(start.state_dict())
    network = network.to(device)
    named = dict(network.named_parameters())
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    starts = np.cumsum([0] + [len(_batches(lessons, recipe, e)) for e in range(recipe.epochs)])
    total = max(1, int(starts[-1]))
    mean = {name: p.detach().clone() for name, p in named.items()}
    first = 0
    if begun is not None:
        first = begun.epoch
        restore(begun, named, mean, optimiser, device)
    averaged = SiteNetwork(shape).to(device)
    started, step = time.monotonic(), int(starts[first])
    for epoch in range(first, recipe.epochs):
        torch.manual_seed(recipe.seed * 1009 + epoch)
        network.train()
        losses = []
        for chosen in _batches(lessons, recipe, epoch):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * _cycle(step / total)
            batch, target = _moved([lessons[k] for k in chosen], device)
            value = loss(network(batch)[0], batch, target)
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            step += 1
            keep = min(recipe.mean, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, p in named.items():
                    mean[name].lerp_(p, 1 - keep)
            losses.append(float(value.detach()))
        _load(averaged, mean)
        averaged.eval()
        left = (time.monotonic() - started) / (epoch + 1 - first) * (recipe.epochs - epoch - 1)
        progress(
            f"epoch {epoch + 1} of {recipe.epochs}, loss {np.mean(losses):.4f}, "
            f"{left / 60:.0f} min left",
            (epoch + 1) / recipe.epochs,
        )
        if after is not None and after(kept(epoch + 1, named, mean, optimiser), averaged):
            break
    _load(averaged, mean)
    return averaged.eval().cpu()


def _batches(lessons: Sequence[Lesson], recipe: Recipe, epoch: int) -> list[list[int]]:
    """Places of lessons in batches of about as many atoms each; every epoch in another order.

    Large crystals take turns: most of the work would be theirs, and they teach no more than others.
    """
    rng = np.random.default_rng((recipe.seed, epoch))
    atoms = np.array([len(one.graph.numbers) for one in lessons])
    order = rng.permutation(len(lessons))
    turn = (np.arange(len(lessons)) + epoch) % recipe.turns == 0
    order = order[(turn | (atoms <= recipe.large))[order]]
    atoms = np.where(np.isin(np.arange(len(lessons)), order), atoms, 0)
    count = max(1, math.ceil(atoms.sum() / recipe.atoms))
    place = np.minimum((np.cumsum(atoms[order]) - 1) * count // max(1, atoms.sum()), count - 1)
    return [order[place == k].tolist() for k in range(count) if np.any(place == k)]


def _cycle(share: float) -> float:
    """Rate over its highest: up within 5 % of all steps, then a half cosine down."""
    if share < 0.05:
        return 0.05 + 0.95 * share / 0.05
    return 0.5 * (1 + math.cos(math.pi * (share - 0.05) / 0.95)) + 1e-3


def _moved(lessons: list[Lesson], device: str) -> tuple[Batch, Tensor]:
    batch = joined([one.graph for one in lessons])
    target = torch.cat([one.target for one in lessons])
    if device == "cpu":
        return batch, target
    moved: dict[str, Any] = {
        name: value.to(device) if isinstance(value := getattr(batch, name), Tensor) else value
        for name in Batch.__slots__
    }
    return Batch(**moved), target.to(device)


def _load(network: SiteNetwork, mean: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(mean[name])


def kept(
    epoch: int,
    named: dict[str, torch.nn.Parameter],
    mean: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> Progressed:
    """All that going on needs, of weights, their means and an optimiser."""
    tensors = {}
    for name, p in named.items():
        state = optimiser.state[p]
        tensors[f"weights.{name}"] = p.detach().cpu().clone()
        tensors[f"mean.{name}"] = mean[name].cpu().clone()
        for key in ("exp_avg", "exp_avg_sq", "step"):
            if key in state:
                tensors[f"{key}.{name}"] = torch.as_tensor(state[key]).cpu().clone()
    return Progressed(epoch=epoch, tensors=tensors)


def restore(
    begun: Progressed,
    named: dict[str, torch.nn.Parameter],
    mean: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    device: str,
) -> None:
    """Put weights, their means and an optimiser where a training stood."""
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(begun.tensors[f"weights.{name}"])
            mean[name].copy_(begun.tensors[f"mean.{name}"])
            found = {
                key: begun.tensors[f"{key}.{name}"].clone()
                for key in ("exp_avg", "exp_avg_sq", "step")
                if f"{key}.{name}" in begun.tensors
            }
            optimiser.state[p] = {k: v if k == "step" else v.to(device) for k, v in found.items()}


def _coarsening() -> Tensor:
    """Shares of bins to density at the 50 bins of 20 cm^-1 and wider ones above, (BINS, 64)."""
    out = torch.zeros(BINS, 64)
    width = torch.as_tensor(np.diff(energy_edges_meV()), dtype=torch.float32)
    for k in range(BINS):
        out[k, k // 2] = 1.0 / (width[k] + width[k ^ 1])
    return out


_COARSE = _coarsening()


def site_loss(log_shares: Tensor, batch: Batch, target: Tensor) -> Tensor:
    """What a site density is judged by.

    Relative entropy of every site; squared and absolute error of the crystal's density over its
    highest value in bins of 20 cm^-1, as the literature compares; and the distance that modes were
    moved, in bins.
    """
    shares = log_shares.exp()
    entropy = -(target * log_shares).sum(dim=1).mean()
    own, true = _of_crystals(shares, batch), _of_crystals(target, batch)
    off = own / own.max(dim=1, keepdim=True).values - true / true.max(dim=1, keepdim=True).values
    return (
        0.1 * entropy
        + 0.02 * _moved_bins(shares, target)
        + 5.0 * (off**2).mean()
        + 2.0 * off.abs().mean()
    )


def site_and_sum_loss(log_shares: Tensor, batch: Batch, target: Tensor) -> Tensor:
    """`site_loss`, and the crystal's density over its sum beside that over its highest value.

    Of the former, where no single bin is what all others are divided by, relative entropy and the
    distance that modes were moved.
    """
    own, true = (_of_crystals(one, batch) for one in (log_shares.exp(), target))
    own, true = (one / one.sum(dim=1, keepdim=True) for one in (own, true))
    unlike = (true * (true.clamp_min(1e-9).log() - own.clamp_min(1e-9).log())).sum(dim=1).mean()
    return site_loss(log_shares, batch, target) + unlike + 0.1 * _moved_bins(own, true)


def site_sum_and_map_loss(log_shares: Tensor, batch: Batch, target: Tensor) -> Tensor:
    """`site_and_sum_loss`, and how unlike the maps are that both stand for."""
    unlike = maps_unlike(log_shares.exp(), batch, target)
    return (
        site_and_sum_loss(log_shares, batch, target)
        + 10.0 * unlike.mean()
        + torch.sqrt(unlike + 1e-5).mean()
    )


def _of_crystals(shares: Tensor, batch: Batch) -> Tensor:
    """Densities of crystals in bins of 20 cm^-1, (crystals, 64), from shares of sites."""
    return mean_over_crystals(shares, batch) @ _COARSE.to(shares.device)


def _moved_bins(shares: Tensor, target: Tensor) -> Tensor:
    """Mean distance that modes were moved, in bins."""
    return (torch.cumsum(shares, 1) - torch.cumsum(target, 1)).abs().sum(dim=1).mean()
