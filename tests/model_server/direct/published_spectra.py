"""The published one-dimensional recipe beside ours: S(E) of crystals that neither has seen.

    PYTHONPATH=. python -m tests.model_server.direct.published_spectra WORK --crystals 1500

WORK is the folder that `beamsteer train-direct --work` has filled with site densities. Truth is
S(E) of VISION at 10 K, both banks, fundamentals, overtones and combinations without the elastic
line, in 120 bins of 10 cm^-1 over the highest value, by the project's physics from the site
densities of the database. Both learn from the same crystals, of formulas of the training part: the
published network from S(E), ours from the site densities, with the physics behind them. A tenth
of these is kept out of learning and says which epoch of the published network is taken; ours take
their last. Ours is the mean of the spectra of a network of each kind, after some cycles of the
rate; it was chosen on the crystals kept out, before the spectrum of their mean densities.
Scored on the unseen part: squared error of each crystal, its mean and median. When it is
interrupted it goes on behind the last epoch. A line of JSON for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import periodictable
import torch
from safetensors.torch import load_file, save_file

from model_server.direct import (
    KINDS,
    Lesson,
    Progressed,
    Recipe,
    SiteNetwork,
    ask_members,
    energy_edges_meV,
    graph_of,
    load_progressed,
    save_progressed,
    train_member,
)
from model_server.direct.graph import crystal_graph
from model_server.direct.published import (
    EDGES_MEV,
    PublishedLesson,
    PublishedNetwork,
    PublishedRecipe,
    mean_neighbours,
    train_published,
)
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import PhononDos
from simulations.saved_file import in_one_step
from simulations.scattering import vibrational_spectrum
from steering.study.direct_targets import SiteDensities
from steering.study.direct_targets_store import read_targets
from steering.study.direct_training import parts_of

KELVIN = 10.0
KEPT_OUT = 10  # a crystal of so many


def spectrum_of(one: SiteDensities, shares: np.ndarray) -> np.ndarray:
    """S(E) over its highest value of a crystal whose sites have these shares, (120,)."""
    table = periodictable.elements
    symbols = tuple(table[int(z)].symbol for z in one.numbers)
    edges = energy_edges_meV()
    found = vibrational_spectrum(
        crystal_from_cells(one.lattice, one.positions, symbols, one.lattice),
        PhononDos(
            energy_edges_meV=edges,
            partial=3.0 * shares / np.diff(edges),
            imaginary_share=0.0,
        ),
        EDGES_MEV,
        temperature_K=KELVIN,
        instrument="VISION",
    )
    total = found.orders[:, 1:].sum(axis=(0, 1))
    return total / total.max()


def structure_of(one: SiteDensities) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return one.lattice, one.positions, one.numbers


def spectra_of(crystals: Sequence[SiteDensities], path: Path) -> np.ndarray:
    """True S(E) of each, kept in a file."""
    if path.is_file():
        with np.load(path) as kept:
            if list(kept["ids"]) == [one.id for one in crystals]:
                return kept["spectra"]
    spectra = np.array([spectrum_of(one, one.shares) for one in crystals])
    with in_one_step(path) as partial, partial.open("wb") as file:
        np.savez(file, ids=np.array([one.id for one in crystals]), spectra=spectra)
    return spectra


def published_lessons(
    crystals: Sequence[SiteDensities], spectra: np.ndarray
) -> list[PublishedLesson]:
    reach = PublishedRecipe().reach_A
    return [
        PublishedLesson(
            graph=crystal_graph(one.lattice, one.positions, one.numbers, reach),
            target=torch.as_tensor(spectrum, dtype=torch.float32),
        )
        for one, spectrum in zip(crystals, spectra, strict=True)
    ]


def read(network: PublishedNetwork, lessons: Sequence[PublishedLesson]) -> np.ndarray:
    with torch.no_grad():
        return np.array([network(one.graph).numpy() for one in lessons])


def squared(said: np.ndarray, true: np.ndarray) -> np.ndarray:
    return ((said - true) ** 2).mean(axis=1)


def tell(**found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def published(
    lessons: Sequence[PublishedLesson],
    watched: Sequence[PublishedLesson],
    folder: Path,
    epochs: int,
) -> PublishedNetwork:
    """The network of the epoch at which the crystals kept out were told best."""
    best, at = folder / "best.safetensors", folder / "training.safetensors"
    log = folder / "log.json"
    told: list[float] = json.loads(log.read_text()) if log.is_file() else []
    true = np.array([one.target.numpy() for one in watched])
    begun, seconds = load_progressed(at), time.process_time()
    told = told[: 0 if begun is None else begun.epoch]  # the log is written first

    torch.manual_seed(0)
    network = PublishedNetwork(PublishedRecipe(), mean_neighbours([one.graph for one in lessons]))

    def after(state):
        nonlocal seconds
        now = float(squared(read(network, watched), true).mean())
        if not told or now < min(told):
            save_file(dict(network.state_dict()), best)
        told.append(now)
        log.write_text(json.dumps(told))
        save_progressed(at, state)
        tell(epoch=state.epoch, kept_out=now, processor_s=time.process_time() - seconds)
        seconds = time.process_time()

    train_published(network, lessons, epochs=epochs, begun=begun, after=after)
    network.load_state_dict(load_file(best))
    return network.eval()


def ours(
    crystals: Sequence[SiteDensities], folder: Path, members: int, cycles: int, epochs: int
) -> list[SiteNetwork]:
    """The last network of each member: of all kinds in turn, from other weights."""
    networks = []
    for k in range(members):
        kind, again = KINDS[k % len(KINDS)], k // len(KINDS)
        lessons = [
            Lesson(
                graph=graph_of(one.lattice, one.positions, one.numbers, kind.shape),
                target=torch.as_tensor(one.shares, dtype=torch.float32),
            )
            for one in crystals
        ]
        network = None
        for cycle in range(cycles):
            path = folder / f"ours{k}-cycle{cycle}.safetensors"

            def keep(state: Progressed, network: SiteNetwork, path: Path = path) -> bool:
                del network
                save_progressed(path, state)
                return False

            network = train_member(
                lessons,
                kind.loss,
                kind.shape,
                Recipe(epochs=epochs, seed=cycles * again + cycle),
                start=network,
                begun=load_progressed(path),
                after=keep,
            )
        assert network is not None
        networks.append(network)
    return networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--crystals", type=int, default=1500)
    parser.add_argument("--members", type=int, default=3, help="of ours, kinds in turn")
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60, help="of each cycle")
    parser.add_argument("--published-epochs", type=int, default=60)
    asked = parser.parse_args()
    parts = parts_of(read_targets(asked.work / "targets").crystals)
    folder = asked.work / f"published-{asked.crystals}"
    folder.mkdir(exist_ok=True)
    some, unseen = parts["train"][: asked.crystals], parts["unseen"]
    spectra, true = (
        spectra_of(one, folder / f"{name}.npz")
        for name, one in (("train", some), ("unseen", unseen))
    )
    out = set(np.random.default_rng(0).permutation(len(some))[::KEPT_OUT].tolist())
    learned = [k for k in range(len(some)) if k not in out]

    begun = time.process_time()
    networks = ours([some[k] for k in learned], folder, asked.members, asked.cycles, asked.epochs)
    said = np.array(
        [
            np.mean(
                [
                    spectrum_of(one, ask_members([own], *structure_of(one)).shares)
                    for own in networks
                ],
                axis=0,
            )
            for one in unseen
        ]
    )
    epochs = asked.cycles * asked.epochs
    report("ours, a network of each kind", said, true, epochs=epochs, since=begun)

    lessons = published_lessons(some, spectra)
    begun = time.process_time()
    network = published(
        [lessons[k] for k in learned],
        [lessons[k] for k in sorted(out)],
        folder,
        asked.published_epochs,
    )
    said = read(network, published_lessons(unseen, true))
    report("published", said, true, epochs=asked.published_epochs, since=begun)
    mean = np.broadcast_to(spectra.mean(axis=0), true.shape)
    report("mean of the training part", mean, true, epochs=0, since=time.process_time())


def report(who: str, said: np.ndarray, true: np.ndarray, *, epochs: int, since: float) -> None:
    errors = squared(said, true)
    tell(
        who=who,
        crystals=len(true),
        mean_squared=round(float(errors.mean()), 5),
        median_squared=round(float(np.median(errors)), 5),
        epochs=epochs,
        processor_s=round(time.process_time() - since),
    )


if __name__ == "__main__":
    main()
