"""Operators of a CIF, held against spglib's database of settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import spglib

from simulations.crystal import quiet_spglib
from simulations.crystal.cif_blocks import CifBlock
from simulations.crystal.cif_symmetry import operator_candidates
from simulations.errors import InputError

CUBE = 5.0 * np.eye(3)
HEXAGONAL = np.array([[4.0, 0, 0], [-2.0, 2 * np.sqrt(3), 0], [0, 0, 6.0]])


def key(operators):
    shifts = np.rint(np.asarray(operators[1]) * 48).astype(int) % 48
    pairs = zip(np.asarray(operators[0]).tolist(), shifts.tolist(), strict=True)
    return {str(pair) for pair in pairs}


def of_database(hall):
    with quiet_spglib():
        data: Any = spglib.get_symmetry_from_database(hall)
    return key((data["rotations"], data["translations"]))


def candidates(lattice=None, columns=None, **items):
    named = {f"_space_group_{tag}": value for tag, value in items.items()}
    block = CifBlock(name="x", items=named, columns=columns or {})
    given = CUBE if lattice is None else lattice
    return operator_candidates(block, given)


def h_m(name, lattice=None, **more):
    found, _ = candidates(lattice, **({"name_h-m_alt": name} | more))
    return found


def kind_of(hall) -> Any:
    with quiet_spglib():
        return spglib.get_spacegroup_type(hall)


def lattice_of(kind):
    hexagonal = 143 <= kind.number <= 194 and kind.choice != "R"
    return HEXAGONAL if hexagonal else CUBE


@pytest.mark.parametrize("first", range(1, 531, 53))
def test_every_hall_symbol_brings_the_operators_of_its_setting(first):
    for hall in range(first, first + 53):
        kind = kind_of(hall)
        found, told = candidates(
            lattice_of(kind),
            **{"name_hall": kind.hall_symbol, "it_number": str(kind.number)},
        )
        assert not told
        assert [key((f.rotations, f.translations)) for f in found] == [of_database(hall)]


@pytest.mark.parametrize(
    ("name", "halls"),
    [
        ("F d -3 m :1", [525]), ("F d -3 m S", [525]), ("F d -3 m:2", [526]),
        ("F d -3 m Z", [526]), ("F d 3 m (origin choice 2)", [526]), ("F d -3 m", [525, 526]),
        ("Fm3m", [523]), ("P a 3", [501]), ("P6_3/mmc", [488]), ("C m c a", [304]),
        ("P 1 21/n 1", [82]), ("P b n m", [294]), ("P 32", [432]), ("P 3 2 1", [439]),
    ],
)  # fmt: skip
def test_names_with_and_without_their_setting(name, halls):
    hexagonal = HEXAGONAL if name.startswith(("P6", "P 3")) else CUBE
    found = h_m(name, hexagonal)
    assert [key((f.rotations, f.translations)) for f in found] == [of_database(h) for h in halls]


def test_the_cell_tells_rhombohedral_axes_from_hexagonal_ones():
    alpha = np.cos(np.radians(57.23))
    rhombohedral = np.linalg.cholesky(4.7459**2 * (np.eye(3) * (1 - alpha) + alpha))
    (found,) = h_m("R -3 m", rhombohedral)
    assert key((found.rotations, found.translations)) == of_database(459)
    (found,) = h_m("R -3 m", HEXAGONAL)
    assert key((found.rotations, found.translations)) == of_database(458)
    for name, lattice in (("R -3 m :H", rhombohedral), ("R -3 m :R", HEXAGONAL)):
        with pytest.raises(InputError, match="contradicts space group 166"):
            h_m(name, lattice)


def test_a_monoclinic_axis_is_that_of_the_cell():
    cell = np.array([[5.0, 0, 0], [0, 6.0, 0], [-1.2, 0, 7.0]])
    (found,) = h_m("P 21/c", cell)
    assert key((found.rotations, found.translations)) == of_database(81)
    with pytest.raises(InputError, match="the cell is 5, 6, 7.1021 angstrom and 90, 99.7"):
        h_m("P 1 1 21/b", cell)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ({"name_h-m_alt": "F m -3 m", "it_number": "227"}, "which are different groups"),
        ({"name_hall": "-F 4 2 3", "it_number": "227"}, "which are different groups"),
        ({"it_number": "231"}, "expected 1 to 230"),
        ({"name_h-m_alt": "F m -3 m :2"}, "no setting '2'"),
        ({"name_hall": "-P 2y (x,y,z+1/4)"}, "changes the axes"),
    ],
)
def test_names_that_mean_nothing_are_refused(items, says):
    with pytest.raises(InputError, match=says):
        candidates(**items)


def test_an_unknown_group_is_told():
    for items, says in (({}, "no space group"), ({"name_h-m_alt": "Q 9"}, "unknown group 'Q 9'")):
        (found,), (told,) = candidates(**items)
        assert len(found) == 1
        assert says in told


LIST = "_space_group_symop_operation_xyz"


def listed(*operators, **items):
    return candidates(columns={LIST: list(operators)}, **items)


def test_a_list_decides_whatever_the_names_say():
    (found,), told = listed("x,y,z", "-x, -Y, -z+1/2", **{"name_h-m_alt": "P 1", "it_number": "2"})
    assert found.xyz == ("x,y,z", "-x,-y,-z+1/2")
    assert not told
    (found,), (told,) = listed("x,y,z", **{"name_h-m_alt": "F m -3 m"})
    assert len(found) == 1
    assert "lists 1 symmetry operators" in told


def test_decimals_of_a_list_are_the_fractions_that_they_round():
    (found,), _ = candidates(
        HEXAGONAL, columns={LIST: ["x,y,z", "-y,x-y,z+0.333", "-x+y,-x,z+0.667"]}
    )
    assert key((found.rotations, found.translations)) == of_database(431)


def test_products_that_are_missing_in_a_list_are_added():
    (found,), (told,) = listed("x,y,z", "x+1/2,y+1/2,z", "-x,-y,-z")
    assert set(found.xyz) == {"x,y,z", "x+1/2,y+1/2,z", "-x,-y,-z", "-x+1/2,-y+1/2,-z"}
    assert "1 products were missing" in told
    fcc = ("x,y+1/2,z+1/2", "x+1/2,y,z+1/2", "-y,x,z")
    (found,), _ = listed("x,y,z", *fcc)
    assert len(found) == 16


@pytest.mark.parametrize(
    ("operators", "says"),
    [
        (("x,y,z", "x+0.0021,y,z"), "is no group: their products never end"),
        (("x,", "y,", "z"), "'x,' is no symmetry operator"),
        (("x,y,y",), "no symmetry operator"),
        (("x,y,z", "__import__,y,z"), "no symmetry operator"),
    ],
)
def test_lists_that_are_no_group_are_refused(operators, says):
    with pytest.raises(InputError, match=says):
        listed(*operators)


def test_operators_that_the_cell_does_not_have_are_refused():
    with pytest.raises(InputError, match="contradicts the list of 3 symmetry operators"):
        listed("x,y,z", "-y,x-y,z", "-x+y,-x,z")
