from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest

from simulations.reciprocal import irreducible_mesh, quasi_random_points
from simulations.scattering import powder_spectrum
from simulations.scattering.pockets import look_for_pockets
from simulations.scattering.soft_cells import split_soft_cells
from tests.simulations.phonon_oracles import aluminium, germanium


def soft_aluminium(second_xx):
    """The slow branch along [110] is soft; from 0.11 on it has a small pocket beside Gamma."""
    model = aluminium()
    values = dict(zip(model.elements, model.with_free(model.elements).values, strict=True))
    values.update({"1NN zz": 0.33, "2NN xx": second_xx})
    return model.with_elements([values[name] for name in model.elements])


def energies(model, q_cart):
    squared = np.linalg.eigvalsh(model.dynamical_matrices(q_cart))
    return np.sqrt(np.maximum(squared, 0.0))


@pytest.mark.parametrize("divisions", [(4, 4, 4), (4, 4, 6)])  # all of the symmetry keeps the first
def test_split_cells_fill_the_zone_once(divisions):
    model = germanium()
    regular = irreducible_mesh(model.crystal, divisions, shifted=True)
    split = split_soft_cells(model, regular, 300.0)
    assert split.weights.sum() == pytest.approx(1.0)
    fine = 8  # of the finest cells along each side of a cell of the regular mesh
    offsets = {
        level: np.array(
            list(product((np.arange(fine >> level) + 0.5) / (fine >> level) - 0.5, repeat=3))
        ) / 2**level
        for level in range(4)
    }  # fmt: skip
    cell = model.crystal.reciprocal / np.array(divisions)[:, None]
    total, most = 0.0, 0
    for q, weight in zip(split.q_cart, split.weights, strict=True):
        place = q @ np.linalg.inv(cell)  # in steps of the mesh: odd quarters are split once
        level = next(k for k in range(4) if np.allclose(place * 2**k % 1.0, 0.5))
        most = max(most, level)
        total += weight * np.mean(1 / energies(model, q + offsets[level] @ cell))
    whole = irreducible_mesh(model.crystal, fine * np.array(divisions), shifted=True)
    expected = whole.weights @ np.mean(1 / energies(model, whole.q_cart), axis=1)
    assert most >= 1
    assert total == pytest.approx(expected, rel=1e-10)


def intensity_of(model, zone, pockets=None):
    """A powder map at 300 K with a line of 0.6 meV."""
    return powder_spectrum(
        model,
        np.linspace(0.5, 6.0, 40),
        np.linspace(0.0, 44.0, 60),
        zone=zone,
        temperature_K=300.0,
        resolution=0.6,
        displacement=0.01 * np.eye(3)[None],
        pockets=pockets,
    ).intensity


def mesh_of(model, n):
    return irreducible_mesh(model.crystal, n, shifted=True)


def test_a_split_mesh_beats_a_regular_one_of_more_points():
    model = soft_aluminium(0.08)
    intensity, mesh = partial(intensity_of, model), partial(mesh_of, model)
    truth = intensity(mesh(160))  # regular: nothing of the splitting is in it
    split = split_soft_cells(model, mesh(24), 300.0)
    regular = mesh(36)
    assert len(split.q_cart) < 1.1 * len(regular.q_cart)
    off = [np.abs(intensity(zone) - truth).sum() / truth.sum() for zone in (split, regular)]
    assert off[0] < 0.7 * off[1]


@pytest.mark.parametrize("treatment", ["left_out", "damped"])
def test_beside_a_pocket_split_meshes_are_neither_too_low_nor_too_high(treatment):
    model = soft_aluminium(0.13)
    pockets, _ = look_for_pockets(model, treatment)
    intensity = partial(intensity_of, model, pockets=pockets)
    mesh = partial(mesh_of, model)
    truth = intensity(mesh(160))  # regular: nothing of the splitting is in it
    split = split_soft_cells(model, mesh(24), 300.0, pockets=pockets)
    regular = mesh(36)
    assert len(split.q_cart) < len(regular.q_cart)
    off, rough = (intensity(zone) - truth for zone in (split, regular))
    assert np.abs(off).sum() < 0.5 * np.abs(rough).sum()
    assert abs(off.sum()) < 0.008 * truth.sum()  # judged by their centres: 0.02


def test_points_without_cells_are_refused():
    model = germanium()
    with pytest.raises(ValueError, match="divisions"):
        split_soft_cells(model, quasi_random_points(model.crystal, 5), 300.0)
