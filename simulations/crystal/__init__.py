"""Crystals: unit cell, symmetry, neutron data, structure files and how a sample is mounted."""

from simulations.crystal.cell import Crystal
from simulations.crystal.first_look import refuse_announced_atoms
from simulations.crystal.neutron_data import neutron_data
from simulations.crystal.placement import FILE_SYMPREC_A, Placement, place_structure
from simulations.crystal.sample import SampleSection
from simulations.crystal.structure_file import (
    builtin_crystal,
    builtin_crystals,
    builtin_entry,
    is_phonopy_file,
    parse_structure,
    read_crystal,
    read_structure_text,
    refuse_tags,
)
from simulations.crystal.symmetry import (
    SpaceGroup,
    laue_rotations,
    quiet_spglib,
    space_group_operations,
)

__all__ = [
    "Crystal",
    "FILE_SYMPREC_A",
    "Placement",
    "SampleSection",
    "SpaceGroup",
    "builtin_crystal",
    "builtin_crystals",
    "builtin_entry",
    "is_phonopy_file",
    "laue_rotations",
    "neutron_data",
    "parse_structure",
    "place_structure",
    "quiet_spglib",
    "read_crystal",
    "read_structure_text",
    "refuse_announced_atoms",
    "refuse_tags",
    "space_group_operations",
]
