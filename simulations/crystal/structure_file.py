"""Read crystals and their force constants from structure files, phonopy files and built-in names.

The crystal is turned into one standard frame: conventional a along x, b in the x-y plane. The
conventional cell is the file's own cell when that is as large as spglib's conventional cell (its
setting, for example Pbnm, is then kept), else spglib's.
"""

from __future__ import annotations

import gzip
import io
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simulations.arrays import FloatArray
from simulations.crystal.cell import Crystal
from simulations.crystal.first_look import MAX_BYTES, refuse_announced_atoms
from simulations.crystal.placement import FILE_SYMPREC_A, crystal_from_cells, place_structure
from simulations.crystal.symmetry import refuse_unreal
from simulations.errors import InputError


def builtin_crystals() -> tuple[str, ...]:
    """Names that `read_crystal` knows without a file."""
    folder = resources.files("simulations") / "data" / "crystals"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def builtin_entry(name: str) -> dict[str, Any] | None:
    """What is stored of a built-in crystal; None where there is none of that name."""
    if name not in builtin_crystals():
        return None
    text = (resources.files("simulations") / "data" / "crystals" / f"{name}.yaml").read_text()
    return yaml.safe_load(text)


def _looks_binary(data: bytes) -> bool:
    return b"\0" in data[:4096]


def read_structure_text(path: Path) -> str:
    """Text of a structure file, unpacked; ValueError where it is missing, empty or binary."""
    if not path.is_file():
        raise InputError(
            f"structure: {path} is no file and no built-in crystal; expected a POSCAR, CIF or "
            f"phonopy.yaml, or one of {', '.join(builtin_crystals())}"
        )
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, path)
    if len(data) > MAX_BYTES:
        raise InputError(f"structure: {path} is too large; expected at most {MAX_BYTES:,} bytes")
    if not data.strip():
        raise InputError(f"structure: {path} is empty; expected a POSCAR, CIF or phonopy.yaml")
    if _looks_binary(data):
        raise InputError(f"structure: {path} is binary; expected a POSCAR, CIF or phonopy.yaml")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _unpacked(data: bytes, path: Path) -> bytes:
    """Content of a gzip file, up to one byte more than is taken."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            return packed.read(MAX_BYTES + 1)
    except (OSError, EOFError) as error:
        raise InputError(
            f"structure: {path} cannot be unpacked ({error}); fetch it anew"
        ) from error


def is_phonopy_file(text: str) -> bool:
    """Whether the text is a phonopy.yaml."""
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
                raise InputError(f"YAML with the tag {tag!r}; expected plain values only")
    except yaml.YAMLError as error:
        raise InputError(f"no valid YAML ({error})") from error


def parse_structure(path: Path) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    """Lattice, fractional positions and symbols of a file's unit cell."""
    text = read_structure_text(path)
    try:
        if is_phonopy_file(text):
            refuse_tags(text)
            refuse_announced_atoms(text, "phonopy")
            from phonopy.interface.phonopy_yaml import PhonopyYaml

            reader = PhonopyYaml()
            reader.read(path)
            cell = reader.unitcell
            if cell is None:
                raise InputError("no unit_cell section")
            refuse_unreal(cell.cell, cell.scaled_positions)
            return cell.cell, cell.scaled_positions, tuple(cell.symbols)
        structure = _pymatgen_structure(path, text)
        refuse_unreal(structure.lattice.matrix, structure.frac_coords)
    except ValueError as error:
        if str(error).startswith("structure:"):
            raise
        raise InputError(
            f"structure: {path} cannot be read ({error}); expected a POSCAR, CIF or phonopy.yaml"
        ) from error
    except Exception as error:  # parsers raise many kinds
        raise InputError(
            f"structure: {path} cannot be read ({type(error).__name__}: {error}); "
            "expected a POSCAR, CIF or phonopy.yaml"
        ) from error
    partial = [str(site.species) for site in structure if not site.is_ordered]
    if partial:
        raise InputError(
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
            refuse_announced_atoms(text, "cif")
            from pymatgen.io.cif import CifParser

            parser = CifParser.from_str(text, occupancy_tolerance=1.0)
            found = parser.parse_structures(primitive=False, on_error="raise")
            return found[0]
        from pymatgen.io.vasp import Poscar

        text = _with_species_line(text)
        refuse_announced_atoms(text, "poscar")
        poscar = Poscar.from_str(text, read_velocities=False)
        if not poscar.true_names:  # the parser would go on with H, He, Li, ...
            raise InputError(
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


def read_crystal(path_or_name: str | Path, *, symprec_A: float = FILE_SYMPREC_A) -> Crystal:
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
    entry = builtin_entry(str(path_or_name))
    if entry is not None:
        return builtin_crystal(entry)
    lattice, positions, symbols = parse_structure(Path(path_or_name))
    return place_structure(lattice, positions, symbols, symprec_A).crystal


def builtin_crystal(entry: dict[str, Any]) -> Crystal:
    """Crystal of an entry that `builtin_entry` found."""
    cell = entry["cell"]
    return crystal_from_cells(
        np.array(cell["lattice_A"], dtype=float),
        np.array(cell["positions"], dtype=float),
        tuple(cell["symbols"]),
        np.array(cell["conventional_lattice_A"], dtype=float),
    )
