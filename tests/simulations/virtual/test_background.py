from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import kstest

from simulations.dynamics import phonon_dos
from simulations.scattering import displacement_tensors, incoherent_spectrum
from simulations.virtual import VirtualCan, simulate_chunk, smooth_parts
from simulations.virtual.background import can_elastic_rate, decaying_rate, twice_theta
from simulations.virtual.can import powder_lines
from simulations.virtual.sampling import (
    CAN,
    CAN_ELASTIC,
    DECAYING,
    INCOHERENT,
    MULTIPHONON,
    ORIGINS,
    PHONON,
)
from tests.simulations.virtual.test_sampling import (
    chi_square,
    germanium,
    germanium_lattice,
    sparse_instrument,
)

LAMBDA = 2 * np.pi / np.sqrt(40.0 / 2.0721248)  # angstrom


def everything(pixels: int = 300, **changes):
    settings = {
        "temperature_K": 300.0,
        "flux": 2e7,
        "background": 50.0,
        "bragg_scale": 5e-3,
        "incoherent_scale": 100.0,
        "multiphonon_scale": 50.0,
        "can": VirtualCan(atoms=15.0),
        "decaying": 100.0,
        "decay_us": 300.0,
    }
    return germanium(pixels, **(settings | changes))


def test_every_part_counts_what_is_expected_of_it():
    chunk = simulate_chunk(everything(), 12.0, 1.0, 1, lattice=germanium_lattice(300.0))
    assert set(chunk.expected) == set(chunk.counts) == set(ORIGINS)
    for name, expected in chunk.expected.items():
        slack = 16 * chunk.phonon_sigma**2 if name == "phonon" else 0.0
        assert chunk.counts[name] == pytest.approx(
            expected, abs=4 * np.sqrt(expected + slack) + 1
        ), name
        assert name == "bragg" or expected > 100, name


def test_incoherent_and_multiphonon_counts_follow_a_quadrature_over_momentum_and_energy():
    experiment = everything(60, can=None, incoherent_scale=3000.0, multiphonon_scale=1500.0)
    crystal, ei = experiment.model.crystal, experiment.ei_meV
    momentum = np.arange(0.0, 12.0, 0.02)
    step = 0.2
    true = np.arange(-35.0, 39.9, step)  # edges
    spectrum = incoherent_spectrum(
        crystal,
        phonon_dos(experiment.model),
        momentum,
        true,
        temperature_K=300.0,
        resolution=1e-3,
        displacement=displacement_tensors(experiment.model, 300.0, experiment.phi),
    )
    middle = 0.5 * (true[1:] + true[:-1])
    k, kf = np.sqrt(ei / 2.0721248), np.sqrt((ei - middle) / 2.0721248)
    instrument = experiment.instrument
    cosine = np.cos(twice_theta(experiment))[:, None]
    Q = np.sqrt(k**2 + kf**2 - 2 * k * kf * cosine)
    place = Q / 0.02 - 0.5
    row = place.astype(int)
    edges = np.linspace(-18, 38, 29)
    width = instrument.resolution.sigma_meV(middle, ei)
    share = np.diff(ndtr((edges[:, None] - middle) / width), axis=0)
    solid = np.where(instrument.masked, 0, instrument.solid_angle_sr)[:, None]
    smooth = smooth_parts(experiment)
    chunk = simulate_chunk(
        replace(experiment, elastic_scale=0.0, bragg_scale=0.0, background=0.0, decaying=0.0),
        0.0, 1.0, 2, lattice=germanium_lattice(300.0), smooth=smooth,
    )  # fmt: skip
    for code, part, scale in (
        (INCOHERENT, spectrum.one_phonon, experiment.incoherent_scale),
        (MULTIPHONON, spectrum.multiphonon, experiment.multiphonon_scale),
    ):
        column = np.arange(len(middle))
        there = (1 - place + row) * part[row, column] + (place - row) * part[row + 1, column]
        rate = scale * there * kf / k * step
        expected = experiment.flux * solid * (rate @ share.T)
        mine = chunk.origin == code
        counts = np.histogram2d(
            chunk.pixel[mine],
            chunk.energy_transfer_meV[mine],
            bins=[np.arange(61) - 0.5, edges],
        )[0]
        value, cells = chi_square(counts, expected)
        assert cells > 200
        assert abs(value / cells - 1) < 4 * np.sqrt(2 / cells)
        assert counts.sum() == pytest.approx(expected.sum(), abs=4 * np.sqrt(expected.sum()))


def test_powder_lines_lie_at_debye_scherrer_angles_with_the_textbook_cross_section():
    """The cone's cross section is lambda^3 m |F|^2 / (4 v0 sin theta), Squires eq. 3.103."""
    angle = np.radians(np.arange(5.0, 178.0, 0.02) + 0.01)
    position = 3 * np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], axis=1)
    n = len(angle)
    instrument = replace(
        sparse_instrument(n),
        position_m=position,
        solid_angle_sr=2 * np.pi * np.sin(angle) * np.radians(0.02),
        masked=np.zeros(n, dtype=bool),
    )
    can = VirtualCan(atoms=1.0, line_width=0.01)
    experiment = everything(instrument=instrument, can=can, flux=1.0)
    u2 = smooth_parts(experiment).can_mean_square
    assert 0.008 < u2 < 0.012  # aluminium at room temperature: B = 8 pi^2 u2 near 0.8 A^2
    rate = can_elastic_rate(experiment, can, u2)
    incoherent = 0.0082 / (4 * np.pi) * instrument.solid_angle_sr
    a, b = 4.0496, 0.3449
    for square, multiplicity in ((3, 8), (4, 6), (8, 12)):  # 111, 200, 220
        sine = LAMBDA * np.sqrt(square) / (2 * a)
        where = 2 * np.arcsin(sine)
        near = np.abs(angle - where) < np.radians(1.0)
        ring = (rate - incoherent)[near]
        assert np.sum(ring * angle[near]) / ring.sum() == pytest.approx(where, abs=1e-4)
        modulus = 2 * np.pi / a * np.sqrt(square)
        barn = LAMBDA**3 * multiplicity * b**2 / (4 * (a**3 / 4) * sine)
        assert ring.sum() == pytest.approx(barn * np.exp(-(modulus**2) * u2), rel=0.02)
    # Lines of bcc vanadium obey h + k + l even.
    moduli, _ = powder_lines(VirtualCan(atoms=1.0, material="vanadium"), 40.0, 0.0)
    assert (moduli[:3] * 3.0240 / (2 * np.pi)) ** 2 == pytest.approx([2, 4, 6])
    wide = replace(experiment, spread=replace(experiment.spread, divergence_deg=0.5))
    where = 2 * np.arcsin(LAMBDA * np.sqrt(3) / (2 * a))
    near = np.abs(angle - where) < np.radians(2.5)
    ring = (can_elastic_rate(wide, can, u2) - incoherent)[near]
    sigma = np.sqrt(np.sum(ring * (angle[near] - where) ** 2) / ring.sum())
    k = 2 * np.pi / LAMBDA
    own = can.line_width / (k * np.cos(where / 2))
    assert sigma == pytest.approx(np.hypot(np.radians(0.5), own), rel=0.03)


def test_can_events_have_their_rates_and_an_empty_can_has_no_crystal():
    experiment = everything(bragg_scale=1.0, sample=False)
    chunk = simulate_chunk(experiment, 0.0, 3.0, 1, lattice=germanium_lattice(300.0))
    for name in ("phonon", "elastic", "bragg", "incoherent", "multiphonon"):
        assert chunk.counts[name] == 0
        assert chunk.expected[name] == 0
    smooth = smooth_parts(experiment)
    assert smooth.can is not None
    elastic = can_elastic_rate(experiment, experiment.can, smooth.can_mean_square)
    solid = np.where(experiment.instrument.masked, 0, experiment.instrument.solid_angle_sr)
    inelastic = solid * smooth.can.spectrum(twice_theta(experiment)).sum(axis=1)
    for code, rate in ((CAN_ELASTIC, elastic), (CAN, inelastic)):
        counts = np.bincount(chunk.pixel[chunk.origin == code], minlength=300)
        expected = 3.0 * rate
        if code == CAN:
            expected = expected * chunk.expected["can"] / expected.sum()  # the window's share
        value, cells = chi_square(counts, expected)
        assert cells > 100
        assert abs(value / cells - 1) < 4 * np.sqrt(2 / cells)


def test_the_decaying_background_has_its_rate_and_decay_constant():
    experiment = everything(decaying=3000.0)
    chunk = simulate_chunk(experiment, 12.0, 1.0, 3, lattice=germanium_lattice(300.0))
    mine = chunk.origin == DECAYING
    pixel = chunk.pixel[mine]
    counts = np.bincount(pixel, minlength=300)
    value, cells = chi_square(counts, decaying_rate(experiment))
    assert abs(value / cells - 1) < 4 * np.sqrt(2 / cells)
    distance = np.linalg.norm(experiment.instrument.position_m, axis=1)
    low, high = experiment.window
    first, last, elastic = (
        1e6 * distance / (437.3934 * np.sqrt(40.0 - e)) for e in (low, high, 0.0)
    )
    flight = chunk.time_of_flight_us[mine] - 1e6 * 13.6 / (437.3934 * np.sqrt(40.0))
    span = -np.expm1(-(last - first) / 300.0)
    place = -np.expm1(-(flight - first[pixel]) / 300.0) / span[pixel]
    assert kstest(place, "uniform").pvalue > 1e-3
    # Within 40 us of the elastic line the level is what the field says.
    near = np.abs(flight - elastic[pixel]) < 20.0
    live = ~experiment.instrument.masked
    expected = 3000.0 * 40.0 * experiment.instrument.solid_angle_sr[live].sum()
    assert near.sum() == pytest.approx(expected, rel=0.03 + 4 / np.sqrt(expected))


def test_switching_parts_on_leaves_the_other_events_alone():
    lattice = germanium_lattice(5.0)
    plain = germanium(100, flux=1e8, background=50.0)
    full = replace(plain, can=VirtualCan(atoms=2.0), decaying=50.0, incoherent_scale=1.0)
    one, other = (simulate_chunk(e, 5.0, 1.0, 4, lattice=lattice) for e in (plain, full))
    for code in (PHONON, ORIGINS["elastic"], ORIGINS["background"]):
        assert np.array_equal(
            np.sort(one.time_of_flight_us[one.origin == code]),
            np.sort(other.time_of_flight_us[other.origin == code]),
        )


def test_impossible_cans_are_named():
    with pytest.raises(ValueError, match="can material is 'lead'"):
        VirtualCan(atoms=1.0, material="lead")
    with pytest.raises(ValueError, match="can atoms is 0"):
        VirtualCan(atoms=0.0)
