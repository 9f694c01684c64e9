"""Sources of entries for tests: a few crystals of phonondb in a file of its layout, and folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[3]
MATERIALS = ("mp-149", "mp-1000", "mp-23703", "mp-10074")
"""Si, and BaTe, LiH and GeSe2 with Born charges."""


def phonondb(shared: Path) -> Path:
    return shared / "phonondb" / "phonondb-2018.h5"


def small_phonondb(shared: Path, target: Path, materials: Sequence[str] = MATERIALS) -> Path:
    """Some materials of the database, in its own layout."""
    flat = {
        "atom_offset": ("atomic_numbers", "scaled_positions"),
        "displacement_offset": ("displaced_atom", "displacement"),
        "force_offset": ("forces_zigzag",),
    }
    with h5py.File(phonondb(shared)) as f, h5py.File(target, "w") as g:
        ids = [one.decode() for one in f["material_id"][:]]
        rows = [ids.index(one) for one in materials]
        for offset, names in flat.items():
            parts = [slice(*f[offset][i : i + 2]) for i in rows]
            g[offset] = np.cumsum([0, *(part.stop - part.start for part in parts)])
            for name in names:
                g[name] = np.concatenate([f[name][part] for part in parts])
        for name in ("lattice", "supercell_matrix", "primitive_matrix", "material_id", "born_text"):
            g[name] = [f[name][i] for i in rows]
        g.attrs["note"] = f.attrs["note"]
    return target


def spoil(path: Path, change: Callable[[Any], None]) -> Path:
    """Change a file of the layout in place."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def example_folder(target: Path, names: Sequence[str] = ("MgO", "MoSi2")) -> Path:
    """Folders of phonopy files that come with the project."""
    for name in names:
        shutil.copytree(
            ROOT / "examples" / name, target / name, ignore=shutil.ignore_patterns("exp*")
        )
    return target


def bytes_of(store: Path) -> dict[str, bytes]:
    """Everything that a store holds, by name."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "lock"
    }
