"""How soft force fields are, learned on crystals of a database, and what is left after correction.

    PYTHONPATH=. python -m tests.steering.predict.field_softness phonondb-2018.h5 FOLDER \\
        --fields sevennet-mf-0 --count 50
    PYTHONPATH=. python -m tests.steering.predict.field_softness phonondb-2018.h5 FOLDER --table

Crystals of phonondb in a random order, without imaginary modes, of at most so many atoms: those of
formulas of the networks' training part teach, those of the unseen part are measured. Every field
starts from the structure alone; its constants are kept in FOLDER, and what is there is not computed
again. ``--table`` learns from the former, tells errors of the latter before and after, and prints
`steering/predict/field_softness.yaml`. An equation of every atom: the trace of its on-site
constants, true over the field's, is what factors of its bonds make of it; so the factors of pairs
of elements are least squares, robust, with a penalty on what elements have of their own. Crystals
in which the field finds imaginary modes neither teach nor are measured.

    PYTHONPATH=. python -m tests.steering.predict.field_softness phonondb-2018.h5 FOLDER --alone

measures crystals of one element, of which the database has few and fields are softer than of
compounds: germanium and niobium (built in), aluminium (density functional theory) and vanadium
(measured density of states, both in the folder ``powder`` beside the database), silicon, selenium
and a carbon of phonondb, by the second moment of the density of states; and twelve metals by what
neutrons found at the boundary of their zones (`METALS`). What ships is the mean of the logarithms
beside what compounds have in common; energies when corrected are told of each by the others, and
nine in ten of these ship.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from simulations.constants import MEV_PER_THZ
from simulations.crystal import read_crystal
from simulations.dynamics import (
    PairForceConstants,
    PhononDos,
    force_constant_model,
    modes,
    phonon_dos,
    read_force_constants,
)
from simulations.errors import InputError
from simulations.saved_file import in_one_step
from steering.database.entry import constants_of
from steering.database.phonondb_file import PhonondbFile
from steering.predict.field_softness_file import FieldSoftness, softness_of, stiffened
from steering.predict.force_field_route import field_constants
from steering.predict.route_comparison import literature_density, mean_energy_meV
from steering.study.direct_targets import part_of

RELAXED = "+cell"  # behind a field's name: the cell relaxed as well
USUAL = 0.1  # of a logarithm
KEPT = ("first", "second", "cell", "tensors", "supercell")
ALONE = ("mp-149", "mp-147", "mp-990448")  # silicon, selenium, carbon
METALS = {  # lattice at room temperature, angstrom; THz at X, transverse and longitudinal, or at H
    "Cu": (3.615, 5.13, 7.25),  # Svensson et al., Phys. Rev. 155, 619 (1967)
    "Ni": (3.524, 6.27, 8.55),  # Birgeneau et al., Phys. Rev. 136, A1359 (1964)
    "Ag": (4.086, 3.40, 4.98),  # Kamitakahara and Brockhouse, Phys. Lett. A 29, 639 (1969)
    "Au": (4.078, 2.75, 4.61),  # Lynn et al., Phys. Rev. B 8, 3493 (1973)
    "Pd": (3.891, 4.64, 6.72),  # Miiller and Brockhouse, Can. J. Phys. 49, 704 (1971)
    "Pt": (3.924, 3.84, 5.80),  # Dutton et al., Can. J. Phys. 50, 2915 (1972)
    "Pb": (4.950, 0.89, 1.86),  # Brockhouse et al., Phys. Rev. 128, 1099 (1962)
    "Fe": (2.867, 8.56),  # Minkiewicz et al., Phys. Rev. 162, 528 (1967)
    "W": (3.165, 5.50),  # Chen and Brockhouse, Solid State Commun. 2, 73 (1964)
    "Mo": (3.147, 5.51),  # Woods and Chen, Solid State Commun. 2, 233 (1964)
    "Ta": (3.301, 5.03),  # Woods, Phys. Rev. 136, A781 (1964)
    "Na": (4.280, 3.58),  # Woods et al., Phys. Rev. 128, 1112 (1962)
}
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


# ---------------------------------------------------------------------------------- what is learned


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What FOLDER has of a crystal and a field."""

    id: str
    part: str
    field: PairForceConstants
    stiffness: np.ndarray  # (atoms,) traces of on-site constants, true ones
    density: np.ndarray  # true
    mean_meV: float  # true


def kept(folder: Path, field: str, source: PhonondbFile) -> tuple[list[Kept], list[str]]:
    """Crystals that a field could do, and why not the others."""
    rows = {str(id_): row for row, id_ in enumerate(source.ids)}
    found, failed = [], []
    for at in sorted((folder / field).glob("*.npz")):
        with np.load(at) as own, np.load(folder / at.name) as true:
            told, card = json.loads(str(own["card"])), json.loads(str(true["card"]))
            if "failed" in told:
                failed.append(f"{at.stem}: {told['failed']}")
                continue
            asis = constants_of(source.entry(rows[at.stem]), "phonondb")
            crystal = replace(asis.crystal, **{name: own[name] for name in OF_CRYSTAL})
            mine = PairForceConstants(crystal=crystal, **{name: own[name] for name in KEPT})
            found.append(
                Kept(
                    id=at.stem, part=card["part"], field=mine, stiffness=traces(asis.onsite()),
                    density=true["density"], mean_meV=card["mean_meV"],
                )
            )  # fmt: skip
    return found, failed


def traces(tensors: np.ndarray) -> np.ndarray:
    return np.trace(tensors, axis1=1, axis2=2)


def equations(one: Kept, elements: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """For each atom: what takes part in its stiffness, first order, and ln of true over own."""
    own = traces(one.field.onsite())
    at = [elements.index(symbol) for symbol in one.field.crystal.elements]
    left = np.zeros((len(at), 1 + len(elements)))
    left[:, 0] = 1.0
    np.add.at(left, (np.arange(len(at)), 1 + np.array(at)), 1.0)
    shares = -traces(one.field.tensors) / own[one.field.first]
    np.add.at(left, (one.field.first, 1 + np.array(at)[one.field.second]), shares)
    return left, np.log(np.maximum(one.stiffness, 0.05 * own) / own)


def learned(taught: Sequence[Kept], penalty: float) -> tuple[float, dict[str, float]]:
    """Common and elements' logarithms, the latter with a penalty; a crystal counts as one.

    Atoms that are off by more than `USUAL` count less, as Huber's loss has it.
    """
    elements = sorted({symbol for one in taught for symbol in one.field.crystal.elements})
    all_equations = [equations(one, elements) for one in taught]
    found = np.zeros(1 + len(elements))
    for _ in range(30):
        normal, right = np.diag([1e-9] + [penalty] * len(elements)), np.zeros(len(found))
        for left, log in all_equations:
            off = np.abs(log - left @ found)
            weighted = left * np.minimum(1.0, USUAL / np.maximum(off, 1e-9))[:, None] / len(log)
            normal += weighted.T @ left
            right += weighted.T @ log
        found = np.linalg.solve(normal, right)
    common, *own = found.tolist()
    return common, dict(zip(elements, own, strict=True))


def judged(one: Kept, common: float, elements: dict[str, float]) -> tuple[float, float] | None:
    """Error of the density and mean energy over the true one minus 1; None: imaginary modes."""
    of = FieldSoftness(
        field="", common=common, elements=elements, taught=0, measured=0, energies=(0, 0),
        energies_before=(0, 0), density=0, density_before=0, alone=0.0, alone_taught=0,
        alone_energies=(0, 0),
    )  # fmt: skip
    constants = stiffened(one.field, of)
    dos = phonon_dos(force_constant_model(constants.crystal, constants, None))
    if dos.imaginary_share > 0:
        return None
    off = float(np.abs(literature_density(dos) - one.density).mean())
    return off, mean_energy_meV(dos) / one.mean_meV - 1


def table(path: Path, folder: Path, fields: list[str], penalty: float) -> None:
    source, shipped = PhonondbFile(path), {}
    for field in fields:
        crystals, failed = kept(folder, field, source)
        taught = [one for one in crystals if one.part == "train" and judged(one, 0.0, {})]
        others = [one for one in crystals if one.part == "unseen"]
        common, elements = learned(taught, penalty)
        row = {"common": round(common, 4), "taught": len(taught)}
        for name, how in (("_before", (0.0, {})), ("", (common, elements))):
            found = [one for one in (judged(each, *how) for each in others) if one is not None]
            off, energies = np.array(found).T
            row["density" + name] = round(float(off.mean()), 4)
            row["energies" + name] = np.quantile(energies, [0.05, 0.95]).round(3).tolist()
            row["measured"] = len(found)
            print(  # noqa: T201
                f"{field}{name}: {len(found)} of {len(others)} without imaginary modes, density "
                f"{off.mean():.4f} (median {np.median(off):.4f}), mean energy "
                f"{energies.mean():+.3f} +- {energies.std():.3f}"
            )
        row["elements"] = {symbol: round(value, 3) for symbol, value in elements.items()}
        shipped[field] = row
        print("\n".join(failed))  # noqa: T201
    print(yaml.safe_dump(shipped, sort_keys=False, default_flow_style=None, width=98))  # noqa: T201


def alone(path: Path, fields: list[str]) -> None:
    """How much softer fields are of crystals of one element."""
    powder = path.parent.parent / "powder"
    source = PhonondbFile(path)
    rows = {str(id_): row for row, id_ in enumerate(source.ids)}
    given = [read_force_constants(name) for name in ("germanium", "niobium")]
    given.append(read_force_constants(powder / "Al-444-lda.yaml"))
    given += [constants_of(source.entry(rows[one]), "phonondb") for one in ALONE]
    known = [
        (one.crystal, *moments(phonon_dos(force_constant_model(one.crystal, one, None))))
        for one in given
    ]
    frequency, density = np.loadtxt(powder / "V-dos.dat").T
    energy = frequency * MEV_PER_THZ
    known.append(
        (
            read_structure("V", 3.028),
            float(energy @ density / density.sum()),
            float(energy**2 @ density / density.sum()),
        )
    )
    for field in fields:
        softness = softness_of(field)
        common = 0.0 if softness is None else softness.common
        more, ratios = [], []
        for crystal, mean, square in known:
            constants, _ = field_constants(crystal, field)
            dos = phonon_dos(
                force_constant_model(crystal, replace(constants, crystal=crystal), None)
            )
            own_mean, own_square = moments(dos)
            more.append(np.log(square / own_square) - common)
            ratios.append(own_mean / mean)
            print(  # noqa: T201
                f"{field} {crystal.elements[0]}: mean energy {100 * (ratios[-1] - 1):+.1f} %, "
                f"beside what is common {more[-1]:+.3f} in ln of stiffness, imaginary "
                f"{dos.imaginary_share:.3f}",
                flush=True,
            )
        for symbol, (side_A, *measured) in METALS.items():
            metal = read_structure(symbol, side_A, "fcc" if len(measured) == 2 else "bcc")
            constants, _ = field_constants(metal, field)
            model = force_constant_model(constants.crystal, constants, None)
            corner = np.array([[0.0, 0.0, 2 * np.pi / side_A]])
            found = modes(model, corner)[0][0, [0, 2][: len(measured)]] / MEV_PER_THZ
            ratios.append(float(np.mean(found / np.array(measured))))
            more.append(-2 * np.log(max(ratios[-1], 0.1)) - common)
            print(f"{field} {symbol}: {np.round(found, 2)} THz, measured {measured}", flush=True)  # noqa: T201
        others = (np.sum(more) - np.array(more)) / (len(more) - 1)
        left = np.array(ratios) * np.exp(0.5 * (common + others)) - 1
        print(  # noqa: T201
            f"{field}: alone {np.mean(more):.3f}, of {len(more)}; mean energies by the others "
            f"{np.round(np.sort(left), 3).tolist()}; nine in ten "
            f"{np.quantile(left, [0.05, 0.95]).round(3).tolist()}; as they are "
            f"{np.quantile(np.array(ratios) - 1, [0.05, 0.5, 0.95]).round(3).tolist()}"
        )


def moments(dos: PhononDos) -> tuple[float, float]:
    """Mean energy and mean square."""
    weight = dos.total * np.diff(dos.energy_edges_meV)
    weight = weight / weight.sum()
    return float(weight @ dos.energies_meV), float(weight @ dos.energies_meV**2)


def read_structure(symbol: str, side_A: float, kind: str = "bcc"):
    """A cubic metal."""
    sites = {"bcc": "0 0 0\n.5 .5 .5", "fcc": "0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0"}[kind]
    count = len(sites.splitlines())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "POSCAR"
        path.write_text(
            f"{symbol}\n{side_A}\n1 0 0\n0 1 0\n0 0 1\n{symbol}\n{count}\nDirect\n{sites}\n"
        )
        return read_crystal(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fields", nargs="+", default=["sevennet-mf-0"])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--most-atoms", type=int, default=10)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--penalty", type=float, default=3.0, help="of what elements have")
    parser.add_argument("--alone", action="store_true", help="crystals of one element")
    asked = parser.parse_args()
    if asked.alone:
        alone(asked.data, asked.fields)
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.table:
        table(asked.data, asked.folder, asked.fields, asked.penalty)
        return
    gather(asked.data, asked.folder, asked.fields, asked.most_atoms, asked.count)


if __name__ == "__main__":
    main()
