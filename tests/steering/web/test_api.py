from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from steering.run import RunStore, result_document
from steering.web import BoundedPredictor, check_binding, create_app, serving
from steering.web.answers import clean, rounded
from steering.web.api import MAX_BODY_BYTES, _page_files
from steering.web.prediction_process import Prediction
from tests.steering.fabricated import NAMES, snapshot, store

TOKEN = "a-token-of-good-length"  # noqa: S105


class FakePredictor:
    """Tells what it was asked for."""

    def predict(self, asked: Mapping[str, Any]) -> Prediction:
        return Prediction(status=200, content=json.dumps(asked).encode())

    def close(self) -> None:
        """Nothing to end."""


def local(app) -> TestClient:
    """A reader on this machine."""
    return TestClient(app, base_url="http://127.0.0.1:8080")


@pytest.fixture
def client():
    return local(create_app(store(), FakePredictor()))


def test_runs_are_listed_and_described(client):
    (run,) = client.get("/runs").json()["runs"]
    assert run["run_id"] == "ge-demo"
    assert run["trusted"] is True
    assert run["chunks"] == 9
    details = client.get("/runs/ge-demo").json()
    assert [p["name"] for p in details["result"]["parameters"]] == [name for name, _ in NAMES]
    assert len(details["history"]) == 8
    assert details["has_spectrum"] is True


def test_unknown_cells_are_null_in_json_and_nan_in_npz(client):
    view = store().list()[0].spectrum
    assert view is not None
    body = client.get("/runs/ge-demo/spectrum").json()
    shown = np.array(body["intensity"], dtype=float)
    assert shown.shape == (140, 140)
    assert np.isnan(shown).any()
    np.testing.assert_array_equal(np.isnan(shown), np.isnan(view.intensity))
    np.testing.assert_allclose(shown, view.intensity, rtol=6e-4)
    with np.load(
        io.BytesIO(client.get("/runs/ge-demo/spectrum?format=npz").content), allow_pickle=False
    ) as arrays:
        np.testing.assert_array_equal(arrays["intensity"], view.intensity)
        assert arrays["tick_labels"].tolist() == list(view.tick_labels)


def test_the_picture_is_a_png(client):
    answer = client.get("/runs/ge-demo/spectrum?format=png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")


def test_estimate_history_and_advice(client):
    estimate = client.get("/runs/ge-demo/estimate").json()
    assert estimate["trusted"] is True
    assert len(estimate["parameters"]) == 8
    assert estimate["parameters"][0]["interval90"][0] < estimate["parameters"][0]["value"]
    assert len(client.get("/runs/ge-demo/history").json()["history"]) == 8
    advice = client.get("/runs/ge-demo/advice").json()
    gains = [one["gain_per_minute"] for one in advice["advice"]]
    assert gains == sorted(gains, reverse=True)
    assert advice["stop"]["stop"] is False


def test_advice_claims_no_more_than_the_verdict():
    before = snapshot()
    assert before.result is not None
    stop = {"stop": True, "reason": "every target met", "minutes_to_target": 0.0}
    for changes, code, lines in (
        ({}, "turn", 5),
        ({"trusted": False, "reasons": ["misfit"], "stop": stop}, "test the model", 5),
        ({"stop": stop}, "hidden", 0),
        ({"asked": {"closed": "closed: done (Ada)"}, "advice": []}, "hidden", 0),
    ):
        result = result_document(before.result.document() | changes)
        asking = local(create_app(store(snapshot(result=result))))
        told = asking.get("/runs/ge-demo/advice").json()
        said = asking.get("/runs/ge-demo/verdict").json()
        assert (told["next"]["code"], len(told["advice"])) == (code, lines)
        assert (told["next"]["word"], told["measure_on"]["word"]) == (
            said["advice"]["word"],
            said["stop"]["word"],
        )
        for one in told["advice"]:
            assert (one["minutes"] is None) == (one["gain_per_minute"] is None) == (code != "turn")
        if code == "test the model":
            assert (told["stop"]["stop"], told["stop"]["minutes_to_target"]) == (False, None)


def test_health_and_readiness(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready", "runs": 1, "reasons": []}


def test_metrics_tell_chunks_events_trust_and_timing(client):
    text = client.get("/metrics").text
    for line in (
        'beamsteer_chunks{run="ge-demo",status="folded"} 8.0',
        'beamsteer_chunks{run="ge-demo",status="set_aside"} 1.0',
        'beamsteer_events{kind="folded",run="ge-demo"} 48828.0',
        'beamsteer_estimate_seconds{run="ge-demo"} 0.8',
        'beamsteer_lag_seconds{run="ge-demo"} 1.4',
        'beamsteer_trusted{run="ge-demo"} 1.0',
        'beamsteer_runs{status="running"} 1.0',
    ):
        assert line in text


def test_what_is_not_there_is_404_with_a_reason():
    client = local(create_app(store(snapshot(spectrum=None, result=None))))
    assert "expected one of: ge-demo" in client.get("/runs/none").json()["detail"]
    for path in ("spectrum", "estimate", "advice"):
        answer = client.get(f"/runs/ge-demo/{path}")
        assert answer.status_code == 404
        assert "yet" in answer.json()["detail"]
    assert client.get("/runs/none/events").status_code == 404
    assert client.get("/assets/..%2fapi.py").status_code == 404
    assert client.get("/assets/api.py").status_code == 404


def test_a_format_that_is_none_is_422(client):
    assert client.get("/runs/ge-demo/spectrum?format=gif").status_code == 422


def test_the_page_and_its_assets_come_from_here_alone(client):
    page = client.get("/")
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    modules = [name for name in _page_files() if name.endswith(".js")]
    assert {"main.js", "panels/map.js", "plotly.min.js"} <= set(modules)
    for name in (*modules, "page.css", "favicon.svg"):
        answer = client.get(f"/assets/{name}")
        assert answer.status_code == 200
        if name != "plotly.min.js":
            assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "://" not in page.text


# --- predictions -------------------------------------------------------------------------------


def test_a_prediction_is_asked_for_as_json_or_as_a_form(client):
    body = client.post("/predict", json={"structure": "Ge", "ei_meV": 30}).json()
    assert body == {"structure": "Ge", "ei_meV": 30}
    body = client.post(
        "/predict", files={"file": ("POSCAR", b"Ge\n1.0\n")}, data={"ei_meV": "25"}
    ).json()
    assert body == {"structure": "Ge\n1.0\n", "ei_meV": 25.0}


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"json": [1]}, 422, "expected an object"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "no JSON"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        ({"files": {"file": ("a", b"\xff\xfe\x00")}}, 422, "not text"),
    ],
)
def test_a_bad_request_is_answered_with_what_was_expected(client, request_, status, says):
    answer = client.post("/predict", **request_)
    assert answer.status_code == status
    assert says in answer.json()["detail"]


def test_a_deeply_nested_body_is_refused_whatever_the_recursion_limit(client):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as importing symfc does
    try:
        answer = client.post(
            "/predict", content=b"[" * 90_000, headers={"content-type": "application/json"}
        )
    finally:
        sys.setrecursionlimit(limit)
    assert answer.status_code == 422
    assert "no JSON" in answer.json()["detail"]


def test_a_body_beyond_the_limit_is_413_whether_declared_or_not(client):
    large = b"x" * (MAX_BODY_BYTES + 1)
    headers = {"content-type": "application/json"}
    declared = client.post("/predict", content=large, headers=headers)
    chunked = client.post("/predict", content=iter([large[:99], large]), headers=headers)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert "2000000 bytes" in answer.json()["detail"]


def test_the_real_predictor_answers_and_reads_no_file_of_the_server(tmp_path):
    secret = tmp_path / "POSCAR"
    secret.write_text("secret")
    with local(create_app(RunStore(), BoundedPredictor())) as client:
        answer = client.post("/predict", json={"structure": "germanium", "quantity": "dos"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["structure"]["formula"].startswith("Ge")
        for body, says in (
            ({"structure": str(secret)}, "expected one of"),
            ({"structure": "germanium", "route": "guess"}, "route"),
            ({"ei_meV": 4}, "structure"),
            ({"structure": "germanium", "ei_meV": -4}, "ei_meV"),
        ):
            answer = client.post("/predict", json=body)
            assert answer.status_code == 422
            assert says in answer.json()["detail"]
            assert "secret" not in answer.json()["detail"].replace(str(secret), "")


def test_without_a_predictor_the_answer_names_the_command():
    answer = local(create_app(RunStore())).post("/predict", json={})
    assert answer.status_code == 503
    assert "beamsteer predict" in answer.json()["detail"]


# --- guards ------------------------------------------------------------------------------------


def test_a_token_guards_all_but_health():
    client = local(create_app(store(), token=TOKEN))
    for path in ("/", "/runs", "/metrics", "/assets/main.js", "/openapi.json", "/?token=wrong"):
        assert client.get(path).status_code == 401
    assert client.get("/health").status_code == 200
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/runs", headers=bearer).status_code == 200
    assert client.get("/runs", headers={"Authorization": "Bearer no"}).status_code == 401


def test_opening_the_page_with_the_token_sets_a_cookie_and_hides_the_token():
    client = local(create_app(store(), token=TOKEN))
    answer = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert client.get("/runs").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_loopback_needs_no_token(host):
    check_binding(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "beamline.example"])  # noqa: S104
def test_any_other_address_needs_one(host):
    with pytest.raises(ValueError, match="expected loopback, or a token"):
        check_binding(host, None)
    check_binding(host, TOKEN)
    with pytest.raises(ValueError, match="16 or more"):
        check_binding(host, "short")


# --- a real server -----------------------------------------------------------------------------


def test_events_tell_of_every_publication():
    runs = store()
    seen: list[dict[str, Any]] = []
    with (
        serving(create_app(runs)) as url,
        httpx.Client(timeout=20) as client,
        client.stream("GET", f"{url}runs/ge-demo/events") as stream,
    ):
        for line in stream.iter_lines():
            if line.startswith("data:"):
                seen.append(json.loads(line[5:]))
                if len(seen) == 1:
                    runs.publish(snapshot("another"))
                    runs.publish(snapshot(status="finished"))
                else:
                    break
    assert [event["status"] for event in seen] == ["running", "finished"]
    assert seen[1]["version"] > seen[0]["version"]


def test_a_reader_that_leaves_is_forgotten():
    runs = store()
    with serving(create_app(runs)) as url, httpx.Client(timeout=20) as client:
        with client.stream("GET", f"{url}events") as stream:
            lines = stream.iter_lines()  # kept: the end of the iterator closes the connection
            next(line for line in lines if line.startswith("data:"))
            assert len(runs._subscriptions) == 1
        gone = threading.Event()
        for i in range(200):
            runs.publish(snapshot(title=str(i)))
            if not runs._subscriptions or gone.wait(0.02):
                break
        assert not runs._subscriptions


def test_a_taken_port_is_an_error_that_names_it():
    app = create_app(RunStore())
    with serving(app) as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(ValueError, match=f"port is {port} on 127"), serving(app, port=port):
            pass


# --- numbers -----------------------------------------------------------------------------------


def test_rounding_keeps_five_digits_and_turns_nan_into_none():
    values = np.array([[1234567.0, -1.23456789e-8], [np.nan, np.inf], [0.0, 1e-280]])
    assert rounded(values)[:2] == [[1234600.0, -1.2346e-08], [None, None]]
    assert rounded(values)[2] == [0.0, pytest.approx(1e-280)]


def test_cleaning_reaches_into_nested_values():
    value = {"a": (np.float64("nan"), {"b": [np.int64(3), float("-inf")]}), 5: np.bool_(True)}
    assert clean(value) == {"a": [None, {"b": [3, None]}], "5": True}
