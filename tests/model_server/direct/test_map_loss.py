from __future__ import annotations

import numpy as np
import pytest
import torch

from model_server.direct.bins import BINS as SHARES
from model_server.direct.bins import energy_edges_meV
from model_server.direct.map_loss import (
    BINS,
    MOMENTA_INVERSE_A,
    TOP_MEV,
    UNKNOWN_BARN,
    _barn,
    incoherent_maps,
    maps_unlike,
)
from model_server.direct.network import Batch, joined
from simulations.constants import HBAR2_OVER_U
from tests.model_server.direct.crystals import graph, random_crystal

ENERGY = 0.5 * (energy_edges_meV()[1:] + energy_edges_meV()[:-1])
HYDROGEN, ALUMINIUM, VANADIUM = 1, 13, 23


def lines(*at: int) -> torch.Tensor:
    """All modes of every atom in one bin."""
    shares = torch.zeros(len(at), SHARES)
    shares[range(len(at)), list(at)] = 1.0
    return shares


def cell(*numbers: int) -> Batch:
    positions = np.array([[k / len(numbers)] * 3 for k in range(len(numbers))])
    return joined([graph(5.0 * np.eye(3), positions, np.array(numbers))])


def test_einstein_oscillators_scatter_as_textbooks_say():
    """Cross section over mass times energy, Q^2 and exp(-Q^2 hbar^2 / 2 M E); two lines apart."""
    found = incoherent_maps(lines(20, 60), cell(ALUMINIUM, HYDROGEN))[0].double().numpy()
    bins = (np.arange(BINS) + 0.5) * TOP_MEV / BINS
    own, other = (found[:, (bins > low) & (bins < high)].sum(axis=1) for low, high in
                  ((10, 45), (50, 100)))  # fmt: skip
    square = MOMENTA_INVERSE_A**2

    def textbook(barn: float, mass: float, energy: float) -> np.ndarray:
        return barn / mass / energy * square * np.exp(-0.5 * HBAR2_OVER_U / mass / energy * square)

    expected = textbook(1.503, 26.98, ENERGY[20]) / textbook(82.02, 1.008, ENERGY[60])
    np.testing.assert_allclose(own / other, expected, rtol=5e-3)
    np.testing.assert_allclose(
        other / other[0],
        textbook(82.02, 1.008, ENERGY[60]) / textbook(82.02, 1.008, ENERGY[60])[0],
        rtol=2e-3,
    )
    np.testing.assert_allclose(found @ bins / found.sum(axis=1) * (own + other),
                               own * ENERGY[20] + other * ENERGY[60], rtol=2e-3)  # fmt: skip
    assert found.max() == 1.0


def test_maps_differ_by_nothing_from_themselves_and_more_the_farther_modes_are_moved():
    crystals = [random_crystal(k) for k in range(3)]
    batch = joined([graph(*one) for one in crystals])
    numbers = np.concatenate([numbers for _, _, numbers in crystals])
    shares = np.exp(-0.5 * ((ENERGY - 150 / np.sqrt(numbers)[:, None]) / 4.0) ** 2)
    given = torch.as_tensor(shares / shares.sum(axis=1, keepdims=True), dtype=torch.float32)
    assert maps_unlike(given, batch, given).tolist() == [0.0, 0.0, 0.0]
    near, far = (maps_unlike(torch.roll(given, k, dims=1), batch, given) for k in (1, 4))
    assert (near > 0).all()
    assert (far > 2 * near).all()


def test_what_neutrons_hardly_see_hardly_counts():
    batch, shares = cell(HYDROGEN, VANADIUM), lines(70, 30)
    of_vanadium = float(maps_unlike(lines(70, 35), batch, shares)[0])
    of_hydrogen = float(maps_unlike(lines(75, 30), batch, shares)[0])
    assert 0 < of_vanadium < 0.1 * of_hydrogen


@pytest.mark.parametrize(("number", "barn"), [(1, 82.02), (13, 1.503), (23, 5.10), (26, 11.62)])
def test_cross_sections_are_the_tabulated_ones(number, barn):
    assert _barn(number) == pytest.approx(barn, rel=0.01)


def test_an_element_without_neutron_data_scatters_as_others_do_about():
    assert _barn(100) == UNKNOWN_BARN
    assert _barn(0) == 0.0
