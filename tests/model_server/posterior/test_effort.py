import numpy as np

from model_server.posterior.effort import Effort, Ways, least_effort


def test_what_is_asked_for_is_granted_while_it_lasts():
    effort = Effort(10.0)
    assert effort.bounded
    assert not effort.grant(11.0)
    assert effort.grant(0.0)  # what takes nothing
    assert effort.refused == 1
    assert [effort.grant(walks) for walks in (4.0, 4.0, 4.0, 2.0)] == [True, True, False, True]


def test_there_is_no_end_to_it_unless_somebody_says_so():
    effort = Effort()
    assert all(effort.grant(1e6) for _ in range(10))
    assert not effort.bounded
    assert effort.refused == 0


def test_a_way_is_left_once():
    ways, wide = Ways(), 0.01 * np.eye(2)
    for theta in ([1.0, 0.0], [1.1, 0.1], [2.0, 0.0]):
        ways.leave(np.array(theta), wide)
    np.testing.assert_array_equal(ways.left, [[1.0, 0.0], [2.0, 0.0]])


def test_the_least_effort_is_a_walk_of_every_orientation():
    assert 12 < least_effort(12) < 24
    assert Effort(least_effort(12)).grant(12.0)
