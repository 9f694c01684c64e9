"""Orientation and kinematics against the design's checked numbers."""

import numpy as np
import pytest

from simulations.instrument import Orientation, crystal_to_lab, flight_time_us
from simulations.instrument.goniometer import hkl_of, mantid_goniometer, orientation_of, ub_matrix
from simulations.instrument.kinematics import momentum_transfer


def _hkl(lattice, orientation, psi, ei, energy, polar, azimuth):
    reciprocal = 2 * np.pi * np.linalg.inv(np.asarray(lattice)).T
    p, a = np.radians(polar), np.radians(azimuth)
    direction = np.array([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)])
    Q = momentum_transfer(direction, np.float64(energy), ei)
    crystal = crystal_to_lab(orientation, reciprocal, psi).T @ Q
    return crystal @ np.linalg.inv(reciprocal)


CUBIC = 4.05 * np.eye(3)
HEXAGONAL = np.array([[3.2, 0, 0], [-1.6, 1.6 * np.sqrt(3), 0], [0, 0, 5.2]])


CASES = pytest.mark.parametrize(
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


@CASES
def test_hkl_of_a_pixel(lattice, orientation, psi, ei, energy, polar, azimuth, expected):
    found = _hkl(lattice, orientation, psi, ei, energy, polar, azimuth)
    np.testing.assert_allclose(found, expected, atol=2e-7)


def test_psi_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="psi is nan"):
        crystal_to_lab(Orientation(u=(1, 0, 0), v=(0, 1, 0)), CUBIC, float("nan"))


def test_a_thermal_neutron_flies_2200_metres_in_a_second():
    assert flight_time_us(2200.0, 25.299) == pytest.approx(1e6, rel=1e-4)


def busing_levy(lattice):
    """B of Busing and Levy, Acta Cryst. 22, 457 (1967), from lattice constants, as Mantid does."""
    a, b, c = (np.linalg.norm(row) for row in lattice)
    alpha, beta, gamma = (
        np.arccos(lattice[i] @ lattice[j] / np.linalg.norm(lattice[i]) / np.linalg.norm(lattice[j]))
        for i, j in ((1, 2), (0, 2), (0, 1))
    )
    ca, cb, cg = np.cos([alpha, beta, gamma])
    sa, sb, sg = np.sin([alpha, beta, gamma])
    volume = a * b * c * np.sqrt(1 - ca**2 - cb**2 - cg**2 + 2 * ca * cb * cg)
    astar, bstar, cstar = b * c * sa / volume, a * c * sb / volume, a * b * sg / volume
    cos_b = (ca * cg - cb) / (sa * sg)
    cos_g = (ca * cb - cg) / (sa * sb)
    sin_b, sin_g = np.sqrt(1 - cos_b**2), np.sqrt(1 - cos_g**2)
    return np.array(
        [
            [astar, bstar * cos_g, cstar * cos_b],
            [0, bstar * sin_g, -cstar * sin_b * ca],
            [0, 0, 1 / c],
        ]
    )


def neutron(ei, energy, polar, azimuth):
    """Q in the laboratory frame, written out."""
    p, a = np.radians([polar, azimuth])
    ki, kf = np.sqrt(np.array([ei, ei - energy]) / 2.0721247)
    return np.array([-kf * np.sin(p) * np.cos(a), -kf * np.sin(p) * np.sin(a), ki - kf * np.cos(p)])


@CASES
def test_mantids_ub_and_goniometer_give_the_same_hkl(
    lattice, orientation, psi, ei, energy, polar, azimuth, expected
):
    """SetUB with u along the beam and v in the plane towards +x, axes psi, omega, dpsi, gl, gs."""
    o = orientation
    B = busing_levy(np.asarray(lattice, dtype=float))
    z = B @ np.array(o.u) / np.linalg.norm(B @ np.array(o.u))
    y = np.cross(z, B @ np.array(o.v))
    y /= np.linalg.norm(y)
    U = np.stack([np.cross(y, z), y, z])
    R = mantid_goniometer(
        [
            (psi, 0, 1, 0, 1),
            (o.omega_deg, 0, 1, 0, 1),
            (o.dpsi_deg, 0, 1, 0, 1),
            (o.gl_deg, 1, 0, 0, 1),
            (-o.gs_deg, 0, 0, 1, -1),
            (-o.omega_deg, 0, 1, 0, 1),
        ]
    )
    Q = neutron(ei, energy, polar, azimuth)
    np.testing.assert_allclose(np.linalg.solve(2 * np.pi * R @ U @ B, Q), expected, atol=2e-7)
    reciprocal = 2 * np.pi * np.linalg.inv(np.asarray(lattice)).T
    at_zero = mantid_goniometer([(-psi, 0, 1, 0, 1)]) @ R @ U @ B
    np.testing.assert_allclose(ub_matrix(o, reciprocal), at_zero, atol=1e-12)
    meant = orientation_of(U @ B, mantid_goniometer([(-psi, 0, 1, 0, 1)]) @ R)
    found = hkl_of(Q, crystal_to_lab(meant, reciprocal, psi), reciprocal)
    np.testing.assert_allclose(found, expected, atol=2e-7)
    again = orientation_of(ub_matrix(o, reciprocal))
    np.testing.assert_allclose(
        crystal_to_lab(again, reciprocal, psi), crystal_to_lab(o, reciprocal, psi), atol=1e-12
    )


@CASES
def test_horaces_frame_and_angles_give_the_same_hkl(
    lattice, orientation, psi, ei, energy, polar, azimuth, expected
):
    """Horace: x along the beam, z up; psi, omega, dpsi about z, gl about y, gs about x."""
    o = orientation

    def about(axis, angle):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        R = np.eye(3)
        R[i, i], R[i, j], R[j, i], R[j, j] = c, -s, s, c
        return R

    p, a = np.radians([polar, azimuth])
    ki, kf = np.sqrt(np.array([ei, ei - energy]) / 2.0721247)
    kf_x_y_z = kf * np.array([np.cos(p), np.sin(p) * np.cos(a), np.sin(p) * np.sin(a)])
    Q = np.array([ki, 0, 0]) - kf_x_y_z
    B = 2 * np.pi * busing_levy(np.asarray(lattice, dtype=float))
    x = B @ np.array(o.u) / np.linalg.norm(B @ np.array(o.u))
    z = np.cross(x, B @ np.array(o.v))
    z /= np.linalg.norm(z)
    U = np.stack([x, np.cross(z, x), z])
    arcs = about(2, o.dpsi_deg) @ about(1, o.gl_deg) @ about(0, o.gs_deg)
    R = about(2, psi) @ about(2, o.omega_deg) @ arcs @ about(2, -o.omega_deg)
    np.testing.assert_allclose(np.linalg.solve(R @ U @ B, Q), expected, atol=2e-7)


@pytest.mark.parametrize(
    "axis", [(np.nan, 0, 1, 0, 1), (5, 0, 0, 0, 1), (5, 0, 1, 0, 2), (5, np.inf, 1, 0, 1)]
)
def test_an_impossible_axis_is_refused(axis):
    with pytest.raises(ValueError, match="axis 1 is"):
        mantid_goniometer([(0, 0, 1, 0, 1), axis])


def test_an_impossible_ub_is_refused():
    with pytest.raises(ValueError, match="no regular 3 x 3"):
        orientation_of(np.arange(1.0, 10.0).reshape(3, 3))
