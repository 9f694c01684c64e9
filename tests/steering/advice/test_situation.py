"""A situation says where the crystal is, what is known, and refuses what does not fit together."""

import dataclasses

import numpy as np
import pytest

from steering.advice import Setting
from tests.steering.candidates import EI, MOTION, P, made_up, situation


def test_the_newest_chunk_says_where_the_crystal_is():
    empty, one = situation(), situation(current_psi_deg=30.0)
    assert empty.current is None
    assert one.current == Setting(psi_deg=30.0, ei_meV=EI)
    assert empty.move_minutes(made_up(50.0)) == MOTION.move_minutes(None, 50.0)
    assert one.move_minutes(made_up(50.0)) == MOTION.move_minutes(30.0, 50.0)
    assert one.move_minutes(made_up(30.0)) == 0.0


def test_orientations_are_counted_once_whatever_the_encoder_reads():
    measured = tuple(Setting(psi_deg=p, ei_meV=EI) for p in (10.0, 10.0002, 20.0, 10.0))
    assert situation(measured=measured).orientations == 2
    assert situation().orientations == 0


def test_the_covariance_is_that_of_the_precision():
    one = situation(precision=4 * np.eye(P))
    np.testing.assert_allclose(one.covariance, 0.25 * np.eye(P))


def test_shapes_that_do_not_fit_are_refused_and_nothing_is_changed_afterwards():
    with pytest.raises(ValueError, match=r"expected \(7, 7\) and \(draws, 7\)"):
        situation(precision=np.eye(P - 1))
    with pytest.raises(ValueError, match="as theta has"):
        situation(draws=np.zeros((3, P + 1)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        situation().minutes_used = 3.0
