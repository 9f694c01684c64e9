"""Zeros of sparse histograms: kept where they were measured, with the error that counts have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from consumers.recorded.empty_bins import settle_empty_bins
from consumers.recorded.nxspe_file import read_nxspe

DETECTORS, BINS = 60, 80


def sparse(mean=0.3, seed=3):
    """Poisson counts of known mean: their intensity, error, one count's intensity, the mean."""
    rng = np.random.default_rng(seed)
    efficiency = rng.uniform(0.6, 1.4, (DETECTORS, 1))
    scale = np.linspace(1.0, 3.0, BINS) / efficiency  # k_i/k_f over efficiency
    expected = mean * np.broadcast_to(efficiency, scale.shape)
    counts = rng.poisson(expected)
    return counts * scale, np.sqrt(counts) * scale, scale, expected


@pytest.mark.parametrize("mean", [0.1, 0.3, 1.5])
def test_a_bin_without_a_count_is_kept_with_the_error_of_what_was_due(mean):
    intensity, error, scale, expected = sparse(mean)
    settled = settle_empty_bins(intensity, error)
    assert np.array_equal(settled.intensity, intensity)
    assert np.array_equal(settled.empty, intensity == 0)
    counted = intensity > 0
    assert np.array_equal(settled.error[counted], error[counted])
    true = scale * np.sqrt(expected)
    off = settled.error[~counted] / true[~counted]
    assert 0.85 < np.median(off) < 1.2
    assert 0.3 < off.min()
    assert off.max() < 3
    total, right = (settled.error**2).sum(), (true**2).sum()
    assert right * 0.95 < total < 1.15 * right * (1 + np.mean(~counted))
    (told,) = settled.problems
    assert f"{int((~counted).sum()):,} bins without a count are kept as zeros" in told


def test_sums_over_a_sparse_histogram_are_those_of_its_truth():
    kept, dropped, spread = [], [], []
    for seed in range(20):
        intensity, error, scale, expected = sparse(seed=seed)
        settled = settle_empty_bins(intensity, error)
        known = np.isfinite(settled.intensity) & (settled.error > 0)
        truth = (scale * expected).mean()
        kept.append(settled.intensity[known].mean() / truth)
        dropped.append(intensity[error > 0].mean() / truth)
        spread.append(np.sqrt((settled.error[known] ** 2).sum()) / (truth * known.sum()))
    assert abs(np.mean(kept) - 1) < 3 * np.std(kept) / np.sqrt(20)
    assert np.mean(dropped) > 2.5  # what leaving empties out would make of it
    assert np.std(kept) < 1.4 * np.mean(spread)


def test_detectors_stretches_and_ends_that_nobody_recorded_stay_unknown():
    intensity, error, *_ = sparse(1.0)
    for nothing in (np.s_[7], np.s_[:, :4], np.s_[20, 10:60]):
        intensity[nothing] = error[nothing] = 0.0
    settled = settle_empty_bins(intensity, error)
    unknown = np.isnan(settled.intensity)
    assert np.array_equal(unknown, np.isnan(settled.error))
    assert unknown[7].all()
    assert unknown[:, :4].all()
    assert unknown[20, 10:60].all()
    rest = np.ones(unknown.shape, dtype=bool)
    rest[7] = rest[:, :4] = rest[20, 9:61] = False
    assert not unknown[rest].any()
    assert any("left out" in problem for problem in settled.problems)


def test_a_subtracted_background_does_not_hide_what_is_empty():
    intensity, error, scale, expected = sparse(0.5)
    intensity = intensity - 0.02 * scale
    error = np.hypot(error, 1e-3 * scale)
    none = error < 0.1 * scale
    intensity[:20], error[:20] = (np.where(none[:20], 0.0, a[:20]) for a in (intensity, error))
    settled = settle_empty_bins(intensity, error)
    assert np.array_equal(settled.intensity, intensity)
    assert np.array_equal(settled.empty[:20], none[:20])
    assert not settled.empty[20:].any()
    off = settled.error[none] / (scale * np.sqrt(expected))[none]
    assert 0.8 < np.median(off) < 1.25
    assert "the error of a subtracted background alone" in settled.problems[0]


def test_zeros_among_errors_that_are_no_counts_are_left_out_and_told():
    rng = np.random.default_rng(0)
    intensity, error = rng.lognormal(size=(20, 30)), rng.lognormal(0, 1.5, size=(20, 30))
    intensity[::3, ::2] = error[::3, ::2] = 0.0
    settled = settle_empty_bins(intensity, error)
    assert np.array_equal(np.isnan(settled.intensity), intensity == 0)
    assert not settled.empty.any()
    assert "not those of counts; left out" in settled.problems[0]


def test_data_without_zeros_pass_untouched():
    intensity, error = np.ones((3, 4)), np.ones((3, 4))
    intensity[1, 1] = error[1, 1] = np.nan
    settled = settle_empty_bins(intensity, error)
    assert settled.intensity is intensity
    assert settled.error is error
    assert not settled.problems


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "empty", "masked"),
    [
        ("zinc_Ei50_100K", 22816, 0),
        ("silicon_Ei80_300K", 7007, 34),
        ("pdcro2_Ei60_5K", 35952, 0),
        ("bi2fe4o9_Ei62_300K", 2031, 0),
        ("bi2fe4o9_Ei62_5K", 35, 0),
        ("er2ir2o7_Ei30_5K", 0, 0),
    ],
)
def test_real_powders_keep_their_empty_bins(shared_data: Path, name, empty, masked):
    run = read_nxspe(shared_data / "powder" / f"{name}.nxspe", psi_deg=0.0)
    live = ~run.instrument.masked
    assert run.empty_bins == empty
    assert int(np.isnan(run.intensity[live]).sum()) == masked
    assert (run.error[live][np.isfinite(run.error[live])] > 0).all()
