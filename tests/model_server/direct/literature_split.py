"""The split of the literature: how well the network does there, trained on `train` alone.

    PYTHONPATH=. python -m tests.model_server.direct.literature_split FILE.h5 --seeds 0 1 2

FILE holds the 1,265 DFPT densities of states of Petretto et al. (2018), with the split that the
literature uses. Protocol of Chen et al., Adv. Sci. 8, 2004214 (2021): the density, on its own grid
of 1 cm^-1, is smoothed by a Savitzky-Golay filter of 101 points and third order (of all points
where there are fewer), read at 51 points from 0 to 1000 cm^-1, cut at zero and divided by its
highest value. A tenth of `train` is kept out of learning and says when to stop, another tenth for
every seed; `valid` is looked at once, at the end. The answer of several seeds is the mean of their
densities; what that gives when divided by its highest value again is told beside it.

The network is that of the route, with one bin per point and one for what lies above; its only
target is the crystal's density, so that what it says of single sites is its own affair. A line of
JSON per seed, then one of all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch
from pymatgen.core import Structure
from scipy.signal import savgol_filter
from torch import Tensor

from model_server.direct.bins import LITERATURE_CM1
from model_server.direct.members import graph_of
from model_server.direct.network import Batch, Shape, SiteNetwork, joined, mean_over_crystals
from model_server.direct.training import Lesson, Recipe, train_member

SHAPE = Shape(
    bins=len(LITERATURE_CM1) + 1,
    species=4,
    properties=20,
    radii=True,
    reach_A=4.0,
    dropout=0.2,
    dropout_inside=0.1,
)
RECIPE = Recipe(epochs=60, turns=1)
KEPT_OUT = 10  # a crystal of so many
FAINT = 1e-4  # share of the modes that counts as none


def smoothed(frequency_cm1: np.ndarray, dos: np.ndarray) -> np.ndarray:
    """Density at the 51 points over its highest value there."""
    window = min(101, (len(dos) - 1) // 2 * 2 + 1)
    y = np.interp(LITERATURE_CM1, frequency_cm1, savgol_filter(dos, window, 3), left=0, right=0)
    y = np.maximum(y, 0.0)
    return y / y.max()


def over_highest(shares: Tensor) -> Tensor:
    return shares / shares.max(dim=1, keepdim=True).values.clamp_min(1e-9)


def density(log_shares: Tensor, batch: Batch) -> Tensor:
    """Density of each crystal over its highest value, (crystals, 51)."""
    return over_highest(mean_over_crystals(log_shares.exp(), batch)[:, :-1])


def loss(log_shares: Tensor, batch: Batch, target: Tensor) -> Tensor:
    """What is minimised.

    Squared and absolute error of the density over its highest value; and of the density over its
    sum, where no single bin is what all others are divided by, relative entropy and the distance
    that modes were moved. Without these two the network learns far less of the same crystals.
    """
    shares = mean_over_crystals(log_shares.exp(), batch)[:, :-1]
    off = over_highest(shares) - target
    own = shares / shares.sum(dim=1, keepdim=True)
    true = target / target.sum(dim=1, keepdim=True)
    entropy = (true * ((true + FAINT).log() - (own + FAINT).log())).sum(dim=1).mean()
    moved = (torch.cumsum(own, 1) - torch.cumsum(true, 1)).abs().mean()
    return 0.5 * (off**2).mean() + 0.2 * off.abs().mean() + 0.2 * entropy + moved


def read(path: Path) -> tuple[list[Lesson], np.ndarray]:
    """Graphs with smoothed densities, and which of them are for training."""
    lessons = []
    with h5py.File(path) as file:
        cifs, offsets = file["cif"][:], file["dos_offset"][:]
        frequency, dos = file["dos_frequency_cm1"][:].astype(float), file["dos"][:].astype(float)
        train = file["split"][:].astype(str) == "train"
    for k, cif in enumerate(cifs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen on rounded positions
            one = Structure.from_str(cif.decode(), "cif")
        part = slice(offsets[k], offsets[k + 1])
        numbers = np.array([site.specie.Z for site in one])
        lessons.append(
            Lesson(
                graph=graph_of(one.lattice.matrix, one.frac_coords, numbers, SHAPE),
                target=torch.tensor(smoothed(frequency[part], dos[part]), dtype=torch.float32)[
                    None
                ],
            )
        )
    return lessons, train


def ask(network: SiteNetwork, lessons: Sequence[Lesson]) -> np.ndarray:
    out = []
    with torch.no_grad():
        for start in range(0, len(lessons), 64):
            batch = joined([one.graph for one in lessons[start : start + 64]])
            out.append(density(network(batch)[0], batch))
    return torch.cat(out).numpy()


def errors(said: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {
        "mean_squared": round(float(((said - true) ** 2).mean()), 4),
        "mean_absolute": round(float(np.abs(said - true).mean()), 4),
    }


def trained(
    lessons: Sequence[Lesson], seed: int, epochs: int
) -> tuple[SiteNetwork, int, dict[str, float]]:
    """Network of the epoch at which the crystals kept out were told best, and their errors."""
    order = np.random.default_rng(100).permutation(len(lessons))
    out = set(order[seed % KEPT_OUT :: KEPT_OUT].tolist())
    watched = [lessons[k] for k in sorted(out)]
    true = np.concatenate([one.target.numpy() for one in watched])
    best: list[tuple[dict[str, float], int, dict[str, Tensor]]] = []

    def after(state, network):
        found = errors(ask(network, watched), true)
        if not best or found["mean_squared"] < best[0][0]["mean_squared"]:
            kept = {name: value.clone() for name, value in network.state_dict().items()}
            best[:] = [(found, state.epoch, kept)]
        return False

    learned = [one for k, one in enumerate(lessons) if k not in out]
    recipe = replace(RECIPE, epochs=epochs, seed=seed)
    network = train_member(learned, loss, SHAPE, recipe, after=after)
    network.load_state_dict(best[0][2])
    return network.eval(), best[0][1], best[0][0]


def tell(found: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    asked = parser.parse_args()
    lessons, train = read(asked.file)
    learned = [one for one, own in zip(lessons, train, strict=True) if own]
    unseen = [one for one, own in zip(lessons, train, strict=True) if not own]
    true = np.concatenate([one.target.numpy() for one in unseen])
    every = []
    for seed in asked.seeds:
        begun = time.process_time()
        network, epoch, kept_out = trained(learned, seed, asked.epochs)
        every.append(ask(network, unseen))
        told = {
            "seed": seed,
            "epoch": epoch,
            **{f"{name}_kept_out": value for name, value in kept_out.items()},
            **errors(every[-1], true),
            "processor_s": round(time.process_time() - begun),
        }
        tell(told)
    mean = np.mean(every, axis=0)
    told = {"seeds": asked.seeds, "crystals": len(true)}
    tell({**told, "answer": "mean", **errors(mean, true)})
    mean /= mean.max(axis=1, keepdims=True)
    tell({**told, "answer": "mean over its highest value", **errors(mean, true)})


if __name__ == "__main__":
    main()
