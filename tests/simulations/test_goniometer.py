"""Orientation and kinematics against the design's checked numbers."""

import numpy as np
import pytest

from simulations.goniometer import Orientation, crystal_to_lab
from simulations.kinematics import flight_time_us, momentum_transfer


def _hkl(lattice, orientation, psi, ei, energy, polar, azimuth):
    reciprocal = 2 * np.pi * np.linalg.inv(np.asarray(lattice)).T
    p, a = np.radians(polar), np.radians(azimuth)
    direction = np.array([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)])
    Q = momentum_transfer(direction, np.float64(energy), ei)
    crystal = crystal_to_lab(orientation, reciprocal, psi).T @ Q
    return crystal @ np.linalg.inv(reciprocal)


CUBIC = 4.05 * np.eye(3)
HEXAGONAL = np.array([[3.2, 0, 0], [-1.6, 1.6 * np.sqrt(3), 0], [0, 0, 5.2]])


@pytest.mark.parametrize(
    ("lattice", "orientation", "psi", "ei", "energy", "polar", "azimuth", "expected"),
    [
        (CUBIC, Orientation(u=(1, 1, 0), v=(0, 0, 1)), 25, 50, 10, 30, 0,
         (0.0342199065, 0.0342199065, -1.5849639258)),
        (HEXAGONAL, Orientation(u=(1, 0, 0), v=(0, 1, 0)), -12.5, 70, 20, 45, 60,
         (1.4757475994, -0.6057379348, -2.4895230491)),
        (HEXAGONAL,
         Orientation(u=(1, 0, 0), v=(0, 1, 0), omega_deg=10, dpsi_deg=1.5, gl_deg=2, gs_deg=-3),
         -12.5, 70, 20, 45, 60, (1.4687793281, -0.5539168731, -2.4897197333)),
    ],
)  # fmt: skip
def test_hkl_of_a_pixel(lattice, orientation, psi, ei, energy, polar, azimuth, expected):
    found = _hkl(lattice, orientation, psi, ei, energy, polar, azimuth)
    np.testing.assert_allclose(found, expected, atol=2e-7)


def test_psi_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="psi is nan"):
        crystal_to_lab(Orientation(u=(1, 0, 0), v=(0, 1, 0)), CUBIC, float("nan"))


def test_a_thermal_neutron_flies_2200_metres_in_a_second():
    assert flight_time_us(2200.0, 25.299) == pytest.approx(1e6, rel=1e-4)
