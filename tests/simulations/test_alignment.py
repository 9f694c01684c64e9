from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from simulations.alignment import (
    OrientedEvents,
    align,
    cubic_rotations,
    elastic_peaks,
)
from simulations.goniometer import Orientation, crystal_to_lab
from simulations.idf import parse_idf
from simulations.instruments import load_instrument
from simulations.kinematics import flight_time_us, momentum_transfer

EI_MEV = 25.0
CUBE = np.eye(3) * 2 * np.pi / 4.43


def scattered(
    u: tuple[float, float, float],
    v: tuple[float, float, float],
    sense: int,
    offset: float,
    angles: tuple[float, ...],
    seed: int = 0,
) -> list[OrientedEvents]:
    """Events near (1/2 1/2 1/2)-type points on a flat background, by rejection."""
    ins = load_instrument("HYSPEC/8")
    rng = np.random.default_rng(seed)
    runs = []
    for angle in angles:
        pixel = rng.integers(0, ins.n_pixels, 100_000)
        energy = rng.uniform(-1.5, 10.0, len(pixel))
        Q = momentum_transfer(ins.direction[pixel], energy, EI_MEV)
        R = crystal_to_lab(Orientation(u=u, v=v), CUBE, sense * angle + offset)
        hkl = Q @ R @ np.linalg.inv(CUBE) - 0.5
        away = np.linalg.norm((hkl - np.round(hkl)) @ CUBE, axis=1)
        chance = np.exp(-0.5 * (away / 0.08) ** 2) + 0.01
        keep = rng.uniform(size=len(pixel)) < chance
        runs.append(
            OrientedEvents(
                angle_deg=angle,
                instrument=ins,
                ei_meV=EI_MEV,
                pixel=pixel[keep].astype(np.int32),
                energy_transfer_meV=energy[keep],
            )
        )
    return runs


@pytest.mark.parametrize(("sense", "offset"), [(-1, 40.0), (1, -17.0)])
def test_a_known_mount_is_found_with_its_sense(sense: int, offset: float) -> None:
    u, v = (0.0, 0.0, 1.0), (1.0, 1.0, 0.0)
    angles = (19.0, 29.0, 45.0, 60.0)
    found = align(scattered(u, v, sense, offset, angles), CUBE)
    truth = Orientation(u=u, v=v)
    got = Orientation(u=found.best.u, v=found.best.v)
    for angle in angles:  # the same crystal, up to a symmetry of the cube
        a = crystal_to_lab(truth, CUBE, sense * angle + offset)
        b = crystal_to_lab(got, CUBE, found.best.sense * angle + found.best.psi_offset_deg)
        cosine = (np.einsum("nij,ij->n", cubic_rotations(), a.T @ b).max() - 1) / 2
        assert np.degrees(np.arccos(min(cosine, 1.0))) < max(2.5 * found.psi_offset_sigma_deg, 1.0)
    assert len(found.alternatives) > 0
    assert all(other.score < found.best.score for other in found.alternatives)
    margin = found.best.score - found.alternatives[0].score
    assert found.exclusive == (margin > 0.7)


def test_even_scattering_prefers_no_mount() -> None:
    ins = load_instrument("HYSPEC/8")
    rng = np.random.default_rng(4)
    flat = OrientedEvents(
        angle_deg=19.0,
        instrument=ins,
        ei_meV=EI_MEV,
        pixel=rng.integers(0, ins.n_pixels, 4000).astype(np.int32),
        energy_transfer_meV=rng.uniform(-1.5, 10.0, 4000),
    )
    found = align([flat], CUBE)
    assert found.best.score < 2.0
    assert not found.exclusive


def test_an_elastic_spot_is_found_where_it_is_and_a_ring_is_not_a_spot() -> None:
    ins = load_instrument("HYSPEC/8")
    rng = np.random.default_rng(2)
    open_pixels = np.flatnonzero(~ins.masked)
    across = np.degrees(np.arctan2(ins.position_m[:, 0], ins.position_m[:, 2]))
    spot = int(
        open_pixels[
            np.argmin(np.hypot(across[open_pixels] + 20.7, ins.position_m[open_pixels, 1] * 10))
        ]
    )
    ring = open_pixels[np.abs(across[open_pixels] + 45.4) < 0.5]
    pixel = np.r_[np.full(800, spot), rng.choice(ring, 2000), rng.choice(open_pixels, 3000)]
    events = OrientedEvents(
        angle_deg=0.0,
        instrument=ins,
        ei_meV=EI_MEV,
        pixel=pixel.astype(np.int32),
        energy_transfer_meV=rng.normal(0.0, 0.4, len(pixel)),
    )
    peaks = elastic_peaks(events)
    assert len(peaks) == 1
    expected = momentum_transfer(ins.direction[spot], np.array(0.0), EI_MEV)
    np.testing.assert_allclose(peaks[0].Q, expected, atol=0.02)
    assert peaks[0].energy_meV == pytest.approx(0.0, abs=0.05)


def test_a_cube_has_24_rotations() -> None:
    rotations = cubic_rotations()
    assert len(np.unique(rotations.reshape(24, 9), axis=0)) == 24
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)


def test_nothing_to_align_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one orientation"):
        align([], CUBE)
    ins = load_instrument("HYSPEC/8")
    none = OrientedEvents(
        angle_deg=0.0,
        instrument=ins,
        ei_meV=EI_MEV,
        pixel=np.empty(0, np.int32),
        energy_transfer_meV=np.empty(0),
    )
    assert elastic_peaks(none) == []
    with pytest.raises(ValueError, match="no event lies in the windows"):
        align([none], CUBE)


@pytest.mark.shared_data
def test_the_real_crystal_sits_with_001_along_the_beam_and_110_across(shared_data: Path) -> None:
    runs = []
    for number in (178921, 178923, 178926):
        with h5py.File(shared_data / "hyspec-mno" / f"HYS_{number}.nxs.h5") as file:
            angle = float(file["entry/DASlogs/s1/average_value"][0])
            xml = file["entry/instrument/instrument_xml/data"][0].decode()
            logs = {k: float(file[f"entry/DASlogs/{k}/average_value"][0]) for k in ("s2", "msd")}
            banks = [file[f"entry/bank{k}_events"] for k in range(1, 21)]
            ids = np.concatenate([bank["event_id"][()] for bank in banks])
            tof = np.concatenate([bank["event_time_offset"][()] for bank in banks]).astype(float)
        ins = parse_idf(xml, logs)
        pixel = ins.pixel_of_id(ids)
        after_sample = tof - 81.0 - flight_time_us(ins.source_to_sample_m, EI_MEV)
        keep = after_sample > 500.0
        speed = ins.distance_m[pixel[keep]] / after_sample[keep] * 1e6
        runs.append(
            OrientedEvents(
                angle_deg=angle,
                instrument=ins,
                ei_meV=EI_MEV,
                pixel=pixel[keep],
                energy_transfer_meV=EI_MEV - (speed / 437.39337) ** 2,
            )
        )
    found = align(runs, CUBE)
    assert (found.best.u, found.best.v, found.best.sense) == ((0, 0, 1), (1, 1, 0), 1)
    assert abs(found.best.psi_offset_deg) < 3.0
    assert found.psi_offset_sigma_deg < 4.0
    assert found.exclusive
    strongest = elastic_peaks(runs[2])[0]  # (1/2 1/2 1/2), |Q| = 1.228, cut off its centre
    assert strongest.modulus == pytest.approx(1.228, abs=0.06)
    assert strongest.energy_meV == pytest.approx(0.0, abs=0.2)
    assert abs(strongest.elevation_deg) < 1.0
