"""Spectra of runs whose set-up is off, and a flow that is trained on them from end to end."""

import numpy as np
import pytest

from model_server.networks import Bundle, ConditionalDensity, FoldedSpectrum, read_spectra
from model_server.training import FlowRecipe, simulate_off_set_up
from simulations.errors import InputError
from steering.experiment import Experiment, build_measurement
from steering.run.estimator import _first_guess_of
from steering.study import analyse_latent, flow_spectra, train
from steering.study.model_training import chosen_recipe, flow_measurement
from tests.steering.live_stream import live_experiment
from tests.steering.virtual_scan import EXAMPLES, small_experiment


def doubted_experiment() -> Experiment:
    """The live one, of whose set-up as little is known as by default."""
    default = small_experiment()
    return live_experiment().model_copy(
        update={"missetting": default.missetting, "q_spread": default.q_spread}
    )


@pytest.fixture(autouse=True)
def few_orientations(monkeypatch):
    monkeypatch.setattr(flow_spectra, "ORIENTATIONS", 2)
    monkeypatch.setattr(flow_spectra, "BLOCK", 60)
    monkeypatch.setattr(flow_spectra, "PER_COVERAGE", 20)


def test_a_set_up_that_is_right_gives_the_rates_of_its_exposure_and_one_that_is_off_others():
    m, grid = flow_measurement(doubted_experiment(), EXAMPLES)
    set_ups = flow_spectra.SetUps(m).computed()
    assert "incident energy" in set_ups.ways.names
    phi = np.repeat(m.box.mean[None], 3, axis=0)

    def simulated(share, width):
        return simulate_off_set_up(
            m.coarse_forward, set_ups.exposures[:1], set_ups.drifts[:1],
            share * set_ups.ways.sigma, phi, grid, np.random.default_rng(0), width_sigma=width,
        )  # fmt: skip

    right, off, wide = simulated(0.0, 0.0), simulated(1.0, 0.0), simulated(0.0, 0.05)
    forward = m.coarse_forward
    nominal, _ = forward.rates(set_ups.exposures[0], forward.prepare(phi[0]), gradient=False)
    wanted = grid.sums(nominal)
    dwell = right.rate[0].sum() / wanted.sum()
    np.testing.assert_allclose(right.rate[0], dwell * wanted, rtol=1e-4, atol=1e-5 * wanted.max())
    assert 0.3 < dwell < 1.7
    np.testing.assert_array_equal(right.rate[0], right.rate[1])
    np.testing.assert_array_equal(right.exposure, off.exposure)  # D is that of the believed one
    for other in (off, wide):
        change = np.abs(other.rate - right.rate).sum(axis=(1, 2)) / right.rate.sum(axis=(1, 2))
        assert (change > 1e-3).all()
        assert (change < 0.6).all()


def test_a_flow_is_trained_read_and_taken_as_a_first_guess(tmp_path, monkeypatch):
    section = doubted_experiment().parameters.model_copy(update={"others": "fitted"})
    experiment = doubted_experiment().model_copy(update={"parameters": section})
    recipe = FlowRecipe(hidden=16, context=8, transforms=1, bins=4, flow_hidden=8, epochs=2,
                        batch=32, channels=(8,))  # fmt: skip
    monkeypatch.setattr("steering.study.model_training.recipe_of", lambda name: recipe)
    options = {"experiment_dir": EXAMPLES, "architecture": "flow", "spectra": 120, "epochs": 2}
    card = train(experiment, output=tmp_path / "flow", work=tmp_path / "work", **options)
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [
        "block-000", "block-001", "density.safetensors",
    ]  # fmt: skip
    m = build_measurement(experiment, EXAMPLES)
    assert tuple(card["parameters"]["names"]) == m.model.names
    assert len(m.model.names) > len(m.targeted)
    assert [row["bin"] for row in card["calibration"]["bins"]][0] == "1 to 3 min"
    assert "degrees (psi)" in card["experiment"]["set-up"]

    # the same call goes on with what is there, and ends with the same weights
    monkeypatch.setattr(flow_spectra, "simulate_off_set_up", None)
    train(experiment, output=tmp_path / "again", work=tmp_path / "work", **options)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("flow", "again")]
    assert weights[0] == weights[1]

    bundle = Bundle.load(str(tmp_path / "flow"))
    assert isinstance(bundle.network, ConditionalDensity)
    shape = (m.path.n_bins, m.energy.n_bins)
    counts = np.random.default_rng(0).poisson(5.0, shape).astype(float)
    folded = FoldedSpectrum.of_sums(
        name="fold", signal=counts, exposure=np.ones(shape), counts=counts,
        path_hkl=m.path.centres_hkl(), energy_edges_meV=m.energy.edges_meV,
        parameter_names=m.targeted,
    )  # fmt: skip
    reading = read_spectra(bundle, [folded])[0]
    assert reading.interval is not None
    assert "parameter names" in reading.checked
    assert (reading.interval[0] < reading.interval[1]).all()

    asked = experiment.model_copy(update={"model": str(tmp_path / "flow")})
    guess = _first_guess_of(build_measurement(asked, EXAMPLES))
    assert guess is not None
    assert guess.parameter_names == m.model.names
    with pytest.raises(InputError, match="is a flow, which has no latent"):
        analyse_latent(
            "flow", experiment, experiment_dir=EXAMPLES, models=[tmp_path], runs=[], sets=8,
            orientations=3,
        )  # fmt: skip


def test_a_flow_is_published_nowhere():
    with pytest.raises(InputError, match="this project's own"):
        chosen_recipe("flow", as_published=True)
    assert chosen_recipe("flow", epochs=3).epochs == 3
