"""Route ``auto``: which route is asked, in which order, within which time, and what it says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from simulations.crystal import read_crystal
from simulations.errors import InputError
from simulations.prior import FORCE_FIELDS
from steering import cli
from steering.predict import predict as run
from steering.predict import prediction_request, vibrations_of
from steering.predict.auto_route import ALIKE, AutoRoute, expected_of, ranked
from steering.predict.direct_route import DirectRoute
from steering.predict.field_softness_file import softness_of
from steering.predict.force_field_route import ForceField
from steering.predict.route_table_file import ALL, RouteError, classes_of, route_table
from steering.predict.routes import structure_of
from tests.steering.predict.test_direct_route import glass, salt


def rows(*given: tuple[str, str, float, int]) -> tuple[RouteError, ...]:
    return tuple(
        RouteError(
            route=route, metric="density", of=of, error=error, crystals=n, most_atoms=8, source="-"
        )
        for route, of, error, n in given
    )


def test_the_shipped_table_names_routes_that_are_there_and_times_that_grow():
    table = route_table()
    known = {"direct", *FORCE_FIELDS}
    assert {row.route for row in table.errors} <= known
    assert {"density", "map"} == set(table.metrics) == {row.metric for row in table.errors}
    for row in table.errors:
        assert 0 < row.error < 1
        assert row.crystals >= 4
        assert row.source in ("docs/direct.md", "measured_routes")
    for route in {row.route for row in table.errors}:
        few, many = (table.vibration_seconds(route, n) for n in (2, 20))
        assert 0 < few <= many
    assert table.vibration_seconds("a route", 2) is None
    for name, known_range in table.energies.items():
        assert name in known
        assert known_range.low < known_range.high


def test_times_are_powers_between_anchors_and_grow_on_beyond_the_last():
    table = replace(route_table(), vibrations={"one": [(2, 1.0), (8, 4.0)]})
    assert table.vibration_seconds("one", 4) == pytest.approx(2.0)
    assert table.vibration_seconds("one", 1) == pytest.approx(1.0)
    assert table.vibration_seconds("one", 32) == pytest.approx(16.0)


def test_a_class_of_crystals_counts_where_every_route_was_measured_on_it(tmp_path):
    crystal = read_crystal(salt(tmp_path, "Mg", "O", 4.21))
    every = rows(("a", ALL, 0.1, 90), ("b", ALL, 0.2, 20), ("a", "oxides", 0.3, 50))
    table = replace(route_table(), errors=every)
    found = table.errors_of(["a", "b", "c"], "density", crystal)
    assert {name: one.error for name, one in found.items()} == {"a": 0.1, "b": 0.2}
    table = replace(table, errors=every + rows(("b", "oxides", 0.25, 5)))
    found = table.errors_of(["a", "b", "c"], "density", crystal)
    assert {name: one.error for name, one in found.items()} == {"a": 0.3, "b": 0.25}
    few = replace(table, errors=every + rows(("b", "oxides", 0.25, 2)))
    assert few.errors_of(["a", "b"], "density", crystal)["a"].error == 0.1
    assert classes_of(["Li", "H", "O"]) == ("hydrogenous", "oxides")
    assert classes_of(["Fe"]) == ("none of these",)


@pytest.mark.parametrize("wanted", ["density", "map", "force_constants", "all"])
def test_routes_are_asked_by_their_measured_errors_and_those_not_measured_last(tmp_path, wanted):
    order = ranked(structure_of(salt(tmp_path, "Mg", "S", 5.2)), wanted)
    alone = [one for one in order if one.gives == "density"]
    fields = [one for one in order if one.gives == "force_constants"]
    assert [one.route.name for one in alone] == ([] if wanted == "force_constants" else ["direct"])
    assert {one.route.name for one in fields} == set(FORCE_FIELDS)
    if wanted == "all":
        assert order[-1] is alone[0]
        order = fields
    errors = [np.inf if one.error is None else one.error.error for one in order]
    for before, after in zip(errors, errors[1:], strict=False):
        assert before <= (1 + ALIKE) * after
    assert errors[0] < np.inf
    assert errors[-1] == np.inf
    assert "error not measured" in order[-1].words


def test_a_large_cell_is_for_networks_alone(tmp_path):
    order = ranked(structure_of(glass(tmp_path, 2)), "all")
    assert [one.route.name for one in order if one.unfit is None] == ["direct"]
    assert "expected at most 40" in next(one for one in order if one.unfit is not None).unfit
    found = vibrations_of(glass(tmp_path, 2), wanted="all", time_limit_s=600)
    assert found.route["kind"] == "direct"


def test_force_fields_compute_larger_cells_only_within_a_limit(tmp_path, monkeypatch):
    cell = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    )
    cell = cell.get_primitive_structure() * (2, 2, 3)
    cell.replace(0, "K")
    path = tmp_path / "POSCAR"
    Poscar(cell).write_file(path)
    assert structure_of(path).crystal.n_atoms == 24

    def computed(self, structure):
        raise InputError(f"{self.force_field} was asked")

    monkeypatch.setattr(ForceField, "vibrations", computed)
    found = vibrations_of(path, wanted="density")
    assert found.route["kind"] == "direct"
    assert any("asked within a time limit (--time-limit)" in one for one in found.approximations)
    with pytest.raises(InputError, match=r"for 24 atoms; asked within a time limit"):
        vibrations_of(path, wanted="force_constants")
    with pytest.raises(InputError, match="sevennet-mf-0 was asked"):
        vibrations_of(path, wanted="force_constants", time_limit_s=1e5)


def test_of_errors_alike_the_field_comes_first_whose_softness_is_known(tmp_path):
    order = ranked(structure_of(salt(tmp_path, "Mg", "S", 5.2)), "force_constants")
    measured = [one for one in order if one.error is not None]
    least = min(one.error.error for one in measured)
    alike = [one for one in measured if one.error.error < (1 + ALIKE) * least]
    assert len(alike) > 1
    assert order[: len(alike)] == alike
    known = [softness_of(one.route.name) is not None for one in alike]
    assert known == sorted(known, reverse=True)
    assert any(known)


def test_of_one_element_a_field_comes_first_whose_softness_is_known(tmp_path):
    path = tmp_path / "POSCAR"
    Poscar(Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])).write_file(
        path
    )
    fields = [one for one in ranked(structure_of(path), "force_constants") if one.computes]
    assert fields[0].route.name == "sevennet-mf-0"
    told = AutoRoute()._chosen(fields[0], fields, alone=True)
    assert "that is of compounds" in told
    assert "mean energies were" not in told
    assert "mean energies were" in AutoRoute()._chosen(fields[0], fields, alone=False)


def test_the_answer_names_route_error_and_time_and_those_of_others(tmp_path):
    found = vibrations_of(salt(tmp_path, "Na", "Cl", 5.6), wanted="density", time_limit_s=4.5)
    told = next(note for note in found.approximations if note.startswith("auto: route"))
    assert f"auto: route {found.route['kind']} (mean absolute error of the density" in told
    assert "0.07 on 551 crystals of at most 40 atoms (docs/direct.md)" in told
    assert "Others: " in told
    assert "sevennet-l3i5" in told


def test_where_no_route_fits_into_the_time_the_error_says_what_would(tmp_path):
    path = salt(tmp_path, "Na", "Cl", 5.6)
    with pytest.raises(InputError, match=r"no route fits into the time limit of 0\.001 s") as error:
        vibrations_of(path, wanted="density", time_limit_s=0.001)
    assert "for direct" in str(error.value)
    with pytest.raises(InputError, match=r"limit of 0\.5 s .*expected at least .* for ") as error:
        run(prediction_request(structure=path.read_text(), quantity="dispersion", time_limit_s=0.5))
    assert "for direct" not in str(error.value)  # it gives no force constants


def test_given_force_constants_are_taken_whatever_the_time():
    assert AutoRoute().name == "auto"
    found = vibrations_of("germanium", wanted="density", time_limit_s=0.001)
    assert found.route["kind"] == "force_constants"
    assert not any("auto" in note for note in found.approximations)


def test_a_crystal_far_from_training_goes_on_to_other_routes(tmp_path, monkeypatch):
    path = salt(tmp_path, "Am", "O", 5.0)
    asked = []

    def refuse(self, structure):
        asked.append(self.name)
        raise InputError("no")

    monkeypatch.setattr(ForceField, "vibrations", refuse)
    found = vibrations_of(path, wanted="density")
    assert set(asked) == set(FORCE_FIELDS)
    assert found.route["kind"] == "direct"  # the others failed
    told = " ".join(found.approximations)
    assert "direct: far from training" in told
    assert "its error is not known there" in told


def test_the_time_of_what_is_made_of_vibrations_counts():
    structure = structure_of("germanium")
    without, with_map = (
        expected_of(route, structure, "map", quantity).seconds
        for route, quantity in ((AutoRoute(), None), (DirectRoute(), "powder"))
    )
    assert without is None
    own = expected_of(DirectRoute(), structure, "map").seconds
    assert with_map > own


def test_a_comparison_tells_what_other_routes_say_and_why_some_were_not_asked():
    asked = prediction_request(
        structure="germanium", quantity="dos", compare=True, time_limit_s=20.0
    )
    found = {one["route"]: one for one in run(asked)["routes"]}
    assert found["force_constants"]["chosen"]
    assert found["force_constants"]["differs"] == 0
    assert found["direct"]["asked"]
    assert 0 < found["direct"]["differs"] < 0.3
    assert found["direct"]["mean_energy_meV"] == pytest.approx(24, abs=5)
    assert found["direct"]["dos"]["total"].shape == found["direct"]["dos"]["energy_meV"].shape
    assert not found["database"]["asked"]
    assert "none is named" in found["database"]["why"]


def test_the_verb_prints_the_routes(capsys):
    line = ["predict", "germanium", "--quantity", "dos", "--compare", "--time-limit", "200"]
    assert cli.run([*line, "--json"]) == cli.OK
    routes = json.loads(capsys.readouterr().out)["routes"]
    assert [one["route"] for one in routes if one["chosen"]] == ["force_constants"]
    assert cli.run([*line, "--no-picture"]) == cli.OK
    shown = capsys.readouterr().out
    assert "taken" in shown
    assert "direct" in shown
    assert "not asked" in " ".join(shown.split())
