"""Read crystals and their force constants from structure files, phonopy files and built-in names.

The crystal is turned into one standard frame: conventional a along x, b in the x-y plane. The
conventional cell is the file's own cell when that is as large as spglib's conventional cell (its
setting, for example Pbnm, is then kept), else spglib's.
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simulations.arrays import FloatArray
from simulations.crystal.cell import Crystal, element_of
from simulations.crystal.cif_sites import MOST_OCCUPIED
from simulations.crystal.cif_text import plain_cif
from simulations.crystal.first_look import MAX_BYTES, refuse_announced_atoms
from simulations.crystal.placement import FILE_SYMPREC_A, crystal_from_cells, place_structure
from simulations.crystal.poscar_text import plain_poscar
from simulations.crystal.species import (
    Species,
    canonical_labels,
    species_named,
    species_of_mass,
)
from simulations.crystal.structure_text import (
    is_phonopy_text,
    structure_format,
    structure_text,
)
from simulations.crystal.symmetry import refuse_unreal
from simulations.errors import InputError

CASTEP_SUFFIXES = (".castep_bin", ".check")
_MOST_CIF_BYTES = 2**24


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
    return structure_text(data, f"structure: {path}")


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
    return is_phonopy_text(text)


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FileCell:
    """A file's unit cell as it stands there."""

    lattice: FloatArray  # (3, 3) rows, angstrom
    positions: FloatArray  # (atoms, 3) fractional
    species: tuple[Species, ...]  # (atoms,)
    notes: tuple[str, ...] = ()  # what was decided where the file leaves something open

    @property
    def symbols(self) -> tuple[str, ...]:
        """Labels of the species."""
        return tuple(s.label for s in self.species)


def parse_structure(path: Path) -> FileCell:
    """Unit cell of a file; masses are the file's where it gives some, isotopes where it names them.

    Raises
    ------
    ValueError
        As `read_crystal`.
    """
    if read_by_euphonic(path):
        return _euphonic_cell(path)
    refuse_abinit(path)
    text = read_structure_text(path)
    try:
        if structure_format(path.name, text) == "phonopy":
            refuse_tags(text)
            refuse_announced_atoms(text, "phonopy")
            from phonopy.interface.phonopy_yaml import PhonopyYaml

            reader = PhonopyYaml()
            reader.read(path)
            cell = reader.unitcell
            if cell is None:
                raise InputError("no unit_cell section")
            refuse_unreal(cell.cell, cell.scaled_positions)
            _refuse_other_masses(reader)
            return FileCell(
                lattice=cell.cell,
                positions=cell.scaled_positions,
                species=phonopy_species(cell),
            )
        structure, labels, notes = _pymatgen_structure(path, text)
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
            "expected whole atoms. Build an ordered supercell: --order does so for predict, "
            "phonons and spectrum, and order: true in a request; elsewhere use pymatgen's "
            "OrderDisorderedStructureTransformation and give that file."
        )
    if labels is None:
        labels = tuple(getattr(s.specie, "element", s.specie).symbol for s in structure)
    known = {label: species_named(label) for label in dict.fromkeys(labels)}
    return FileCell(
        lattice=structure.lattice.matrix,
        positions=structure.frac_coords,
        species=tuple(known[label] for label in labels),
        notes=notes,
    )


def structure_notes(path: Path) -> tuple[str, ...]:
    """What is decided where a structure file leaves something open; nothing without a CIF.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    if not path.is_file() or path.stat().st_size > _MOST_CIF_BYTES or read_by_euphonic(path):
        return ()
    text = read_structure_text(path)
    if structure_format(path.name, text) != "cif":
        return ()
    refuse_announced_atoms(text, "cif")
    try:
        return plain_cif(text).notes
    except InputError:
        raise
    except Exception:  # of what no check foresaw: who reads the structure says it
        return ()


def read_disordered(path: Path) -> Any:
    """Pymatgen's structure of a file with partly occupied sites; None where all hold whole atoms.

    Raises
    ------
    InputError
        If it cannot be read, or names isotopes, which an ordering would lose.
    """
    if read_by_euphonic(path):
        return None
    text = read_structure_text(path)
    if structure_format(path.name, text) == "phonopy":
        return None
    try:
        structure, labels, _ = _pymatgen_structure(path, text)
        refuse_unreal(structure.lattice.matrix, structure.frac_coords)
    except Exception as error:  # parsers raise many kinds
        if str(error).startswith("structure:"):
            raise
        raise InputError(
            f"structure: {path} cannot be read ({type(error).__name__}: {error}); "
            "expected a POSCAR or CIF"
        ) from error
    if structure.is_ordered:
        return None
    if labels is not None:
        raise InputError(
            f"structure: {path} names isotopes and has partly occupied sites; expected elements "
            "for an ordering. Name the elements there, and the isotopes with --isotopes"
        )
    return structure


def refuse_abinit(path: Path) -> None:
    """Raise for a DDB of Abinit, with what makes phonopy's files of it."""
    if path.name.upper().endswith(("DDB", "DDB.NC")):
        raise InputError(
            f"structure: {path} is a DDB of Abinit, which neither Euphonic nor phonopy reads; "
            "expected phonopy's files. Convert it where anaddb and abipy are installed: "
            "abilab.abiopen(FILE).anaget_phonopy_ifc(output_dir_path=FOLDER) writes POSCAR, "
            "FORCE_CONSTANTS and BORN; give that POSCAR"
        )


def _refuse_other_masses(reader: Any) -> None:
    """Raise where sections of a phonopy file give atoms masses that its unit cell does not have."""
    unit = reader.unitcell
    ours = {(s, round(float(m), 3)) for s, m in zip(unit.symbols, unit.masses, strict=True)}
    for name, cell in (("primitive_cell", reader.primitive), ("supercell", reader.supercell)):
        if cell is None or cell.masses is None:
            continue
        theirs = {(s, round(float(m), 3)) for s, m in zip(cell.symbols, cell.masses, strict=True)}
        other = sorted(theirs - ours)
        if other:
            symbol, mass = other[0]
            raise InputError(
                f"structure: {name} gives {symbol} the mass {mass:g} u, which unit_cell does not; "
                "expected the same masses in all sections. Change those of unit_cell as well"
            )


def read_by_euphonic(path: Path) -> bool:
    """Whether a file is one that Euphonic reads: CASTEP's, or JSON that Euphonic wrote."""
    if path.suffix in CASTEP_SUFFIXES:
        return True
    if path.suffix != ".json" or not path.is_file():
        return False
    return '"__euphonic_class__"' in read_structure_text(path)


def constants_by_euphonic(path: Path) -> Any:
    """Euphonic's force constants of a file of CASTEP or its own, where Euphonic is installed.

    Raises
    ------
    InputError
        If the file or the package is missing, or the file holds no force constants.
    """
    whose = "CASTEP's" if path.suffix in CASTEP_SUFFIXES else "Euphonic's JSON"
    if not path.is_file():
        raise InputError(f"structure: {path} is no file; expected one of CASTEP")
    try:
        from euphonic import ForceConstants
    except ImportError as error:
        raise InputError(
            f"structure: {path} is {whose}, which Euphonic reads; expected that package. "
            "pip install euphonic (GPL-3), or convert the file to phonopy's"
        ) from error
    read = ForceConstants.from_castep
    if path.suffix not in CASTEP_SUFFIXES:
        read = ForceConstants.from_json_file
    try:
        return read(str(path))
    except Exception as error:
        raise InputError(
            f"structure: {path} cannot be read by Euphonic ({type(error).__name__}: {error}); "
            "expected a CASTEP phonon calculation with force constants of a supercell, or "
            "ForceConstants that Euphonic wrote as JSON"
        ) from error


def _euphonic_cell(path: Path) -> FileCell:
    crystal = constants_by_euphonic(path).crystal
    masses = crystal.atom_mass.to("unified_atomic_mass_unit").magnitude
    labels = castep_symbols(crystal.atom_type)
    pairs = zip(labels, masses, strict=True)
    return FileCell(
        lattice=crystal.cell_vectors.to("angstrom").magnitude,
        positions=np.asarray(crystal.atom_r),
        species=tuple(species_of_mass(s, float(m)) for s, m in pairs),
    )


def castep_symbols(types: Iterable[str]) -> list[str]:
    """Chemical symbols of CASTEP's species, which may go on as in ``H:tag``."""
    return [str(s).partition(":")[0] for s in types]


def _object_cell(given: Any) -> FileCell:
    """Cell of an object of phonopy or ASE, told by its class; in angstrom."""
    kind = f"{type(given).__module__}.{type(given).__name__}"
    if kind.startswith("phonopy."):
        length_A = 1.0
        if hasattr(given, "unitcell"):
            from phonopy.physical_units import get_calculator_physical_units

            length_A = get_calculator_physical_units(given.calculator).distance_to_A
            given = given.unitcell
        return FileCell(
            lattice=np.asarray(given.cell) * length_A,
            positions=np.asarray(given.scaled_positions),
            species=phonopy_species(given),
        )
    if kind.startswith("ase."):
        atoms = getattr(given, "atoms", given)
        pairs = zip(atoms.get_chemical_symbols(), atoms.get_masses(), strict=True)
        return FileCell(
            lattice=np.asarray(atoms.cell),
            positions=atoms.get_scaled_positions(wrap=False),
            species=tuple(species_of_mass(s, float(m)) for s, m in pairs),
        )
    raise InputError(
        f"structure: an object of the class {kind}; expected one of phonopy or ASE, or a file"
    )


def phonopy_species(cell: Any) -> tuple[Species, ...]:
    """Species of a phonopy cell, by its symbols and masses.

    Files hold six decimals; a mass that phonopy's natural one rounds to is that one.
    """
    from phonopy.structure.atoms import PhonopyAtoms

    symbols = [str(s) for s in cell.symbols]
    own = PhonopyAtoms(symbols=symbols, cell=cell.cell, scaled_positions=cell.scaled_positions)
    natural = np.zeros(len(symbols)) if own.masses is None else np.asarray(own.masses)
    masses = np.asarray(cell.masses, dtype=float)
    masses = np.where(np.abs(masses - natural) < 5.1e-7, natural, masses)
    pairs = [(s, float(m)) for s, m in zip(symbols, masses, strict=True)]
    known = {pair: species_of_mass(*pair) for pair in dict.fromkeys(pairs)}
    return tuple(known[pair] for pair in pairs)


def _pymatgen_structure(
    path: Path, text: str
) -> tuple[Any, tuple[str, ...] | None, tuple[str, ...]]:
    """Structure, labels of its sites where it has isotopes (a parser knows none), and notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if structure_format(path.name, text) == "cif":
            refuse_announced_atoms(text, "cif")
            from pymatgen.io.cif import CifParser

            plain = plain_cif(text)
            parser = CifParser.from_str(plain.text, occupancy_tolerance=MOST_OCCUPIED)
            found = parser.parse_structures(primitive=False, on_error="raise")[0]
            if not plain.isotopes:
                return found, None, plain.notes
            sites = tuple(
                plain.isotopes.get(
                    str(s.label), getattr(s.specie, "symbol", "") if s.is_ordered else ""
                )
                for s in found
            )
            return found, sites, plain.notes
        from pymatgen.io.vasp import Poscar

        text, labels = _plain_species(_with_species_line(text))
        refuse_announced_atoms(text, "poscar")
        poscar = Poscar.from_str(plain_poscar(text), read_velocities=False)
        if not poscar.true_names:  # the parser would go on with H, He, Li, ...
            raise InputError(
                f"structure: {path} names no species; expected a line of chemical symbols above "
                "the numbers of atoms, such as `Na Cl`. Add it"
            )
        return poscar.structure, labels, ()


def _plain_species(text: str) -> tuple[str, tuple[str, ...] | None]:
    """POSCAR with elements for the isotopes of its line of species, and the label of every site."""
    lines = text.splitlines()
    if len(lines) < 7:
        return text, None
    names, counts = (re.split(r"[!#]", line)[0].split() for line in lines[5:7])
    if len(names) != len(counts) or not all(c.isdigit() for c in counts):
        return text, None
    plain = [re.split(r"[_/]", name)[0] for name in names]  # Si_pv and Si/hash are VASP's
    wrong = [name for name in plain if not re.match(r"^\d*[A-Z][a-z]?\d*$", name)]
    if wrong and not any(name.isdigit() for name in plain):
        raise InputError(
            f"structure: the line of species names {wrong[0]!r}; expected chemical symbols such as "
            "Mg O. Correct it"
        )
    if wrong:
        return text, None
    labels = canonical_labels(plain)
    refuse_announced_atoms(text, "poscar")
    lines[5:7] = " ".join(element_of(label) for label in labels), " ".join(counts)
    sites = tuple(label for label, n in zip(labels, counts, strict=True) for _ in range(int(n)))
    return "\n".join(lines) + "\n", sites


def _with_species_line(text: str) -> str:
    """Move the symbols of an old POSCAR from its title to where the newer layout has them."""
    import periodictable

    lines = text.splitlines()
    if len(lines) < 7:
        return text
    names, counts = lines[0].split(), lines[5].split()
    known = {element.symbol for element in periodictable.elements} | {"D", "T"}
    old = bool(counts) and all(c.isdigit() for c in counts)
    if old and len(names) == len(counts) and known.issuperset(names):
        lines.insert(5, lines[0])
    return "\n".join(lines) + "\n"


def read_crystal(path_or_name: str | Path | Any, *, symprec_A: float = FILE_SYMPREC_A) -> Crystal:
    """Read a crystal from a POSCAR, CIF or phonopy.yaml, or take a built-in one.

    Parameters
    ----------
    path_or_name : str, Path or object
        File, or a name out of `builtin_crystals`; or an ``ase.Atoms``, ``PhonopyAtoms`` or
        ``Phonopy`` object. Species are isotopes where they are named (``D``, ``7Li``, ``Si28``) or
        masses say so; masses of a phonopy file or an object are used as they are.
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
    if isinstance(path_or_name, str | Path):
        entry = builtin_entry(str(path_or_name))
        if entry is not None:
            return builtin_crystal(entry)
        cell = parse_structure(Path(path_or_name))
    else:
        cell = _object_cell(path_or_name)
    return place_structure(
        cell.lattice, cell.positions, cell.symbols, symprec_A, cell.species
    ).crystal


def builtin_crystal(entry: dict[str, Any]) -> Crystal:
    """Crystal of an entry that `builtin_entry` found."""
    cell = entry["cell"]
    return crystal_from_cells(
        np.array(cell["lattice_A"], dtype=float),
        np.array(cell["positions"], dtype=float),
        tuple(cell["symbols"]),
        np.array(cell["conventional_lattice_A"], dtype=float),
    )
