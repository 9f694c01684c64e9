from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from simulations.crystal import with_isotopes
from simulations.dynamics import PhononDos, force_constant_model, modes
from simulations.dynamics.phonopy_file import to_phonopy_array
from simulations.errors import InputError
from simulations.prior import load_prior_record
from steering import cli
from steering.predict import (
    PredictionRequest,
    Vibrations,
    force_field_route,
    formula,
    indirect_spectrum,
    optics,
    phonons,
    powder_map,
    predict,
    stable,
    vibrations_of,
)
from steering.predict.incoherent_powder import INCOHERENT
from steering.predict.route import Route, RouteUnavailableError, Structure
from steering.predict.routes import ROUTES, route_named
from steering.predict.vibrations import Uncertainty
from tests.simulations.dynamics.phonondb_ways import database, phonopy_of, write_ways
from tests.simulations.phonon_oracles import (
    SYMPREC_A,
    phonondb_crystal,
    phonopy_energies,
    zone_vectors,
)


@pytest.mark.parametrize("name", ["germanium", "niobium", "aluminium", "MnO"])
def test_every_builtin_crystal_has_stable_force_constants_without_a_force_field(name, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a force field was run")

    monkeypatch.setattr(force_field_route, "force_field_phonons", never)
    found = vibrations_of(name)
    q = np.array([[0.3, 0.1, 0.2], [0.5, 0.4, 0.0]])
    assert np.linalg.eigvalsh(found.model.dynamical_matrices(q)).min() > 0


def test_of_stored_force_fields_the_stiffest_stable_one_is_taken():
    record = load_prior_record("aluminium")
    found = vibrations_of("aluminium")
    stiffest = max(record.stable_members, key=lambda m: m.highest_meV)
    assert found.route == {"kind": "force_field", "source": f"{stiffest.force_field}, stored"}
    assert any("stiffest of 4 stable" in note for note in found.approximations)


def test_a_structure_without_force_constants_says_so_before_a_force_field_is_missed(
    tmp_path, monkeypatch
):
    path = tmp_path / "POSCAR"
    path.write_text("Al\n1\n0 2.02 2.02\n2.02 0 2.02\n2.02 2.02 0\nAl\n1\nDirect\n0 0 0\n")

    def missing(*_: object, **__: object) -> None:
        raise force_field_route.ForceFieldUnavailableError("pip install 'beamsteer[forcefields]'")

    monkeypatch.setattr(force_field_route, "force_field_phonons", missing)
    found = vibrations_of(path)  # the networks ship, so that something answers
    assert found.route["kind"] == "direct"
    told = "; ".join(found.approximations)
    assert re.search("no force constants.*pip install", told)
    with pytest.raises(ValueError, match="route is 'given' but"):
        vibrations_of(path, "given")
    with pytest.raises(ValueError, match="route is 'guess'; expected one of auto, given"):
        vibrations_of(path, "guess")


def test_a_supercell_that_no_file_states_can_be_given(shared_data):
    path = shared_data / "ge" / "POSCAR"
    guessed = vibrations_of(path, "given")
    given = vibrations_of(path, "given", supercell=(4, 4, 4))
    q = np.array([[0.3, 0.1, 0.2]])
    np.testing.assert_allclose(
        given.model.dynamical_matrices(q), guessed.model.dynamical_matrices(q), atol=1e-9
    )
    for route in ("given", "auto"):  # what was given is never replaced by a force field
        with pytest.raises(ValueError, match="supercell 3 x 3 x 3.*expected both to agree"):
            vibrations_of(path, route, supercell=(3, 3, 3))


def test_isotopes_are_used_and_told():
    natural = vibrations_of("germanium", "given")
    found = vibrations_of("germanium", "given", isotopes={"Ge": "76Ge"})
    ratio = np.sqrt(natural.crystal.masses_u[0] / found.crystal.masses_u[0])
    assert found.dos.energies_meV[-1] / natural.dos.energies_meV[-1] == pytest.approx(
        ratio, rel=0.01
    )
    assert any("76Ge: mass 75.9214 u, coherent length 8.2 fm" in a for a in found.approximations)
    assert not any("mass" in a for a in natural.approximations)


@pytest.fixture(scope="module")
def deuterides(shared_data, tmp_path_factory):
    """Lithium hydride, and its deuteride named in every way that files have."""
    folder = tmp_path_factory.mktemp("LiH")
    database = shared_data / "phonondb" / "phonondb-2018.h5"
    phonon = phonondb_crystal(database, "mp-23703", coulomb_eV_A=14.399652)
    with h5py.File(database) as f:
        i = int(np.flatnonzero(f["material_id"][:] == b"mp-23703")[0])
        born = f["born_text"][i].decode()
    (folder / "natural").mkdir()
    natural = write_ways(phonon, born, folder / "natural")
    phonon.masses = [{"H": 2.01410178, "Li": 7.016003434}[s] for s in phonon.primitive.symbols]
    (folder / "heavy").mkdir()
    heavy = write_ways(phonon, born, folder / "heavy")
    for way in ("force_sets", "force_constants"):
        lines = heavy[way].read_text().splitlines()
        names = {"H": "2H", "Li": "7Li"}
        lines[5] = " ".join(names[s] for s in lines[5].split())
        heavy[way].write_text("\n".join(lines) + "\n")
    return natural["force_constants"], heavy, phonon


BOTH = {"H": "D", "Li": "7Li"}


@pytest.mark.parametrize("way", ["force_sets", "yaml", "force_constants", "object", "option"])
def test_every_way_to_name_isotopes_gives_the_same_phonons(deuterides, way):
    natural, heavy, phonon = deuterides
    structure = {**heavy, "object": phonon, "option": natural}[way]
    found = vibrations_of(structure, "given", isotopes=BOTH if way == "option" else None)
    light = vibrations_of(natural, "given")
    assert set(found.crystal.symbols) == {"D", "7Li"}
    q = zone_vectors(light.model, 5)
    expected = with_isotopes(light.crystal, BOTH)
    model = force_constant_model(expected, light.model.reference, None)
    np.testing.assert_allclose(modes(found.model, q)[0], modes(model, q)[0], atol=1e-4)
    assert found.dos.energies_meV[-1] < 0.8 * light.dos.energies_meV[-1]
    assert sum("mass" in a for a in found.approximations) == 2
    assert not any("mass" in a for a in light.approximations)


@pytest.mark.parametrize(
    ("verb", "options", "get"),
    [
        ("phonons", "--points 20", lambda a: a["dispersion"]["energies_meV"]),
        ("spectrum vision", "--instrument TOSCA --energy-meV 2:200:2", lambda a: a["total"]),
        (
            "predict",
            "--quantity background --ei 150 --temperature 10 --can none",
            lambda a: [p["intensity"] for p in a["background"]["components"].values()],
        ),
    ],
)
def test_the_verbs_use_isotopes_that_the_file_or_the_option_names(
    deuterides, capsys, verb, options, get
):
    natural, heavy, _ = deuterides
    found = []
    for path, more in ((heavy["force_constants"], []), (natural, ["--isotopes", "H=D,Li=7Li"])):
        assert cli.run([*verb.split(), str(path), *options.split(), *more, "--json"]) == cli.OK
        told = json.loads(capsys.readouterr().out)
        assert sum("mass" in words for words in told["approximations"]) == 2
        found.append(np.array(get(told), dtype=float))
    np.testing.assert_allclose(found[0], found[1], atol=2e-3 * np.nanmax(np.abs(found[1])))


def test_a_request_of_the_api_names_isotopes(deuterides):
    request = {"structure": str(deuterides[0]), "quantity": "dos", "isotopes": {"H": "D"}}
    answer = predict(PredictionRequest.model_validate(request), files=True)
    assert set(answer["dos"]["partial"]) == {"D", "Li"}


@pytest.fixture(scope="module")
def layered(shared_data, tmp_path_factory):
    """Files of a layered polar crystal, where ways to sum dipoles differ, and phonopy's own."""
    _, _, (phonon, born) = phonopy_of(database(shared_data), 7440)
    return write_ways(phonon, born, tmp_path_factory.mktemp("layered"))["yaml"], phonon


@pytest.fixture(scope="module")
def magnesium_iodide(shared_data, tmp_path_factory):
    """File of a polar crystal of three atoms, where the ways differ by little, and are quick."""
    _, _, (phonon, born) = phonopy_of(database(shared_data), 1689)
    return write_ways(phonon, born, tmp_path_factory.mktemp("MgI2"))["yaml"]


@pytest.mark.shared_data
def test_phonopys_own_cut_off_of_the_dipole_sum_can_be_asked_for(layered):
    path, phonon = layered
    usual, own = (vibrations_of(path, dipole_sum=way) for way in ("converged", "phonopy"))
    q = 0.5 * zone_vectors(own.model, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon.force_constants = to_phonopy_array(own.model.force_constants(), phonon, SYMPREC_A)
    born = phonon.nac_params["born"]
    phonon.nac_params = {**phonon.nac_params, "born": born - born.mean(axis=0)}
    theirs = phonopy_energies(phonon, q)
    off = [np.abs(modes(found.model, q)[0] - theirs).max() for found in (usual, own)]
    assert off[1] < 0.1 * off[0]
    assert any("dipole_sum is phonopy" in words for words in own.approximations)
    assert any("dipole_sum is converged" in words for words in usual.approximations)


@pytest.mark.shared_data
def test_predict_takes_the_convention_of_the_dipole_sum(layered, capsys):
    path, _ = layered
    verb = ["predict", str(path), "--quantity", "dos", "--json"]
    shown = {}
    for way in ("converged", "phonopy"):
        assert cli.run([*verb, "--dipole-sum", way]) == cli.OK
        shown[way] = json.loads(capsys.readouterr().out)
        assert any(f"dipole_sum is {way}" in words for words in shown[way]["approximations"])
    own = vibrations_of(path, dipole_sum="phonopy").dos.shown()
    np.testing.assert_allclose(shown["phonopy"]["dos"]["total"], own.total)
    assert not np.allclose(shown["converged"]["dos"]["energy_meV"], own.energies_meV, rtol=1e-9)
    assert cli.run([*verb, "--dipole-sum", "wang"]) != cli.OK
    assert "wang" in capsys.readouterr().err


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("verb", "shown_as"),
    [
        (["phonons", "--points", "40"], ("dispersion", "energies_meV")),
        (["spectrum", "vision"], ("total",)),
        (["spectrum", "path", "--ei-meV", "60", "--points", "Gamma A"], ("intensity",)),
        (
            ["spectrum", "line", "--from", "1,0,2", "--to", "1,0,3", "--ei-meV", "60"],
            ("intensity",),
        ),
    ],
)
def test_dispersions_and_maps_take_the_convention_of_the_dipole_sum(
    magnesium_iodide, verb, shown_as, capsys
):
    shown = []
    for way in ("converged", "phonopy"):
        assert cli.run([*verb, str(magnesium_iodide), "--dipole-sum", way, "--json"]) == cli.OK
        told = json.loads(capsys.readouterr().out)
        assert any(f"dipole_sum is {way}" in words for words in told["approximations"])
        for key in shown_as:
            told = told[key]
        shown.append(np.array(told, dtype=float))
    assert shown[0].shape != shown[1].shape or not np.array_equal(*shown, equal_nan=True)


def test_a_formula_counts_atoms_in_their_order():
    assert formula(vibrations_of("germanium").crystal) == "Ge2"
    assert formula(vibrations_of("MnO").crystal) == "MnO"


def test_names_that_people_type_stay_what_they_are():
    assert ROUTES[:4] == ("auto", "given", "force_constants", "force_field")
    assert {"chgnet-0.3.0", "sevennet-0-22May2024"} <= set(ROUTES)
    for name in (*ROUTES, "mace:weights.model"):
        route = route_named(name)
        assert route.name == name
        assert route.needs
        assert route.approximation


def test_an_answer_carries_the_uncertainty_of_its_route():
    soft = vibrations_of("aluminium").uncertainty
    assert soft == route_named("force_field").uncertainty
    assert soft is not None
    assert soft.energies == (-0.5, -0.1)
    assert soft.words in " ".join(vibrations_of("aluminium").approximations)
    assert vibrations_of("germanium").uncertainty is None


@dataclass(frozen=True)
class Einstein:
    """A route of one frequency: a density of states and nothing else, as a learned one gives."""

    name: str = "einstein"
    needs: str = "the structure alone"
    approximation: str = "every atom vibrates by itself"
    uncertainty: Uncertainty | None = None
    fails: bool = False

    def vibrations(self, structure: Structure) -> Vibrations:
        if self.fails:
            raise RouteUnavailableError("route: no spring", why="no spring")
        edges = np.linspace(0.0, 20.0, 101)
        density = np.where(np.abs(edges[1:] - 15.0) < 2.0, 1.0, 0.0)
        density *= 3 / np.sum(density * np.diff(edges))
        return Vibrations(
            crystal=structure.crystal,
            dos=PhononDos(
                energy_edges_meV=edges,
                partial=np.repeat(density[None], structure.crystal.n_atoms, axis=0),
                imaginary_share=0.0,
            ),
            model=None,
            route={"kind": "einstein", "source": "one spring"},
            approximations=(self.approximation,),
        )


def test_a_route_with_a_density_of_states_alone_gives_what_that_gives_and_says_what_it_lacks():
    route: Route = Einstein()
    found = stable(vibrations_of("germanium", route))
    spectrum = indirect_spectrum(found).spectrum
    energy = 0.5 * (spectrum.energy_edges_meV[1:] + spectrum.energy_edges_meV[:-1])
    assert energy[np.argmax(spectrum.orders[0, 1])] == pytest.approx(15, abs=2)
    with pytest.raises(InputError, match="einstein.*without force constants; expected some"):
        phonons(found)
    shown = powder_map(found, optics(20.0))
    assert INCOHERENT in shown.setting.approximations
    assert np.nanmax(shown.intensity) > 0
