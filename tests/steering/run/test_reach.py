from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from consumers.recorded import recorded_source
from steering.advice import Advice
from steering.run import Run, reach
from steering.run.adviser import Adviser
from tests.steering.virtual_scan import VirtualScan, small_measurement, virtual_scan

__all__ = ["virtual_scan"]


@pytest.fixture(scope="module")
def folded(virtual_scan: VirtualScan, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two orientations, folded only."""
    folder = tmp_path_factory.mktemp("chunks")
    run = Run(small_measurement(), run_id="r", folder=folder, estimate=False)
    for message in recorded_source(virtual_scan.events[:2], run="r").messages():
        run.accept(message)
    return run


def advised(psi_deg: float) -> Advice:
    return Advice(psi_deg=psi_deg, ei_meV=40.0, minutes=1.0, gain_per_minute=0.1, policy="")


def test_measured_orientations_reach_what_their_chunks_have_exposure_in(folded):
    found = folded.snapshot().reach
    assert found is not None
    assert found.psi_deg == pytest.approx([5.0, 32.0])
    assert found.rank.tolist() == [0, 0]
    within = folded.measurement.energy.reachable_bins(40.0)
    for share, chunk in zip(found.share, folded.chunks, strict=True):
        assert share == pytest.approx((chunk.sums.exposure[:, :within] > 0).mean(axis=1))
    assert 0 < found.share.mean() < 1


def test_an_advised_orientation_reaches_what_it_will_when_it_is_measured(folded):
    """On merged pixels, which see the same to a few cells."""
    measurement = folded.measurement
    from steering.run.estimator import Estimator

    estimator = Estimator(measurement, folded.can_terms)
    adviser: Adviser = estimator._adviser
    adviser._psi_deg = (32.0, 61.0)
    adviser.seen()
    found = reach.reach_of(
        measurement, folded.ledger, [advised(32.0), advised(77.0)], adviser.exposure_at
    )
    assert found.rank.tolist() == [0, 0, 1]  # what was never looked at is not told
    assert found.share[2] == pytest.approx(found.share[1], abs=0.25)
    assert found.share[2].mean() == pytest.approx(found.share[1].mean(), abs=0.05)


def test_of_many_orientations_some_are_told_and_their_number(folded, monkeypatch):
    monkeypatch.setattr(reach, "MOST_MEASURED", 3)
    one = folded.chunks[0]

    class Many:
        chunks = [replace(one, psi_deg=float(psi)) for psi in (9, 3, 5, 7, 1, 5)]

    found = reach.reach_of(folded.measurement, Many())  # pyright: ignore[reportArgumentType]
    assert found.psi_deg.tolist() == [1.0, 5.0, 9.0]
    assert found.measured == 5


def test_reach_survives_the_disk(folded, tmp_path):
    from steering.run import load_snapshot, save_snapshot

    before = folded.snapshot()
    save_snapshot(before, tmp_path / "snapshot.npz")
    after = load_snapshot(tmp_path / "snapshot.npz")
    assert before.reach is not None
    assert after.reach is not None
    np.testing.assert_array_equal(after.reach.share, before.reach.share)
    assert after.reach.measured == 2
