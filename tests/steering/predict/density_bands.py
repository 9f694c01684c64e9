"""Bands of the density of states of force fields and of the database, counted and measured.

    PYTHONPATH=. python -m tests.steering.predict.density_bands ../shared/data build/softness \\
        --out build/bands

prints `steering/predict/density_bands.yaml`. A force field: crystals that `field_softness` has kept
in the folder, without those in which it finds imaginary modes; one that taught its softness is
corrected by what the others teach; true are the force constants of phonondb. The database: crystals
that phonondb shares with the densities of Petretto et al. (2018), by the id of the Materials
Project: another program (density functional perturbation theory), the same functional. How far two
such calculations differ is the least that either differs from a crystal by. What ships is counted
on all crystals; what it holds is told of five parts, by formula, each by what the others count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import yaml

from model_server.direct import energy_edges_meV
from model_server.direct.bands import BandCase, conformal_bands, held
from model_server.direct.bins import MEV_PER_CM1
from model_server.direct.calibration import mean_energy
from simulations.arrays import FloatArray
from simulations.dynamics import PhononDos, force_constant_model, phonon_dos
from simulations.errors import InputError
from simulations.saved_file import in_one_step
from steering.database.entry import constants_of
from steering.database.phonondb_file import PhonondbFile
from steering.predict.density_bands_file import stretched_shares
from steering.predict.field_softness_file import FieldSoftness, softness_of, stiffened
from steering.study.direct_targets import site_densities
from tests.steering.predict.field_softness import formula_of, kept, learned

PENALTY = 3.0  # as field_softness has it
FOLDS = 5
Found = tuple[str, PhononDos, FloatArray]  # formula, what the route says, true shares


def of_field(field: str, folder: Path, source: PhonondbFile) -> list[Found]:
    """Densities of a field, corrected, without those that have imaginary modes."""
    crystals, _ = kept(folder, field, source)
    taught = [one for one in crystals if one.part == "train"]
    rows = {str(id_): row for row, id_ in enumerate(source.ids)}
    shipped = softness_of(field)
    found = []
    for one in crystals:
        if shipped is None:
            constants = one.field
        else:
            others = [each for each in taught if each is not one]
            constants = stiffened(one.field, softness(learned(others, PENALTY)))
        dos = phonon_dos(force_constant_model(constants.crystal, constants, None))
        if dos.imaginary_share > 0:
            continue
        asis = constants_of(source.entry(rows[one.id]), "phonondb")
        true = phonon_dos(force_constant_model(asis.crystal, asis, None))
        found.append((formula_of(asis.crystal.elements), dos, stretched_shares(true, 0.0)[0]))
    return found


def softness(given: tuple[float, dict[str, float]]) -> FieldSoftness:
    common, elements = given
    return FieldSoftness(
        field="", common=common, elements=elements, taught=0, measured=0, energies=(0, 0),
        energies_before=(0, 0), density=0, density_before=0, alone=0.0, alone_taught=0,
        alone_energies=(0, 0),
    )  # fmt: skip


def of_database(shared: Path, source: PhonondbFile, out: Path) -> list[Found]:
    """Densities of phonondb beside those of Petretto et al."""
    edges = energy_edges_meV()
    rows = {str(id_): row for row, id_ in enumerate(source.ids)}
    found: list[Found] = []
    with h5py.File(shared / "petretto-dos" / "petretto-2018.h5") as file:
        names = [one.decode() for one in file["material_id"][:]]
        offset = file["dos_offset"][:]
        wave, dos = file["dos_frequency_cm1"][:], file["dos"][:]
    for k, name in enumerate(names):
        if name not in rows:
            continue
        at = out / f"{name}.npz"
        if not at.exists():
            try:
                one = site_densities(source.entry(rows[name]), edges)
                kept_as = {"shares": one.shares.mean(axis=0), "formula": one.formula}
            except InputError as error:
                kept_as = {"failed": str(error)}
            with in_one_step(at) as partial, partial.open("wb") as written:
                np.savez(written, **kept_as)
        with np.load(at) as held_back:
            if "failed" in held_back:
                continue
            shares, formula = held_back["shares"], str(held_back["formula"])
        energy = wave[offset[k] : offset[k + 1]] * MEV_PER_CM1
        density = np.maximum(dos[offset[k] : offset[k + 1]], 0.0)
        steps = 0.5 * (density[1:] + density[:-1]) * np.diff(energy)
        whole = np.concatenate([[0.0], np.cumsum(steps)])
        upper = edges.copy()
        upper[-1] = np.inf
        upper[0] = -np.inf
        true = np.diff(np.interp(upper, energy, whole / whole[-1]))
        said = PhononDos(
            energy_edges_meV=edges, partial=(3 * shares / np.diff(edges))[None], imaginary_share=0.0
        )
        found.append((formula, said, true))
    return found


def row_of(found: list[Found], against: str) -> dict:
    ratio = np.array(
        [mean_energy(stretched_shares(d, 0.0)[0]) / mean_energy(t) - 1 for _, d, t in found]
    )
    stretch = float(0.7413 * np.subtract(*np.quantile(ratio, [0.75, 0.25])))
    cases = [case(one, stretch) for one in found]
    fold = np.array(
        [int(hashlib.sha256(one[0].encode()).hexdigest()[:8], 16) % FOLDS for one in found]
    )
    inside = np.empty(len(cases))
    for k in range(FOLDS):
        bands = conformal_bands([one for one, own in zip(cases, fold, strict=True) if own != k])
        mine = np.flatnonzero(fold == k)
        inside[mine] = [held(bands, cases[i]) for i in mine]
    bands = conformal_bands(cases)
    print(  # noqa: T201
        f"{against}: {len(cases)} crystals, held {inside.mean():.4f} +- "
        f"{inside.std() / np.sqrt(len(cases)):.4f} (parts: "
        f"{[round(float(inside[fold == k].mean()), 3) for k in range(FOLDS)]}); mean energies "
        f"{np.quantile(ratio, [0.05, 0.5, 0.95]).round(4).tolist()}"
    )
    return {
        "stretch": round(stretch, 4), "factor": round(bands.factor, 3),
        "relative": bands.relative, "floor": bands.floor, "counted": len(cases),
        "held": round(float(inside.mean()), 3), "against": against,
    }  # fmt: skip


def case(one: Found, stretch: float) -> BandCase:
    total, totals = stretched_shares(one[1], stretch)
    return BandCase(total=total, totals=totals, true=one[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("softness", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is kept")
    parser.add_argument("--fields", nargs="+", default=["sevennet-mf-0"])
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    source = PhonondbFile(asked.shared / "phonondb" / "phonondb-2018.h5")
    rows = {
        field: row_of(of_field(field, asked.softness, source), "the database phonondb")
        for field in asked.fields
    }
    rows["database"] = row_of(
        of_database(asked.shared, source, asked.out),
        "another calculation with the same functional (Petretto et al. 2018)",
    )
    print(yaml.safe_dump(rows, sort_keys=False, width=98), json.dumps(list(rows)))  # noqa: T201


if __name__ == "__main__":
    main()
