"""Bands of the density of states of routes with force constants."""

from __future__ import annotations

import numpy as np
import pytest

from model_server.direct import band_edges_meV, energy_edges_meV
from simulations.dynamics import PhononDos
from simulations.prior import FORCE_FIELDS
from steering.predict import vibrations_of
from steering.predict.density_bands_file import (
    DensityBands,
    bands_of,
    density_band,
    stretched_shares,
)


def known(stretch: float, factor: float = 2.0) -> DensityBands:
    return DensityBands(
        route="any", stretch=stretch, factor=factor, relative=0.1, floor=0.02, counted=50, held=0.9,
        against="others",
    )  # fmt: skip


def line(energy_meV: float, top_meV: float = 100.0) -> PhononDos:
    """Three modes in a bin a meV wide."""
    edges = np.arange(0.0, top_meV + 0.5, 1.0)
    partial = np.zeros((1, len(edges) - 1))
    partial[0, int(energy_meV)] = 3.0
    return PhononDos(energy_edges_meV=edges, partial=partial, imaginary_share=0.0)


def test_shares_sum_to_one_wherever_modes_lie():
    for at in (0.0, 40.0, 99.0):
        total, copies = stretched_shares(line(at), 0.07)
        assert total.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(copies.sum(axis=1), 1.0)
    total, _ = stretched_shares(line(700.0, 800.0), 0.0)  # above the highest bin
    assert total[-1] == pytest.approx(1.0)
    middle = 0.5 * (energy_edges_meV()[1:] + energy_edges_meV()[:-1])
    total, copies = stretched_shares(line(60.0), 0.05)
    assert total @ middle == pytest.approx(60.5, abs=0.7)
    assert (copies @ middle).std() == pytest.approx(0.05 * 60.5, rel=0.15)


def test_a_band_holds_the_density_and_is_wide_where_a_stretch_moves_it():
    dos = line(60.0)
    band, edges = density_band(dos, known(0.05)), band_edges_meV()
    modes = np.diff(np.interp(edges, dos.energy_edges_meV, np.append(0, np.cumsum(dos.total))))
    density = modes / np.diff(edges)
    np.testing.assert_array_equal(band.energy_edges_meV, edges)
    assert np.all((band.low <= density + 1e-9) & (density <= band.high + 1e-9))
    beside = np.searchsorted(edges, 64.0) - 1  # a stretch of 5 % reaches there
    assert band.high[beside] > 3 * density_band(dos, known(0.001)).high[beside]
    wider = density_band(dos, known(0.05, factor=4.0))
    assert np.all(wider.high >= band.high)


def test_what_ships_says_what_it_holds():
    assert bands_of("no such route") is None
    shipped = [name for name in (*FORCE_FIELDS, "database") if bands_of(name) is not None]
    assert {"sevennet-mf-0", "database"} <= set(shipped)
    for name in shipped:
        found = bands_of(name)
        assert 0.87 < found.held < 0.93
        assert found.counted >= 50
        words = density_band(vibrations_of("germanium").dos, found).words
        assert f"counted on {found.counted} crystals against {found.against}" in words
