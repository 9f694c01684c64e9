"""S(|Q|,E) of powders with all that interferes: what recipes for two-dimensional maps are held to.

    PYTHONPATH=. python -m tests.model_server.direct.coherent_maps phonondb-2018.h5 WORK

WORK is the folder that `beamsteer train-direct --work` has filled with site densities; maps of the
same crystals, of the training part and of the unseen one, go beside them. A map has 100 x 100 bins,
0 to 150 meV and 0 to 15 1/angstrom, a resolution of 1.5 meV, at 0 K, over its highest value: one
phonon, coherent (all G, sampled to 5 % of the sum of absolute differences, 10 % for training) and
incoherent, and multiphonon scattering up to fourth order. Imaginary modes are left out, real ones
below 1 meV count as if there. Blocks are kept: it goes on behind the last one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_server.direct import energy_edges_meV
from model_server.direct.published_maps import FWHM_MEV, SMALL_GRID, TOP_INVERSE_A, TOP_MEV
from simulations.arrays import FloatArray
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import PhononDos, force_constant_model
from simulations.errors import InputError
from simulations.saved_file import in_one_step
from simulations.scattering import Pockets, incoherent_spectrum, powder_spectrum
from steering.database.entry import Entry, constants_of
from steering.database.phonondb_file import PhonondbFile
from steering.predict.incoherent_powder import incoherent_powder
from steering.predict.optics import FWHM
from steering.study.direct_targets import SiteDensities
from steering.study.direct_targets_store import read_targets
from steering.study.direct_training import parts_of

BINS = SMALL_GRID.bins
MOMENTUM_EDGES = np.linspace(0.0, TOP_INVERSE_A, BINS + 1)
ENERGY_EDGES_MEV = np.linspace(0.0, TOP_MEV, BINS + 1)
SIGMA_MEV = FWHM_MEV / FWHM
MAX_ORDER = 4
TOLERANCE = {"unseen": 0.05, "train": 0.1}
BLOCK = 25
SETTING = {"temperature_K": 0.0, "resolution": SIGMA_MEV}


def scaled(total: FloatArray) -> FloatArray:
    return total / total.max()


def density_of(shares: FloatArray) -> PhononDos:
    edges = energy_edges_meV()
    return PhononDos(
        energy_edges_meV=edges, partial=3.0 * shares / np.diff(edges), imaginary_share=0.0
    )


def coherent_map(one: SiteDensities, entry: Entry, tolerance: float) -> FloatArray:
    """Truth, (BINS, BINS): |Q|, E.

    Raises
    ------
    InputError
        If the crystal or its constants cannot be used.
    """
    constants = constants_of(entry, "phonondb")
    crystal = constants.crystal
    pockets = Pockets(floor_meV=1.0, damped=False)
    coherent = powder_spectrum(
        force_constant_model(crystal, constants, None),
        MOMENTUM_EDGES,
        ENERGY_EDGES_MEV,
        tolerance=tolerance,
        pockets=pockets,
        **SETTING,
    ).intensity
    own = crystal_of(one)
    others = incoherent_spectrum(
        own, density_of(one.shares), MOMENTUM_EDGES, ENERGY_EDGES_MEV, max_order=MAX_ORDER,
        **SETTING,
    )  # fmt: skip
    if crystal.n_atoms != own.n_atoms:
        raise InputError(f"{crystal.n_atoms} atoms of {own.n_atoms}")
    total = coherent + others.one_phonon + others.multiphonon
    if not np.isfinite(total).all() or total.max() <= 0:
        raise InputError("the map is not finite, or empty")
    return scaled(total)


def crystal_of(one: SiteDensities):
    import periodictable

    symbols = tuple(periodictable.elements[int(z)].symbol for z in one.numbers)
    return crystal_from_cells(one.lattice, one.positions, symbols, one.lattice)


def incoherent_map(one: SiteDensities, shares: FloatArray) -> FloatArray:
    """The same where all scattering counts as incoherent, from shares of sites."""
    parts = incoherent_powder(
        crystal_of(one), density_of(shares), MOMENTUM_EDGES, ENERGY_EDGES_MEV, ei_meV=None,
        max_order=MAX_ORDER, **SETTING,
    )  # fmt: skip
    return scaled(parts.coherent + parts.incoherent + parts.multiphonon)


def maps_of(
    crystals: Sequence[SiteDensities], source: PhonondbFile, folder: Path, tolerance: float
) -> tuple[list[SiteDensities], FloatArray]:
    """Crystals that have a map, and their maps; kept in the folder, block by block."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {str(id_): row for row, id_ in enumerate(source.ids)}
    usable, maps = [], []
    for first in range(0, len(crystals), BLOCK):
        block, path = crystals[first : first + BLOCK], folder / f"{first:06d}.npz"
        if not path.exists():
            found = np.full((len(block), BINS, BINS), np.nan, dtype=np.float32)
            for k, one in enumerate(block):
                try:
                    found[k] = coherent_map(one, source.entry(rows[one.id]), tolerance)
                except InputError as error:
                    sys.stdout.write(f"{one.id}: {error}\n")
            with in_one_step(path) as partial, partial.open("wb") as file:
                np.savez_compressed(file, ids=np.array([one.id for one in block]), maps=found)
            sys.stdout.write(f"{first + len(block)} of {len(crystals)}\n")
            sys.stdout.flush()
        with np.load(path) as kept:
            if list(kept["ids"]) != [one.id for one in block]:
                raise InputError(f"{path} holds other crystals; expected those of this training")
            maps.append(kept["maps"])
        usable += [
            one for one, found in zip(block, maps[-1], strict=True) if np.isfinite(found).all()
        ]
    every = np.concatenate(maps)
    return usable, every[np.isfinite(every).all(axis=(1, 2))]


def parts(work: Path, crystals: int) -> dict[str, list[SiteDensities]]:
    found = parts_of(read_targets(work / "targets").crystals)
    return {"unseen": list(found["unseen"]), "train": list(found["train"][:crystals])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--crystals", type=int, default=1500)
    asked = parser.parse_args()
    source = PhonondbFile(asked.data)
    for part, crystals in parts(asked.work, asked.crystals).items():
        usable, _ = maps_of(crystals, source, asked.work / "maps" / part, TOLERANCE[part])
        sys.stdout.write(f"{part}: {len(usable)} of {len(crystals)} crystals have a map\n")


if __name__ == "__main__":
    main()
