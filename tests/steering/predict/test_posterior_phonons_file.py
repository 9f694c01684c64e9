from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from matplotlib import image

from simulations.dynamics import modes, read_force_constants
from simulations.dynamics.force_constants import force_constant_model
from simulations.errors import InputError
from steering import cli
from steering.experiment import dump_experiment, load_experiment
from steering.predict import (
    experiment_of_result,
    independent_elastic,
    is_result,
    posterior_phonons,
    write_posterior_phonons,
)
from steering.run import RESULT_EXPERIMENT, save_result
from tests.steering.posterior_result import EXAMPLES, example_model, result_of

MGO = "MgO/experiment.yaml"


@pytest.fixture(scope="module")
def found():
    model = example_model(MGO)
    return posterior_phonons(
        result_of(model, 0.02, trusted=False),
        model,
        samples=40,
        points=40,
        temperatures_K=[10, 300],
    )


def rows(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# NOT TRUSTED")
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_tables_and_arrays_hold_the_bands_and_the_verdict_first(found, tmp_path):
    write_posterior_phonons(found, tmp_path, sets=2)
    table = rows(tmp_path / "phonons.csv")
    middle = [float(row["energy_6_meV_p84"]) for row in table]
    np.testing.assert_allclose(middle, found.energies_meV.high68[:, 5], rtol=1e-8)
    labels = [row["label"] for row in table if row["label"]]
    assert labels[:2] == ["Gamma", "X"]
    density = rows(tmp_path / "phonons-dos.csv")
    assert {"total_per_meV", "Mg_per_meV_p05", "O_per_meV_p95"} <= set(density[0])
    elastic = {row["constant"]: row for row in rows(tmp_path / "phonons-elastic.csv")}
    assert len(elastic) == 21
    assert float(elastic["C44"]["value_GPa"]) == pytest.approx(found.elastic_GPa.value[3, 3])
    heat = rows(tmp_path / "phonons-heat-capacity.csv")
    assert [float(row["temperature_K"]) for row in heat] == [10, 300]
    moved = rows(tmp_path / "phonons-displacements.csv")
    assert [row["species"] for row in moved] == ["Mg", "O"] * 2
    whole = [float(moved[2][f"{axis}_A2"]) for axis in ("xx", "yy", "zz")]
    assert float(moved[2]["isotropic_A2"]) == pytest.approx(np.mean(whole))
    with np.load(tmp_path / "phonons.npz") as arrays:
        np.testing.assert_array_equal(
            arrays["dispersion.energies_meV.p05"], found.energies_meV.low90
        )
        assert json.loads(str(arrays["about"]))["verdict"].startswith("NOT TRUSTED")


def test_every_draw_is_a_folder_that_is_read_back(found, tmp_path):
    """With its Born charges; draws of an earlier call do not stay."""
    write_posterior_phonons(found, tmp_path, sets=4)
    (tmp_path / "sample-004" / "mine.txt").write_text("kept")
    write_posterior_phonons(found, tmp_path, sets=2)
    assert sorted(p.name for p in tmp_path.glob("sample-*/FORCE*")) == ["FORCE_CONSTANTS"] * 2
    assert sorted(p.name for p in tmp_path.glob("sample-*")) == [
        "sample-001", "sample-002", "sample-004",
    ]  # fmt: skip
    model = found.posterior.model
    q = np.random.default_rng(1).normal(size=(6, 3))
    for folder, phi in (
        (tmp_path, found.posterior.values),
        (tmp_path / "sample-002", found.draws[1]),
    ):
        back = read_force_constants(folder)
        assert back.dipole is not None
        again = force_constant_model(back.crystal, back, None)
        np.testing.assert_allclose(modes(again, q)[0], modes(model, q, phi)[0], atol=1e-5)


def test_the_picture_shows_bands_as_wide_as_they_are(found, tmp_path):
    """The shaded pixels grow with the errors."""
    model = example_model(MGO)
    narrow = posterior_phonons(result_of(model, 1e-5), model, samples=20, points=40)
    shaded = []
    for name, one in (("narrow", narrow), ("wide", found)):
        write_posterior_phonons(one, tmp_path / name, sets=0)
        pixels = image.imread(tmp_path / name / "phonons.png")[..., :3]
        assert pixels.shape == (1440, 1725, 3)
        light = (pixels[..., 2] - pixels[..., 0] > 0.1) & (pixels[..., 0] > 0.4)
        shaded.append(light.mean())
    assert shaded[1] > 3 * shaded[0]


def test_equal_elastic_constants_are_told_once(found):
    assert [name for name, _, _ in independent_elastic(found)] == [
        "C11 = C22 = C33", "C44 = C55 = C66", "C12 = C13 = C23",
    ]  # fmt: skip


def test_a_file_in_place_of_the_folder_is_refused(found, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        write_posterior_phonons(found, tmp_path / "out")


# ------------------------------------------------------------------------- results and experiments


@pytest.fixture
def result(tmp_path):
    """A result as `replay` leaves it, with its experiment."""
    path = tmp_path / "run" / "result.json"
    path.parent.mkdir()
    model = example_model().with_free(["1NN xx", "1NN xy", "2NN zz"])
    save_result(result_of(model, 0.005), path)
    dump_experiment(load_experiment(EXAMPLES / "ge-arcs.yaml"), path.parent / RESULT_EXPERIMENT)
    return path


def test_what_is_a_result_is_told_by_its_content(result, tmp_path):
    other = tmp_path / "estimate"
    other.write_bytes(result.read_bytes())
    (tmp_path / "POSCAR").write_text("Ge\n1.0\n")
    assert is_result(result)
    assert is_result(other)
    assert not is_result(tmp_path / "POSCAR")
    assert not is_result(tmp_path)
    assert not is_result(tmp_path / "germanium")


def test_the_experiment_is_found_beside_the_result_or_above_or_is_given(result, tmp_path):
    assert experiment_of_result(result)[1] == result.parent
    (result.parent / RESULT_EXPERIMENT).rename(tmp_path / "experiment.yaml")
    assert experiment_of_result(result)[1] == tmp_path
    (tmp_path / "experiment.yaml").unlink()
    with pytest.raises(InputError, match="Give it with -e FILE"):
        experiment_of_result(result)
    given, folder = experiment_of_result(result, EXAMPLES / "ge-arcs.yaml")
    assert given.sample.structure == "germanium"
    assert folder == EXAMPLES


QUICK = ["--samples", "20", "--points", "12", "--temperatures", "100:300:100"]


def test_the_verb_answers_with_the_verdict_first_and_writes(result, tmp_path, capsys):
    assert cli.run(["phonons", str(result), *QUICK, "-o", str(tmp_path / "o"), "--sets", "3"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("TRUSTED")
    assert "C11 = C22 = C33" in told
    assert "18 of the 21 constants" in " ".join(told.split())
    assert (tmp_path / "o" / "sample-003" / "phonopy.yaml").is_file()
    assert cli.run(["phonons", str(tmp_path / "o" / "sample-003" / "phonopy.yaml")]) == 0


def test_the_verb_answers_machines(result, capsys):
    assert cli.run(["phonons", str(result), *QUICK, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert next(iter(told)) == "verdict"
    assert told["thermal"]["temperature_K"] == [5, 100, 200, 300]
    assert told["files"] == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def other_schema(path):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"schema_version": 7}))


def no_result(path):
    path.write_text('{"spectra": []}')


def no_estimate(path):
    document = json.loads(path.read_text())
    document |= {"parameters": [], "trusted": False, "reasons": ["no estimate was made"]}
    path.write_text(json.dumps(document))


def field_of_another(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surplus": 1}))


def without_experiment(path):
    (path.parent / RESULT_EXPERIMENT).unlink()


@pytest.mark.parametrize(
    ("spoil", "arguments", "says"),
    [
        (cut, [], "is no whole JSON"),
        (other_schema, [], "schema_version is 7; expected 1"),
        (no_result, [], "is JSON, but no result of a run"),
        (no_estimate, [], "no estimate was made"),
        (field_of_another, [], "surplus is unknown"),
        (without_experiment, [], "Give it with -e FILE"),
        (None, ["-e", str(EXAMPLES / "MgO" / "experiment.yaml"), "--points", "9"], "of the exper"),
        (None, ["--route", "given"], "--route is given"),
        (None, ["-o", "a", "-o", "b"], "expected one folder"),
        (None, ["-o", "a.png"], "expected one folder"),
        (None, ["--temperatures", "300"], "expected min:max:step"),
        (None, ["--temperatures", "-10:300:10"], "0 or more"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_to_do(spoil, arguments, says, result, capsys):
    if spoil is not None:
        spoil(result)
    assert cli.run(["phonons", str(result), *arguments]) == cli.BAD_INPUT
    told = " ".join(capsys.readouterr().err.split())
    assert says in told
    assert "Traceback" not in told


def test_options_of_a_result_are_refused_with_a_structure(capsys):
    assert cli.run(["phonons", "germanium", "--samples", "40"]) == cli.BAD_INPUT
    assert "--samples is given" in capsys.readouterr().err
