"""Train, calibrate and measure the members of the direct route on a database of phonons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_server.direct import (
    KINDS,
    LEVEL,
    Calibration,
    DirectBundle,
    Judged,
    Kind,
    Lesson,
    Progressed,
    Recipe,
    Shape,
    SiteNetwork,
    ask_members,
    calibrate,
    covered,
    energy_edges_meV,
    graph_of,
    load_progressed,
    on_literature_points,
    save_progressed,
    train_member,
)
from simulations.arrays import FloatArray
from simulations.dynamics import PhononDos, heat_capacity
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.study.direct_targets import SiteDensities, part_of
from steering.study.direct_targets_store import Targets, make_targets, read_targets

LEAST_CRYSTALS = 300
_TARGETS = 0.4  # of the work, about


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectTraining:
    """What is to be trained."""

    crystals: int = 1500
    members: int = 2  # each of the next kind, then of the first again
    cycles: int = 3  # of the rate, that each member goes through
    epochs: int = 12  # of each cycle
    seed: int = 0
    device: str = "cpu"
    kinds: tuple[Kind, ...] = KINDS


def train_direct(
    data: Path | None,
    output: Path,
    work: Path,
    training: DirectTraining,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make the bundle of the direct route, or go on with one that was interrupted.

    A member goes through several cycles of the rate, each from where the one before ended.

    Site densities and the state after every epoch are kept in ``work``; the same options, the same
    bundle, interrupted or not.

    Parameters
    ----------
    data : Path or None
        A phonon database in one HDF5 file, or a folder of phonopy files; None: what ``work`` has.
    output : Path
        Folder for the bundle.
    work : Path
        Folder for what lies between.
    training : DirectTraining
    progress : callable
        Told how far it is, and when a part will end.

    Returns
    -------
    dict
        The card of the bundle.

    Raises
    ------
    InputError
        If the data cannot be read, hold too few crystals, or ``work`` was begun with others.
    StorageError
        If there is no room. Make some and go on.

    References
    ----------
    G. Huang et al., arXiv:1704.00109 (2017), section 3.
    """
    targets = _targets(data, work / "targets", training, progress)
    parts = parts_of(targets.crystals)
    networks = tuple(
        _member(k, parts["train"], work, training, progress) for k in range(training.members)
    )
    progress("calibrating and measuring", 0.95)
    bundle = finished(networks, parts, _words(targets, parts, training))
    bundle.save(output)
    progress("done", 1.0)
    return dict(bundle.card)


def _member(
    number: int,
    crystals: Sequence[SiteDensities],
    work: Path,
    training: DirectTraining,
    progress: Progress,
) -> SiteNetwork:
    """Train a member from random weights, or go on with it."""
    kind = training.kinds[number % len(training.kinds)]
    again = number // len(training.kinds)
    lessons = _lessons(crystals, kind.shape)
    width = (0.95 - _TARGETS) / (training.members * training.cycles)
    networks: list[SiteNetwork] = []
    for cycle in range(training.cycles):
        path = work / f"member{number}-cycle{cycle}.safetensors"
        begun = load_progressed(path)
        if begun is not None and begun.epoch > training.epochs:
            raise InputError(
                f"epochs is {training.epochs}, but cycle {cycle + 1} of member {number + 1} in "
                f"{work} has been trained for {begun.epoch}; expected at least as many, or another "
                "folder for the work"
            )
        one = train_member(
            lessons,
            kind.loss,
            kind.shape,
            Recipe(epochs=training.epochs, seed=training.seed + training.cycles * again + cycle),
            start=networks[-1] if networks else None,
            device=training.device,
            begun=begun,
            after=_keeper(path),
            progress=_part(
                progress,
                f"member {number + 1} of {training.members}, cycle {cycle + 1} of "
                f"{training.cycles}: ",
                _TARGETS + width * (number * training.cycles + cycle),
                width,
            ),
        )
        networks.append(one)
    return networks[-1]


def _keeper(path: Path) -> Callable[[Progressed, SiteNetwork], bool]:
    def keep(state: Progressed, network: SiteNetwork) -> bool:
        del network
        save_progressed(path, state)
        return False

    return keep


def _part(progress: Progress, title: str, begin: float, width: float) -> Progress:
    return lambda message, done: progress(title + message, begin + width * done)


def _targets(
    data: Path | None, folder: Path, training: DirectTraining, progress: Progress
) -> Targets:
    if data is None:
        targets = read_targets(folder)
        targets = Targets(
            crystals=targets.crystals[: training.crystals],
            looked_at=targets.looked_at,
            aside=targets.aside,
        )
    else:
        targets = make_targets(
            data,
            folder,
            crystals=training.crystals,
            seed=training.seed,
            progress=_part(progress, "", 0.0, _TARGETS),
        )
    if len(targets.crystals) < LEAST_CRYSTALS:
        told = ", ".join(f"{n} {why}" for why, n in targets.aside.items()) or "none left out"
        raise InputError(
            f"data: {len(targets.crystals)} crystals of use ({told}); expected at least "
            f"{LEAST_CRYSTALS}. Take a larger database, or raise --crystals"
        )
    return targets


def parts_of(crystals: Sequence[SiteDensities]) -> dict[str, list[SiteDensities]]:
    """Crystals by part; a formula is in one part alone."""
    parts: dict[str, list[SiteDensities]] = {"train": [], "calibration": [], "unseen": []}
    for one in crystals:
        parts[part_of(one.formula)].append(one)
    return parts


def _lessons(crystals: Sequence[SiteDensities], shape: Shape) -> list[Lesson]:
    return [
        Lesson(
            graph=graph_of(one.lattice, one.positions, one.numbers, shape),
            target=torch.as_tensor(one.shares, dtype=torch.float32),
        )
        for one in crystals
    ]


def _judged(networks: tuple[SiteNetwork, ...], crystals: Sequence[SiteDensities]) -> list[Judged]:
    return [
        Judged(
            said=ask_members(networks, one.lattice, one.positions, one.numbers),
            true=one.shares.mean(axis=0),
            numbers=one.numbers,
        )
        for one in crystals
    ]


def finished(
    networks: tuple[SiteNetwork, ...],
    parts: dict[str, list[SiteDensities]],
    words: dict[str, Any],
) -> DirectBundle:
    """Calibrate trained members, measure them on unseen formulas, and bundle all of it."""
    latent = [
        ask_members(networks[:1], one.lattice, one.positions, one.numbers).latent
        for one in parts["train"]
    ]
    calibration = calibrate(
        _judged(networks, parts["calibration"]),
        latent,
        [one.numbers for one in parts["train"]],
        most_atoms=max(len(one.numbers) for some in parts.values() for one in some),
    )
    measured = measured_on(calibration, _judged(networks, parts["unseen"]), parts["unseen"])
    return DirectBundle(
        networks=networks,
        calibration=calibration,
        card={
            "name": f"{len(networks)} networks, phonondb",
            "training": words,
            "measured": [{"what": what, "figure": figure} for what, figure in measured],
        },
    )


def measured_on(
    calibration: Calibration, judged: Sequence[Judged], crystals: Sequence[SiteDensities]
) -> list[tuple[str, str]]:
    """Figures on crystals that took no part in training or calibration, in words."""
    said = np.array([on_literature_points(one.said.total) for one in judged])
    true = np.array([on_literature_points(one.true) for one in judged])
    absolute = np.abs(said - true).mean(axis=1)
    cover = np.array([covered(calibration, one) for one in judged])
    far = np.array([calibration.is_far(one.said, one.numbers) for one in judged])
    sites = np.array(
        [
            0.5 * np.abs(one.said.shares - crystal.shares).sum(axis=1).mean()
            for one, crystal in zip(judged, crystals, strict=True)
        ]
    )
    rows = [
        ("unseen crystals, no formula of training or calibration", f"{len(judged)}"),
        ("density over its highest value at 51 points: mean absolute error",
         f"{absolute.mean():.4f}, median {np.median(absolute):.4f}"),
        ("the same: mean squared error", f"{((said - true) ** 2).mean():.4f}"),
        ("share of a site's modes in a wrong bin of 1.24 meV, mean", f"{sites.mean():.3f}"),
        (f"bands that say {LEVEL:.0%} hold", f"{cover.mean():.1%} of intensities, "
         f"{np.mean(cover >= 0.8):.0%} of crystals have 80 % or more inside"),
        ("called far from training", f"{far.mean():.1%}"),
    ]  # fmt: skip
    for kelvin in (100.0, 300.0):
        own = np.array([_capacity(one.said.total, kelvin) for one in judged])
        right = np.array([_capacity(one.true, kelvin) for one in judged])
        rows.append(
            (
                f"heat capacity at {kelvin:g} K, median error",
                f"{100 * np.median(np.abs(own / right - 1)):.2f} % "
                f"(a constant 3R: {100 * np.median(np.abs(3 / right - 1)):.2f} %)",
            )
        )
    for name, belongs in CLASSES.items():
        chosen = np.array([belongs(one) for one in crystals])
        if chosen.any():
            rows.append(
                (
                    f"{name}: crystals, mean absolute error, coverage",
                    f"{chosen.sum()}, {absolute[chosen].mean():.4f}, {cover[chosen].mean():.1%}",
                )
            )
    return rows


def _capacity(shares: FloatArray, temperature_K: float) -> float:
    """Heat capacity per atom in Boltzmann constants, at most 3."""
    edges = energy_edges_meV()
    dos = PhononDos(
        energy_edges_meV=edges,
        partial=(3 * shares / np.diff(edges))[None],
        imaginary_share=0.0,
    )
    return heat_capacity(dos, temperature_K)


def _holds(*numbers: int) -> Callable[[SiteDensities], bool]:
    return lambda one: bool(np.isin(one.numbers, numbers).any())


CLASSES: dict[str, Callable[[SiteDensities], bool]] = {
    "hydrogenous": _holds(1),
    "oxides": _holds(8),
    "fluorides, chlorides, bromides, iodides": _holds(9, 17, 35, 53),
    "sulphides, selenides, tellurides": _holds(16, 34, 52),
    "none of these": lambda one: not _holds(1, 8, 9, 17, 35, 53, 16, 34, 52)(one),
    "up to 4 atoms": lambda one: len(one.numbers) <= 4,
    "5 to 20 atoms": lambda one: 5 <= len(one.numbers) <= 20,
    "more than 20 atoms": lambda one: len(one.numbers) > 20,
}


def _words(
    targets: Targets, parts: dict[str, list[SiteDensities]], training: DirectTraining
) -> dict[str, Any]:
    """What a card says of the training."""
    return {
        "crystals for training": len(parts["train"]),
        "crystals for calibration": len(parts["calibration"]),
        "entries looked at": targets.looked_at,
        "left out": ", ".join(f"{n} {why}" for why, n in sorted(targets.aside.items())) or "none",
        "split": "by a hash of the reduced formula, 80:10:10",
        "members": "; ".join(
            training.kinds[k % len(training.kinds)].words for k in range(training.members)
        ),
        "cycles of each": training.cycles,
        "epochs of a cycle": training.epochs,
        "seed": training.seed,
        "torch": torch.__version__,
    }
