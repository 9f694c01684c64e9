from __future__ import annotations

import numpy as np
import pytest

from simulations.crystal import read_crystal
from simulations.errors import InputError

LINES = (
    "MgO", "1.0", "4.2 0 0", "0 4.2 0", "0 0 4.2", "Mg O", "1 1", "Direct", "0 0 0", ".5 .5 .5"
)  # fmt: skip


def poscar(tmp_path, **lines):
    """Lines by number, from 1, as ``l2="1.0"``."""
    found = list(LINES)
    for name, line in lines.items():
        found[int(name[1:]) - 1] = line
    path = tmp_path / "POSCAR"
    path.write_text("\n".join(found) + "\n")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        {},
        {"l3": "4.2d0 0.0d0 0.d0", "l10": "5.0D-1 0.5d+0 .5"},
        {"l2": "0.42d1", "l3": "1 0 0", "l4": "0 1 0", "l5": "0 0 1"},
        {"l2": "4.2 2.1 1.4", "l3": "1 0 0", "l4": "0 2 0", "l5": "0 0 3"},
        {"l2": "4.2 2.1 1.4", "l3": "1 0 0", "l4": "0 2 0", "l5": "0 0 3",
         "l8": "Cartesian", "l10": "0.5 1.0 1.5"},
        {"l2": "-74.088", "l3": "1 0 0", "l4": "0 1 0", "l5": "0 0 1"},
        {"l8": "Selective dynamics\nDirect", "l9": "0 0 0 T T F", "l10": "5d-1 .5 .5 F F F"},
        {"l10": ".5 .5 .5\n\n0 0 0\n0 0 0"},
        {"l6": "Mg O ! both", "l7": "1 1 # of each"},
    ],
)  # fmt: skip
def test_ways_to_write_one_poscar(tmp_path, lines):
    path = poscar(tmp_path, **lines)
    crystal = read_crystal(path)
    assert crystal.symbols == ("Mg", "O")
    np.testing.assert_allclose(crystal.conventional_lattice, 4.2 * np.eye(3), rtol=1e-9)
    np.testing.assert_allclose(np.ptp(crystal.positions, axis=0), 0.5)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ({"l7": "1 2"}, "3 atoms are announced, but 2 rows of coordinates follow"),
        ({"l10": ".5 .5 .5\n.2 .2 .2"}, "2 atoms are announced, but more rows"),
        ({"l10": ".5 .5"}, "2 atoms are announced, but 1 rows"),
        ({"l2": "0.0"}, "line 2 has the scale '0.0'"),
        ({"l2": "1 -1 1"}, "line 2 has the scale"),
        ({"l2": "one"}, "line 2 is 'one' where the scale"),
        ({"l4": "0 4.2"}, "line 4 is '0 4.2' where a vector of the cell"),
        ({"l8": "0 0 0"}, "line 8 is '0 0 0' where Direct or Cartesian"),
        ({"l6": "Mg"}, "1 species are named (Mg), but 2 numbers of atoms given"),
        ({"l7": "2"}, "2 species are named (Mg O), but 1 numbers of atoms given"),
        ({"l6": "\nMg O"}, "line 6 is empty where species"),
        ({"l6": "mg o"}, "the line of species names 'mg'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, lines, says):
    with pytest.raises(InputError, match="expected") as error:
        read_crystal(poscar(tmp_path, **lines))
    assert says in str(error.value)
    assert "Error" not in str(error.value)
