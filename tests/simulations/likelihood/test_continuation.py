"""The error of modes continued from a grid falls with its step, and decides how wide grids are."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from simulations.likelihood import build_zone_map, continuation_error
from tests.steering.rutile_scan import rutile_measurement


def error_at(step_rlu: float) -> float:
    m = rutile_measurement()
    return continuation_error(
        build_zone_map(m.crystal, step_rlu=step_rlu),
        model=m.model,
        energy=m.energy,
        ei_meV=m.ei_meV,
        resolution=m.instrument.resolution,
    )


def test_the_error_falls_with_the_step_of_the_grid():
    wide, middle, fine = (error_at(step) for step in (0.2, 0.08, 0.02))
    assert wide > middle > 2 * fine
    assert fine < 0.02


@pytest.mark.parametrize("allowed", [0.02, 0.1])
def test_a_large_grid_is_as_wide_as_its_error_allows(monkeypatch, allowed):
    monkeypatch.setattr("steering.experiment.zone_grids.SMALL_ZONE_BYTES", 1e5)
    monkeypatch.setattr("steering.experiment.zone_grids.CONTINUATION_ERROR", allowed)
    with capture_logs() as told:
        zone = replace(rutile_measurement()).zones.chosen()
    (entry,) = [entry for entry in told if entry["event"] == "zone_grid_widened"]
    assert entry["points"] == zone.n_points
    assert entry["error_of_spectra"] <= allowed
