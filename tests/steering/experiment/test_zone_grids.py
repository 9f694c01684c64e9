"""Which grid of the zone is taken, see also the tests of a measurement and of continued modes."""

from steering.experiment.zone_grids import ROUGH, ZONE_STEP
from tests.steering.virtual_scan import small_measurement


def test_the_grid_to_look_around_with_is_the_wider_one():
    zones = small_measurement().zones
    chosen, rough = zones.chosen(), zones.rough()
    assert rough.n_points < 0.4 * chosen.n_points
    assert rough.reach > 1.5 * chosen.reach
    assert rough.n_points == zones.of(ROUGH * ZONE_STEP * zones.voxel_rlu).n_points
