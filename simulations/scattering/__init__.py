"""Spectra of force constants: one phonon, incoherent, powder, cuts, indirect geometry, paths."""

from simulations.scattering.cut import line_cut, plane_cut
from simulations.scattering.incoherent import (
    CAN_MATERIALS,
    can_background,
    debye_dos,
    incoherent_lines,
    incoherent_spectrum,
)
from simulations.scattering.indirect import (
    VibrationalSpectrum,
    resolved_edges,
    vibrational_spectrum,
)
from simulations.scattering.measured_file import SHIPPED, MeasuredSpectrum, read_powder_spectra
from simulations.scattering.one_phonon import (
    TOLERANCE,
    Displacements,
    SigmaOfEnergy,
    bose,
    bragg_intensities,
    broadened,
    converged_displacements,
    displacement_gradients,
    displacement_tensors,
    displacements_of_sets,
    one_phonon_lines,
)
from simulations.scattering.path_spectra import PathModel, path_spectra, path_spectra_gradients
from simulations.scattering.pockets import (
    POCKET_DEPTH,
    POCKET_SHARE,
    Pockets,
    count_mode,
    counted,
    damped_line,
    imaginary_words,
    look_for_pockets,
    pocket_words,
    pocketed,
    pockets_of,
)
from simulations.scattering.powder import (
    kinematic_mask,
    momentum_limits,
    powder_spectrum,
    sigma_function,
)
from simulations.scattering.powder_slopes import lattice_vectors_within
from simulations.scattering.site_motion import (
    MAX_ORDER,
    AtomMotion,
    atom_motions,
    energy_grid,
    thermal_weights,
)

__all__ = [
    "AtomMotion",
    "CAN_MATERIALS",
    "Displacements",
    "MAX_ORDER",
    "MeasuredSpectrum",
    "POCKET_DEPTH",
    "POCKET_SHARE",
    "PathModel",
    "Pockets",
    "SHIPPED",
    "SigmaOfEnergy",
    "TOLERANCE",
    "VibrationalSpectrum",
    "atom_motions",
    "bose",
    "bragg_intensities",
    "broadened",
    "can_background",
    "converged_displacements",
    "count_mode",
    "counted",
    "damped_line",
    "debye_dos",
    "displacement_gradients",
    "displacement_tensors",
    "displacements_of_sets",
    "energy_grid",
    "imaginary_words",
    "incoherent_lines",
    "incoherent_spectrum",
    "kinematic_mask",
    "lattice_vectors_within",
    "line_cut",
    "look_for_pockets",
    "momentum_limits",
    "one_phonon_lines",
    "path_spectra",
    "path_spectra_gradients",
    "plane_cut",
    "pocket_words",
    "pocketed",
    "pockets_of",
    "powder_spectrum",
    "read_powder_spectra",
    "resolved_edges",
    "sigma_function",
    "thermal_weights",
    "vibrational_spectrum",
]
