"""Read crystals and their force constants from structure files, phonopy files and built-in names.

The crystal is turned into one standard frame: conventional a along x, b in the x-y plane. The
conventional cell is the file's own cell when that is as large as spglib's conventional cell (its
setting, for example Pbnm, is then kept), else spglib's.
"""

from __future__ import annotations

import gzip
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from simulations.constants import COULOMB_EV_A
from simulations.crystal import Crystal
from simulations.dipole import Dipole
from simulations.force_constants import (
    PairForceConstants,
    cell_index,
    from_representatives,
    from_supercell,
    shells,
    supercell_cells,
    to_supercell,
)
from simulations.symmetry import quiet_spglib, symmetry_dataset

FloatArray = NDArray[np.float64]

SYMPREC_A = 1e-4
_CLOSEST_A = 0.5


def builtin_crystals() -> tuple[str, ...]:
    """Names that `read_crystal` knows without a file."""
    folder = resources.files("simulations") / "data" / "crystals"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def _builtin(name: str) -> dict[str, Any] | None:
    if name not in builtin_crystals():
        return None
    text = (resources.files("simulations") / "data" / "crystals" / f"{name}.yaml").read_text()
    return yaml.safe_load(text)


# ------------------------------------------------------------------------------------ crystals


def neutron_data(symbols: tuple[str, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Masses, coherent lengths and incoherent cross sections of natural elements (or D, T).

    Parameters
    ----------
    symbols : tuple of str
        Chemical symbols.

    Returns
    -------
    masses_u, scattering_length, incoherent_barn : (atoms,) float64
        u, sqrt(barn) (real part), barn.

    Raises
    ------
    ValueError
        If an element is unknown or has no tabulated neutron data.

    References
    ----------
    The tables of the `periodictable` package (Rauch and Waschkowski 2003, and updates).
    """
    import periodictable

    masses, lengths, incoherent = [], [], []
    for symbol in symbols:
        try:
            element = periodictable.elements.symbol(symbol)
        except ValueError:
            raise ValueError(
                f"structure: species {symbol!r} is no element; expected a chemical symbol such as "
                "Ge. Name the species in the file."
            ) from None
        neutron = element.neutron
        if neutron is None or not neutron.has_sld() or neutron.b_c is None:
            raise ValueError(
                f"structure: no neutron scattering length is tabulated for {symbol}; expected an "
                "element with neutron data. Build the Crystal with your own `scattering_length`."
            )
        masses.append(float(element.mass))
        lengths.append(float(neutron.b_c) / 10)
        incoherent.append(float(neutron.incoherent or 0.0))
    return np.array(masses), np.array(lengths), np.array(incoherent)


def crystal_from_cells(
    lattice: ArrayLike,
    positions: ArrayLike,
    symbols: tuple[str, ...],
    conventional_lattice: ArrayLike,
) -> Crystal:
    """Crystal from cells that share a frame already; species data from the tables.

    Parameters
    ----------
    lattice : (3, 3) float64
        Primitive vectors in rows, angstrom.
    positions : (atoms, 3) float64
        Fractional in the primitive cell.
    symbols : tuple of str
    conventional_lattice : (3, 3) float64
        Rows, angstrom; whole numbers of primitive vectors.

    Raises
    ------
    ValueError
        If shapes disagree, atoms overlap, the conventional vectors are no lattice vectors, or
        species lack neutron data.
    """
    cell = np.asarray(lattice, dtype=float)
    x = np.asarray(positions, dtype=float)
    conventional = np.asarray(conventional_lattice, dtype=float)
    if cell.shape != (3, 3) or conventional.shape != (3, 3) or x.shape != (len(symbols), 3):
        raise ValueError(
            f"structure: lattice {cell.shape}, positions {x.shape}, {len(symbols)} symbols; "
            "expected (3, 3), (atoms, 3) and one symbol per atom"
        )
    if not (np.isfinite(cell).all() and np.isfinite(x).all() and abs(np.linalg.det(cell)) > 1e-3):
        raise ValueError("structure: lattice or positions are singular or not finite")
    multiple = conventional @ np.linalg.inv(cell)
    if np.abs(multiple - np.rint(multiple)).max() > 1e-4:
        raise ValueError(
            "structure: conventional_lattice is not made of whole primitive vectors; expected both "
            "cells of one lattice in one Cartesian frame"
        )
    _check_distances(cell, x, symbols)
    masses, lengths, incoherent = neutron_data(tuple(symbols))
    return Crystal(
        lattice=cell,
        positions=x,
        symbols=tuple(symbols),
        masses_u=masses,
        scattering_length=lengths,
        incoherent_barn=incoherent,
        conventional_lattice=conventional,
    )


def _check_distances(lattice: FloatArray, x: FloatArray, symbols: tuple[str, ...]) -> None:
    images = np.stack(np.meshgrid(*([[-1, 0, 1]] * 3), indexing="ij"), axis=-1).reshape(-1, 3)
    for i in range(len(x)):
        step = x[i:] - x[i]
        step -= np.rint(step)
        length = np.linalg.norm((step[:, None] + images) @ lattice, axis=-1)
        length[0, np.all(images == 0, axis=1)] = np.inf
        if length.min() < _CLOSEST_A:
            j = i + int(np.argmin(length.min(axis=1)))
            raise ValueError(
                f"structure: atoms {i + 1} ({symbols[i]}) and {j + 1} ({symbols[j]}) are "
                f"{length.min():.3f} angstrom apart; expected at least {_CLOSEST_A}. Remove the "
                "duplicate or, for a shared site, build an ordered supercell."
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Placement:
    """Where a file's cell lies in the crystal's frame: ``r = rotation @ r_file + shift``."""

    crystal: Crystal
    rotation: FloatArray  # (3, 3) proper
    shift: FloatArray  # (3,) angstrom


def _lattice_of_metric(metric: FloatArray) -> FloatArray:
    """Rows with a given metric tensor: a along x, b in the x-y plane, c_z > 0."""
    rows = np.linalg.cholesky(metric)
    return np.where(np.abs(rows) < 1e-12 * np.abs(rows).max(), 0.0, rows)


def place_structure(
    lattice: FloatArray,
    positions: FloatArray,
    symbols: tuple[str, ...],
    symprec_A: float = SYMPREC_A,
) -> Placement:
    """Standardise a structure; the head of the module says how.

    Parameters
    ----------
    lattice : (3, 3) float64
        Vectors of any cell in rows, angstrom.
    positions : (N, 3) float64
        Fractional in that cell.
    symbols : (N,) tuple of str
    symprec_A : float
        Atoms nearer than this to a symmetric place are moved there, angstrom.

    Raises
    ------
    ValueError
        As `read_crystal`.
    """
    _check_distances(lattice, positions, symbols)
    neutron_data(tuple(dict.fromkeys(symbols)))
    if np.linalg.det(lattice) < 0:  # spglib expects a right-handed basis
        lattice, positions = -lattice, -positions
    data = symmetry_dataset(lattice, positions, symbols, symprec_A)
    if data is None:
        raise ValueError(
            f"structure: spglib finds no space group within {symprec_A} angstrom; "
            "expected a crystal without overlapping atoms"
        )
    P = np.asarray(data.transformation_matrix)
    standard = np.linalg.inv(P).T @ lattice  # conventional vectors in the file's frame
    volume_ratio = abs(np.linalg.det(standard) / np.linalg.det(lattice))
    keeps_cell = abs(volume_ratio - 1) < 1e-3 and not _same_up_to_centring(standard, lattice)
    conventional = lattice if keeps_cell else standard
    to_conventional = np.linalg.inv(conventional @ np.linalg.inv(lattice)).T  # x_conv = this @ x
    rotations = np.asarray(data.rotations)
    W = np.einsum(
        "ab,gbc,cd->gad", to_conventional, rotations, np.linalg.inv(to_conventional)
    )  # in conventional coordinates
    metric = conventional @ conventional.T
    metric = np.mean(W.transpose(0, 2, 1) @ metric @ W, axis=0)
    new_conventional = _lattice_of_metric(metric)

    primitive_file = _primitive_lattice(data, standard, lattice, volume_ratio, keeps_cell)
    combination = np.rint(12 * primitive_file @ np.linalg.inv(conventional)) / 12
    new_primitive = combination @ new_conventional
    new_primitive = np.where(np.abs(new_primitive) < 1e-12, 0.0, new_primitive)
    if np.linalg.det(new_primitive) < 0:
        new_primitive = -new_primitive
        combination = -combination

    # origin where spglib puts it, so that translations are simple fractions
    origin = -np.linalg.inv(P) @ np.asarray(data.origin_shift)
    to_primitive = np.linalg.inv(combination @ conventional)
    x_all = (positions - origin) @ lattice @ to_primitive
    atoms, x = _unique_atoms(x_all, symbols, new_primitive, symprec_A)
    names = tuple(symbols[a] for a in atoms)
    x = _symmetrised_positions(new_primitive, x, names, symprec_A)
    crystal = crystal_from_cells(new_primitive, x, names, new_conventional)
    u, _, vt = np.linalg.svd(new_conventional.T @ np.linalg.inv(conventional.T))
    rotation = u @ vt
    return Placement(
        crystal=crystal,
        rotation=rotation,
        shift=-rotation @ (origin @ lattice),
    )


def _same_up_to_centring(standard: FloatArray, lattice: FloatArray) -> bool:
    return bool(np.allclose(standard, lattice, atol=1e-3))


def _primitive_lattice(
    data: Any, standard: FloatArray, lattice: FloatArray, volume_ratio: float, keeps_cell: bool
) -> FloatArray:
    """Primitive vectors in the file's frame, standard ones unless the file's setting is kept."""
    symbol = data.international[0]
    centring = {
        "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
        "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
        "C": [[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]],
        "A": [[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]],
        "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
    }.get(symbol)
    del volume_ratio, lattice
    if centring is None:
        return np.asarray(data.primitive_lattice) if keeps_cell else standard
    if keeps_cell:
        return np.asarray(data.primitive_lattice)
    return np.array(centring) @ standard


def _unique_atoms(
    x: FloatArray, symbols: tuple[str, ...], lattice: FloatArray, symprec_A: float
) -> tuple[list[int], FloatArray]:
    """Atoms of a bigger cell that differ in the primitive cell, positions within [0, 1)."""
    kept: list[int] = []
    for a in range(len(x)):
        for b in kept:
            step = x[a] - x[b]
            step -= np.rint(step)
            if np.linalg.norm(step @ lattice) < 20 * symprec_A:
                if symbols[a] != symbols[b]:
                    raise ValueError(
                        f"structure: atoms {a + 1} and {b + 1} share a site; expected one atom each"
                    )
                break
        else:
            kept.append(a)
    y = x[kept]
    y = y - np.floor(y + 1e-6)
    return kept, y


def _symmetrised_positions(
    lattice: FloatArray, x: FloatArray, symbols: tuple[str, ...], symprec_A: float
) -> FloatArray:
    """Average positions over the space group; translations are rounded to simple fractions."""
    data = symmetry_dataset(lattice, x, symbols, symprec_A)
    if data is None:
        return x
    W, w = np.asarray(data.rotations), np.asarray(data.translations)
    rounded = np.rint(24 * w) / 24
    near = np.abs(rounded - w).max(axis=1) < 1e-2
    total, count = np.zeros_like(x), 0
    for g in range(len(W)):
        if not near[g]:
            return x
        image = x @ W[g].T + rounded[g]
        step = image[:, None] - x[None]
        shift = np.rint(step)
        distance = np.linalg.norm((step - shift) @ lattice, axis=-1)
        distance[np.array([[a != b for b in symbols] for a in symbols])] = np.inf
        target = np.argmin(distance, axis=1)
        if distance[np.arange(len(x)), target].max() > 20 * symprec_A:
            return x
        total[target] += image - shift[np.arange(len(x)), target]
        count += 1
    return total / count


def _looks_binary(data: bytes) -> bool:
    return b"\0" in data[:4096]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"structure: {path} is no file and no built-in crystal; expected a POSCAR, CIF or "
            f"phonopy.yaml, or one of {', '.join(builtin_crystals())}"
        )
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if not data.strip():
        raise ValueError(f"structure: {path} is empty; expected a POSCAR, CIF or phonopy.yaml")
    if _looks_binary(data):
        raise ValueError(f"structure: {path} is binary; expected a POSCAR, CIF or phonopy.yaml")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _is_phonopy(text: str) -> bool:
    return "unit_cell:" in text or ("primitive_cell:" in text and "phonopy:" in text)


def refuse_tags(text: str) -> None:
    """Refuse YAML that asks for anything but plain values.

    phonopy's own loader would build any Python object that a tag names.

    Raises
    ------
    ValueError
        If the text has a tag or is no YAML.
    """
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            tag = getattr(event, "tag", None)
            if tag not in (None, "!"):
                raise ValueError(f"YAML with the tag {tag!r}; expected plain values only")
    except yaml.YAMLError as error:
        raise ValueError(f"no valid YAML ({error})") from error


def _structure(path: Path) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    """Lattice, fractional positions and symbols of a file's unit cell."""
    text = _read_text(path)
    try:
        if _is_phonopy(text):
            refuse_tags(text)
            from phonopy.interface.phonopy_yaml import PhonopyYaml

            reader = PhonopyYaml()
            reader.read(path)
            cell = reader.unitcell
            if cell is None:
                raise ValueError("no unit_cell section")
            return cell.cell, cell.scaled_positions, tuple(cell.symbols)
        structure = _pymatgen_structure(path, text)
    except ValueError as error:
        if str(error).startswith("structure:"):
            raise
        raise ValueError(
            f"structure: {path} cannot be read ({error}); expected a POSCAR, CIF or phonopy.yaml"
        ) from error
    except Exception as error:  # parsers raise many kinds
        raise ValueError(
            f"structure: {path} cannot be read ({type(error).__name__}: {error}); "
            "expected a POSCAR, CIF or phonopy.yaml"
        ) from error
    partial = [str(site.species) for site in structure if not site.is_ordered]
    if partial:
        raise ValueError(
            f"structure: {path} has {len(partial)} partly occupied sites, the first {partial[0]}; "
            "expected whole atoms. Build an ordered supercell (for example pymatgen's "
            "OrderDisorderedStructureTransformation) and give that file."
        )
    symbols = tuple(
        getattr(site.specie, "element", site.specie).symbol
        if not hasattr(site.specie, "symbol")
        else site.specie.symbol
        for site in structure
    )
    return structure.lattice.matrix, structure.frac_coords, symbols


def _pymatgen_structure(path: Path, text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix.lower() == ".cif" or text.lstrip().startswith("data_") or "_cell_" in text:
            from pymatgen.io.cif import CifParser

            parser = CifParser.from_str(text, occupancy_tolerance=1.0)
            found = parser.parse_structures(primitive=False, on_error="raise")
            return found[0]
        from pymatgen.io.vasp import Poscar

        poscar = Poscar.from_str(_with_species_line(text), read_velocities=False)
        if not poscar.true_names:  # the parser would go on with H, He, Li, ...
            raise ValueError(
                f"structure: {path} names no species; expected a line of chemical symbols above "
                "the numbers of atoms, such as `Na Cl`. Add it"
            )
        return poscar.structure


def _with_species_line(text: str) -> str:
    """Move the symbols of an old POSCAR from its title to where the newer layout has them."""
    import periodictable

    lines = text.splitlines()
    if len(lines) < 7:
        return text
    names, counts = lines[0].split(), lines[5].split()
    known = {element.symbol for element in periodictable.elements}
    old = bool(counts) and all(c.isdigit() for c in counts)
    if old and len(names) == len(counts) and known.issuperset(names):
        lines.insert(5, lines[0])
    return "\n".join(lines) + "\n"


def read_crystal(path_or_name: str | Path, *, symprec_A: float = SYMPREC_A) -> Crystal:
    """Read a crystal from a POSCAR, CIF or phonopy.yaml, or take a built-in one.

    Parameters
    ----------
    path_or_name : str or Path
        File, or a name out of `builtin_crystals`.
    symprec_A : float
        Atoms nearer than this to a symmetric place are moved there, angstrom.

    Returns
    -------
    Crystal
        Primitive cell in the frame of the conventional cell: a along x, b in the x-y plane.

    Raises
    ------
    ValueError
        Unknown, empty, binary or unreadable file; partly occupied or overlapping sites; species
        without neutron data. The message says what to do.
    """
    entry = _builtin(str(path_or_name))
    if entry is not None:
        return _builtin_crystal(entry)
    lattice, positions, symbols = _structure(Path(path_or_name))
    return place_structure(lattice, positions, symbols, symprec_A).crystal


def _builtin_crystal(entry: dict[str, Any]) -> Crystal:
    cell = entry["cell"]
    return crystal_from_cells(
        np.array(cell["lattice_A"], dtype=float),
        np.array(cell["positions"], dtype=float),
        tuple(cell["symbols"]),
        np.array(cell["conventional_lattice_A"], dtype=float),
    )


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
    Path(path).write_text(text)


# ------------------------------------------------------------------------------ force constants


def read_force_constants(
    path_or_name: str | Path,
    *,
    supercell_matrix: ArrayLike | None = None,
    symprec_A: float = SYMPREC_A,
) -> PairForceConstants:
    """Read force constants; their `crystal` is the one that `read_crystal` gives for the file.

    Parameters
    ----------
    path_or_name : str or Path
        A phonopy.yaml (force constants, displacements and forces inside, or FORCE_CONSTANTS,
        FORCE_SETS and BORN beside it), a folder with POSCAR and FORCE_CONSTANTS or FORCE_SETS, or
        a built-in name that has force constants.
    supercell_matrix : (3,) or (3, 3) int or None
        Supercell in vectors of the file's cell, for files that do not say it. None: from the file,
        or n x n x n from the number of atoms.
    symprec_A : float
        As in `read_crystal`.

    Raises
    ------
    ValueError
        If no force constants are found or they do not belong to the structure.
    """
    entry = _builtin(str(path_or_name))
    if entry is not None:
        crystal = _builtin_crystal(entry)
        if "force_constants" not in entry:
            raise ValueError(
                f"structure {path_or_name!r} has no stored force constants; expected one of "
                f"{[n for n in builtin_crystals() if 'force_constants' in (_builtin(n) or {})]}. "
                "Name a stored prior in parameters.prior, or make one with `beamsteer prior`."
            )
        listed = [
            (s["first"], s["second"], s["cell"], s["elements"])
            for s in entry["force_constants"]["shells"]
        ]
        return from_representatives(crystal, listed, source=f"built in: {path_or_name}")
    phonon = load_phonopy(Path(path_or_name), supercell_matrix=supercell_matrix)
    return from_phonopy(phonon, source=str(path_or_name), symprec_A=symprec_A)


def load_phonopy(path: Path, *, supercell_matrix: ArrayLike | None = None) -> Any:
    """Load a phonopy object with force constants; see `read_force_constants`."""
    from phonopy.structure.cells import PrimitiveMatrixAutoDefaultWarning

    path = Path(path)
    folder = path if path.is_dir() else path.parent
    yaml_file = path
    if path.is_dir():
        names = ("phonopy_params.yaml", "phonopy.yaml", "phonopy_disp.yaml", "POSCAR")
        found = [folder / n for n in (*names, "POSCAR-unitcell") if (folder / n).is_file()]
        if not found:
            raise ValueError(
                f"force constants: {folder} holds no phonopy.yaml and no POSCAR; expected one"
            )
        yaml_file = found[0]
    text = _read_text(yaml_file)
    if _is_phonopy(text):
        refuse_tags(text)
    beside = {n: folder / n for n in ("FORCE_CONSTANTS", "FORCE_SETS", "BORN")}
    beside["force_constants.hdf5"] = folder / "force_constants.hdf5"
    there = {n: str(f) for n, f in beside.items() if f.is_file()}
    options: dict[str, Any] = {"log_level": 0, "produce_fc": True, "symmetrize_fc": False}
    if "FORCE_CONSTANTS" in there:
        options["force_constants_filename"] = there["FORCE_CONSTANTS"]
    elif "force_constants.hdf5" in there:
        options["force_constants_filename"] = there["force_constants.hdf5"]
    elif "FORCE_SETS" in there:
        options["force_sets_filename"] = there["FORCE_SETS"]
    if "BORN" in there:
        options["born_filename"] = there["BORN"]
    try:
        with quiet_spglib(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PrimitiveMatrixAutoDefaultWarning)
            phonon = _phonopy(yaml_file, text, there, options, supercell_matrix)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"force constants: {yaml_file} cannot be read by phonopy "
            f"({type(error).__name__}: {error})"
        ) from error
    if phonon.force_constants is None:
        raise ValueError(
            f"force constants: none found with {yaml_file}; expected FORCE_CONSTANTS or FORCE_SETS "
            "beside it, or inside it"
        )
    return phonon


def _phonopy(
    yaml_file: Path,
    text: str,
    there: dict[str, str],
    options: dict[str, Any],
    supercell_matrix: ArrayLike | None,
) -> Any:
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    if _is_phonopy(text):
        return phonopy.load(str(yaml_file), **options)
    lattice, positions, symbols = _structure(yaml_file)
    if supercell_matrix is None:
        supercell_matrix = _guess_supercell(len(symbols), there)
    cell = PhonopyAtoms(symbols=symbols, cell=lattice, scaled_positions=positions)
    return phonopy.load(
        unitcell=cell,
        supercell_matrix=np.asarray(supercell_matrix).tolist(),
        primitive_matrix="auto",
        **options,
    )


def _guess_supercell(n_atoms: int, there: dict[str, str]) -> list[int]:
    if "FORCE_CONSTANTS" in there:
        with open(there["FORCE_CONSTANTS"]) as f:
            total = int(f.readline().split()[-1])
    elif "FORCE_SETS" in there:
        from phonopy import file_IO

        sets: Any = file_IO.parse_FORCE_SETS(filename=there["FORCE_SETS"])
        total = int(sets["natom"])
    else:
        raise ValueError("force constants: no FORCE_CONSTANTS or FORCE_SETS found beside the file")
    n = round((total / n_atoms) ** (1 / 3))
    if n**3 * n_atoms != total:
        raise ValueError(
            f"force constants: {total} supercell atoms over {n_atoms} atoms is no n x n x n "
            "supercell; give supercell_matrix"
        )
    return [n, n, n]


def from_phonopy(
    phonon: Any, *, source: str = "", symprec_A: float = SYMPREC_A
) -> PairForceConstants:
    """Carry a phonopy object's force constants (and Born charges) into our frame.

    Parameters
    ----------
    phonon : phonopy.Phonopy
        With force constants, full or compact; Born charges if polar.
    source : str
        Where the numbers come from.
    symprec_A : float
        As in `read_crystal`.

    Raises
    ------
    ValueError
        If the supercell's atoms do not match the crystal, or constants are not finite.
    """
    unit = phonon.unitcell
    place = place_structure(unit.cell, unit.scaled_positions, tuple(unit.symbols), symprec_A)
    crystal, R = place.crystal, place.rotation
    supercell_cell = phonon.supercell.cell @ R.T
    supercell = _whole(supercell_cell @ np.linalg.inv(crystal.lattice), "supercell")
    x = (phonon.supercell.positions @ R.T + place.shift) @ np.linalg.inv(crystal.lattice)
    atom, cell = match_atoms(crystal, x, tuple(phonon.supercell.symbols), symprec_A)

    constants = np.asarray(phonon.force_constants)
    if not np.isfinite(constants).all():
        raise ValueError("force constants hold NaN or infinity; expected finite numbers")
    if constants.shape[0] == constants.shape[1]:
        rows = np.arange(len(atom))
    else:
        rows = np.asarray(phonon.primitive.p2s_map)
    turned = np.einsum("ac,bd,ijcd->ijab", R, R, constants, optimize=True)

    cells = supercell_cells(supercell)
    out = np.zeros((crystal.n_atoms, len(cells), crystal.n_atoms, 3, 3))
    filled = np.zeros(crystal.n_atoms, dtype=int)
    for k, row in enumerate(rows):
        i = atom[row]
        index = cell_index(cell - cell[row], supercell, cells)
        np.add.at(out, (i, index, atom), turned[k])
        filled[i] += 1
    if np.any(filled == 0):
        raise ValueError(
            "force constants: a primitive atom has no row; expected full or compact constants"
        )
    out /= filled[:, None, None, None, None]

    dipole = None
    if phonon.nac_params is not None:
        dipole = _dipole(phonon, place, symprec_A)
    return from_supercell(crystal, supercell, cells, out, dipole=dipole, source=source)


def _dipole(phonon: Any, place: Placement, symprec_A: float) -> Dipole:
    params = phonon.nac_params
    primitive = phonon.primitive
    crystal, R = place.crystal, place.rotation
    x = (primitive.positions @ R.T + place.shift) @ np.linalg.inv(crystal.lattice)
    atom, _ = match_atoms(crystal, x, tuple(primitive.symbols), symprec_A)
    born = np.zeros((crystal.n_atoms, 3, 3))
    count = np.zeros(crystal.n_atoms)
    turned = np.einsum("ac,bd,icd->iab", R, R, np.asarray(params["born"]))
    np.add.at(born, atom, turned)
    np.add.at(count, atom, 1)
    factor = params.get("factor")
    born /= count[:, None, None]
    born -= born.mean(axis=0)  # neutral, or long acoustic waves would carry charge
    dielectric = R @ np.asarray(params["dielectric"]) @ R.T
    return Dipole(
        born=born,
        dielectric=0.5 * (dielectric + dielectric.T),  # files hold it with rounding errors
        coulomb_eV_A=COULOMB_EV_A if factor is None else float(factor),
    )


def match_atoms(
    crystal: Crystal, x: FloatArray, symbols: tuple[str, ...], symprec_A: float = SYMPREC_A
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find which atom of which cell sits at given places.

    Parameters
    ----------
    crystal : Crystal
    x : (N, 3) float64
        Fractional in primitive vectors, any cell.
    symbols : (N,) tuple of str
    symprec_A : float

    Returns
    -------
    atom : (N,) int64
    cell : (N, 3) int64

    Raises
    ------
    ValueError
        If a place is no atom of the crystal.
    """
    step = x[:, None] - crystal.positions[None]
    shift = np.rint(step)
    distance = np.linalg.norm((step - shift) @ crystal.lattice, axis=-1)
    distance[np.array([[a != b for b in crystal.symbols] for a in symbols])] = np.inf
    atom = np.argmin(distance, axis=1)
    worst = distance[np.arange(len(x)), atom].max()
    if worst > max(50 * symprec_A, 1e-2):
        raise ValueError(
            f"structure: an atom lies {worst:.3f} angstrom from every site of the crystal; "
            "expected the supercell of the same structure"
        )
    return atom.astype(np.int64), shift[np.arange(len(x)), atom].astype(np.int64)


def _whole(matrix: FloatArray, what: str) -> NDArray[np.int64]:
    whole = np.rint(matrix).astype(np.int64)
    if np.abs(matrix - whole).max() > 1e-2:
        raise ValueError(
            f"{what} {np.round(matrix, 3).tolist()} is not made of whole primitive vectors"
        )
    return whole


def to_phonopy_array(
    force_constants: PairForceConstants, phonon: Any, symprec_A: float = SYMPREC_A
) -> FloatArray:
    """Full force constants in the order and frame of a phonopy object; inverse of `from_phonopy`.

    Parameters
    ----------
    force_constants : PairForceConstants
    phonon : phonopy.Phonopy
        The object whose unit cell and supercell set order and frame.
    symprec_A : float

    Returns
    -------
    (supercell atoms, supercell atoms, 3, 3) float64
        eV/angstrom^2.
    """
    unit = phonon.unitcell
    place = place_structure(unit.cell, unit.scaled_positions, tuple(unit.symbols), symprec_A)
    crystal, R = force_constants.crystal, place.rotation
    supercell = _whole(
        phonon.supercell.cell @ R.T @ np.linalg.inv(crystal.lattice), "phonopy's supercell"
    )
    x = (phonon.supercell.positions @ R.T + place.shift) @ np.linalg.inv(crystal.lattice)
    atom, cell = match_atoms(crystal, x, tuple(phonon.supercell.symbols), symprec_A)
    cells, constants = to_supercell(force_constants, supercell)
    out = np.empty((len(atom), len(atom), 3, 3))
    for s in range(len(atom)):
        index = cell_index(cell - cell[s], supercell, cells)
        out[s] = constants[atom[s], index, atom]
    return np.einsum("ca,db,ijcd->ijab", R, R, out, optimize=True)
