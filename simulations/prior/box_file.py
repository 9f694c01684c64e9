"""Stored priors: read the shipped ones by name, read and write YAML files."""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simulations.crystal import read_crystal
from simulations.dynamics import PairForceConstants
from simulations.errors import InputError
from simulations.prior.box import BoxPrior
from simulations.prior.record import PriorMember, PriorRecord
from simulations.prior.widening import RANGE_ALONE, Widening
from simulations.saved_file import write_whole

FORMAT = 1


class PriorFileError(InputError):
    """A prior file lacks something or was made by another version; the message says what."""


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("simulations") / "data" / "priors"
    return {f.name[:-5]: f for f in folder.iterdir() if f.name.endswith(".yaml")}


def stored_priors() -> tuple[str, ...]:
    """Names of the priors that come with the package."""
    return tuple(sorted(_shipped()))


def load_prior(name_or_path: str | Path) -> BoxPrior:
    """Box of a stored prior; ``.restricted(names)`` takes the free parameters out of it.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a shipped prior (``stored_priors``), or a YAML file.

    Returns
    -------
    BoxPrior
        All parameters of the prior, eV/angstrom^2.

    Raises
    ------
    PriorFileError
        If there is no such prior or it cannot be read.
    """
    return load_prior_record(name_or_path).box


def load_prior_record(name_or_path: str | Path) -> PriorRecord:
    """Read a stored prior with its members and their provenance.

    Raises
    ------
    PriorFileError
        If there is no such prior or it cannot be read.
    """
    shipped = _shipped()
    source = shipped.get(str(name_or_path), Path(name_or_path))
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as error:
        raise PriorFileError(
            f"prior {str(name_or_path)!r} is neither a shipped prior ({', '.join(sorted(shipped))})"
            f" nor a file that can be read ({error.strerror})"
        ) from error
    try:
        content = yaml.safe_load(text)
        if content["format"] != FORMAT:
            raise PriorFileError(
                f"prior {name_or_path}: format is {content['format']}; this version reads {FORMAT}."
                " Make the prior again."
            )
        return _from_content(content)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, PriorFileError):
            raise
        raise PriorFileError(
            f"prior {name_or_path}: cannot be read ({type(error).__name__}: {error}); "
            "expected a file written by `write_prior`"
        ) from error


def prior_force_constants(name: str) -> PairForceConstants:
    """Stable force constants of a built-in crystal near the centre of its stored prior.

    They serve as the reference and as the fixed far shells where no better constants are known:
    good enough to start from, not to predict with. See ``PriorRecord.reference_values``.

    Parameters
    ----------
    name : str
        Name of a shipped prior and of the built-in crystal.

    Returns
    -------
    PairForceConstants
        eV/angstrom^2.
    """
    return load_prior_record(name).force_constants(read_crystal(name))


def write_prior(record: PriorRecord, path: Path) -> None:
    """Write a prior as YAML; ``load_prior_record`` reads it back."""
    parameters: dict[str, Any] = {}
    for k, name in enumerate(record.box.names):
        i, j, cell = record.bonds[k]
        parameters[name] = {
            "lower": round(float(record.box.lower[k]), 7),
            "upper": round(float(record.box.upper[k]), 7),
            "bond": [i, j, list(cell)],
            "members": [round(float(m.values[k]), 7) for m in record.members],
        }
        if record.stabilised is not None:
            parameters[name]["reference"] = round(float(record.stabilised[k]), 7)
    content = {
        "format": FORMAT,
        "crystal": record.crystal,
        "unit": "eV/angstrom^2",
        "rule": record.widening.words,
        "widening": asdict(record.widening),
        "cutoff_A": record.cutoff_A,
        "members": [
            {
                "force_field": m.force_field,
                "stable": m.stable,
                "lowest_meV": round(m.lowest_meV, 4) + 0.0,
                "highest_meV": round(m.highest_meV, 4),
                "relaxed_lattice_A": [
                    [round(float(x), 6) + 0.0 for x in row] for row in m.relaxed_lattice_A
                ],
                "supercell_matrix": list(m.supercell_matrix),
                "displacement_A": m.displacement_A,
                "versions": m.versions,
            }
            for m in record.members
        ],
        "moved_bounds": record.moved_bounds,
        "parameters": parameters,
    }
    text = yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None)
    write_whole(
        path,
        f"# Prior of the force constants of {record.crystal} from universal force fields.\n"
        "# Members are listed under each parameter in the order of `members`; bond is [first\n"
        "# atom, second atom, cell of the second].\n" + text,
    )


def _from_content(content: dict[str, Any]) -> PriorRecord:
    parameters = content["parameters"]
    rows = list(parameters.values())
    box = BoxPrior(
        names=tuple(parameters),
        lower=np.array([float(row["lower"]) for row in rows]),
        upper=np.array([float(row["upper"]) for row in rows]),
    )
    values = np.array([row["members"] for row in rows], dtype=float).T
    members = tuple(
        PriorMember(
            force_field=entry["force_field"],
            versions=dict(entry["versions"]),
            stable=bool(entry["stable"]),
            relaxed_lattice_A=np.array(entry["relaxed_lattice_A"], dtype=float),
            supercell_matrix=tuple(entry["supercell_matrix"]),
            displacement_A=float(entry["displacement_A"]),
            lowest_meV=float(entry["lowest_meV"]),
            highest_meV=float(entry["highest_meV"]),
            values=values[k],
        )
        for k, entry in enumerate(content["members"])
    )
    return PriorRecord(
        crystal=content["crystal"],
        cutoff_A=float(content["cutoff_A"]),
        box=box,
        bonds=tuple((row["bond"][0], row["bond"][1], tuple(row["bond"][2])) for row in rows),
        members=members,
        moved_bounds=dict(content["moved_bounds"]),
        widening=Widening(**content["widening"]) if "widening" in content else RANGE_ALONE,
        stabilised=np.array([float(row["reference"]) for row in rows])
        if all("reference" in row for row in rows)
        else None,
    )
