"""Lattice dynamics: bonds, independent force constants, dipoles, modes and densities of states."""

from simulations.dynamics.bonds import PairForceConstants, neighbour_bonds, supercell_bonds
from simulations.dynamics.dipole_sums import DipoleWay, compare_dipole_sums, with_dipole_sum
from simulations.dynamics.elastic import elastic_constants
from simulations.dynamics.equivalent_cell import carried_onto
from simulations.dynamics.force_constants import ForceConstantModel, force_constant_model
from simulations.dynamics.given_file import read_force_constants
from simulations.dynamics.mode_kernels import (
    LANES,
    LinearMatrices,
    LineTable,
    diagonalised_blocks,
    gradients_of_sets,
    inversion_partners,
    linear_matrices,
    lowest_eigenvalues,
    matrix_modes,
    projector_sums,
    real_form,
    spectra_of_block,
    unit_rows,
    unpacked_basis,
)
from simulations.dynamics.modes import (
    divided_differences,
    eigenmodes,
    energies_of_sets,
    modes,
    signed_root,
)
from simulations.dynamics.parameters_choice import ParametersSection
from simulations.dynamics.phonon_dos import (
    VOIGT,
    PhononDos,
    Sampling,
    default_dos_zone,
    densities_of_sets,
    heat_capacity,
    phonon_dos,
    rebinned,
)
from simulations.dynamics.phonopy_file import PhonopyFolder, from_phonopy, load_phonopy
from simulations.dynamics.shells import path_sensitivity, select_free
from simulations.dynamics.supercell import cell_index, from_representatives, from_supercell

__all__ = [
    "DipoleWay",
    "ForceConstantModel",
    "LANES",
    "LineTable",
    "LinearMatrices",
    "PairForceConstants",
    "ParametersSection",
    "PhononDos",
    "PhonopyFolder",
    "Sampling",
    "VOIGT",
    "carried_onto",
    "cell_index",
    "compare_dipole_sums",
    "default_dos_zone",
    "densities_of_sets",
    "diagonalised_blocks",
    "divided_differences",
    "eigenmodes",
    "elastic_constants",
    "energies_of_sets",
    "force_constant_model",
    "from_phonopy",
    "from_representatives",
    "from_supercell",
    "gradients_of_sets",
    "heat_capacity",
    "inversion_partners",
    "linear_matrices",
    "load_phonopy",
    "lowest_eigenvalues",
    "matrix_modes",
    "modes",
    "neighbour_bonds",
    "path_sensitivity",
    "phonon_dos",
    "projector_sums",
    "read_force_constants",
    "real_form",
    "rebinned",
    "select_free",
    "signed_root",
    "spectra_of_block",
    "supercell_bonds",
    "unit_rows",
    "unpacked_basis",
    "with_dipole_sum",
]
