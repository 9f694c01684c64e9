"""The published two-dimensional recipe beside ours: S(|Q|,E) of crystals that neither has seen.

    PYTHONPATH=. python -m tests.model_server.direct.published_map_errors phonondb-2018.h5 WORK

Truth and crystals are those of `coherent_maps`, which is to be run first; a tenth of the training
part is kept out of learning. The published recipe is `model_server.direct.published_maps` on 100 x
100 bins: an autoencoder of brightened maps, then a network that says latent numbers from the
structure, of the epoch that tells the crystals kept out best. Ours are the maps of the networks
that `published_spectra` trained on the same crystals, their mean, with springs of bonds learned
from these. Scored on the unseen part by the squared error of brightened maps: median and mean over
crystals. What is trained is kept in WORK/maps, and what latent numbers decode to is drawn there
(latent.png). A line of JSON for each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model_server.direct import (
    KINDS,
    SpringBundle,
    SpringLesson,
    SpringRecipe,
    SpringShape,
    ask_members,
    explained,
    load_progressed,
    load_spring_bundle,
    save_progressed,
    site_stiffness,
    train_springs,
)
from model_server.direct.graph import crystal_graph
from model_server.direct.network import SiteNetwork
from model_server.direct.published import PublishedLesson, mean_neighbours, train_published
from model_server.direct.published_maps import (
    LATENT_RECIPE,
    SMALL_GRID,
    LatentNetwork,
    MapAutoencoder,
    brightened,
    darkened,
    decoded_units,
    train_autoencoder,
)
from simulations.arrays import FloatArray
from simulations.errors import InputError
from steering.database.phonondb_file import PhonondbFile
from steering.predict.interference import powder_parts
from steering.predict.vibrations import Vibrations
from steering.study.direct_targets import SiteDensities
from steering.study.spring_training import spring_lesson
from tests.model_server.direct.coherent_maps import (
    ENERGY_EDGES_MEV,
    MAX_ORDER,
    MOMENTUM_EDGES,
    SIGMA_MEV,
    TOLERANCE,
    crystal_of,
    density_of,
    incoherent_map,
    maps_of,
    parts,
    scaled,
)
from tests.model_server.direct.published_spectra import KEPT_OUT, structure_of, tell


def report(who: str, said: FloatArray, true: FloatArray, since: float) -> None:
    errors = ((brightened(said) - brightened(true)) ** 2).mean(axis=(1, 2))
    tell(
        who=who,
        crystals=len(true),
        median_squared=round(float(np.median(errors)), 5),
        mean_squared=round(float(errors.mean()), 5),
        processor_s=round(time.process_time() - since),
    )


# ------------------------------------------------------------------------------------ the published


def autoencoder_of(maps: FloatArray, folder: Path, epochs: int) -> MapAutoencoder:
    """Trained on brightened maps; kept when done."""
    torch.manual_seed(0)
    found, path = MapAutoencoder(SMALL_GRID), folder / "autoencoder.safetensors"
    if path.is_file():
        found.load_state_dict(load_file(path))
        return found.eval()
    bright = torch.as_tensor(brightened(maps), dtype=torch.float32)
    train_autoencoder(found, bright, epochs=epochs, progress=lambda words, _: tell(auto=words))
    save_file(found.state_dict(), path)
    return found


def encoded(autoencoder: MapAutoencoder, maps: FloatArray) -> Tensor:
    bright = torch.as_tensor(brightened(maps), dtype=torch.float32)
    with torch.no_grad():
        return torch.cat([autoencoder.encode(some) for some in bright.split(64)])


def latents_said(network: nn.Module, lessons: Sequence[PublishedLesson]) -> Tensor:
    with torch.no_grad():
        return torch.stack([network(one.graph) for one in lessons])


def published(
    lessons: Sequence[PublishedLesson],
    watched: Sequence[PublishedLesson],
    folder: Path,
    epochs: int,
) -> LatentNetwork:
    """The network of the epoch at which latent numbers of the crystals kept out were told best."""
    torch.manual_seed(0)
    neighbours = mean_neighbours([one.graph for one in lessons])
    network = LatentNetwork(LATENT_RECIPE, neighbours, SMALL_GRID.latent)
    best, at = folder / "best.safetensors", folder / "latents.safetensors"
    true = torch.stack([one.target for one in watched])

    def kept_out() -> float:
        return float(((latents_said(network, watched) - true) ** 2).mean())

    begun, lowest, seconds = load_progressed(at), np.inf, time.process_time()
    if begun is not None:  # what an earlier call found best still counts
        network.load_state_dict(load_file(best))
        lowest = kept_out()

    def after(state) -> None:
        nonlocal lowest, seconds
        now = kept_out()
        if now < lowest:
            lowest = now
            save_file(dict(network.state_dict()), best)
        save_progressed(at, state)
        tell(epoch=state.epoch, kept_out=now, processor_s=time.process_time() - seconds)
        seconds = time.process_time()

    train_published(network, lessons, epochs=epochs, begun=begun, after=after)
    network.load_state_dict(load_file(best))
    return network.eval()


def published_lessons(crystals: Sequence[SiteDensities], latents: Tensor) -> list[PublishedLesson]:
    return [
        PublishedLesson(
            graph=crystal_graph(one.lattice, one.positions, one.numbers, LATENT_RECIPE.reach_A),
            target=latent,
        )
        for one, latent in zip(crystals, latents, strict=True)
    ]


def drawn(autoencoder: MapAutoencoder, latents: Tensor, path: Path) -> None:
    """A picture of what each latent number decodes to."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    units = decoded_units(autoencoder, latents).numpy()
    figure, axes = plt.subplots(5, 10, figsize=(20, 11), sharex=True, sharey=True)
    extent = (MOMENTUM_EDGES[0], MOMENTUM_EDGES[-1], ENERGY_EDGES_MEV[0], ENERGY_EDGES_MEV[-1])
    for k, (axis, unit) in enumerate(zip(axes.ravel(), units, strict=True)):
        most = np.abs(unit).max()
        axis.imshow(unit.T, origin="lower", aspect="auto", extent=extent, cmap="RdBu_r",
                    vmin=-most, vmax=most)  # fmt: skip
        axis.set_title(f"unit {k}, +-{most:.2f}", fontsize=8)
    figure.supxlabel("|Q| (1/angstrom)")
    figure.supylabel("energy transfer (meV)")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)


# ------------------------------------------------------------------------------------------- ours


def springs_of(
    crystals: Sequence[SiteDensities], source: PhonondbFile, folder: Path
) -> SpringBundle:
    """Springs learned from these crystals."""
    if (folder / "springs" / "weights.safetensors").is_file():
        return load_spring_bundle(folder / "springs")
    rows = {str(id_): row for row, id_ in enumerate(source.ids)}
    lessons: list[SpringLesson] = []
    for one in crystals:
        try:
            lessons.append(spring_lesson(source.entry(rows[one.id])))
        except InputError as error:
            tell(left_out=one.id, why=str(error))
    network = train_springs(lessons, SpringShape(), SpringRecipe())
    along, across = explained(network, lessons)
    bundle = SpringBundle(network=network, card={"training": {}, "measured": []})
    tell(springs=len(lessons), along=along, across=across)
    bundle.save(folder / "springs")
    return bundle


def networks_of(folder: Path, members: int, cycle: int) -> list[SiteNetwork]:
    """What `published_spectra` has trained of ours."""
    found = []
    for k in range(members):
        kind = KINDS[k % len(KINDS)]
        state = load_progressed(folder / f"ours{k}-cycle{cycle}.safetensors")
        assert state is not None
        network = SiteNetwork(kind.shape)
        network.load_state_dict(
            {n[len("mean.") :]: v for n, v in state.tensors.items() if n.startswith("mean.")},
            strict=False,
        )
        found.append(network.eval())
    return found


def our_map(one: SiteDensities, shares: FloatArray, bundle: SpringBundle) -> FloatArray:
    """As route direct makes it."""
    vibrations = Vibrations(
        crystal=crystal_of(one), dos=density_of(shares), model=None, route={}, approximations=(),
        stiffness=site_stiffness(shares, one.numbers),
    )  # fmt: skip
    found, _ = powder_parts(
        vibrations, MOMENTUM_EDGES, ENERGY_EDGES_MEV, temperature_K=0.0,
        sigma_of=lambda energy: np.full(np.shape(energy), SIGMA_MEV), ei_meV=1e6,
        max_order=MAX_ORDER, bundle=bundle,
    )  # fmt: skip
    return scaled(found.coherent + found.incoherent + found.multiphonon)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--crystals", type=int, default=1500)
    parser.add_argument("--members", type=int, default=3, help="of ours")
    parser.add_argument("--cycle", type=int, default=2, help="of our networks, from 0")
    parser.add_argument("--auto-epochs", type=int, default=150)
    parser.add_argument("--published-epochs", type=int, default=15)
    parser.add_argument("--only", choices=("ours", "published"))
    asked = parser.parse_args()
    source, given = PhonondbFile(asked.data), parts(asked.work, asked.crystals)
    folder = asked.work / "maps"
    unseen, true = maps_of(given["unseen"], source, folder / "unseen", TOLERANCE["unseen"])
    out = {
        given["train"][k].id
        for k in np.random.default_rng(0).permutation(len(given["train"]))[::KEPT_OUT]
    }
    if asked.only != "published":
        score_ours(given["train"], unseen, true, out, source, folder, asked)
    if asked.only != "ours":
        score_published(given["train"], unseen, true, out, source, folder, asked)


def score_ours(train, unseen, true, out, source, folder, asked) -> None:
    begun = time.process_time()
    learned = [one for one in train if one.id not in out]
    bundle = springs_of(learned, source, folder)
    networks = networks_of(asked.work / f"published-{asked.crystals}", asked.members, asked.cycle)
    members = [
        [ask_members([own], *structure_of(one)).shares for own in networks] for one in unseen
    ]

    def mean(make) -> FloatArray:
        """Of brightened maps of each network."""
        return np.array(
            [
                darkened(np.mean([brightened(make(one, own)) for own in shares], axis=0))
                for one, shares in zip(unseen, members, strict=True)
            ]
        )

    report("ours", mean(lambda one, shares: our_map(one, shares, bundle)), true, begun)
    report("ours, incoherent", mean(incoherent_map), true, begun)
    exact = np.array([our_map(one, one.shares, bundle) for one in unseen])
    report("springs at true densities", exact, true, begun)
    exact = np.array([incoherent_map(one, one.shares) for one in unseen])
    report("incoherent at true densities", exact, true, begun)


def score_published(train, unseen, true, out, source, folder, asked) -> None:
    begun = time.process_time()
    some, maps = maps_of(train, source, folder / "train", TOLERANCE["train"])
    learns = np.array([one.id not in out for one in some])
    autoencoder = autoencoder_of(maps[learns], folder, asked.auto_epochs)
    latents = encoded(autoencoder, maps)
    drawn(autoencoder, latents[learns], folder / "latent.png")
    mean, spread = latents[learns].mean(dim=0), latents[learns].std(dim=0).clamp_min(1e-6)
    lessons = published_lessons(some, (latents - mean) / spread)
    network = published(
        [one for one, own in zip(lessons, learns, strict=True) if own],
        [one for one, own in zip(lessons, learns, strict=True) if not own],
        folder,
        asked.published_epochs,
    )
    blank = published_lessons(unseen, torch.zeros(len(unseen), SMALL_GRID.latent))
    with torch.no_grad():
        said = autoencoder.decode(latents_said(network, blank) * spread + mean).numpy()
        kept = autoencoder.decode(encoded(autoencoder, true)).numpy()
    report("published", darkened(said), true, begun)
    report("autoencoder alone", darkened(kept), true, begun)
    average = darkened(brightened(maps[learns]).mean(axis=0))
    report("mean of the training part", np.broadcast_to(average, true.shape), true, begun)


if __name__ == "__main__":
    main()
