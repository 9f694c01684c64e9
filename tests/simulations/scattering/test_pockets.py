"""Imaginary modes: small pockets are counted as chosen, unstable crystals refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.dynamics import phonon_dos
from simulations.dynamics.phonon_dos import ImaginaryPart
from simulations.errors import InputError
from simulations.reciprocal import irreducible_mesh
from simulations.scattering import (
    Pockets,
    broadened,
    converged_displacements,
    displacement_tensors,
    one_phonon_lines,
    pocketed,
    pockets_of,
)
from simulations.scattering.one_phonon import default_zone
from simulations.scattering.pockets import count_mode, counted, damped_line, look_for_pockets
from tests.simulations.phonon_oracles import aluminium, germanium


def with_pocket(share, depth):
    """Germanium's density of states with a share of all modes moved below zero, evenly deep."""
    dos = phonon_dos(germanium(), tolerance=0.03)
    edges = np.linspace(-depth, 0.0, 11)
    tensors = np.zeros((2, 6))
    tensors[:, :3] = share
    return replace(
        dos,
        partial=dos.partial * (1 - share),
        tensors=dos.tensors * (1 - share),
        imaginary_share=share,
        imaginary=ImaginaryPart(
            energy_edges_meV=edges,
            density=np.full(10, 6 * share / depth),
            tensors=tensors,
            lowest_meV=-depth,
            q_cart=np.zeros(3),
        ),
    )


@pytest.mark.parametrize(
    ("share", "depth", "passes"),
    [(0.002, 1.5, True), (0.009, 3.5, True), (0.02, 1.0, False), (0.002, 5.0, False)],
)
def test_few_and_shallow_modes_are_a_pocket(share, depth, passes):
    dos = with_pocket(share, depth)
    if passes:
        assert pockets_of(dos, "left_out") == Pockets(floor_meV=0.2 * depth, damped=False)
        with pytest.raises(InputError, match="refused, as asked"):
            pockets_of(dos, "refuse")
    else:
        with pytest.raises(InputError, match="at most 1% of the modes, no deeper than 10%"):
            pockets_of(dos, "damped")


def test_a_stable_crystal_has_no_pocket():
    assert pockets_of(phonon_dos(germanium(), tolerance=0.05), "refuse") is None


def test_modes_left_out_are_missing_and_damped_ones_are_counted():
    dos = with_pocket(0.005, 2.0)
    width = np.diff(dos.energy_edges_meV)
    out = pocketed(dos, Pockets(floor_meV=0.4, damped=False))
    np.testing.assert_allclose((out.partial * width).sum(axis=1), 3 * 0.995, rtol=1e-6)
    assert out.partial[:, dos.energy_edges_meV[1:] < 0.39].max() == 0
    damped = pocketed(dos, Pockets(floor_meV=0.4, damped=True))
    np.testing.assert_allclose((damped.partial * width).sum(axis=1), 3.0, rtol=1e-6)
    moved = ((damped.partial - out.partial) * width)[0]
    assert moved[dos.energies_meV < 4.0].sum() > 0.9 * moved.sum()


def test_imaginary_modes_are_refused_unless_chosen_otherwise():
    energies, q = np.array([[-1.0, 0.02, 3.0]]), np.zeros((1, 3))
    with pytest.raises(InputError, match="imaginary"):
        counted(energies, q, None)
    live, size, width = counted(energies, q, Pockets(floor_meV=0.2, damped=False))
    assert live.tolist() == [[False, True, True]]
    assert size[0, 1:].tolist() == [0.2, 3.0]
    live, size, width = counted(energies, q, Pockets(floor_meV=0.2, damped=True))
    assert live.all()
    assert (size[0, 0], width[0, 0], width[0, 2]) == (1.0, 1.0, 0.0)


def test_damped_lines_are_as_wide_as_their_energy():
    model = aluminium()
    unstable = -model.values
    Q = irreducible_mesh(model.crystal, 2, shifted=True).q_cart[:1] + model.crystal.reciprocal[0]
    pockets = Pockets(floor_meV=0.1, damped=True)
    lines = one_phonon_lines(model, Q, 300.0, unstable, pockets=pockets)
    assert np.all(lines.energies_meV > 0)
    edges = np.linspace(-200, 200, 2001)
    got = broadened(lines, edges, 0.1)[0]
    centres = 0.5 * (edges[1:] + edges[:-1])
    mean = np.average(centres, weights=got)
    spread = np.sqrt(np.average((centres - mean) ** 2, weights=got))
    assert spread > lines.energies_meV.min()
    bare = one_phonon_lines(model, Q, 300.0, unstable)
    assert bare.creation.sum() == 0


@pytest.mark.parametrize(
    ("energy", "left_out", "damped"),
    [
        (3.0, (True, 3.0, 0.0), (True, 3.0, 0.0)),
        (0.02, (True, 0.2, 0.0), (True, 0.2, 0.0)),
        (-0.02, (False, 1.0, 0.0), (False, 1.0, 0.0)),  # rounding at Gamma
        (-0.1, (False, 1.0, 0.0), (True, 0.2, 0.2)),
        (-1.5, (False, 1.0, 0.0), (True, 1.5, 1.5)),
    ],
)
def test_the_compiled_rule(energy, left_out, damped):
    assert count_mode(energy, 0.2, False) == left_out
    assert count_mode(energy, 0.2, True) == damped


@pytest.mark.parametrize("thermal", [0.0, 0.43, 25.9])
def test_the_damped_line_and_its_slope(thermal):
    size, spread, step = 1.3, 0.4, 1e-5
    for energy in (0.4, 1.3, 4.0):
        value, slope = damped_line(energy, size, spread, thermal)
        n = 0.0 if thermal == 0 else 1 / np.expm1(size / thermal)
        width = np.hypot(size, spread)
        up, down = (
            np.exp(-0.5 * ((energy - sign * size) / width) ** 2) / (np.sqrt(2 * np.pi) * width)
            for sign in (1, -1)
        )
        assert value == pytest.approx(((n + 1) * up + n * down) / size)
        above, below = (
            damped_line(energy, size + sign * step, spread, thermal)[0] for sign in (1, -1)
        )
        assert slope == pytest.approx((above - below) / (2 * step), rel=1e-6)


def test_displacements_beside_a_pocket_are_those_of_the_finest_mesh():
    model = aluminium()
    pockets = Pockets(floor_meV=2.0, damped=False)
    found = converged_displacements(model, 100.0, pockets=pockets)
    assert not found.extrapolated
    assert "extrapolated" not in found.words
    assert "half of it takes 8 x more" in found.words
    assert found.error <= 0.005
    zone = default_zone(model.crystal, found.divisions, extrapolated=False)
    assert np.all(zone.weights > 0)
    single = displacement_tensors(model, 100.0, zone=zone)  # modes below 2 meV are few in it
    np.testing.assert_allclose(found.tensors, single, atol=0.02 * single.max())
    assert converged_displacements(model, 100.0).extrapolated


def test_a_stable_crystal_is_looked_at_once():
    assert look_for_pockets(germanium(), "refuse") == (None, "")


def test_what_is_found_is_told_with_what_would_mend_it():
    model = aluminium()
    with pytest.raises(InputError, match="no small pocket.*Look at them") as told:
        look_for_pockets(model.with_elements(-model.element_values), "left_out")
    assert "compute them in a larger supercell" in str(told.value)
