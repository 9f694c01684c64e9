"""What a mis-set measurement does to rates, against rates of the set-up that is true."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from simulations.crystal import read_crystal
from simulations.instrument import crystal_to_lab
from simulations.likelihood import NONE_OFF, MissettingSection, missetting
from simulations.likelihood.missetting import Missetting, lattice_strains
from tests.simulations.likelihood.doubted import doubted_germanium

PSI_DEG = 30.0


@pytest.fixture(scope="module")
def germanium():
    measurement = doubted_germanium()
    whole = measurement.instrument
    masked = np.ones(whole.n_pixels, dtype=bool)
    rng = np.random.default_rng(3)
    masked[rng.choice(np.flatnonzero(~whole.masked), 3000, replace=False)] = False
    trajectories = measurement.trajectories(PSI_DEG, replace(whole, masked=masked))
    exact = measurement.exact
    return measurement, trajectories, exact, exact.prepare(measurement.model.values)


def test_derivatives_by_width_and_set_up_are_those_of_the_rate(germanium):
    """Off by the jumps between grid points, and near Gamma, where rates are steep, by the bend."""
    measurement, trajectories, exact, state = germanium
    ways: Missetting = exact.missetting
    assert len(ways) == 6
    _, slope = exact.rates(trajectories, state)
    n_k = len(measurement.model.names)
    assert slope.shape[-1] == n_k + 1 + len(ways)

    def compared(column, step, **moved):
        up, down = (
            exact.rates(
                trajectories, state, gradient=False, **{n: s * m for n, m in moved.items()}
            )[0]
            for s in (1, -1)
        )
        difference = ((up - down) / (2 * step))[:, 7:].ravel()
        ours = slope[..., column][:, 7:].ravel()
        away = np.linalg.norm(ours - difference) / np.linalg.norm(difference)
        return away, ours @ difference / (difference @ difference)

    away, _ = compared(n_k, 0.01, log_width=0.01)
    assert away < 0.02
    for g, name in enumerate(ways.names):
        step = 0.03 * ways.sigma[g]
        away, along = compared(n_k + 1 + g, step, off=step * np.eye(len(ways))[g])
        assert away < 0.2, name
        assert along == pytest.approx(1, abs=0.05), name


def test_rates_of_a_turned_crystal_are_those_of_its_own_orientation(germanium):
    """The cells of the believed orientation, walked with the true one."""
    measurement, trajectories, exact, state = germanium
    ways: Missetting = exact.missetting
    off = np.where(np.array(ways.names) == "psi offset", 0.4, 0.0)
    ours, _ = exact.rates(trajectories, state, off=off, gradient=False)
    believed, true = (
        crystal_to_lab(
            measurement.orientation, measurement.crystal.conventional_reciprocal, PSI_DEG + more
        )
        for more in (0.0, 0.4)
    )
    turn = true.T @ believed
    turned = replace(
        trajectories, direction=trajectories.direction @ turn.T, beam=turn @ trajectories.beam
    )
    theirs, _ = exact.rates(turned, state, gradient=False)
    assert np.abs(ours - theirs).sum() < 2e-3 * theirs.sum()
    still, _ = exact.rates(trajectories, state, gradient=False)
    assert np.abs(ours - still).sum() > 0.05 * still.sum()


def test_an_incident_energy_that_is_off_moves_lines_and_wave_vectors(germanium):
    """A scatterer whose lines do not move with Q shifts by the error of Ei, and T0 by its own."""
    ways: Missetting = germanium[2].missetting
    true = np.array([5.0, 20.0, 35.0])
    moves = ways.moves(true, 40.0)
    ei, late = ways.names.index("incident energy"), ways.names.index("time zero")
    np.testing.assert_allclose(moves.shift[ei], -0.4)
    np.testing.assert_allclose(moves.beam[ei], 0.005)
    for k, energy in enumerate(true):
        kf = np.sqrt((40.0 - energy) / 2.0721248)
        more = np.sqrt((40.4 - energy) / 2.0721248)
        assert moves.final[ei, k] == pytest.approx(more - kf, rel=0.03)
        # From 3 m away at 2.77 mm/us at 40 meV, 1 us late; flight goes with one over the root.
        time = 3000 / 2.77 * np.sqrt(40.0 / (40.0 - energy))
        assert moves.shift[late, k] == pytest.approx(
            (40.0 - energy) * (1 - (time / (time + 1)) ** 2), rel=0.1
        )
    assert np.all(moves.final[late] == 0)


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ([[4, 0, 0], [0, 4, 0], [0, 0, 4]], ["lattice abc"]),
        ([[3, 0, 0], [-1.5, 1.5 * np.sqrt(3), 0], [0, 0, 5]], ["lattice ab", "lattice c"]),
        ([[3, 0, 0], [0, 4, 0], [0, 0, 5]], ["lattice a", "lattice b", "lattice c"]),
    ],
)
def test_strains_are_those_that_the_point_group_leaves_free(tmp_path, cell, names):
    poscar = tmp_path / "POSCAR"
    rows = "\n".join(" ".join(f"{x:.12f}" for x in row) for row in cell)
    poscar.write_text(f"one atom\n1.0\n{rows}\nCu\n1\nDirect\n0 0 0\n")
    crystal = read_crystal(poscar)
    strains = lattice_strains(crystal)
    assert [name for name, _ in strains] == names
    np.testing.assert_allclose(sum(strain for _, strain in strains), np.eye(3), atol=1e-12)
    lengths = np.linalg.inv(crystal.conventional_reciprocal).T
    for name, strain in strains:
        stretched = lengths @ strain.T
        for k, letter in enumerate("abc"):
            wanted = lengths[k] if letter in name.split()[1] else np.zeros(3)
            np.testing.assert_allclose(stretched[k], wanted, atol=1e-12)


def test_what_is_known_is_not_fitted(germanium):
    measurement = germanium[0]
    section = MissettingSection(tilt_deg=0.0)
    ways = missetting(
        measurement.crystal, measurement.instrument, measurement.orientation, 40.0, section
    )
    known = ways.where(ways.sigma == 0)
    assert known.names == ("tilt gl", "tilt gs")
    assert len(ways) == len(known) + 4
    assert not measurement.exact.aside.names  # all are doubted and fitted


def test_a_walk_that_fits_nothing_of_the_set_up_has_the_same_derivatives(germanium):
    measurement, trajectories, exact, state = germanium
    believing = copy(exact)
    believing.missetting, believing.aside = NONE_OFF, exact.missetting
    believing._every_way = exact.missetting
    rate, slope = exact.rates(trajectories, state)
    same_rate, same_slope = believing.rates(trajectories, state)
    np.testing.assert_array_equal(same_rate, rate)
    np.testing.assert_array_equal(same_slope, slope)
    again = believing.doubting()
    assert again.missetting.names == exact.missetting.names
    assert not again.aside.names
