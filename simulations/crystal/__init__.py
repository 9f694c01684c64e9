"""Crystals: unit cell, symmetry, neutron data, structure files and how a sample is mounted."""

from simulations.crystal.cell import Crystal, element_of
from simulations.crystal.compact_cell import compact_cell, reduced_vectors
from simulations.crystal.first_look import refuse_announced_atoms
from simulations.crystal.ordering_file import write_ordered
from simulations.crystal.placement import (
    FILE_SYMPREC_A,
    Placement,
    place_structure,
    refuse_overlap,
)
from simulations.crystal.sample import SampleSection, Treatment
from simulations.crystal.species import (
    Isotopes,
    Species,
    atomic_numbers,
    is_natural,
    neutron_data,
    species_words,
    with_isotopes,
)
from simulations.crystal.structure_file import (
    FileCell,
    builtin_crystal,
    builtin_crystals,
    builtin_entry,
    castep_symbols,
    constants_by_euphonic,
    is_phonopy_file,
    parse_structure,
    phonopy_species,
    read_by_euphonic,
    read_crystal,
    read_structure_text,
    refuse_abinit,
    refuse_tags,
    structure_notes,
)
from simulations.crystal.structure_text import structure_format, structure_text
from simulations.crystal.symmetry import (
    SpaceGroup,
    laue_rotations,
    quiet_spglib,
    refuse_unreal,
    space_group_operations,
    symmetry_dataset,
)

__all__ = [
    "Crystal",
    "FILE_SYMPREC_A",
    "FileCell",
    "Isotopes",
    "Placement",
    "SampleSection",
    "SpaceGroup",
    "Species",
    "Treatment",
    "atomic_numbers",
    "builtin_crystal",
    "builtin_crystals",
    "builtin_entry",
    "castep_symbols",
    "compact_cell",
    "constants_by_euphonic",
    "element_of",
    "is_natural",
    "is_phonopy_file",
    "laue_rotations",
    "neutron_data",
    "parse_structure",
    "phonopy_species",
    "place_structure",
    "quiet_spglib",
    "read_by_euphonic",
    "read_crystal",
    "read_structure_text",
    "reduced_vectors",
    "refuse_abinit",
    "refuse_announced_atoms",
    "refuse_overlap",
    "refuse_tags",
    "refuse_unreal",
    "space_group_operations",
    "species_words",
    "structure_format",
    "structure_notes",
    "structure_text",
    "symmetry_dataset",
    "with_isotopes",
    "write_ordered",
]
