"""One force field's answer about a crystal as a file, so that a long prior can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
from phonopy.structure.atoms import PhonopyAtoms

from simulations.prior.force_field import ForceFieldPhonons

_FORMAT = 1


def member_path(
    folder: Path,
    cell: PhonopyAtoms,
    force_field: str,
    supercell: tuple[int, int, int],
    displacement_A: float,
    versions: dict[str, str],
) -> Path:
    """File of one answer; another crystal, supercell, step or version has another name."""
    asked = (
        cell.symbols,
        np.round(cell.cell, 6).tolist(),
        np.round(cell.scaled_positions, 6).tolist(),
        force_field,
        supercell,
        displacement_A,
        sorted(versions.items()),
        _FORMAT,
    )
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    word = "".join(c if c.isalnum() or c in "-." else "-" for c in Path(force_field).name)
    return folder / f"{word}-{digest}.npz"


def write_member(phonons: ForceFieldPhonons, note: str, path: Path) -> None:
    """Keep an answer and what was unusual about it; a crash leaves the old file or none."""
    content = {
        "force_field": phonons.force_field,
        "versions": phonons.versions,
        "symbols": list(phonons.cell.symbols),
        "supercell_matrix": list(phonons.supercell_matrix),
        "displacement_A": phonons.displacement_A,
        "residual_force_eV_A": phonons.residual_force_eV_A,
        "residual_stress_kbar": phonons.residual_stress_kbar,
        "lowest_meV": phonons.lowest_meV,
        "highest_meV": phonons.highest_meV,
        "note": note,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as f:
        np.savez(
            f,
            content=json.dumps(content),
            lattice_A=phonons.cell.cell,
            positions=phonons.cell.scaled_positions,
            force_constants=phonons.force_constants,
        )
    os.replace(draft, path)


def read_member(path: Path) -> tuple[ForceFieldPhonons, str] | None:
    """The kept answer and its note; None where there is none that can be read."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as f:
            content = json.loads(str(f["content"]))
            cell = PhonopyAtoms(
                symbols=content["symbols"],
                cell=f["lattice_A"],
                scaled_positions=f["positions"],
            )
            a, b, c = content["supercell_matrix"]
            phonons = ForceFieldPhonons(
                force_field=content["force_field"],
                versions=content["versions"],
                cell=cell,
                supercell_matrix=(a, b, c),
                displacement_A=content["displacement_A"],
                residual_force_eV_A=content["residual_force_eV_A"],
                residual_stress_kbar=content["residual_stress_kbar"],
                force_constants=f["force_constants"],
                lowest_meV=content["lowest_meV"],
                highest_meV=content["highest_meV"],
            )
            return phonons, str(content["note"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # asked again
