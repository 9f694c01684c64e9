from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest

from simulations.dynamics import modes
from simulations.dynamics.phonopy_file import to_phonopy_array
from simulations.errors import InputError
from steering import cli
from steering.database import build_store, matches, open_database
from steering.predict import (
    PredictionRequest,
    indirect_spectrum,
    optics,
    powder_map,
    predict,
    stable,
    vibrations_of,
)
from tests.simulations.dynamics.phonondb_ways import material, phonopy_of, write_ways
from tests.simulations.phonon_oracles import (
    SYMPREC_A,
    phonopy_crystal,
    phonopy_energies,
    zone_vectors,
)
from tests.steering.database.stores import (
    MATERIALS,
    example_folder,
    phonondb,
    small_phonondb,
)

GENERIC = {"instrument": "generic", "fwhm_meV": 1.5}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A store of the crystals that come with the project."""
    folder = tmp_path_factory.mktemp("mine")
    build_store([example_folder(folder / "mine")], folder / "store")
    return open_database(folder / "store")


@pytest.fixture(scope="module")
def kyoto(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kyoto")
    build_store([small_phonondb(shared_data, folder / "few.h5")], folder / "store")
    return open_database(folder / "store")


def bare(database, name, path, scale=1.0):
    """POSCAR of an entry's own cell, without force constants."""
    entry = database.entry(name)
    rows = "\n".join(" ".join(f"{x:.10f}" for x in row) for row in scale * entry.lattice)
    kinds = list(dict.fromkeys(entry.symbols))
    counts = " ".join(str(entry.symbols.count(s)) for s in kinds)
    places = "\n".join(
        " ".join(f"{x:.10f}" for x in row)
        for kind in kinds
        for row, s in zip(entry.positions, entry.symbols, strict=True)
        if s == kind
    )
    path.write_text(f"x\n1\n{rows}\n{' '.join(kinds)}\n{counts}\nDirect\n{places}\n")
    return path


@pytest.mark.shared_data
@pytest.mark.parametrize("name", MATERIALS)
def test_a_spectrum_of_an_entry_is_that_of_its_phonopy_files(shared_data, kyoto, tmp_path, name):
    """POSCAR + FORCE_SETS (+ BORN), written from the database and read as anybody's files."""
    import h5py

    with h5py.File(phonondb(shared_data)) as file:
        row = int(np.flatnonzero(file["material_id"][:] == name.encode())[0])
    assert material(phonondb(shared_data), row) == name
    _, _, (phonon, born) = phonopy_of(phonondb(shared_data), row)
    path = write_ways(phonon, born, tmp_path)["force_sets"]
    supercell = tuple(int(n) for n in np.diag(phonon.supercell_matrix))
    from_files = stable(vibrations_of(path, "given", supercell=supercell))
    from_store = stable(vibrations_of(name, database=kyoto))
    assert from_store.route["kind"] == "database"
    axes = {"momentum_edges": np.linspace(0.5, 6, 23), "energy_edges_meV": np.linspace(1, 60, 60)}
    maps = [
        powder_map(one, optics(1.0, **GENERIC), tolerance=0.05, **axes)
        for one in (from_files, from_store)
    ]
    size = np.nanmax(maps[0].intensity)
    np.testing.assert_allclose(
        maps[1].intensity, maps[0].intensity, rtol=0, atol=1e-8 * size, equal_nan=True
    )
    lines = [
        indirect_spectrum(one, energy_edges_meV=np.linspace(2, 80, 79)).spectrum.total
        for one in (from_files, from_store)
    ]
    np.testing.assert_allclose(lines[1], lines[0], rtol=0, atol=1e-8 * np.max(lines[0]))


@pytest.mark.shared_data
@pytest.mark.parametrize("name", MATERIALS)
def test_frequencies_of_an_entry_are_phonopys(shared_data, kyoto, name):
    found = vibrations_of(name, database=kyoto, dipole_sum="phonopy")
    phonon = phonopy_crystal(shared_data, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon.force_constants = to_phonopy_array(found.model.force_constants(), phonon, SYMPREC_A)
        mass = dict(zip(found.crystal.symbols, found.crystal.masses_u, strict=True))
        phonon.masses = [mass[s] for s in phonon.primitive.symbols]
    q = 0.5 * zone_vectors(found.model, 12)
    ours, theirs = modes(found.model, q)[0], phonopy_energies(phonon, q)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-5)


def test_a_structure_without_force_constants_takes_those_of_the_entry_that_matches(mine, tmp_path):
    path = bare(mine, "MgO", tmp_path / "POSCAR", scale=1.004)
    found = vibrations_of(path, database=mine)
    assert found.route == {"kind": "database", "source": "MgO of mine"}
    notes = " ".join(found.approximations)
    assert "strained by up to 0.40 %, volume +1.20 %" in notes
    assert "moves energies by some 2.4 %" in notes
    own = vibrations_of("MgO", database=mine)
    assert found.crystal.lattice == pytest.approx(1.004 * own.crystal.lattice, rel=1e-6)
    q = zone_vectors(own.model, 6)
    np.testing.assert_allclose(
        modes(found.model, q / 1.004)[0], modes(own.model, q)[0], rtol=5e-3, atol=0.05
    )


def test_a_structure_that_is_in_no_database_goes_on_to_the_next_route(mine, tmp_path, monkeypatch):
    from steering.predict import force_field_route

    def missing(*_: object, **__: object) -> None:
        raise force_field_route.ForceFieldUnavailableError("pip install 'beamsteer[forcefields]'")

    monkeypatch.setattr(force_field_route, "force_field_phonons", missing)
    path = bare(mine, "MgO", tmp_path / "POSCAR", scale=1.1)
    found = vibrations_of(path, database=mine)  # without force constants, the networks are left
    assert found.route["kind"] == "direct"
    assert re.search("no entry of the database .*pip install", " ".join(found.approximations))
    with pytest.raises(InputError, match="route is 'database' but no entry .*3 % of strain"):
        vibrations_of(path, "database", database=mine)
    with pytest.raises(InputError, match="route is 'database' but none is named.*--database STORE"):
        vibrations_of(path, "database")
    with pytest.raises(InputError, match="expected auto or database"):
        vibrations_of("MgO", "force_field", database=mine)


def test_given_force_constants_are_never_replaced_by_those_of_a_database(mine):
    from tests.steering.database.stores import ROOT

    found = vibrations_of(ROOT / "examples" / "MgO" / "POSCAR", database=mine)
    assert found.route["kind"] == "force_constants"


def test_isotopes_of_a_structure_are_used_with_an_entrys_constants(mine, tmp_path):
    path = bare(mine, "MgO", tmp_path / "POSCAR")
    path.write_text(path.read_text().replace("Mg O", "26Mg O"))
    found = vibrations_of(path, database=mine)
    assert set(found.crystal.symbols) == {"26Mg", "O"}
    by_option = vibrations_of("MgO", database=mine, isotopes={"Mg": "26Mg"})
    np.testing.assert_allclose(
        found.dos.energy_edges_meV[-1], by_option.dos.energy_edges_meV[-1], rtol=1e-6
    )


@pytest.mark.shared_data
def test_an_answer_names_route_approximation_match_and_uncertainty(kyoto, tmp_path):
    path = bare(kyoto, "mp-149", tmp_path / "POSCAR", scale=0.997)
    request = PredictionRequest.model_validate({"structure": str(path), "quantity": "dos"})
    answer = predict(request, files=True, database=kyoto)
    assert answer["route"] == {"kind": "database", "source": "mp-149 of few.h5"}
    told = " ".join(answer["approximations"])
    assert "CC BY 4.0" in told
    assert "the structure against the entry: strained by up to 0.30 %" in told
    low, high = answer["uncertainty"]["energies"]
    assert low < -0.05
    assert high > 0.05
    assert "PBEsol" in answer["uncertainty"]["words"]


@pytest.mark.shared_data
def test_an_entry_with_large_pockets_of_imaginary_modes_is_refused_by_its_spectrum(
    shared_data, tmp_path
):
    build_store([small_phonondb(shared_data, tmp_path / "few.h5", ["mp-703275"])], tmp_path / "s")
    database = open_database(tmp_path / "s")
    assert database.card("mp-703275").lowest_meV < -10
    assert database.search(stable=True) == ()
    with pytest.raises(InputError, match="imaginary"):
        stable(vibrations_of("mp-703275", database=database))


@pytest.mark.parametrize(
    ("verb", "part"),
    [
        ("phonons MgO --points 20", "dispersion"),
        ("predict MgO --quantity dos", "dos"),
        ("spectrum vision MgO --energy-meV 2:120:2", "total"),
        (
            "spectrum line MgO --from 2,0,0 --to 3,0,0 --ei 150 --energy-meV 0:100:2",
            "intensity",
        ),
    ],
)
def test_the_verbs_take_ids_of_a_database(mine, capsys, verb, part):
    arguments = [*verb.split(), "--database", str(mine.folder), "--json"]
    assert cli.run(arguments) == cli.OK
    told = json.loads(capsys.readouterr().out)
    assert told["route"]["kind"] == "database"
    assert part in told


def test_matches_of_the_route_and_of_the_search_agree(mine, tmp_path):
    from simulations.crystal import read_crystal

    crystal = read_crystal(bare(mine, "MoSi2", tmp_path / "POSCAR"))
    found = matches(mine, crystal.lattice, crystal.positions, crystal.elements)
    assert [one.card.id for one in found] == ["MoSi2"]
    assert found[0].strain < 1e-6
