"""An estimate from folded.npz: near the truth, near the replay, and files that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.errors import InputError
from steering.experiment import build_measurement
from steering.report import fold
from steering.run import ParameterResult, estimate_folded
from steering.run.folded_file import read_folded
from tests.steering.virtual_scan import EXAMPLES, virtual_scan  # noqa: F401


@pytest.fixture(scope="module")
def folded(virtual_scan, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("folded")
    fold(
        virtual_scan.events,
        virtual_scan.experiment,
        experiment_dir=EXAMPLES,
        output=folder,
        plot=False,
    )
    return folder / "folded.npz"


def test_a_fold_alone_gives_constants_near_the_truth(folded, virtual_scan):  # noqa: F811
    told = estimate_folded(folded, virtual_scan.experiment, experiment_dir=EXAMPLES)
    truth = {p["name"]: p["value"] for p in virtual_scan.truth["parameters"]}
    assert [p["name"] for p in told["parameters"]] == list(virtual_scan.experiment.parameters.free)
    for one in told["parameters"]:
        assert ParameterResult.model_validate(one, strict=False).document()
        assert abs(one["value"] - truth[one["name"]]) < 6 * one["sigma"]
    first = told["parameters"][0]
    assert first["informed"]
    assert first["value"] == pytest.approx(truth[first["name"]], rel=0.1)
    assert 0.5 < told["chi_square"] < 2.0
    assert 0 < told["nmse_free"] < 1
    assert any("folded model" in note for note in told["notes"])


def test_weighed_draws_tell_the_same_of_a_posterior_that_is_gaussian(folded, virtual_scan):  # noqa: F811
    experiment = virtual_scan.experiment
    told = estimate_folded(folded, experiment, experiment_dir=EXAMPLES, draws=100)
    drawn, rows = told["draws"], told["parameters"]
    assert drawn["exact"]
    assert drawn["effective"] > 20
    assert sum(drawn["weights"]) == pytest.approx(1.0)
    assert np.shape(drawn["values"]) == (100, len(drawn["parameters"]))
    for row in rows:
        at = drawn["parameters"].index(row["name"])
        assert abs(drawn["mean"][at] - row["value"]) < 1.0 * row["sigma"]
        assert drawn["sigma"][at] == pytest.approx(row["sigma"], rel=0.5)
    with pytest.raises(InputError, match="draws is 7; expected 0, or from 50 to"):
        estimate_folded(folded, experiment, experiment_dir=EXAMPLES, draws=7)


def test_a_fold_of_something_else_is_refused(folded, virtual_scan, tmp_path):  # noqa: F811
    experiment = virtual_scan.experiment
    with np.load(folded) as content:
        arrays = dict(content)

    def refused(words, changed):
        path = tmp_path / "other.npz"
        np.savez(path, **changed)
        with pytest.raises(ValueError, match=words):
            estimate_folded(path, experiment, experiment_dir=EXAMPLES)

    refused("has no voxel_D", {k: v for k, v in arrays.items() if k != "voxel_D"})
    shifted = arrays["energy_edges_meV"] + 0.1
    refused("energy_edges_meV is not that of", arrays | {"energy_edges_meV": shifted})
    refused("holds an empty can", arrays | {"can_S": arrays["S"]})
    (tmp_path / "words.npz").write_text("words")
    with pytest.raises(ValueError, match="cannot be read as NPZ"):
        estimate_folded(tmp_path / "words.npz", experiment, experiment_dir=EXAMPLES)


def test_a_fold_of_another_setting_is_refused_and_one_that_does_not_say_is_taken(
    folded,
    virtual_scan,  # noqa: F811
    tmp_path,
):
    measurement = build_measurement(virtual_scan.experiment, EXAMPLES)
    with np.load(folded) as content:
        arrays = dict(content)
    assert arrays["ei_meV"] == measurement.ei_meV
    path = tmp_path / "other.npz"
    for name, value in (("ei_meV", 1.1 * arrays["ei_meV"]), ("temperature_K", 600.0)):
        np.savez(path, **arrays | {name: np.float64(value)})
        with pytest.raises(InputError, match=f"{name} is .* in the experiment"):
            read_folded(path, measurement)
    np.savez(path, **arrays | {"instrument": np.str_("CNCS")})
    with pytest.raises(InputError, match="instrument is CNCS, and ARCS"):
        read_folded(path, measurement)
    older = {k: v for k, v in arrays.items() if k not in ("instrument", "ei_meV", "temperature_K")}
    np.savez(path, **older)
    assert read_folded(path, measurement)[0].signal.sum() == arrays["S"].sum()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("D", np.nan, "D holds what is no finite number"),
        ("S", np.inf, "S holds what is no finite number"),
        ("S", -1e9, "S is as low as -1e"),
        ("V", -1.0, "V is as low as -1"),
        ("voxel_D", np.nan, "voxel_D holds what is no finite number"),
    ],
)
def test_numbers_that_no_fold_has_are_refused(folded, virtual_scan, tmp_path, name, value, words):  # noqa: F811
    with np.load(folded) as content:
        arrays = dict(content)
    broken = arrays[name].astype(float)
    broken.flat[5] = value
    np.savez(tmp_path / "x.npz", **arrays | {name: broken})
    measurement = build_measurement(virtual_scan.experiment, EXAMPLES)
    with pytest.raises(InputError, match=words):
        read_folded(tmp_path / "x.npz", measurement)


def test_arrays_of_another_shape_or_kind_are_refused(folded, virtual_scan, tmp_path):  # noqa: F811
    with np.load(folded) as content:
        arrays = dict(content)
    measurement = build_measurement(virtual_scan.experiment, EXAMPLES)
    for changed, words in (
        ({"S": arrays["S"].T}, "S has shape .* path and energy bins"),
        ({"S": arrays["S"].astype(str)}, "S holds what is no finite number"),
    ):
        np.savez(tmp_path / "x.npz", **arrays | changed)
        with pytest.raises(InputError, match=words):
            read_folded(tmp_path / "x.npz", measurement)
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, arrays["S"])
    with pytest.raises(InputError, match="a single array"):
        read_folded(tmp_path / "one.npz", measurement)
    (tmp_path / "words.npz").write_text("words")
    with pytest.raises(InputError, match="no archive of plain arrays") as told:
        read_folded(tmp_path / "words.npz", measurement)
    assert "allow_pickle" not in str(told.value)
