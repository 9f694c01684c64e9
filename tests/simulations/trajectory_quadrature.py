"""Counts of path cells by brute force: modes at every pixel's own Q, and no walk."""

import numpy as np
from scipy import constants
from scipy.special import ndtr

from steering.experiment import Measurement


def wave_number(energy_meV):
    momentum = np.sqrt(2 * constants.m_n * 1e-3 * constants.e * np.asarray(energy_meV))
    return momentum / constants.hbar * 1e-10


def lines_at(measurement: Measurement, Q):
    """Energies and one-phonon weights (points, modes) of the Q themselves, at 5 K."""
    crystal = measurement.crystal
    square, vectors = np.linalg.eigh(
        measurement.model.dynamical_matrices(Q, measurement.model.values)
    )
    W = 0.5 * np.einsum("qa,kab,qb->qk", Q, measurement.displacement, Q)
    factor = crystal.scattering_length / np.sqrt(crystal.masses_u) * np.exp(-W)
    f = (factor[:, :, None] * Q[:, None, :]).reshape(len(Q), -1)
    level = np.sqrt(np.maximum(square, 0.3**2))
    thermal = constants.k * 5.0 / constants.e * 1e3
    recoil = constants.hbar**2 / (2 * constants.atomic_mass) / constants.e * 1e23
    overlap = np.abs(np.einsum("qis,qi->qs", vectors.conj(), f)) ** 2
    return level, recoil * overlap / level / (1 - np.exp(-level / thermal))


COARSE_MEV, FINE_MEV = 0.1, 0.02  # steps of true energy: looking for lines, and across them
LINE_MEV = 0.05


def quadrature(measurement: Measurement, psi_deg: float, pixels):
    """Counts of path cells by stepping through true energy at every pixel's own Q; and the number
    of pixels that see the path. Of the fold it takes only which grid points make a cell."""
    ei, axis = measurement.ei_meV, measurement.experiment.path.energy
    sample, voxels = measurement.experiment.sample, measurement.voxels
    columns = 2 * np.pi * np.linalg.inv(measurement.crystal.conventional_lattice)
    z, x = columns @ np.array(sample.u), columns @ np.array(sample.v)
    z = z / np.linalg.norm(z)
    x = (x - (x @ z) * z) / np.linalg.norm(x - (x @ z) * z)
    s, c = np.sin(np.radians(psi_deg)), np.cos(np.radians(psi_deg))
    lab = np.array([c * x + s * z, np.cross(z, x), c * z - s * x])  # right-handed about y
    position = measurement.instrument.position_m[pixels]
    away = (position / np.linalg.norm(position, axis=1)[:, None]) @ lab
    ki = wave_number(ei)
    edges = np.linspace(axis.min_meV, axis.max_meV, axis.bins * axis.substeps + 1)
    tops = edges[axis.substeps :: axis.substeps]
    edges = edges[: axis.substeps * np.count_nonzero(tops <= ei * (1 - 0.15**2)) + 1]
    kf_measured = wave_number(ei - 0.5 * (edges[1:] + edges[:-1]))
    coarse = np.arange(0.5, ei - 1.0, COARSE_MEV)
    parts = round(COARSE_MEV / FINE_MEV)
    fine = coarse[:-1, None] + FINE_MEV * (np.arange(parts) + 0.5)
    width = measurement.instrument.resolution.sigma_meV(fine.ravel(), ei)
    share = np.diff(ndtr((edges[:, None] - fine.ravel()) / width), axis=0)
    out, crossing = np.zeros((measurement.path.n_bins, axis.bins)), 0
    for pixel, n in zip(pixels, away, strict=True):
        Q = ki * lab[2] - kf_measured[:, None] * n
        grid = Q @ measurement.crystal.lattice.T / (2 * np.pi) * voxels.divisions
        voxel = voxels.voxel[tuple(np.rint(grid).astype(int).T % voxels.divisions[:, None])]
        seen = np.flatnonzero(voxel >= 0)
        if len(seen) == 0:
            continue
        crossing += 1
        live = (share[seen].sum(axis=0) > 1e-7).reshape(-1, parts).any(axis=1)
        ends = np.flatnonzero(np.append(live, False) | np.append(False, live))
        away_from = np.full((len(coarse), measurement.model.n_modes), 1e3)
        at = ki * lab[2] - wave_number(ei - coarse[ends])[:, None] * n
        matrices = measurement.model.dynamical_matrices(at, measurement.model.values)
        level = np.sqrt(np.maximum(np.linalg.eigvalsh(matrices), 0.0))
        away_from[ends] = coarse[ends, None] - level
        change = np.abs(np.diff(away_from, axis=0))
        nearest = np.minimum(np.abs(away_from[1:]), np.abs(away_from[:-1]))
        steps = np.flatnonzero(live & np.any(nearest < 5 * LINE_MEV + change, axis=1))
        if len(steps) == 0:
            continue
        true = fine[steps].ravel()
        kf = wave_number(ei - true)
        level, weight = lines_at(measurement, ki * lab[2] - kf[:, None] * n)
        shape = np.exp(-0.5 * ((true[:, None] - level) / LINE_MEV) ** 2)
        rate = np.sum(shape * weight, axis=1) / (LINE_MEV * np.sqrt(2 * np.pi)) * kf / ki * FINE_MEV
        columns_of = (steps[:, None] * parts + np.arange(parts)).ravel()
        counts = share[np.ix_(seen, columns_of)] @ rate
        counts *= measurement.instrument.solid_angle_sr[pixel]
        np.add.at(out, (voxels.path_bin[voxel[seen]], seen // axis.substeps), counts)
    return out, crossing
