"""Germanium's powder map at equal statistical error: a 24^3 mesh with all G against Euphonic.

The error of a map is its relative L1 deviation from the converged limit of the same method: our
average over |Q| bins from a mesh of 96^3, Euphonic's average over spheres at the bins' centres from
100,000 points per sphere (golden, its default sampling). Euphonic may spend its points in
proportion to Q^2, the best of the allocations tried (equal numbers on every sphere or random
points need more). Debye-Waller factors are given to both and not timed; our time includes the mesh.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from simulations.reciprocal import irreducible_mesh
from simulations.scattering import displacement_tensors, powder_spectrum
from simulations.scattering.one_phonon import gaussian_bins
from tests.simulations.phonon_oracles import euphonic_constants, germanium

TEMPERATURE_K = 300.0
SIGMA_MEV = 0.5
MOMENTUM = np.linspace(0, 10, 101)
SPHERES = 0.5 * (MOMENTUM[1:] + MOMENTUM[:-1])
ENERGY = np.linspace(0, 43, 216)
SHOWN = ENERGY[:-1] >= 2.999  # 200 bins; below, 1/E^2 near Bragg points rules both errors
MEASURED = np.arange(3, 100, 8)  # spheres on which Euphonic's error is measured
TIMED = np.arange(6, 100, 22)


def deviation(got, converged, order=1):
    difference = np.linalg.norm((got - converged).ravel(), order)
    return float(difference / np.linalg.norm(converged.ravel(), order))


def euphonic_map(model, displacement):
    """A function of sphere indices and the mean number of points per sphere."""
    euphonic = pytest.importorskip("euphonic", reason="euphonic is the peer")
    from euphonic.powder import sample_sphere_structure_factor

    ureg, crystal = euphonic.ureg, model.crystal
    constants = euphonic_constants(model, 4 * np.eye(3, dtype=int))
    temperature = TEMPERATURE_K * ureg.K
    options = {
        "dw": euphonic.DebyeWaller(
            constants.crystal, 0.5 * displacement * ureg("angstrom^2"), temperature
        ),
        "temperature": temperature,
        "energy_bins": ENERGY * ureg.meV,
        "scattering_lengths": {"Ge": 10 * crystal.scattering_length[0] * ureg.fm},
        "use_c": True,
        "n_threads": 1,
    }
    centres = 0.5 * (ENERGY[1:] + ENERGY[:-1])
    smear = gaussian_bins(ENERGY, centres, np.full(len(centres), SIGMA_MEV)) * np.diff(ENERGY)

    def rows(spheres, mean_points):
        out = []
        for k in spheres:
            row = sample_sphere_structure_factor(
                constants, SPHERES[k] / ureg.angstrom, npts=points(k, mean_points), **options
            )
            out.append(row.y_data.to("barn/meV").magnitude * crystal.n_atoms)
        return (np.array(out) @ smear)[:, SHOWN]

    return rows


def points(sphere, mean_points):
    share = SPHERES[sphere] ** 2 / np.mean(SPHERES**2)
    return max(20, round(float(mean_points * share)))


def test_powder_spectrum(against):
    model = germanium()
    displacement = displacement_tensors(model, TEMPERATURE_K)

    def ours(divisions=24):
        return powder_spectrum(
            model, MOMENTUM, ENERGY[np.r_[SHOWN, True]], temperature_K=TEMPERATURE_K,
            resolution=SIGMA_MEV, displacement=displacement,
            zone=irreducible_mesh(model.crystal, divisions, shifted=True),
        ).intensity  # fmt: skip

    converged = ours(96)
    own, own_l2 = deviation(ours(), converged), deviation(ours(), converged, 2)

    peer = euphonic_map(model, displacement)
    limit = peer(MEASURED, 100_000)
    tried = np.array([2500, 5000, 10_000, 20_000])
    errors = np.array([deviation(peer(MEASURED, n), limit) for n in tried])
    slope, offset = np.polyfit(np.log(tried), np.log(errors), 1)
    equal = float(np.exp((np.log(own) - offset) / slope))
    there = peer(MEASURED, equal)
    sys.stdout.write(
        f"\npowder-spectrum: our error L1 {100 * own:.2f} %, L2 {100 * own_l2:.2f} %. Euphonic's "
        + "L1 "
        + ", ".join(f"{100 * e:.2f} % at {n}" for n, e in zip(tried, errors, strict=True))
        + f" points per sphere, falling as n^{slope:.2f}; equal at {equal:.0f}, where it measures "
        f"L1 {100 * deviation(there, limit):.2f} %, L2 {100 * deviation(there, limit, 2):.2f} %. "
        f"The limits differ by {100 * deviation(limit, converged[MEASURED]):.1f} % (bin against "
        f"sphere). Euphonic timed on {len(TIMED)} of {len(SPHERES)} spheres and scaled.\n"
    )
    all_points = sum(points(k, equal) for k in range(len(SPHERES)))
    scale = all_points / sum(points(k, equal) for k in TIMED)
    ratio = against(
        "powder-spectrum", "euphonic", ours, lambda: peer(TIMED, equal), peer_scale=scale
    )
    assert deviation(limit, converged[MEASURED]) < 0.1
    assert ratio >= 200
