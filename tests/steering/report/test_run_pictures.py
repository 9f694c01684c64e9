from __future__ import annotations

from dataclasses import replace

import numpy as np

from steering.report.run_pictures import cuts, errors_over_time, pulls, svg
from tests.steering.fabricated import snapshot, spectrum


def test_a_cut_is_a_sum_and_not_an_average():
    """One cell of three saw ten times as much: it counts ten times."""
    view = spectrum()
    exposure = np.zeros_like(view.intensity)
    exposure[19:22] = [[1.0], [10.0], [1.0]]
    intensity = np.full_like(exposure, np.nan)
    intensity[19:22] = [[5.0], [2.0], [5.0]]
    sigma = np.where(exposure > 0, 0.5, np.nan)
    view = replace(view, exposure=exposure, intensity=intensity, sigma=sigma)
    figure = cuts(view)
    assert figure is not None
    (axes,) = [one for one in figure.axes if one.get_visible()]
    line = axes.containers[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 30 / 12)
    ends = axes.containers[0].lines[2][0].get_segments()[0]
    error = 0.5 * np.sqrt(102) / 12
    np.testing.assert_allclose(ends[:, 1], [2.5 - error, 2.5 + error])


def test_cells_without_exposure_are_no_points_of_a_cut():
    figure = cuts(spectrum())
    assert figure is not None
    top = 38.5
    for axes in figure.axes:
        if axes.get_visible():
            assert max(axes.containers[0].lines[0].get_xdata()) < top


def test_a_segment_between_points_that_jump_is_named_by_its_own_ends():
    figure = cuts(spectrum())
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:3] == ["middle of X\u2013U, 3 bins", "middle of K\u2013\u0393, 3 bins"]


def test_an_empty_fold_has_no_cuts_and_no_pulls():
    view = spectrum()
    nothing = np.full_like(view.intensity, np.nan)
    empty = replace(
        view,
        exposure=np.zeros_like(nothing),
        intensity=nothing,
        sigma=nothing,
        model_intensity=nothing,
        residual_sigma=nothing,
    )
    assert cuts(empty) is None
    assert pulls(empty) is None


def test_pulls_tell_mean_and_spread_and_hold_what_is_far_out():
    view = spectrum()
    values = np.full_like(view.residual_sigma, np.nan)
    values[0, :4] = [0.0, 1.0, -1.0, 40.0]
    figure = pulls(replace(view, residual_sigma=values))
    assert figure is not None
    assert figure.axes[0].get_title().startswith("4 cells: mean +10.00")
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 4


def test_looks_that_were_not_trusted_are_open_circles():
    run = snapshot()
    figure = errors_over_time(run.history, {"1NN xx": 0.35, "nosuch": 1.0})
    assert figure is not None
    lines = figure.axes[0].get_lines()
    filled = [
        one for one in lines if one.get_markerfacecolor() != "white" and one.get_marker() == "o"
    ]
    hollow = [one for one in lines if one.get_markerfacecolor() == "white"]
    assert [len(one.get_xdata()) for one in filled] == [6]
    assert [len(one.get_xdata()) for one in hollow] == [2]
    assert errors_over_time((), {"1NN xx": 0.35}) is None
    assert errors_over_time(run.history, {}) is None


def test_pictures_are_the_same_bytes_again():
    first, second = cuts(spectrum()), cuts(spectrum())
    assert first is not None
    assert second is not None
    assert svg(first) == svg(second)
    assert b"<script" not in svg(first)
