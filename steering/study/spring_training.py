"""Train the network that reads how stiff bonds are on a database of phonons."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_server.direct import (
    SPRING_REACH_A,
    Bonds,
    SpringBundle,
    SpringLesson,
    SpringRecipe,
    SpringShape,
    explained,
    train_springs,
)
from simulations.crystal import atomic_numbers
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.database import Entry, constants_of, open_source
from steering.study.direct_targets import MOST_ATOMS, part_of

LEAST_CRYSTALS = 100
_READING = 0.5  # of the work, about


@dataclass(frozen=True, kw_only=True, slots=True)
class SpringTraining:
    """What is to be trained."""

    crystals: int = 1500  # of formulas of the training part
    epochs: int = 25
    seed: int = 0


def spring_lesson(entry: Entry) -> SpringLesson:
    """Bonds of an entry and how stiff they are.

    Raises
    ------
    InputError
        If the entry is bad, too large, or a site is not held.
    """
    atoms = round(len(entry.symbols) * abs(float(np.linalg.det(entry.primitive_matrix))))
    if atoms > MOST_ATOMS:
        raise InputError(f"{atoms} atoms in the primitive cell; expected at most {MOST_ATOMS}")
    constants = constants_of(entry, "entry")
    stiffness = np.trace(constants.onsite(), axis1=1, axis2=2) / 3
    if not stiffness.min() > 0:
        raise InputError("a site is not held by its bonds; expected positive on-site constants")
    short = constants.lengths <= SPRING_REACH_A
    way = constants.vectors[short] / constants.lengths[short, None]
    along = np.einsum("bi,bij,bj->b", way, constants.tensors[short], way)
    across = (np.trace(constants.tensors[short], axis1=1, axis2=2) - along) / 2
    first, second = constants.first[short], constants.second[short]
    root = np.sqrt(stiffness[first] * stiffness[second])
    return SpringLesson(
        bonds=Bonds(
            numbers=atomic_numbers(constants.crystal),
            first=first,
            second=second,
            length_A=constants.lengths[short],
        ),
        stiffness=stiffness,
        target=np.stack([along, across], axis=1) / root[:, None],
    )


def train_springs_on(
    data: Path, output: Path, training: SpringTraining, progress: Progress = silent
) -> dict[str, Any]:
    """Make the bundle of springs; the same options, the same bundle.

    Entries are taken in an order that the seed draws; formulas are split as for the direct route.
    What the card says is measured on the unseen part.

    Parameters
    ----------
    data : Path
        A phonon database in one HDF5 file, or a folder of phonopy files.
    output : Path
        Folder for the bundle.
    training : SpringTraining
    progress : callable

    Returns
    -------
    dict
        The card of the bundle.

    Raises
    ------
    InputError
        If the data cannot be read or hold too few crystals.
    StorageError
        If there is no room for the bundle.
    """
    parts, aside = _lessons(data, training, progress)
    taught, unseen = parts["train"], parts["unseen"]
    if len(taught) < LEAST_CRYSTALS or not unseen:
        raise InputError(
            f"data: {len(taught)} crystals of use for training, {len(unseen)} to measure on "
            f"({aside} entries left out); expected at least {LEAST_CRYSTALS} and 1. Take a larger "
            "database"
        )
    network = train_springs(
        taught,
        SpringShape(),
        SpringRecipe(epochs=training.epochs, seed=training.seed),
        lambda words, share: progress(words, _READING + (1 - _READING) * share),
    )
    along, across = explained(network, unseen)
    bundle = SpringBundle(
        network=network,
        card={
            "name": "springs, phonondb",
            "training": {
                "crystals for training": len(taught),
                "bonds": int(sum(len(one.target) for one in taught)),
                "entries left out": aside,
                "epochs": training.epochs,
                "seed": training.seed,
                "command": f"beamsteer train-springs --crystals {training.crystals} "
                f"--epochs {training.epochs} --seed {training.seed}",
            },
            "measured": [
                {"what": "unseen crystals", "figure": str(len(unseen))},
                {"what": "stiffness along bonds, R2", "figure": f"{along:.3f}"},
                {"what": "stiffness across bonds, R2", "figure": f"{across:.3f}"},
            ],
        },
    )
    bundle.save(output)
    progress("done", 1.0)
    return dict(bundle.card)


def _lessons(
    data: Path, training: SpringTraining, progress: Progress
) -> tuple[dict[str, list[SpringLesson]], int]:
    """Lessons by part, and how many entries were left out."""
    from pymatgen.core import Composition

    source = open_source(data.resolve())
    parts: dict[str, list[SpringLesson]] = {"train": [], "calibration": [], "unseen": []}
    aside, begun = 0, time.monotonic()
    for row in np.random.default_rng(training.seed).permutation(len(source.ids)):
        done = len(parts["train"])
        if done >= training.crystals:
            break
        try:
            entry = source.entry(int(row))
            part = part_of(Composition("".join(entry.symbols)).reduced_formula)
            if part != "calibration":
                parts[part].append(spring_lesson(entry))
        except (OSError, MemoryError):
            raise
        except Exception:  # libraries raise many kinds for bad numbers
            aside += 1
        left = (time.monotonic() - begun) / max(1, done) * (training.crystals - done)
        progress(
            f"bonds: {done} of {training.crystals} crystals, {left / 60:.0f} min left",
            _READING * done / training.crystals,
        )
    return parts, aside
