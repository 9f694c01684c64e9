from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from steering.run import history_entries
from steering.web import create_app
from steering.web.answers import spectrum_answer
from tests.steering.fabricated import snapshot, spectrum, store

MOST_BYTES = 150_000  # that one update of the page may take over a slow line
NIGHT = 200  # chunks


def a_long_night():
    """A run of many chunks and 21 constants whose every cell in reach has its own exposure."""
    rng = np.random.default_rng(4)
    view = spectrum()
    assert view.exposure is not None
    uneven = view.exposure * rng.gamma(4.0, 0.25, view.exposure.shape)
    history = [
        {
            "chunk": f"{178900 + i}",
            "minutes_used": 1.6 * (i + 1),
            "parameters": [
                {"name": f"{k}NN xx", "value": rng.normal(), "sigma": rng.random()}
                for k in range(21)
            ],
            "trusted": True,
        }
        for i in range(NIGHT)
    ]
    before = snapshot()
    folded = [one for one in before.chunks if one.status == "folded"]
    chunks = tuple(
        folded[i % len(folded)].model_copy(update={"chunk": f"{178900 + i}"}) for i in range(NIGHT)
    )
    return replace(
        before,
        history=history_entries(history),
        spectrum=replace(view, exposure=uneven),
        chunks=chunks,
    )


def test_an_update_of_the_page_is_small():
    reader = TestClient(create_app(store(a_long_night())), base_url="http://127.0.0.1:8080")
    paths = ["/runs", "/workers"] + [
        f"/runs/ge-demo{end}" for end in ("", "/spectrum", "/verdict", "/actions", "/reach")
    ]
    sizes = {}
    for path in paths:
        answer = reader.get(path)
        assert answer.status_code == 200
        sizes[path] = len(gzip.compress(answer.content, 6))
    print(sizes)  # noqa: T201
    assert sum(sizes.values()) < MOST_BYTES


def test_what_is_not_seen_is_null_in_every_matrix_of_cells():
    view = spectrum()
    answer = spectrum_answer(view, version=3)
    unknown = np.isnan(view.intensity)
    assert unknown.any()
    for name in ("intensity", "sigma", "model_intensity", "counts", "exposure"):
        nulls = [[value is None for value in row] for row in getattr(answer, name)]
        assert np.array_equal(nulls, unknown), name
    assert answer.branches_low is not None
    assert np.array(answer.branches_low, float) == pytest.approx(view.branches_low, rel=1e-4)


def test_a_snapshot_of_before_has_no_bands_counts_or_places():
    old = replace(
        spectrum(), hkl=None, counts=None, scale=None, branches_low=None, branches_high=None
    )
    answer = spectrum_answer(old, version=1)
    assert (answer.hkl, answer.counts, answer.scale) == (None, None, None)
    assert (answer.branches_low, answer.branches_high) == (None, None)
