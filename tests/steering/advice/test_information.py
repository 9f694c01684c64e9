"""Information adds, and equivalent orientations bring the same, whatever the model."""

import numpy as np
import pytest

from model_server.posterior import Refinement
from simulations.prior import BoxPrior
from steering.advice import InformationPolicy, candidate_angles, information_per_minute
from tests.simulations.line_model import FoldedLine
from tests.steering.candidates import EI, K, candidate, exposure, refinement, situation
from tests.steering.virtual_scan import small_measurement


def test_two_minutes_bring_twice_the_information():
    one, two = candidate(20.0), candidate(20.0, 2.0)
    np.testing.assert_allclose(two.information, 2 * one.information, rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose(two.rate, 2 * one.rate, rtol=1e-9)


def test_information_is_symmetric_and_not_negative():
    for psi in (20.0, 71.0):
        matrix = candidate(psi).information
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-9)
        values = np.linalg.eigvalsh(matrix)
        assert values.min() > -1e-9 * values.max()
        assert np.all(np.diag(matrix)[:K] > 0)


def test_an_equivalent_orientation_brings_the_same_information_and_others_do_not():
    prior = refinement().objective.prior_precision()
    here, there, other = (  # two-fold about the vertical [1 -1 0]
        np.sqrt(np.diag(np.linalg.inv(prior + 10 * candidate(psi).information)))[:K]
        for psi in (20.0, 200.0, 71.0)
    )
    # Equal up to which of the operations that leave a voxel in place carried its pixels.
    np.testing.assert_allclose(here, there, rtol=0.03)
    assert np.abs(other / here - 1).max() > 0.1
    assert candidate(20.0).rate.sum() == pytest.approx(candidate(200.0).rate.sum(), rel=0.005)


def test_candidates_span_the_limits():
    found = candidate_angles((-10.0, 50.0), 7)
    np.testing.assert_allclose(found, [-10, 0, 10, 20, 30, 40, 50])


def test_a_model_without_phonons_is_advised_upon_alike():
    measurement = small_measurement()
    line = FoldedLine(measurement.voxels, measurement.energy, EI, sigma_meV=1.0)
    fit = Refinement(
        model=line,
        prior=BoxPrior(
            names=line.parameter_names, lower=np.array([5.0, 0.5]), upper=np.array([25.0, 1.5])
        ),
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
    )
    one, other = exposure(20.0), exposure(71.0)
    D, flat = measurement.geometry.path_sums(one)
    theta = np.array([15.0, 1.0, *np.log([1e3, 100 / flat.sum(), 100 / D.sum()]), 0.0])
    candidates = [
        information_per_minute(
            psi,
            lambda seen=seen: seen,
            measurement.geometry.path_sums(seen),
            ei_meV=EI,
            refinement=fit,
            theta=theta,
            charge_per_minute=minutes,
        )
        for psi, seen, minutes in ((20.0, one, 1.0), (71.0, other, 1.0), (72.0, one, 3.0))
    ]
    np.testing.assert_allclose(
        candidates[2].information, 3 * candidates[0].information, rtol=1e-8, atol=1e-6
    )
    ranked = InformationPolicy().rank(
        situation(
            candidates,
            mean=theta,
            precision=fit.objective.prior_precision(),
            targets=np.array([1e-3, 1e-3]),
            draws=np.empty((0, len(theta))),
        )
    )
    assert ranked[0].psi_deg == 72.0
    assert min(a.gain_per_minute for a in ranked) > 0
