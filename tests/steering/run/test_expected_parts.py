"""The sample's own background and a cryostat, as parts that a fit may scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from consumers.recorded import recorded_source
from consumers.state import read_chunk
from model_server.posterior import Observation, Refinement, usable_cells
from simulations.errors import InputError
from simulations.fold import BackgroundSection, CellSums
from steering.experiment import Experiment, build_measurement
from steering.run import Run
from steering.run.expected_parts import CRYOSTAT, OWN, expected_parts
from steering.study import simulate
from tests.steering.virtual_scan import EXAMPLES, small_experiment, small_measurement

TEMPERATURE_K = 300.0
PSI_DEG = (5.0, 61.0)


def experiment_with(**background: Any) -> Experiment:
    experiment = small_experiment()
    told = {"temperature_K": TEMPERATURE_K, "isotopes": {"Ge": {"70Ge": 0.5, "73Ge": 0.5}}}
    warm = experiment.sample.model_copy(update=told)
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


def test_a_refinement_knows_the_rates_of_its_parts_and_their_derivatives():
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
    weight, flat = exposure.path_sums(measurement.merged)
    zero = np.zeros_like(weight)
    sums = CellSums(signal=zero, variance=zero, counts=zero, exposure=weight, flat=flat)
    seen = Observation(sums=sums, exposure=lambda: exposure, parts=(own,))
    theta = np.zeros(layout.size)
    theta[layout.parameters] = measurement.model.values
    theta[layout.log_amplitudes] = np.log([500.0, 0.3, 0.2])
    theta[layout.log_parts] = np.log(1.4)

    rate, information = refinement.objective.information_of(theta, seen)
    without, _ = refinement.objective.information_of(theta, replace(seen, parts=(0.0 * own,)))
    np.testing.assert_allclose(rate - without, 500.0 * 1.4 * own, atol=1e-9 * rate.max())
    use = usable_cells(sums, measurement.energy.centres_meV, measurement.elastic_cut_meV)
    step, at = 1e-4, layout.log_parts.start
    for k in (layout.log_scale, at):
        moved = theta.copy()
        moved[k] += step
        slope = (refinement.objective.information_of(moved, seen)[0] - rate)[use] / step
        wanted = np.sum(slope * 700.0 * own[use] / rate[use])
        assert information[k, at] == pytest.approx(wanted, rel=2e-3)
    with pytest.raises(InputError, match="observation has 0 expected parts; expected 1"):
        refinement.objective.information_of(theta, replace(seen, parts=()))


def estimated(scan, folder, *, own: bool):
    """One estimate of all chunks of a scan, with or without the sample's own scattering."""
    experiment = experiment_with(own=own, own_relative_sigma=2.0)
    measurement = build_measurement(experiment, EXAMPLES)
    folder.mkdir()
    run = Run(measurement, run_id="r", folder=folder, estimate=False)
    for message in recorded_source(scan, run="r").messages():
        run.accept(message)
    estimating = Run(measurement, run_id="r", folder=folder)
    for closed in run.chunks:
        estimating.adopt(read_chunk(closed.path))
    estimating.estimate_now()
    return estimating


@pytest.mark.slow
def test_expecting_a_strong_own_background_frees_force_constants_of_its_bias(tmp_path):
    errors: dict[bool, list[float]] = {False: [], True: []}
    for seed in (1, 2):
        # Germanium of two isotopes, with incoherent scattering five times as strong as theirs.
        section = small_experiment().virtual.model_copy(
            update={"counts_per_minute": 4000.0, "incoherent": 5.0, "multiphonon": 5.0}
        )
        truth = simulate(
            experiment_with().model_copy(update={"virtual": section}),
            experiment_dir=EXAMPLES,
            output=tmp_path / f"scan-{seed}",
            psi_deg=PSI_DEG,
            minutes=2.0,
            seed=seed,
            processes=1,
            formats=("sns",),
        )
        files = sorted((tmp_path / f"scan-{seed}").glob("*.nxs.h5"))
        true = {one["name"]: one["value"] for one in truth["parameters"]}
        for own in (False, True):
            run = estimated(files, tmp_path / f"run-{seed}-{own}", own=own)
            estimate = run.estimate
            posterior = estimate.posterior
            off = posterior.values - [true[name] for name in posterior.names]
            errors[own].append(float(np.sqrt(np.mean((off / posterior.sigma) ** 2))))
            assert estimate.trust.trusted == own
            if own:
                ((strength, sigma),) = posterior.part_strengths().values()
                assert abs(strength - 5.0) < 3 * sigma
                assert sigma < 0.4
                notes = run.result()["notes"]
                assert any(f"expected {OWN} scattering" in note for note in notes)
    assert np.mean(errors[True]) < 0.7 * np.mean(errors[False])
    assert np.mean(errors[True]) < 1.8
