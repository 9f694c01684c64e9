from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest

from simulations.crystal import read_crystal
from simulations.dynamics import force_constant_model, read_force_constants
from simulations.instrument import (
    MountFit,
    Orientation,
    OrientedEvents,
    SpotsOfRun,
    align,
    crystal_to_lab,
    cubic_rotations,
    elastic_peaks,
    fit_mount,
    flight_time_us,
    load_instrument,
    parse_idf,
)
from simulations.instrument.kinematics import momentum_transfer
from simulations.instrument.mount_fit import reflections
from simulations.virtual import VirtualExperiment, lattice_of
from simulations.virtual.experiment import lab_from_crystal
from simulations.virtual.sampling import bragg_rate, elastic_rate
from simulations.virtual.spread import Spread

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


def test_windows_above_the_incident_energy_have_no_vote() -> None:
    ins = load_instrument("HYSPEC/32")
    rng = np.random.default_rng(4)
    slow = OrientedEvents(
        angle_deg=19.0,
        instrument=ins,
        ei_meV=3.0,
        pixel=rng.integers(0, ins.n_pixels, 500).astype(np.int32),
        energy_transfer_meV=rng.uniform(1.0, 2.9, 500),
    )
    windows = ((1.0, 2.0), (2.0, 4.0), (4.0, 7.0))
    found, cut = (
        align([slow], CUBE, windows_meV=windows),
        align([slow], CUBE, windows_meV=windows[:2]),
    )
    assert np.isfinite(found.best.score)
    assert found.best == cut.best


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


# -- spots of a scan ------------------------------------------------------------------------------

GERMANIUM = read_crystal("germanium")
ARCS = load_instrument("ARCS")


PERFECT = Spread()


@cache
def germanium_model():
    reference = read_force_constants("germanium")
    return force_constant_model(reference.crystal, reference, 4.0)


def bragg_scan(
    seed: int,
    angles: Sequence[float],
    *,
    drift: float = 0.0,
    hours: float = 0.05,
    spread: Spread = PERFECT,
    **mount: float,
) -> list[SpotsOfRun]:
    """Bragg reflections and incoherent elastic line of germanium, from the virtual experiment."""
    rng = np.random.default_rng(seed)
    runs = []
    for i, angle in enumerate(angles):
        moved = dict(mount)
        moved["psi_offset_deg"] = mount.get("psi_offset_deg", 0.0) + drift * i * hours
        experiment = VirtualExperiment(
            model=germanium_model(),
            phi=germanium_model().values,
            instrument=ARCS,
            u=(1, 1, 0),
            v=(0, 0, 1),
            ei_meV=40.0,
            temperature_K=5.0,
            flux=3000.0,
            bragg_scale=1.0,
            spread=spread,
            **moved,
        )
        turn = lab_from_crystal(experiment, angle)
        rate = bragg_rate(experiment, LATTICE, turn) + elastic_rate(experiment, LATTICE, turn)
        pixel = np.repeat(np.arange(ARCS.n_pixels), rng.poisson(0.5 * rate)).astype(np.int32)
        events = OrientedEvents(
            angle_deg=angle,
            instrument=ARCS,
            ei_meV=40.0,
            pixel=pixel,
            energy_transfer_meV=rng.normal(0, 0.4, len(pixel)),
        )
        runs.append(
            SpotsOfRun(
                angle_deg=angle, hours=i * hours, ei_meV=40.0, peaks=tuple(elastic_peaks(events))
            )
        )
    return runs


LATTICE = lattice_of(
    VirtualExperiment(
        model=germanium_model(),
        phi=germanium_model().values,
        instrument=ARCS,
        u=(1, 1, 0),
        v=(0, 0, 1),
        ei_meV=40.0,
        temperature_K=5.0,
        flux=1.0,
    )
)
REFERENCE = crystal_to_lab(
    Orientation(u=(1, 1, 0), v=(0, 0, 1)), GERMANIUM.conventional_reciprocal, 0.0
)


def pulls(found: MountFit, truth: dict[str, float]) -> list[float]:
    names = ("psi_offset_deg", "gl_deg", "gs_deg")
    return [(e.value - truth[n]) / e.sigma for n, e in zip(names, found.turn, strict=True)]


def test_a_scan_with_a_known_mount_is_recovered_within_its_errors() -> None:
    truth = {"psi_offset_deg": 2.3, "gl_deg": -0.6, "gs_deg": 0.4}
    runs = bragg_scan(0, np.arange(0, 60, 5.0).tolist(), **truth)
    found = fit_mount(runs, GERMANIUM, reference=REFERENCE)
    assert found is not None
    assert found.sense == 1
    assert found.spots >= 8
    assert np.abs(pulls(found, truth)).max() < 3.5
    assert found.turn[0].sigma < 0.05
    assert found.lattice is not None
    a = found.lattice[0]
    assert a.sigma < 0.01
    assert a.value == pytest.approx(GERMANIUM.conventional_lattice[0, 0], abs=3.5 * a.sigma)
    assert found.lattice[1].value == pytest.approx(a.value)  # cubic stays cubic
    found_UB = found.rotation @ found.reciprocal.T
    truth_UB = (
        lab_from_crystal(
            VirtualExperiment(
                model=germanium_model(),
                phi=germanium_model().values,
                instrument=ARCS,
                u=(1, 1, 0),
                v=(0, 0, 1),
                ei_meV=40.0,
                temperature_K=5.0,
                flux=1.0,
                **truth,
            ),
            0.0,
        )
        @ GERMANIUM.conventional_reciprocal.T
    )
    np.testing.assert_allclose(found_UB, truth_UB, atol=0.004)


def test_drift_and_a_stretched_lattice_are_seen() -> None:
    truth = {"psi_offset_deg": -1.2, "gl_deg": 0.1, "gs_deg": -0.2}
    runs = bragg_scan(3, np.arange(0, 60, 4.0).tolist(), drift=0.8, **truth)
    stretched = replace(
        GERMANIUM,
        lattice=1.006 * GERMANIUM.lattice,
        conventional_lattice=1.006 * GERMANIUM.conventional_lattice,
    )
    found = fit_mount(runs, stretched, reference=REFERENCE)
    assert found is not None
    assert found.drift_deg_per_hour is not None
    rate = found.drift_deg_per_hour
    assert rate.value == pytest.approx(0.8, abs=3.5 * rate.sigma)
    assert rate.value > 3 * rate.sigma
    assert found.lattice is not None
    a = found.lattice[0]
    assert a.value == pytest.approx(GERMANIUM.conventional_lattice[0, 0], abs=3.5 * a.sigma)


@pytest.mark.parametrize("seed", [1, 2])
def test_spots_of_a_mosaic_crystal_in_a_divergent_beam_are_no_drift(seed: int) -> None:
    truth = {"psi_offset_deg": -0.4, "gl_deg": 0.3, "gs_deg": -0.2}
    spread = Spread(mosaic_deg=0.15, divergence_deg=0.2)
    angles = [[0.0, 20, 40, 60, 80, 100], [5.0, 17, 33, 58, 77, 111]][seed - 1]
    runs = bragg_scan(seed, angles, spread=spread, **truth)
    found = fit_mount(runs, GERMANIUM, reference=REFERENCE)
    assert found is not None
    assert found.drift_deg_per_hour is not None
    assert found.chi_square_per_degree < 1.0  # 5 and 8 by round reflections
    assert np.abs(pulls(found, truth)).max() < 3.0
    assert found.turn[0].sigma < 0.15
    rate = found.drift_deg_per_hour
    assert rate.value == pytest.approx(0.0, abs=3 * rate.sigma)
    assert rate.sigma < 1.0  # in a quarter of an hour


def test_a_left_handed_log_is_told_and_noise_gives_no_mount() -> None:
    runs = bragg_scan(4, np.arange(0, 60, 5.0).tolist(), psi_offset_deg=0.5)
    mirrored = [replace(run, angle_deg=-run.angle_deg) for run in runs]
    found = fit_mount(mirrored, GERMANIUM, reference=REFERENCE)
    assert found is not None
    assert found.sense == -1
    assert fit_mount(runs[:1], GERMANIUM) is None or len(runs[0].peaks) >= 3
    assert fit_mount([replace(run, peaks=()) for run in runs], GERMANIUM) is None


def test_a_scan_tells_the_mount_from_the_next_best_and_one_orientation_does_not() -> None:
    runs = bragg_scan(0, np.arange(0, 60, 5.0).tolist(), psi_offset_deg=2.3)
    found = fit_mount(runs, GERMANIUM, reference=REFERENCE)
    assert found is not None
    assert found.rival is not None
    assert found.rival > 100.0
    # Both senses put one orientation alike, and only an angle of another one tells.
    richest = max(runs, key=lambda run: len(run.peaks))
    found = fit_mount([richest], GERMANIUM, reference=REFERENCE)
    assert found is not None
    assert found.rival == pytest.approx(0.0, abs=1e-3)


def test_a_mount_that_leads_only_with_one_run_is_not_exclusive() -> None:
    u, v, angles = (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (20.0, 40.0, 50.0)
    apart = (*scattered(u, v, 1, 0.0, angles[:1]), *scattered(u, v, 1, 50.0, angles[1:]))
    found = align(apart, CUBE)
    assert found.best.score - found.alternatives[0].score > 0.7
    assert not found.exclusive


def test_reflections_know_the_lattice_and_its_absences() -> None:
    hkl = {tuple(h) for h in reflections(GERMANIUM, 6.0).tolist()}
    assert (1, 1, 1) in hkl
    assert (2, 2, 0) in hkl
    assert (2, 0, 0) not in hkl  # diamond
    assert (2, 2, 2) not in hkl
    assert (1, 0, 0) not in hkl  # face-centred
    more = {tuple(h) for h in reflections(GERMANIUM, 2.0, extra=(0.5, 0.5, 0.5)).tolist()}
    assert (-0.5, 0.5, 0.5) in more


@pytest.mark.slow
@pytest.mark.parametrize("spread", [PERFECT, Spread(mosaic_deg=0.2, divergence_deg=0.3)])
def test_error_bars_hold_over_many_seeds(spread: Spread) -> None:
    rows = []
    for seed in range(8):
        rng = np.random.default_rng([seed, 9])
        truth = {
            "psi_offset_deg": float(rng.uniform(-4, 4)),
            "gl_deg": float(rng.uniform(-1, 1)),
            "gs_deg": float(rng.uniform(-1, 1)),
        }
        runs = bragg_scan(seed, np.arange(0, 60, 5.0).tolist(), spread=spread, **truth)
        found = fit_mount(runs, GERMANIUM, reference=REFERENCE)
        assert found is not None
        assert found.lattice is not None
        a = found.lattice[0]
        rows.append([*pulls(found, truth), (a.value - 5.64633) / a.sigma])
    sys.stdout.write("\npsi offset, gl, gs, a: pulls\n" + str(np.round(rows, 2)) + "\n")
    table = np.abs(rows)
    assert (table[:, 0] < 2).mean() >= 0.8
    assert (table < 3.5).all()
    assert 0.3 < np.std(rows) < 1.4
