"""Path bins and energy axis."""

import numpy as np
import pytest

from simulations.crystal import read_crystal
from simulations.reciprocal import EnergyAxis, Path, seekpath_segments


def _path() -> Path:
    return Path(
        start_hkl=np.array([[0.0, 0, 0], [0.75, 0.75, 0]]),
        end_hkl=np.array([[0.0, 1, 0], [0.0, 0, 0]]),
        labels=(("Gamma", "X"), ("K", "Gamma")),
        bins=(4, 3),
    )


def test_bins_are_numbered_through_all_segments():
    path = _path()
    assert path.n_bins == 7
    np.testing.assert_array_equal(path.first_bin, [0, 4])
    np.testing.assert_allclose(path.centres_hkl()[[0, 3, 4]], [
        [0, 0.125, 0], [0, 0.875, 0], [0.625, 0.625, 0]
    ])  # fmt: skip
    centres, ends = path.position(np.eye(3))
    np.testing.assert_allclose(ends, [0, 1, 1 + 0.75 * np.sqrt(2)])
    assert np.all(np.diff(centres) > 0)


def test_path_with_a_missing_bin_count_is_refused():
    with pytest.raises(ValueError, match="expected as many of each"):
        Path(
            start_hkl=np.zeros((2, 3)), end_hkl=np.ones((2, 3)), labels=(("a", "b"),) * 2, bins=(3,)
        )


def test_energy_axis_refuses_uneven_steps_and_knows_what_is_reachable():
    with pytest.raises(ValueError, match="equal steps"):
        EnergyAxis(edges_meV=np.array([0.0, 1.0, 3.0]))
    axis = EnergyAxis(edges_meV=np.linspace(0, 70, 141))
    assert axis.step_meV == pytest.approx(0.5)
    reachable = axis.reachable_bins(40.0)
    assert 38.0 < axis.edges_meV[reachable] < 40.0


def test_an_axis_says_which_of_its_bins_no_neutron_reaches():
    axis = EnergyAxis(edges_meV=np.linspace(0, 60, 61))
    assert axis.beyond(60.0) == ()
    assert "ends at 60 meV, and a neutron of 40 meV" in axis.beyond(40.0)[0]


@pytest.mark.parametrize("name", ["germanium", "aluminium", "MnO"])
def test_seekpath_gives_the_fcc_path_in_conventional_units(name):
    path = seekpath_segments(read_crystal(name), 0.05)
    ends = {label for pair in path.labels for label in pair}
    assert {"Gamma", "X", "K", "L", "W"} <= ends
    x = path.end_hkl[[b for _, b in path.labels].index("X")]
    assert sorted(np.abs(x)) == pytest.approx([0, 0, 1])
