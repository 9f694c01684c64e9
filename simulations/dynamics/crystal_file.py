"""A crystal and its force constants as one YAML file, as the built-in ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.dynamics.bonds import PairForceConstants
from simulations.dynamics.shells import shells
from simulations.saved_file import write_whole


def write_crystal(
    path: str | Path,
    crystal: Crystal,
    force_constants: PairForceConstants | None,
    *,
    title: str,
    source: str,
    licence: str,
) -> None:
    """Write a crystal and its named force constants in the layout of the built-in files.

    Parameters
    ----------
    path : str or Path
    crystal : Crystal
    force_constants : PairForceConstants or None
        Symmetrised on the way.
    title, source, licence : str
        What it is, where the numbers come from, under which terms.
    """

    def rows(array: FloatArray) -> list[list[float]]:
        return [[round(float(v), 10) + 0.0 for v in row] for row in array]

    entry: dict[str, Any] = {
        "title": title,
        "source": source,
        "licence": licence,
        "cell": {
            "lattice_A": rows(crystal.lattice),
            "conventional_lattice_A": rows(crystal.conventional_lattice),
            "symbols": list(crystal.symbols),
            "positions": rows(crystal.positions),
        },
    }
    if force_constants is not None:
        entry["force_constants"] = {
            "source": source,
            "unit": "eV/angstrom^2",
            "shells": [
                {
                    "label": s.label,
                    "first": s.first,
                    "second": s.second,
                    "cell": list(s.cell),
                    "vector_A": [round(v, 6) + 0.0 for v in s.vector_A],
                    "elements": {e: round(v, 9) + 0.0 for e, v in s.elements.items()},
                }
                for s in shells(force_constants)
            ],
        }
    text = yaml.safe_dump(entry, sort_keys=False, default_flow_style=None, width=100)
    write_whole(path, text)
