from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from consumers.fold.folding import fold_events
from simulations.fold import (
    CanRate,
    CellSums,
    build_voxel_map,
    can_elsewhere,
    likelihood_of_can,
    predicted_can,
    without_spoilt,
)
from simulations.fold.can import smooth_signal
from simulations.fold.masks import bragg_distance, spoilt_pairs
from simulations.fold.pixel_view import view_pixels
from simulations.instrument import Orientation, crystal_to_lab
from simulations.likelihood import trace_trajectories
from simulations.reciprocal import EnergyAxis, Path
from simulations.virtual import Spread, VirtualCan, VirtualExperiment, simulate_chunk
from simulations.virtual.sampling import CAN, expected_phonon_rate
from tests.simulations.fold import masked_cells
from tests.simulations.fold.exposures import compute_exposure
from tests.simulations.fold.masked_cells import (
    background_mask,
    elastic_distance,
    masked_sums,
    measured_can,
    subtract_can,
)
from tests.simulations.virtual.test_sampling import germanium, germanium_lattice, sparse_instrument

EI = 40.0
ENERGY = EnergyAxis(edges_meV=np.linspace(0, 38, 39), substeps=8)
MINUTES = 1.0
CAN_MINUTES = 4.0
PSIS = (12.0, *range(20, 120, 9))


@cache
def crystal():
    return germanium().model.crystal


@cache
def voxels():
    path = Path(
        start_hkl=np.array([[0.0, 0, 1], [0, 0, 0]]),
        end_hkl=np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        labels=(("X", "G"), ("G", "L")),
        bins=(5, 4),
    )
    return build_voxel_map(crystal(), path, half_width_rlu=0.12, voxel_rlu=0.04)


@cache
def experiment() -> VirtualExperiment:
    """Germanium in an aluminium can, with Bragg reflections and a strong elastic line."""
    return germanium(
        instrument=sparse_instrument(700),
        flux=2.5e8,
        background=25.0,
        elastic_scale=5.0,
        bragg_scale=1.0,
        spread=Spread(),
        intrinsic_sigma_meV=0.5,
        lowest_line_meV=2.0,
        can=VirtualCan(atoms=2.0),
    )


@cache
def view(psi_deg: float):
    mount = Orientation(u=(1, 1, 0), v=(0, 0, 1))
    return view_pixels(
        crystal=crystal(),
        instrument=experiment().instrument,
        energy=ENERGY,
        ei_meV=EI,
        crystal_to_lab=crystal_to_lab(mount, crystal().conventional_reciprocal, psi_deg),
    )


@cache
def geometry(psi_deg: float):
    """D and flat exposure of one coulomb."""
    mount = Orientation(u=(1, 1, 0), v=(0, 0, 1))
    exposure = compute_exposure(
        crystal=crystal(),
        voxels=voxels(),
        instrument=experiment().instrument,
        energy=ENERGY,
        ei_meV=EI,
        crystal_to_lab=crystal_to_lab(mount, crystal().conventional_reciprocal, psi_deg),
        displacement=np.zeros((2, 3, 3)),
    )
    weight, flat = exposure.path_sums(voxels())
    grown = np.zeros((2, voxels().n_path_bins, ENERGY.n_bins))
    grown[:, :, : weight.shape[1]] = weight, flat
    return grown


def folded(chunk, psi_deg, minutes, *, origin: int | None = None) -> CellSums:
    counts = np.zeros((voxels().n_path_bins, ENERGY.n_bins), dtype=np.int64)
    mine = slice(None) if origin is None else chunk.origin == origin
    fold_events(
        chunk.pixel[mine],
        chunk.energy_transfer_meV[mine],
        view=view(psi_deg),
        voxels=voxels(),
        counts=counts,
    )
    weight, flat = geometry(psi_deg)
    counts = counts.astype(float)
    return CellSums(
        signal=counts,
        variance=counts,
        counts=counts,
        exposure=weight * minutes,
        flat=flat * minutes,
    )


@cache
def cells(psi_deg: float):
    return masked_cells.cells(view(psi_deg), voxels(), ENERGY)


@cache
def phonons(psi_deg: float):
    """Brute-force expected one-phonon counts of every path cell in a minute."""
    rate = expected_phonon_rate(
        experiment(),
        psi_deg,
        view(psi_deg).step_edges_meV,
        step_meV=0.125,
        lattice=germanium_lattice(5.0),
    )
    cell = cells(psi_deg)
    out = np.bincount(cell[cell >= 0], rate[cell >= 0], voxels().n_path_bins * ENERGY.n_bins)
    return out.reshape(-1, ENERGY.n_bins)


@cache
def chunks(psi_deg: float):
    """The sample in its can, and the can alone."""
    lattice = germanium_lattice(5.0)
    both = simulate_chunk(experiment(), psi_deg, MINUTES, 1, lattice=lattice)
    alone = replace(experiment(), sample=False)
    return both, simulate_chunk(alone, 0.0, CAN_MINUTES, 2, lattice=lattice)


def mask_of(psi_deg: float):
    return background_mask(
        view=view(psi_deg),
        voxels=voxels(),
        energy=ENERGY,
        crystal=crystal(),
        resolution=experiment().instrument.resolution,
        ei_meV=EI,
        mosaic_deg=0.0,
        width=experiment().bragg_width,
    )


def test_the_elastic_band_follows_the_resolution():
    axis = EnergyAxis(edges_meV=np.array([-3.0, -1.0, 1.0, 3.0, 5.0]), substeps=4)
    resolution = experiment().instrument.resolution
    sigma = 0.04 * 40 / 2.354820045
    assert elastic_distance(axis, resolution, EI) == pytest.approx(
        [1 / sigma, 0, 1 / sigma, 3 / sigma]
    )


def test_a_pixel_is_as_far_from_a_reflection_as_its_widths_say():
    ki = float(np.linalg.norm(view(12.0).beam))
    a = crystal().conventional_lattice[0, 0]
    hkl = np.array([[2.0, 2, 0], [0, 0, 2], [0, 0, 4]])
    G = hkl * 2 * np.pi / a

    def beam_onto(Q, off=0.0):
        """k_i and k_f (unit) with k_i - k_f = Q + off across, both of length ki."""
        across = np.cross(Q, [0.3, 0.5, 0.8])
        across /= np.linalg.norm(across)
        Q = Q + off * across
        other = np.cross(Q, across)
        other /= np.linalg.norm(other)
        beam = 0.5 * Q + np.sqrt(ki**2 - Q @ Q / 4) * other
        return beam, (beam - Q) / ki

    for Q, off, expected in (
        (G[0], 0.0, 0.0),
        (1.02 * G[0], 0.0, 0.02 * np.linalg.norm(G[0]) / 0.03),
        (G[2], 0.05, 0.05 / np.hypot(0.03, np.radians(0.5) * np.linalg.norm(G[2]))),
    ):
        beam, away = beam_onto(Q, off)
        seen = replace(view(12.0), beam=beam, direction=away[None])
        found = bragg_distance(seen, crystal(), mosaic_deg=0.5, width=0.03)
        assert found == pytest.approx([expected], abs=1e-6)
    # (0 0 2) has no structure factor in germanium.
    beam, away = beam_onto(G[1])
    seen = replace(view(12.0), beam=beam, direction=away[None])
    assert bragg_distance(seen, crystal())[0] > 20
    with pytest.raises(ValueError, match="width is 0"):
        bragg_distance(seen, crystal(), width=0.0)


def chi_square_per_cell(psis) -> tuple[dict[str, float], int]:
    """Of what is left against brute-force phonons, and the number of cells after masking."""
    names = ("masked and subtracted", "elastic band only", "not masked", "not subtracted")
    chi2: dict[str, float] = dict.fromkeys(names, 0.0)
    ndf: dict[str, int] = dict.fromkeys(names, 0)
    for psi in psis:
        both, alone = chunks(psi)
        sums = folded(both, psi, MINUTES)
        can = folded(alone, psi, CAN_MINUTES)
        flat = 1e3 * experiment().background * geometry(psi)[1] * MINUTES
        expected = phonons(psi) * MINUTES
        share = MINUTES / CAN_MINUTES
        variance = expected + can.signal * share + can.signal * share**2
        without = subtract_can(sums, measured_can(can))
        assert without.flat == pytest.approx(0, abs=1e-9)  # flat parts cancel too
        clean = masked_sums(without, mask_of(psi))
        assert np.all((clean.exposure > 0) <= (sums.exposure > 0))
        band = elastic_distance(ENERGY, experiment().instrument.resolution, EI) < 4.0
        for name, left, also in (
            (names[0], clean, 0.0),
            (names[1], masked_sums(without, np.broadcast_to(band, flat.shape)), 0.0),
            (names[2], without, 0.0),
            (names[3], masked_sums(sums, mask_of(psi)), flat),
        ):
            many = (left.exposure > 0) & (expected >= 10)
            off = (left.signal - expected - also)[many]
            chi2[name] += np.sum(off**2 / variance[many])
            ndf[name] += int(many.sum())
    return {name: float(chi2[name] / ndf[name]) for name in names}, ndf[names[0]]


def test_masked_and_subtracted_data_agree_with_brute_force_phonons():
    """With Bragg reflections and a can in the beam, what is left is one-phonon scattering."""
    ratio, n = chi_square_per_cell(PSIS[:1])
    assert n > 70
    assert abs(ratio["masked and subtracted"] - 1) < 4 * np.sqrt(2 / n), ratio
    assert ratio["not masked"] > 3, ratio
    assert ratio["not subtracted"] > 1.5, ratio


def test_bragg_tails_are_masked_where_they_fall_and_nowhere_else():
    """Without elastic line and can, the mask of the reflections alone must do."""
    psi = PSIS[0]
    alone = replace(experiment(), elastic_scale=0.0, can=None, bragg_width=0.08)
    chunk = simulate_chunk(alone, psi, MINUTES, 5, lattice=germanium_lattice(5.0))
    sums = folded(chunk, psi, MINUTES)
    mask = background_mask(
        view=view(psi),
        voxels=voxels(),
        energy=ENERGY,
        crystal=crystal(),
        resolution=alone.instrument.resolution,
        ei_meV=EI,
        mosaic_deg=0.0,
        width=0.08,
        elastic_reach=0.0,
    )
    expected = phonons(psi) * MINUTES + 1e3 * alone.background * geometry(psi)[1] * MINUTES
    off = (sums.signal - expected) ** 2 / np.maximum(expected, 1e-9)
    many = (expected >= 10) & (sums.exposure > 0)
    left, lost = many & ~mask, many & mask
    assert left.sum() > 70
    assert lost.sum() >= 2
    assert abs(off[left].mean() - 1) < 4 * np.sqrt(2 / left.sum())
    assert off[lost].mean() > 10
    assert mask[geometry(psi)[0] > 0].mean() < 0.2


@pytest.mark.slow
def test_masked_and_subtracted_data_of_a_scan_agree_with_brute_force_phonons():
    ratio, n = chi_square_per_cell(PSIS)
    print(f"\nchi2 per cell over {n} cells: {ratio}")  # noqa: T201
    assert n > 900
    assert 0.9 < ratio["masked and subtracted"] < 1.1, ratio
    assert ratio["not masked"] > 3, ratio


def test_errors_of_a_subtracted_can_are_propagated():
    shape = (1, 3)
    one = np.ones(shape)
    sums = CellSums(
        signal=20 * one, variance=20 * one, counts=20 * one, exposure=2 * one, flat=4 * one
    )
    can = CellSums(
        signal=np.array([[12.0, 12, 0]]),
        variance=np.array([[12.0, 12, 0]]),
        counts=np.array([[12.0, 12, 0]]),
        exposure=np.array([[6.0, 6, 0]]),
        flat=np.array([[12.0, 12, 0]]),
    )
    found = subtract_can(sums, measured_can(can, transmission=0.5))
    assert found.gaussian
    assert found.signal.tolist() == [[18, 18, 0]]  # 20 - 2 * 0.5 * 12 / 6
    assert found.variance[0, 0] == pytest.approx(20 + 12 * (0.5 * 2 / 6) ** 2)
    assert found.exposure.tolist() == [[2, 2, 0]]  # nothing is known where the can was not seen
    assert found.flat.tolist() == [[2, 2, 0]]
    assert np.isnan(found.intensity[0, 2])
    assert measured_can(can).counts(sums.exposure)[0, :2].tolist() == [4, 4]
    assert np.isnan(measured_can(can).counts(sums.exposure)[0, 2])
    with pytest.raises(ValueError, match="transmission is 0"):
        measured_can(can, transmission=0.0)
    with pytest.raises(ValueError, match="mask has shape"):
        masked_sums(sums, np.zeros((2, 3), dtype=bool))


def test_the_predicted_can_is_what_a_virtual_can_scatters_inelastically():
    psi = PSIS[0]
    _, alone = chunks(psi)
    counts = folded(alone, psi, CAN_MINUTES, origin=CAN)
    can = predicted_can(
        view=view(psi),
        voxels=voxels(),
        energy=ENERGY,
        instrument=experiment().instrument,
        ei_meV=EI,
        material="aluminium",
        scale=2.0 * experiment().flux,
        temperature_K=5.0,
    )
    assert np.array_equal(can.known, counts.exposure > 0)
    expected = can.counts(counts.exposure)
    total = np.nansum(expected)
    assert counts.signal.sum() == pytest.approx(total, abs=4 * np.sqrt(total))
    many = can.known & (np.nan_to_num(expected) >= 10)
    ratio = np.mean((counts.signal - expected)[many] ** 2 / expected[many])
    assert abs(ratio - 1) < 4 * np.sqrt(2 / many.sum())
    without = subtract_can(counts, can)
    assert np.sum(without.signal) == pytest.approx(0, abs=4 * np.sqrt(total))
    assert np.all(without.variance >= counts.variance)


def pairs(psi_deg: float, **how):
    return spoilt_pairs(
        view(psi_deg),
        crystal=crystal(),
        resolution=experiment().instrument.resolution,
        ei_meV=EI,
        mosaic_deg=0.0,
        **how,
    )


def test_spoilt_pairs_are_whole_energy_bins_within_reach():
    seen, width = view(12.0), 0.03
    near = bragg_distance(seen, crystal(), mosaic_deg=0.0, width=width)
    sigma = float(experiment().instrument.resolution.sigma_meV(np.zeros(1), EI)[0])
    z = ENERGY.edges_meV[seen.bin_of_step] / sigma  # of the bin's lower edge
    tails, band = near[:, None] ** 2 + z**2 < 36, np.broadcast_to(z < 4, (len(near), len(z)))
    assert np.array_equal(pairs(12.0), tails | band)
    assert np.array_equal(pairs(12.0, elastic_reach=0.0), tails)
    assert np.array_equal(pairs(12.0, bragg_reach=0.0), band)
    assert 0 < tails.sum() < 0.05 * tails.size
    of_bin = pairs(12.0).reshape(len(near), -1, ENERGY.substeps)
    assert np.array_equal(of_bin.any(axis=2), of_bin.all(axis=2))


def test_the_support_of_everything_is_the_same_under_a_mask():
    psi = PSIS[0]
    skip, seen = pairs(psi), view(psi)
    mount = crystal_to_lab(
        Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal().conventional_reciprocal, psi
    )
    exposure = compute_exposure(
        crystal=crystal(),
        voxels=voxels(),
        instrument=experiment().instrument,
        energy=ENERGY,
        ei_meV=EI,
        crystal_to_lab=mount,
        displacement=np.zeros((2, 3, 3)),
        skip=skip,
    )
    weight, flat = exposure.path_sums(voxels())
    lost = weight < geometry(psi)[0][:, : weight.shape[1]] * (1 - 1e-9)
    assert lost.any()
    assert np.array_equal(weight > 0, flat > 0)
    tensor = np.trapezoid(np.abs(exposure.tensor), axis=-1) > 0
    assert not np.any(tensor & (exposure.weight == 0))
    walked = trace_trajectories(
        view=seen,
        voxels=voxels(),
        instrument=experiment().instrument,
        energy=ENERGY,
        displacement=np.zeros((2, 3, 3)),
        skip=skip,
    )
    cells_walked = np.unique(walked.cell[walked.cell >= 0])
    full = np.zeros((voxels().n_path_bins, ENERGY.n_bins))
    full[:, : weight.shape[1]] = weight
    assert np.array_equal(cells_walked, np.flatnonzero(full))
    # A neutron in every pair, at its lower edge, its middle and just below its upper edge.
    pixel, step = (a.ravel() for a in np.indices(skip.shape))
    edges = seen.step_edges_meV
    for place in (edges[:-1], 0.5 * (edges[1:] + edges[:-1]), np.nextafter(edges[1:], 0)):
        energy = place[step]
        counts = np.zeros(full.shape, dtype=np.int64)
        kept = without_spoilt(pixel.astype(np.int32), energy, seen, skip)
        account = fold_events(kept, energy, view=seen, voxels=voxels(), counts=counts)
        assert account.complete
        assert account.masked >= skip.sum() - np.count_nonzero(step == 0)
        assert not np.any(counts[full == 0])
    assert np.array_equal(
        without_spoilt(np.array([3, -1, 9999]), np.array([np.nan, 5.0, 5.0]), seen, skip),
        [3, -1, 9999],
    )


def can_cells(counts, exposure=None) -> CellSums:
    counts = np.asarray(counts, dtype=float)
    exposure = np.ones_like(counts) if exposure is None else exposure
    return CellSums(signal=counts, variance=counts, counts=counts, exposure=exposure, flat=exposure)


def test_a_smooth_signal_follows_the_rate_and_leaves_the_cell_itself_out():
    rng = np.random.default_rng(5)
    exposure = rng.uniform(0.5, 2.0, (40, 30))
    exposure[3:6, 4:9] = 0
    mu = 0.4 * exposure * (1 + 0.5 * np.sin(np.arange(30) / 4))
    many = np.mean(
        [smooth_signal(can_cells(rng.poisson(mu), exposure)) for _ in range(200)], axis=0
    )
    seen = exposure > 0
    np.testing.assert_allclose(many[seen], mu[seen], rtol=0.5)  # drawn to the mean of all
    assert many.sum() == pytest.approx(mu.sum(), rel=0.03)
    assert np.corrcoef(many[seen] / exposure[seen], mu[seen] / exposure[seen])[0, 1] > 0.95
    assert np.all(many[~seen] == 0)
    counts = rng.poisson(mu)
    before = smooth_signal(can_cells(counts, exposure))
    counts[20, 15] += 50
    after = smooth_signal(can_cells(counts, exposure))
    assert after[20, 15] == pytest.approx(before[20, 15], rel=0.02)  # the mean over all moved
    lonely = np.zeros((12, 20))
    lonely[3, 4], lonely[8, 15], lonely[9, 15] = 2.0, 1.0, 1e-9
    found = smooth_signal(can_cells(5 * (lonely > 0.5), lonely))
    assert np.all(found <= 2 * 5.0)
    assert after[20, 16] > 1.5 * before[20, 16]
    assert np.all(smooth_signal(can_cells(np.zeros((4, 5)))) > 0)


def test_the_can_in_the_likelihood_has_the_residual_and_variance_of_its_counting():
    rng = np.random.default_rng(9)
    shape = (30, 40)
    lam, mu, tau, total_share = 0.3, 0.5, 0.8, 2.4
    exposure = np.full(shape, 2.0)
    residual, variance = [], []
    for _ in range(200):
        m = rng.poisson(mu, shape).astype(float)
        n = rng.poisson(lam + tau * mu, shape).astype(float)
        can = can_cells(m, exposure / tau)
        changed, rate = likelihood_of_can(
            can_cells(n, exposure), can, transmission=1.0, total_share=total_share
        )
        assert rate.fixed is not None
        residual.append(changed.signal - lam - rate.fixed)
        variance.append(lam + rate.fixed)
    residual, variance = np.array(residual), np.array(variance)
    assert np.array_equal(np.array(changed.counts), n)
    # The score of a constant rate is unbiased although a cell holds half a count.
    score = np.sum(residual / variance, axis=(1, 2))
    assert abs(score.mean()) < 4 * score.std() / np.sqrt(len(score))
    # One orientation alone has tau^2 mu; the bound for shared events has tau T mu.
    assert residual.var() == pytest.approx(lam + tau * mu + tau**2 * mu, rel=0.02)
    assert variance.mean() == pytest.approx(lam + tau * mu + tau * total_share * mu, rel=0.02)


def test_the_can_of_an_orientation_without_data_is_the_mean_over_the_path():
    can = CanRate(shape=np.array([[2.0, 0.0], [4.0, 0.0]]), fixed=np.array([[4.0, 0], [8, 0]]))
    found = can_elsewhere(can, np.array([[1.0, 0], [2, 0]]), np.array([[3.0, 3], [0, 3]]))
    assert found is not None
    assert found.shape.tolist() == [[6, 0], [0, 0]]
    assert found.fixed is not None
    assert found.fixed.tolist() == [[12, 0], [0, 0]]
    assert can_elsewhere(None, can.shape, can.shape) is None
