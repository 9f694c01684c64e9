from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from simulations.crystal import read_crystal
from simulations.dynamics import force_constant_model, modes
from simulations.prior import force_field, load_prior, load_prior_record, write_prior
from simulations.prior.widening import widened_box
from steering import cli
from steering.experiment import build_measurement
from steering.experiment.experiment_file import parse_experiment
from steering.predict import make_prior, prior_making
from steering.predict.prior_making import chosen_force_fields, reach

ALUMINIUM = read_crystal("aluminium")


@pytest.fixture
def three_members(tmp_path, monkeypatch):
    """Names of three force fields without weights: ASE's effective-medium theory, scaled.

    The third is made unstable after the fact.
    """
    emt = pytest.importorskip("ase.calculators.emt", reason="ase comes with the force fields")
    package = types.ModuleType("mace.calculators")

    class Scaled(emt.EMT):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def calculate(self, *arguments, **options) -> None:
            super().calculate(*arguments, **options)
            for name in ("energy", "forces", "stress"):
                self.results[name] = self.scale * self.results[name]

    def calculator(*, model_paths: str, **_: object) -> Scaled:
        return Scaled(float(model_paths[-3:]))

    package.MACECalculator = calculator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mace", types.ModuleType("mace"))
    monkeypatch.setitem(sys.modules, "mace.calculators", package)
    names = []
    for scale in ("0.8", "1.2", "1.0"):
        (tmp_path / f"weights-{scale}").write_bytes(b"weights")
        names.append(f"mace:{tmp_path / f'weights-{scale}'}")
    computed = prior_making.force_field_phonons

    def phonons(cell, name, **options):
        found = computed(cell, name, **options)
        return replace(found, lowest_meV=-3.0) if name == names[2] else found

    monkeypatch.setattr(prior_making, "force_field_phonons", phonons)
    return names


def test_an_unstable_force_field_is_left_out_with_its_reason(three_members):
    told: list[tuple[str, float]] = []
    made = make_prior(
        "aluminium",
        ALUMINIUM,
        force_fields=three_members,
        supercell=(3, 3, 3),
        cutoff_A=3.0,
        samples=20,
        progress=lambda message, done: told.append((message, done)),
    )
    assert list(made.dropped) == [three_members[2]]
    assert "lowest mode is -3.00 meV (imaginary), below -0.5" in made.dropped[three_members[2]]
    record = made.record
    assert [m.stable for m in record.members] == [True, True, False]
    low, high = (m.values for m in record.members[:2])
    np.testing.assert_allclose(high, 1.5 * low, rtol=1e-3, atol=1e-5)  # 1.2 over 0.8
    k = record.box.names.index("1NN xx")
    lower, upper = widened_box([low, high], record.widening, record.bonds)
    np.testing.assert_allclose(record.box.lower, lower)
    np.testing.assert_allclose(record.box.upper, upper)
    w = abs(high[k] - low[k])  # negative: the stiff side is the lower one
    assert record.box.lower[k] < high[k] - 0.5 * w
    assert record.box.upper[k] > low[k]
    assert made.sample is not None
    assert 0 < made.sample.acceptance <= 1
    assert "20 of" in made.acceptance_words
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[0][0].endswith("27 atoms")


def test_a_force_field_that_fails_is_left_out_and_one_alone_is_not_enough(
    three_members, monkeypatch
):
    computed = prior_making.force_field_phonons

    def failing(cell, name, **options):
        if name != three_members[1]:
            raise RuntimeError("out of its training")
        return computed(cell, name, **options)

    monkeypatch.setattr(prior_making, "force_field_phonons", failing)
    with pytest.raises(ValueError, match="1 of 3 force fields") as told:
        make_prior("aluminium", ALUMINIUM, force_fields=three_members, supercell=(2, 2, 2))
    assert "out of its training" in str(told.value)
    assert "at least two" in str(told.value)


def test_where_relaxing_fails_the_given_cell_is_taken_and_it_is_said(three_members, monkeypatch):
    computed = prior_making.force_field_phonons

    def failing(cell, name, **options):
        if name == three_members[0] and not options.get("relaxed"):
            raise RuntimeError("relaxation left forces")
        return computed(cell, name, **options)

    monkeypatch.setattr(prior_making, "force_field_phonons", failing)
    made = make_prior(
        "aluminium", ALUMINIUM, force_fields=three_members[:2], supercell=(2, 2, 2), samples=20
    )
    assert [n for n in made.notes if "not relaxed" in n and "relaxation left forces" in n]
    given, relaxed = (m.relaxed_lattice_A for m in made.record.members)
    np.testing.assert_allclose(given, ALUMINIUM.lattice)
    assert np.abs(given - relaxed).max() > 1e-3


def test_answers_that_are_kept_are_not_asked_for_again(three_members, monkeypatch, tmp_path):
    pair = three_members[:2]
    options = {"force_fields": pair, "supercell": (2, 2, 2), "samples": 5}
    asked = []
    computed = prior_making.force_field_phonons

    def counted(cell, name, **more):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt  # as a user does
        return computed(cell, name, **more)

    monkeypatch.setattr(prior_making, "force_field_phonons", counted)
    with pytest.raises(KeyboardInterrupt):
        make_prior("aluminium", ALUMINIUM, members_folder=tmp_path / "kept", **options)
    resumed = make_prior("aluminium", ALUMINIUM, members_folder=tmp_path / "kept", **options)
    assert asked == [pair[0], pair[1], pair[1]]
    fresh = make_prior("aluminium", ALUMINIUM, **options)
    np.testing.assert_array_equal(resumed.record.box.lower, fresh.record.box.lower)
    np.testing.assert_array_equal(resumed.record.box.upper, fresh.record.box.upper)


def test_unstable_members_make_the_box_where_fewer_than_two_are_stable(three_members):
    pair = [three_members[1], three_members[2]]
    made = make_prior(
        "aluminium", ALUMINIUM, force_fields=pair, supercell=(3, 3, 3), cutoff_A=3.0, samples=20
    )
    assert [m.stable for m in made.record.members] == [True, False]
    assert len(made.record.used_members) == 2
    assert not made.dropped
    assert any("1 of 2 force fields find the crystal stable" in note for note in made.notes)


def test_a_box_of_which_nothing_is_stable_is_said_to_be_so(three_members, monkeypatch):
    monkeypatch.setattr("simulations.prior.box.is_stable", lambda *_: False)
    monkeypatch.setattr("simulations.prior.box.nearest_stable", lambda *_, **__: None)
    made = make_prior(
        "aluminium", ALUMINIUM, force_fields=three_members[:2], supercell=(2, 2, 2), free=2
    )
    assert made.sample is None
    assert "no set of the prior's box" in made.acceptance_words
    assert made.content()["acceptance"]["share"] is None


def test_a_mean_that_is_unstable_when_cut_off_gives_way_to_the_nearest_stable_set(
    three_members, monkeypatch, tmp_path
):
    computed = prior_making.force_field_phonons

    def softened(cell, name, **options):
        found = computed(cell, name, **options)
        upside_down = found.force_constants.copy()
        upside_down[:] *= -1.0  # every mode imaginary
        return replace(found, force_constants=upside_down)

    monkeypatch.setattr(prior_making, "force_field_phonons", softened)
    made = make_prior(
        "aluminium", ALUMINIUM, force_fields=three_members[:2], supercell=(3, 3, 3), cutoff_A=3.0
    )
    assert made.record.stabilised is not None
    assert any("outside the box, which holds none" in note for note in made.notes)
    write_prior(made.record, tmp_path / "prior.yaml")
    constants = load_prior_record(tmp_path / "prior.yaml").force_constants(ALUMINIUM)
    model = force_constant_model(ALUMINIUM, constants, None)
    steps = (np.arange(5) + 0.3) / 5
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    energies, _ = modes(model, grid @ ALUMINIUM.reciprocal)
    assert energies.min() > -0.5


def test_names_are_checked_before_anything_runs(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'mace'; expected one of chgnet-0\.3\.0"):
        chosen_force_fields(["mace"])
    with pytest.raises(ValueError, match="is not there"):
        chosen_force_fields([f"mace:{tmp_path / 'nothing'}"])
    assert chosen_force_fields(["chgnet-0.2.0", "chgnet-0.2.0"]) == ("chgnet-0.2.0",)
    monkeypatch.setattr(prior_making, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"no universal force field is installed.*forcefields"):
        chosen_force_fields([])


def test_a_named_force_field_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sevenn.calculator", None)
    with pytest.raises(ValueError, match=r"beamsteer\[forcefields\]"):
        make_prior("aluminium", ALUMINIUM, force_fields=["sevennet-l3i5"])


def test_cutoff_and_supercell_are_made_to_fit_each_other():
    length, repeats = reach(ALUMINIUM, None, None)
    assert length == 6.0
    spacing = 1 / np.linalg.norm(np.linalg.inv(ALUMINIUM.lattice), axis=0)
    assert np.all(spacing * repeats >= 12)
    assert reach(ALUMINIUM, 3.0, (3, 3, 3)) == (3.0, (3, 3, 3))
    with pytest.raises(ValueError, match=r"reach 4\.\d+ angstrom, the largest allowed"):
        reach(ALUMINIUM, 9.0, (3, 3, 3))
    with pytest.raises(ValueError, match="takes a supercell of .* atoms; expected at most"):
        reach(ALUMINIUM, 30.0, None)
    with pytest.raises(ValueError, match="cutoff_A is -1"):
        reach(ALUMINIUM, -1.0, None)


def test_a_large_cell_gets_a_shorter_cutoff_by_itself(shared_data):
    corundum = read_crystal(shared_data / "phonopy-test" / "Al2O3" / "POSCAR-unitcell")
    length, repeats = reach(corundum, None, None)
    assert 3.0 <= length < 6.0
    assert np.prod(repeats) * corundum.n_atoms <= 250


def test_the_verb_writes_a_prior_that_an_experiment_reads(three_members, tmp_path, capsys):
    file = tmp_path / "new" / "prior.yaml"
    arguments = ["prior", "aluminium", "--supercell", "3,3,3", "--samples", "5"]
    for name in three_members:
        arguments += ["--force-field", name]
    assert cli.run([*arguments, "-o", str(file), "--json"]) == cli.OK
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(file)
    assert [d["force_field"] for d in told["dropped"]] == three_members[2:]
    assert told["acceptance"]["sets"] == 5
    assert told["longest_A"] == pytest.approx(4.05 / np.sqrt(2))  # nearest neighbours
    box = load_prior(file)
    assert list(box.names) == [p["name"] for p in told["parameters"]]
    np.testing.assert_allclose(box.lower, [p["lower_eV_A2"] for p in told["parameters"]], atol=1e-6)
    assert load_prior_record(file).crystal == "aluminium"

    assert cli.run(arguments) == cli.OK
    shown = capsys.readouterr().out
    assert "left out" in shown
    assert "are dynamically stable" in shown
    assert "1NN xx" in shown


def test_an_experiment_names_the_prior_file_beside_it(tmp_path):
    write_prior(load_prior_record("germanium"), tmp_path / "prior.yaml")
    text = (Path(__file__).resolve().parents[3] / "examples" / "ge-arcs.yaml").read_text()
    assert "prior: germanium" in text
    experiment = parse_experiment(text.replace("prior: germanium", "prior: prior.yaml"), name="e")
    box = build_measurement(experiment, tmp_path).box
    stored = load_prior("germanium").restricted(box.names)
    np.testing.assert_allclose(box.lower, stored.lower, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "structure is 'nothing'; expected one of"),
        (["aluminium", "-o", "prior.json"], "ends in .yaml"),
        (["aluminium", "--force-field", "guess"], "force field is 'guess'; expected one of"),
        (["aluminium", "--supercell", "0,1,1"], "three whole numbers"),
        (["aluminium", "--cutoff-A", "9", "--supercell", "3,3,3"], "the largest allowed"),
        (["aluminium", "--displacement-A", "2"], "displacement_A is 2.0; expected 0 to 0.1"),
    ],
)
def test_bad_input_of_the_verb_is_told_in_one_line(arguments, says, capsys):
    assert cli.run(["prior", *arguments]) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert says in " ".join(told.err.split())
    assert "Traceback" not in told.err


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("chgnet") is None or find_spec("sevenn") is None,
    reason="force fields are not installed; pip install 'beamsteer[forcefields]'",
)
def test_two_real_force_fields_make_a_prior_of_aluminium_in_a_small_supercell(tmp_path, capsys):
    file = tmp_path / "al.yaml"
    code = cli.run(
        ["prior", "aluminium", "--force-field", "chgnet-0.2.0", "--force-field",
         "sevennet-0-11Jul2024", "--supercell", "3,3,3", "--cutoff-A", "4.1", "-o", str(file)]
    )  # fmt: skip
    print(capsys.readouterr().out)  # noqa: T201
    assert code == cli.OK
    record = load_prior_record(file)
    assert [round(m.highest_meV) for m in record.members] == [18, 31]
    assert set(record.members[0].versions) == {"chgnet", "torch", "ase", "phonopy"}
    assert force_field.FORCE_FIELDS[record.members[1].force_field].package == "sevenn"
