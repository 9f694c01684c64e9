"""The sample's own background and a cryostat, as parts that a fit may scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_server.posterior import Observation, Refinement
from simulations.errors import InputError
from simulations.fold import BackgroundSection
from steering.experiment import Experiment, build_measurement
from steering.run.expected_parts import CRYOSTAT, OWN, expected_parts
from tests.steering.virtual_scan import EXAMPLES, small_experiment, small_measurement

TEMPERATURE_K = 300.0
PSI_DEG = (5.0, 61.0)


def experiment_with(**background: Any) -> Experiment:
    experiment = small_experiment()
    warm = experiment.sample.model_copy(update={"temperature_K": TEMPERATURE_K})
    section = BackgroundSection(**background)
    return experiment.model_copy(update={"sample": warm, "background": section})


def test_nothing_is_expected_by_default_and_folds_are_those_of_before():
    assert expected_parts(small_measurement()) == ()
    plain = build_measurement(experiment_with(), EXAMPLES).fingerprint
    cryostat = {"material": "stainless steel", "atoms": 2.0}
    other = build_measurement(experiment_with(own=True, cryostat=cryostat), EXAMPLES).fingerprint
    assert plain == other  # what is fitted changes, what is folded does not
    assert not any("own" in key.split(".") or "cryostat" in key for key in plain)


def test_the_samples_own_scattering_grows_with_q_and_a_cryostat_has_its_own_temperature():
    cold = {"material": "aluminium", "atoms": 3.0, "temperature_K": 5.0}
    warm = cold | {"temperature_K": 300.0}
    own, walls = expected_parts(
        build_measurement(experiment_with(own=True, cryostat=cold), EXAMPLES)
    )
    assert (own.name, walls.name) == (OWN, CRYOSTAT)
    assert own.relative_sigma == walls.relative_sigma == 0.3
    inside = own.intensity[:120].sum(axis=1)
    assert np.all(np.diff(inside) > 0)
    (hot,) = expected_parts(build_measurement(experiment_with(cryostat=warm), EXAMPLES))
    assert hot.intensity.sum() > 1.5 * walls.intensity.sum()
    with pytest.raises(Exception, match="stainless steel"):
        BackgroundSection(cryostat={"material": "copper", "atoms": 1.0})


def test_a_refinement_wants_the_rates_of_its_parts_and_finds_their_strengths():
    measurement = build_measurement(experiment_with(own=True), EXAMPLES)
    (part,) = expected_parts(measurement)
    refinement = Refinement(
        model=measurement.coarse_forward,
        prior=measurement.prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
        part_sigma={part.name: part.relative_sigma},
    )
    layout = refinement.layout
    assert layout.names[layout.log_parts] == (f"ln {OWN} strength",)
    exposure = measurement.exposure(32.0).merged(measurement.merged).scaled(10.0)
    own = part.rate(exposure, measurement.merged)
    state = refinement.state_at(np.concatenate([measurement.model.values, np.zeros(5)]))
    rate, _ = measurement.coarse_forward.rates(exposure, state, log_width=0.0, gradient=False)
    weight, flat = exposure.path_sums(measurement.merged)
    scale = 3e6 / rate.sum()
    rng = np.random.default_rng(3)
    counts = rng.poisson(scale * (rate + 1.4 * own) + 0.05 * scale * rate.mean())
    from simulations.fold import CellSums

    sums = CellSums(
        signal=counts.astype(float), variance=counts.astype(float), counts=counts,
        exposure=weight, flat=flat,
    )  # fmt: skip
    found = refinement.fit([Observation(sums=sums, exposure=lambda: exposure, parts=(own,))])
    ((strength, sigma),) = found.part_strengths().values()
    assert abs(strength - 1.4) < 4 * sigma + 0.03
    assert sigma < 0.15  # the prior alone says 0.3
    with pytest.raises(InputError, match="observation has 0 expected parts; expected 1"):
        refinement.fit([Observation(sums=sums, exposure=lambda: exposure)])
