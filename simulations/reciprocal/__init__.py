"""Reciprocal space: the path that a fold shows, and meshes of the Brillouin zone."""

from simulations.reciprocal.brillouin_zone import (
    ZonePoints,
    irreducible_mesh,
    mesh_divisions,
    quasi_random_points,
    symmetrised_site_tensors,
)
from simulations.reciprocal.path import EnergyAxis, Path, seekpath_segments
from simulations.reciprocal.path_choice import EnergySection, PathSection
from simulations.reciprocal.zone_cells import ZoneCells, zone_cells

__all__ = [
    "EnergyAxis",
    "EnergySection",
    "Path",
    "PathSection",
    "ZoneCells",
    "ZonePoints",
    "irreducible_mesh",
    "mesh_divisions",
    "quasi_random_points",
    "seekpath_segments",
    "symmetrised_site_tensors",
    "zone_cells",
]
