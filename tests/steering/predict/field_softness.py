"""How soft force fields are, learned on crystals of a database, and what is left after correction.

    PYTHONPATH=. python -m tests.steering.predict.field_softness phonondb-2018.h5 FOLDER \\
        --fields sevennet-mf-0 --count 50
    PYTHONPATH=. python -m tests.steering.predict.field_softness - FOLDER --table

Crystals of phonondb in a random order, without imaginary modes, of at most so many atoms: those of
formulas of the networks' training part teach, those of the unseen part are measured. Every field
starts from the structure alone; its constants are kept in FOLDER, and what is there is not computed
again. ``--table`` fits `steering/predict/field_softness.yaml` to the former, prints it, and tells
errors of the latter before and after.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulations.dynamics import PairForceConstants, force_constant_model, phonon_dos
from simulations.errors import InputError
from simulations.saved_file import in_one_step
from steering.database.entry import constants_of
from steering.database.phonondb_file import PhonondbFile
from steering.predict.force_field_route import field_constants
from steering.predict.route_comparison import literature_density, mean_energy_meV
from steering.study.direct_targets import part_of

RELAXED = "+cell"  # behind a field's name: the cell relaxed as well
KEPT = ("first", "second", "cell", "tensors")
OF_CRYSTAL = ("lattice", "positions", "conventional_lattice")


def formula_of(elements: tuple[str, ...]) -> str:
    from pymatgen.core import Composition

    return Composition("".join(elements)).reduced_formula


def crystals(path: Path, most_atoms: int, count: int, seed: int = 11):
    """Ids, parts in turn, constants of crystals, and the density of these."""
    source = PhonondbFile(path)
    rows = iter(np.random.default_rng(seed).permutation(len(source.ids)))
    waiting: dict[str, list] = {"train": [], "unseen": []}
    given = dict.fromkeys(waiting, 0)
    while min(given.values()) < count:
        part = min(given, key=lambda one: given[one])
        while not waiting[part]:
            row = next(rows)
            entry = source.entry(int(row))
            atoms = round(len(entry.symbols) * abs(float(np.linalg.det(entry.primitive_matrix))))
            own = part_of(formula_of(tuple(entry.symbols)))
            if atoms > most_atoms or own not in waiting:
                continue
            if len(waiting[own]) + given[own] < count:
                waiting[own].append(entry)
        entry = waiting[part].pop(0)
        try:
            constants = constants_of(entry, "phonondb")
            dos = phonon_dos(force_constant_model(constants.crystal, constants, None))
        except InputError:
            continue
        if dos.imaginary_share > 0:
            continue
        given[part] += 1
        yield entry.id, part, constants, dos


def keep(path: Path, constants: PairForceConstants, **more: object) -> None:
    content = {name: getattr(constants, name) for name in KEPT}
    content |= {name: getattr(constants.crystal, name) for name in OF_CRYSTAL}
    with in_one_step(path) as partial, partial.open("wb") as file:
        np.savez(file, **content, **more)


def gather(path: Path, folder: Path, fields: list[str], most_atoms: int, count: int) -> None:
    for id_, part, constants, dos in crystals(path, most_atoms, count):
        true = folder / f"{id_}.npz"
        if not true.exists():
            card = {"part": part, "elements": constants.crystal.elements}
            card["mean_meV"] = mean_energy_meV(dos)
            keep(true, constants, card=json.dumps(card), density=literature_density(dos))
        for field in fields:
            at = folder / field / f"{id_}.npz"
            if at.exists():
                continue
            at.parent.mkdir(exist_ok=True)
            began = time.process_time()
            card = {}
            try:
                found, repeats = field_constants(
                    constants.crystal,
                    field.removesuffix(RELAXED),
                    keep_cell=not field.endswith(RELAXED),
                )
                card["repeats"] = repeats
            except InputError as error:
                found = replace(constants, tensors=np.full_like(constants.tensors, np.nan))
                card["failed"] = str(error)
            card["seconds"] = time.process_time() - began
            keep(at, found, card=json.dumps(card))
            print(id_, part, formula_of(constants.crystal.elements), field, card, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fields", nargs="+", default=["sevennet-mf-0"])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--most-atoms", type=int, default=10)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    gather(asked.data, asked.folder, asked.fields, asked.most_atoms, asked.count)


if __name__ == "__main__":
    main()
