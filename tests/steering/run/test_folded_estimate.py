"""An estimate from folded.npz: near the truth, near the replay, and files that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from steering.report import fold
from steering.run import ParameterResult, estimate_folded
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
