"""How far routes are off, and how long they take: the figures that route ``auto`` chooses by.

    PYTHONPATH=. python -m tests.steering.predict.measured_routes phonondb-2018.h5 --out FILE.jsonl

Crystals of phonondb whose formulas the networks of ``direct`` never saw, of at most so many atoms
and without imaginary modes, in a random order. Every route starts from the structure alone; the
truth is what `simulations` makes of the database's force constants. Of every route:

``density``  mean absolute error of the density of states over its highest value, 51 bins;
``map``      share of the intensity of coherent one-phonon S(|Q|,E) at 300 K that is in a wrong
             cell of 0.25 1/angstrom by a thirtieth of Ei, both maps scaled to the same sum, Ei 1.5
             times the highest energy, resolution 3 % of Ei;
``energies`` mean energy of all modes over the true one;
``seconds``  of a processor, one thread: of the vibrations, and of a map made of them.

A line of JSON per crystal and route; those that FILE holds are not computed again. ``--times``
adds how long answers of `predict` take on crystals of 2 to some 20 atoms, and networks on larger
ones. ``--table`` prints what FILE holds as the route table (``steering/predict/routes.yaml``) has
it: means over the crystals near training on which every route was tried, with the errors of the
networks that `docs/direct.md` gives on more crystals, and with the ranges of energies that their
calibration and `field_softness` found on more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from model_server.direct import load_direct_bundle
from simulations.arrays import FloatArray
from simulations.dynamics import force_constant_model, phonon_dos
from simulations.errors import InputError
from simulations.progress import silent
from simulations.scattering import kinematic_mask, powder_spectrum
from steering.database.entry import constants_of
from steering.database.phonondb_file import PhonondbFile
from steering.predict import (
    Vibrations,
    prediction_request,
    stable,
    top_meV,
    vibrations_of,
)
from steering.predict.field_softness_file import softness_of
from steering.predict.interference import powder_parts
from steering.predict.predictions import _answer, _seen
from steering.predict.route_comparison import literature_density, mean_energy_meV
from steering.predict.route_table_file import ALL, LEAST_CRYSTALS, classes_of
from steering.study.direct_targets import part_of

ROUTES = ("direct", "chgnet-0.3.0", "sevennet-0-11Jul2024", "sevennet-l3i5", "sevennet-mf-0")
TEMPERATURE_K = 300.0
ANGLES_DEG = (3.0, 135.0)
QUANTITIES = ("dos", "vibrational", "background", "dispersion", "line", "powder", "all")
METRICS = {
    "density": "mean absolute error of the density of states over its highest value",
    "map": "share of the intensity of coherent S(|Q|,E) in a wrong cell",
}
CLASSES = (
    ALL, "hydrogenous", "oxides", "halides", "sulphides, selenides, tellurides", "none of these",
)  # fmt: skip
DOCUMENTED = (
    (ALL, 551, 0.0699), ("hydrogenous", 35, 0.11), ("oxides", 254, 0.092), ("halides", 132, 0.059),
    ("sulphides, selenides, tellurides", 182, 0.046), ("none of these", 53, 0.081),
)  # fmt: skip


def truths(path: Path, most_atoms: int, count: int, seed: int = 7):
    """Unseen crystals with the vibrations of their own force constants."""
    source = PhonondbFile(path)
    rows = np.random.default_rng(seed).permutation(len(source.ids))
    found = 0
    for row in rows:
        entry = source.entry(int(row))
        atoms = round(len(entry.symbols) * abs(float(np.linalg.det(entry.primitive_matrix))))
        if atoms > most_atoms:
            continue
        try:
            constants = constants_of(entry, "phonondb")
            crystal = constants.crystal
            structure = Structure(
                Lattice(crystal.lattice), list(crystal.elements), crystal.positions
            )
            if part_of(structure.composition.reduced_formula) != "unseen":
                continue
            model = force_constant_model(crystal, constants, None)
            began = time.process_time()
            dos = phonon_dos(model)
            taken = time.process_time() - began
            if dos.imaginary_share > 0:
                continue
        except InputError:
            continue
        truth = Vibrations(crystal=model.crystal, dos=dos, model=model, route={}, approximations=())
        yield entry.id, structure, truth, taken
        found += 1
        if found == count:
            return


def powder(found: Vibrations, ei_meV: float) -> FloatArray:
    """Coherent one-phonon map, summing to one."""
    energy = np.linspace(0.0, 0.9 * ei_meV, 28)
    momentum = np.arange(0.25, 2 * np.sqrt(ei_meV / 2.0721248), 0.25)
    mask = kinematic_mask(momentum, energy, ei_meV, ANGLES_DEG)
    width = 0.03 * ei_meV / 2.354820045
    if found.model is None:
        parts, _ = powder_parts(
            found, momentum, energy, temperature_K=TEMPERATURE_K,
            sigma_of=lambda e: np.full(np.shape(e), width), ei_meV=ei_meV, max_order=1,
        )  # fmt: skip
        intensity = parts.coherent
    else:
        intensity = powder_spectrum(
            found.model, momentum, energy, temperature_K=TEMPERATURE_K,
            resolution=lambda e: np.full_like(np.asarray(e, dtype=float), width), ei_meV=ei_meV,
            two_theta_deg=ANGLES_DEG, pockets=found.pockets,
        ).intensity  # fmt: skip
    seen = np.where(mask & np.isfinite(intensity), intensity, 0.0)
    seen[:, 0] = 0.0  # elastic
    return seen / seen.sum()


def measured(structure: Structure, route: str, truth: Vibrations, true_map: FloatArray) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "POSCAR"
        Poscar(structure).write_file(path)
        began = time.process_time()
        try:
            found = vibrations_of(path, route)
        except InputError as error:
            return {"failed": str(error), "seconds": time.process_time() - began}
        told: dict[str, Any] = {"seconds": time.process_time() - began}
    try:
        found = stable(found)
    except InputError as error:
        return {**told, "unstable": str(error)[:200]}
    told["far"] = any(w.startswith("far from training") for w in found.warnings)
    told["density"] = float(
        np.abs(literature_density(found.dos) - literature_density(truth.dos)).mean()
    )
    told["energies"] = mean_energy_meV(found.dos) / mean_energy_meV(truth.dos)
    began = time.process_time()
    told["map"] = 0.5 * float(np.abs(powder(found, 1.5 * top_meV(truth.dos)) - true_map).sum())
    told["map_seconds"] = time.process_time() - began
    return told


def timed(path: Path, out: Path) -> None:
    """How long answers take, by what they are made of: a line of JSON each."""
    for most in (2, 4, 8, 13, 20):
        fitting = (one for one in truths(path, most, 1000) if len(one[1]) >= 0.7 * most)
        _, structure, truth, dos_seconds = next(fitting)
        ei = max(10.0, 1.3 * top_meV(truth.dos))
        assert truth.model is not None
        onsite = truth.model.reference.onsite()
        alone = replace(truth, model=None, stiffness=np.trace(onsite, axis1=1, axis2=2) / 3)
        for quantity in QUANTITIES:
            for gives in ("force_constants", "density"):
                if gives == "density" and quantity in ("dispersion", "line"):
                    continue
                asked = prediction_request(
                    structure="germanium", quantity=quantity, ei_meV=ei,
                    instrument="VISION" if quantity == "vibrational" else "SEQUOIA",
                    line_hkl=((0, 0, 1), (1, 0, 2)),
                )  # fmt: skip
                found = truth if gives == "force_constants" else alone
                seen = None if quantity == "vibrational" else _seen(asked)
                began = time.process_time()
                _answer(replace(found, route={"kind": "", "source": ""}), seen, asked, silent)
                told = {"atoms": len(structure), "gives": gives, "quantity": quantity}
                _add(out, {**told, "spectrum_seconds": time.process_time() - began})
        _add(out, {"atoms": len(structure), "route": "database", "only_seconds": dos_seconds})
        _add(out, {"atoms": len(structure), "route": "direct", "only_seconds": direct(structure)})
        if most == 20:
            for n in (2, 5, 10):
                large = structure * (n, n, n)
                told = {"atoms": len(large), "route": "direct", "only_seconds": direct(large)}
                _add(out, told)


def direct(structure: Structure) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "POSCAR"
        Poscar(structure).write_file(path)
        began = time.process_time()
        vibrations_of(path, "direct")
        return time.process_time() - began


def _add(out: Path, line: dict) -> None:
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")


def table(lines: list[dict], machine: str) -> str:
    """The route table, YAML."""
    count = Counter(one["id"] for one in lines if "map" in one)
    far = {one["id"] for one in lines if one.get("far")}
    whole = {name for name, routes in count.items() if routes == max(count.values())} - far
    measured_on = [one for one in lines if "map" in one and one["id"] in whole]
    routes = sorted({one["route"] for one in measured_on}, key=ROUTES.index)
    errors = [
        {"route": "direct", "metric": "density", "of": of, "error": error, "crystals": n,
         "most_atoms": 40, "source": "docs/direct.md"}
        for of, n, error in DOCUMENTED
    ]  # fmt: skip
    energies = {}
    anchors: dict[str, dict[int, float]] = {}
    for route in routes:
        mine = [one for one in measured_on if one["route"] == route]
        for metric in ("density", "map"):
            for of in CLASSES:
                part = [one[metric] for one in mine if of in (ALL, *classes_of(one["elements"]))]
                if (route == "direct" and metric == "density") or len(part) < LEAST_CRYSTALS:
                    continue
                errors.append(
                    {"route": route, "metric": metric, "of": of,
                     "error": round(float(np.mean(part)), 3), "crystals": len(part),
                     "most_atoms": max(one["atoms"] for one in mine), "source": "measured_routes"}
                )  # fmt: skip
        ratio = np.array([one["energies"] for one in mine]) - 1
        low, high = np.quantile(ratio, [0.05, 0.95]).round(3).tolist()
        energies[route] = {"low": low, "high": high, "crystals": len(mine)}
        known = better_known(route)
        if known is not None:
            energies[route] = known
    for one in lines:
        if "seconds" in one and one["route"] != "direct" and "failed" not in one:
            known = anchors.setdefault(one["route"], {})
            known[one["atoms"]] = max(known.get(one["atoms"], 0.0), one["seconds"])
        if "only_seconds" in one:
            known = anchors.setdefault(one["route"], {})
            known[one["atoms"]] = max(known.get(one["atoms"], 0.0), one["only_seconds"])
    anchors["force_constants"] = anchors["stored"] = anchors["database"]
    spectra: dict[str, dict[str, dict[int, float]]] = {}
    for one in lines:
        if "spectrum_seconds" in one:
            known = spectra.setdefault(one["gives"], {}).setdefault(one["quantity"], {})
            known[one["atoms"]] = max(known.get(one["atoms"], 0.0), one["spectrum_seconds"])
    content = {
        "machine": machine,
        "metrics": METRICS,
        "errors": errors,
        "energies": energies,
        "seconds": {
            "vibrations": {name: _rising(found) for name, found in anchors.items()},
            "spectra": {
                gives: {quantity: _rising(found) for quantity, found in each.items()}
                for gives, each in spectra.items()
            },
        },
    }
    head = (
        "# Printed by `python -m tests.steering.predict.measured_routes --table`; see its head.\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=98)


def better_known(route: str) -> dict | None:
    """Range of mean energies that was measured on more crystals."""
    if route == "direct":
        bundle = load_direct_bundle()
        of = bundle.calibration
        count = bundle.card["training"]["crystals for calibration"]
        return {"low": round(of.energy_low, 3), "high": round(of.energy_high, 3), "crystals": count}
    softness = softness_of(route)
    if softness is None:
        return None
    low, high = softness.energies
    return {"low": low, "high": high, "crystals": softness.measured}


def _rising(found: dict[int, float]) -> list[list[float]]:
    """Anchors of a time that never falls with the number of atoms, at least a hundredth second."""
    atoms = sorted(found)
    longest = np.maximum.accumulate([max(found[n], 0.01) for n in atoms])
    return [[n, float(f"{t:.3g}")] for n, t in zip(atoms, longest.tolist(), strict=True)]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--most-atoms", type=int, default=8)
    parser.add_argument("--routes", nargs="+", default=list(ROUTES))
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--machine", default="a machine that nobody named")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        sys.stdout.write(table(list(map(json.loads, chosen.out.open())), chosen.machine))
        return
    if chosen.times:
        timed(chosen.data, chosen.out)
        return
    known = set()
    if chosen.out.exists():
        lines = map(json.loads, chosen.out.open())
        known = {(d["id"], d["route"]) for d in lines if "id" in d}
    vibrations_of("germanium", "direct")  # what a first call loads is not timed
    for id_, structure, truth, dos_seconds in truths(chosen.data, chosen.most_atoms, chosen.count):
        wanted = [route for route in chosen.routes if (id_, route) not in known]
        if not wanted:
            continue
        began = time.process_time()
        true_map = powder(truth, 1.5 * top_meV(truth.dos))
        map_seconds = time.process_time() - began
        for route in wanted:
            line = {
                "id": id_, "formula": structure.composition.reduced_formula,
                "elements": sorted({site.specie.symbol for site in structure}),
                "atoms": len(structure), "route": route, "true_dos_seconds": dos_seconds,
                "true_map_seconds": map_seconds,
                **measured(structure, route, truth, true_map),
            }  # fmt: skip
            _add(chosen.out, line)


if __name__ == "__main__":
    main(sys.argv[1:])
