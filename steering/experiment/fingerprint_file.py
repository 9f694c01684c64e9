"""What a fold depends on, as keys and values that can be compared later."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from consumers.fold import FOLD_VERSION
from steering.experiment.experiment_file import Experiment, files_named

# Sections whose every field changes sums, exposure or trajectories; of the others, these fields.
# ``parameters``: the reference force constants are in the Debye-Waller factor of the exposure.
SECTIONS = ("sample", "instrument", "path", "background")
FIELDS = (
    ("source", "psi_log"),
    ("source", "ei_meV"),
    ("source", "t0_us"),
    ("source", "period"),
    ("parameters", "cutoff_A"),
    ("parameters", "dipole_sum"),
    ("parameters", "prior"),
)
BESIDE_A_STRUCTURE = (
    "FORCE_CONSTANTS",
    "FORCE_SETS",
    "BORN",
    "force_constants.hdf5",
    "phonopy_params.yaml",
    "phonopy_disp.yaml",
    "phonopy.yaml",
)
LATER_FIELDS = {
    "isotopes": None,
    "force_constants": None,
    "supercell": None,
    "imaginary": "left_out",
}
"""Of the sample; left out where they say nothing else, so that older folds are still known."""
OF_FITS = {"background": ("own", "own_relative_sigma", "cryostat")}
"""Fields of these sections that change what is fitted, not what is folded."""
BLOCK_BYTES = 2**20


def fingerprint_of(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Everything of an experiment and this program that changes a fold.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
        Where its relative paths start from.

    Returns
    -------
    dict
        JSON values by field, e.g. ``source.t0_us``; a file stands as the SHA-256 of its content,
        so that it may be moved but not changed. ``program.fold`` is the version of the fold.
    """
    whole = experiment.model_dump(mode="json")
    found = {"program.fold": str(FOLD_VERSION)}
    for section in SECTIONS:
        values = {k: v for k, v in whole[section].items() if k not in OF_FITS.get(section, ())}
        for name, usual in LATER_FIELDS.items():
            if values.get(name, ...) == usual:
                del values[name]
        _flatten(section, values, found)
    for section, field in FIELDS:
        _flatten(f"{section}.{field}", whole[section][field], found)
    for (section, field), paths in files_named(experiment, folder).items():
        key = f"{section}.{field}"
        if key in found:
            beside = [
                p.parent / n
                for p in paths
                for n in BESIDE_A_STRUCTURE
                if section == "sample" and p.name != n
            ]
            found[key] = _digest([*paths, *(p for p in beside if p.is_file())])
    return found


def _flatten(name: str, value: object, into: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, into)
    else:
        into[name] = json.dumps(value)


def _digest(paths: list[Path]) -> str:
    """SHA-256 of the contents, in the order of the names."""
    all_of_them = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                all_of_them.update(block)
        all_of_them.update(b"|")
    return f"sha256:{all_of_them.hexdigest()}"
