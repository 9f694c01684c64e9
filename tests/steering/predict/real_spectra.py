"""Real powder spectra and densities of states beside what every route says of them.

    PYTHONPATH=. python -m tests.steering.predict.real_spectra ../shared/data --out FILE.jsonl

Maps: silicon (300 K) and zinc (100 K) on MARI, folded here; aluminium (50 K) on ARCS; graphite and
vanadium, reduced, on ARCS. Densities: silicon, aluminium, vanadium and graphite, measured. Every
route starts from the structure alone, with the lattice as measured at room temperature (that of
aluminium at 50 K); ``given`` are force constants of density functional theory where there are some
in the folder, ``database`` those of phonondb where it has the crystal.

What is compared of a map: one-phonon scattering with both cross sections and multiphonons, with
the resolution of the instrument (for MARI of the width of the elastic line), above four
standard deviations of that line. Nothing is fitted but the scale and a background of a constant and
one that rises with Q^2, none negative:

``nmse_free``  sum (said - measured)^2 / sum measured^2;
``missed``     the same over sum (measured - mean)^2: 1 explains nothing;
``stretch``    the factor of all energies of the prediction at which it comes nearest, where cells
               are weighted so that one phonon counts alike at all energies, and
``stretched``  what is missed there: how much of it is energies alone.

``fitted`` is the refinement of the same model with force constants free: what is left for it is
what no such prediction can do. Of a density of states: mean absolute difference over the highest
measured value, both smeared by 1 meV, at 120 energies above 4 meV, scale and a constant fitted,
as it is and where a stretch makes it least. A line of JSON each; those that FILE holds are not
computed again. ``--table`` prints them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtr

from simulations.arrays import FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.dynamics import force_constant_model, phonon_dos
from simulations.errors import InputError
from simulations.scattering import (
    MeasuredSpectrum,
    SigmaOfEnergy,
    incoherent_spectrum,
    powder_spectrum,
)
from steering.database.entry import constants_of
from steering.database.phonondb_file import PhonondbFile
from steering.experiment import load_experiment
from steering.predict import Vibrations, stable, vibrations_of
from steering.predict.interference import powder_parts
from steering.run.powder_inversion import _spectra, invert_measured

FIELDS = ("chgnet-0.3.0", "sevennet-0-11Jul2024", "sevennet-l3i5", "sevennet-mf-0")
ROUTES = ("given", "database", "direct", *FIELDS)
MAX_ORDER = 6
SMEAR_MEV = 1.0

CUBIC = "{e}\n1\n{a} 0 0\n0 {a} 0\n0 0 {a}\n{e}\n{n}\nDirect\n{sites}\n"
FCC = "0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0"
POSCARS = {
    "silicon": CUBIC.format(
        e="Si", a=5.431, n=8,
        sites=FCC + "\n.25 .25 .25\n.25 .75 .75\n.75 .25 .75\n.75 .75 .25",
    ),
    "aluminium": CUBIC.format(e="Al", a=4.034, n=4, sites=FCC),
    "vanadium": CUBIC.format(e="V", a=3.028, n=2, sites="0 0 0\n.5 .5 .5"),
    "zinc": "Zn\n1\n2.665 0 0\n-1.3325 2.307958 0\n0 0 4.947\nZn\n2\nDirect\n"
    ".3333333333 .6666666667 .25\n.6666666667 .3333333333 .75\n",
    "graphite": "C\n1\n2.461 0 0\n-1.2305 2.131289 0\n0 0 6.708\nC\n4\nDirect\n"
    "0 0 .25\n0 0 .75\n.3333333333 .6666666667 .25\n.6666666667 .3333333333 .75\n",
}  # fmt: skip
GIVEN = {"silicon": "powder/Si-prim-555.json", "aluminium": "powder/Al-444-lda.yaml"}
DATABASE = {"silicon": "mp-149"}


@dataclass(frozen=True)
class Measured:
    """A map, and how it was measured."""

    file: str
    temperature_K: float
    experiment: str  # instrument and energy axis
    cutoff_A: float
    free: int


MAPS = {
    "silicon": Measured(
        "powder/silicon_Ei80_300K.nxspe", 300, "{name: MARI, ei_meV: 79.395}|-10, 74, 84", 4.0, 4
    ),
    "zinc": Measured(
        "powder/zinc_Ei50_100K.nxspe", 100, "{name: MARI, ei_meV: 49.9}|-8, 40, 96", 5.0, 6
    ),
    "graphite": Measured(
        "powder/graphite-Ei_130-iqe.h5", 300, "{name: ARCS, ei_meV: 130}|0, 120, 120", 4.0, 6
    ),
    "vanadium": Measured("powder/V-iqe.h5", 300, "{name: ARCS, ei_meV: 100}|0, 60, 60", 5.0, 6),
}
EXPERIMENT = """
title: {name}
sample: {{structure: {structure}, u: [1, 0, 0], v: [0, 1, 0], temperature_K: {kelvin}}}
instrument: {instrument}
path:
  points: seekpath
  half_width_rlu: 0.1
  energy: {{min_meV: {low}, max_meV: {high}, bins: {bins}}}
parameters: {{cutoff_A: {cutoff}, free: {free}}}
background: {{can_material: aluminium, can_atoms: 1}}
"""


# ------------------------------------------------------------------------------------------ routes


def found_by(route: str, crystal: str, shared: Path, folder: Path) -> Vibrations | None:
    """Vibrations, or None where the route has none of this crystal."""
    if route == "given":
        if crystal not in GIVEN:
            return None
        return stable(vibrations_of(shared / GIVEN[crystal], "force_constants"))
    if route == "database":
        if crystal not in DATABASE:
            return None
        source = PhonondbFile(shared / "phonondb" / "phonondb-2018.h5")
        row = [str(one) for one in source.ids].index(DATABASE[crystal])
        constants = constants_of(source.entry(row), "phonondb")
        model = force_constant_model(constants.crystal, constants, None)
        return Vibrations(
            crystal=model.crystal, dos=phonon_dos(model), model=model, route={}, approximations=()
        )
    path = folder / "POSCAR"
    path.write_text(POSCARS[crystal])
    return stable(vibrations_of(path, route))


# -------------------------------------------------------------------------------------------- maps


def edges_of(centres: FloatArray) -> FloatArray:
    step = centres[1] - centres[0]
    return np.append(centres - 0.5 * step, centres[-1] + 0.5 * step)


def said_of(
    found: Vibrations, spectrum: MeasuredSpectrum, sigma_of: SigmaOfEnergy, stretch: float
) -> FloatArray:
    """All scattering of a sample, (energy bins, |Q| bins), its energies stretched."""
    momentum = edges_of(spectrum.q_inverse_A)
    energy = edges_of(spectrum.energy_meV) / stretch
    kelvin = spectrum.temperature_K / stretch  # so that occupations stay
    ei = spectrum.ei_meV

    def sigma(at: FloatArray) -> FloatArray:
        return sigma_of(np.asarray(at) * stretch) / stretch

    if found.model is None:
        parts, _ = powder_parts(
            found, momentum, energy, temperature_K=kelvin, sigma_of=sigma, ei_meV=10 * ei,
            max_order=MAX_ORDER,
        )  # fmt: skip
        return (parts.coherent + parts.incoherent + parts.multiphonon).T
    one = powder_spectrum(
        found.model, momentum, energy, temperature_K=kelvin, resolution=sigma, pockets=found.pockets
    ).intensity
    rest = incoherent_spectrum(
        found.crystal, found.dos, momentum, energy, temperature_K=kelvin, resolution=sigma,
        ei_meV=10 * ei, max_order=MAX_ORDER,
    )  # fmt: skip
    return (one + rest.inelastic).T


def scored(said: FloatArray, spectrum: MeasuredSpectrum, even: bool = False) -> tuple[float, float]:
    """``nmse_free`` and ``missed``; ``even``: weighted so that one phonon counts alike anywhere."""
    energy = spectrum.energy_meV[:, None]
    loss = 1 - np.exp(-energy / (BOLTZMANN_MEV_PER_K * max(spectrum.temperature_K, 1.0)))
    weight = np.ones_like(said)
    if spectrum.susceptibility:
        said = said * loss
    elif even:
        weight = energy * loss * np.ones_like(said)
    seen = spectrum.valid & np.isfinite(spectrum.intensity) & np.isfinite(said)
    momentum = np.broadcast_to(spectrum.q_inverse_A, said.shape)[seen]
    true, weight = spectrum.intensity[seen], weight[seen]
    if spectrum.susceptibility:  # its mean was taken off
        true = true - true.min()
    columns = np.stack([said[seen], np.ones_like(true), momentum**2], axis=1)
    scale = np.abs(columns * weight[:, None]).max(axis=0) + 1e-300
    fit, off = nnls(columns * weight[:, None] / scale, true * weight)
    del fit
    of = spectrum.intensity[seen] * weight
    flat = of - weight * float((of @ weight) / (weight @ weight))
    return off**2 / float(of @ of), off**2 / float(flat @ flat)


def maps(crystal: str, shared: Path, folder: Path) -> tuple[MeasuredSpectrum, SigmaOfEnergy, Any]:
    """A measured map, its resolution, and a fit of it that may be asked for."""
    if crystal == "aluminium":
        from simulations.scattering import read_powder_spectra
        from steering.run import invert_aluminium

        spectrum = read_powder_spectra()[0]
        from model_server.powder import aluminium_setup

        resolution = aluminium_setup(spectrum.temperature_K)[2]
        return (
            spectrum,
            lambda e: resolution.sigma_meV(np.asarray(e), spectrum.ei_meV),
            lambda: invert_aluminium("aluminium_arcs", temperature_K=spectrum.temperature_K),
        )
    one = MAPS[crystal]
    instrument, axis = one.experiment.split("|")
    low, high, bins = axis.split(",")
    structure = folder / "POSCAR"
    if crystal in GIVEN:
        structure = (shared / GIVEN[crystal]).resolve()
    else:
        structure.write_text(POSCARS[crystal])
    file = folder / "experiment.yaml"
    file.write_text(
        EXPERIMENT.format(
            name=crystal, structure=structure, kelvin=one.temperature_K, instrument=instrument,
            low=low, high=high, bins=bins, cutoff=one.cutoff_A, free=one.free,
        )
    )  # fmt: skip
    experiment = load_experiment(file)
    found = _spectra(shared / one.file, experiment, folder)
    (spectrum,) = found.spectra
    wider = 1.0
    if found.elastic is not None:
        nominal = float(found.resolution.sigma_meV(np.zeros(1), spectrum.ei_meV)[0])
        wider = found.elastic[1] / nominal
    return (
        spectrum,
        lambda e: wider * found.resolution.sigma_meV(np.asarray(e), spectrum.ei_meV),
        lambda: invert_measured(shared / one.file, experiment, experiment_dir=folder),
    )


def map_line(crystal: str, route: str, shared: Path, folder: Path) -> dict[str, Any]:
    spectrum, sigma_of, fit = maps(crystal, shared, folder)
    if route == "fitted":
        if crystal not in GIVEN:
            return {"none": True}
        (result,) = fit().results
        return {"nmse_free": result["nmse_free"], "trusted": result.get("trusted")}
    found = found_by(route, crystal, shared, folder)
    if found is None:
        return {"none": True}
    free, missed = scored(said_of(found, spectrum, sigma_of, 1.0), spectrum)
    stretch = least(lambda s: scored(said_of(found, spectrum, sigma_of, s), spectrum, even=True)[1])
    stretched = scored(said_of(found, spectrum, sigma_of, stretch), spectrum)[1]
    return {"nmse_free": free, "missed": missed, "stretch": stretch, "stretched": stretched}


def least(of: Callable[[float], float]) -> float:
    """The stretch of energies at which something is least."""
    coarse = np.arange(0.76, 1.33, 0.04)
    near = coarse[int(np.argmin([of(s) for s in coarse]))] + np.arange(-0.03, 0.04, 0.01)
    return float(near[int(np.argmin([of(s) for s in near]))])


# --------------------------------------------------------------------------------------- densities


def measured_density(crystal: str, shared: Path) -> tuple[FloatArray, FloatArray]:
    """Edges, meV, and values of a measured density of states."""
    powder = shared / "powder"
    if crystal in ("silicon", "aluminium"):
        name = {"silicon": "Si", "aluminium": "Al"}[crystal]
        told = json.loads((powder / f"{name}_experimental_dos.json").read_text())
        return np.array(told["x_data"]), np.array(told["y_data"])
    if crystal == "vanadium":
        table = np.loadtxt(powder / "V-dos.dat")
        meV = table[:, 0] * 4.135667696  # noqa: N806 - of terahertz
        return edges_of(meV), table[:, 1]
    with h5py.File(powder / "graphite-Ei_130-dos.h5") as file:
        return np.array(file["DOS/grid/E/bin boundaries"]), np.array(file["DOS/data"])


def smeared(edges: FloatArray, values: FloatArray, at: FloatArray) -> FloatArray:
    """Of modes in bins, a density at other energies with the width `SMEAR_MEV`."""
    inside = np.diff(ndtr((edges[None, :] - at[:, None]) / SMEAR_MEV), axis=1)
    return inside @ values


def density_line(crystal: str, route: str, shared: Path, folder: Path) -> dict[str, Any]:
    found = found_by(route, crystal, shared, folder)
    if found is None:
        return {"none": True}
    edges, values = measured_density(crystal, shared)
    at = np.linspace(max(edges[0], 4.0), edges[-1], 120)
    true = smeared(edges, np.nan_to_num(values), at)

    def off(stretch: float) -> float:
        own = smeared(found.dos.energy_edges_meV * stretch, found.dos.total, at)
        columns = np.stack([own / own.max(), np.ones_like(own)], axis=1)
        fit, _ = nnls(columns, true)
        return float(np.abs(columns @ fit - true).mean() / true.max())

    return {"density": off(1.0), "stretch": (best := least(off)), "stretched": off(best)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crystals", nargs="+", default=[*POSCARS])
    parser.add_argument("--routes", nargs="+", default=[*ROUTES, "fitted"])
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    lines = list(map(json.loads, asked.out.open())) if asked.out.exists() else []
    if asked.table:
        sys.stdout.write(table(lines))
        return
    known = {(one["crystal"], one["what"], one["route"]) for one in lines}
    every: dict[str, Callable[[str, str, Path, Path], dict[str, Any]]] = {
        "map": map_line, "density": density_line,
    }  # fmt: skip
    for crystal in asked.crystals:
        for route in asked.routes:
            for what, line in every.items():
                if (crystal, what, route) in known or (what, route) == ("density", "fitted"):
                    continue
                if what == "density" and crystal == "zinc":
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        told = line(crystal, route, asked.shared, Path(folder))
                    except InputError as error:
                        told = {"failed": str(error)[:300]}
                with asked.out.open("a") as file:
                    row = {"crystal": crystal, "what": what, "route": route, **told}
                    file.write(json.dumps(row) + "\n")
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()


def table(lines: list[dict[str, Any]]) -> str:
    """As `docs/routes.md` has it."""
    crystals = [one for one in POSCARS if any(line["crystal"] == one for line in lines)]
    rows = []
    for what in ("map", "density"):
        rows += ["", f"| {what} | " + " | ".join(crystals) + " |", "|---|" + "---|" * len(crystals)]
        for route in [*ROUTES, "fitted"]:
            cells = []
            for crystal in crystals:
                found = [
                    one for one in lines
                    if (one["crystal"], one["what"], one["route"]) == (crystal, what, route)
                ]  # fmt: skip
                cells.append(_cell(found[0]) if found else "")
            rows.append(f"| {route} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(one: dict[str, Any]) -> str:
    if "none" in one:
        return ""
    if "failed" in one:
        return "none"
    if "density" in one:
        return f"{one['density']:.3f} ({one['stretched']:.3f} at {one['stretch']:.2f})"
    if "stretch" not in one:
        return f"{one['nmse_free']:.3f}"
    return (
        f"{one['nmse_free']:.3f} (missed {one['missed']:.2f}; {one['stretched']:.2f} at "
        f"{one['stretch']:.2f})"
    )


if __name__ == "__main__":
    main()
