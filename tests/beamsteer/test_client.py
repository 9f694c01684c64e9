from __future__ import annotations

import math
import socket

import numpy as np
import pytest

import beamsteer
from beamsteer.client import Client
from simulations.errors import InputError
from steering.cli._served_app import served_app
from steering.run import ConflictError, RunStore, result_document
from steering.web import serving
from tests.steering.fabricated import snapshot, store
from tests.steering.web.test_acting import folder

__all__ = ["folder"]

TOKEN = "a-token-of-good-length"  # noqa: S105


@pytest.fixture(scope="module")
def served():
    """A server of one run, for readers who have its token."""
    runs = store()
    with serving(served_app(runs, folders=(), token=TOKEN)) as url:
        yield url, runs


@pytest.fixture
def client(served):
    with Client(served[0], token=TOKEN) as found:
        yield found


def test_a_run_of_a_server_is_the_run_that_is_served(served, client):
    original = served[1].get("ge-demo")
    found = client.snapshot("ge-demo")
    assert found.result == original.result
    assert (found.chunks, found.history) == (original.chunks, original.history)
    for name in ("intensity", "sigma", "model_intensity", "branches", "energy_edges_meV"):
        np.testing.assert_array_equal(
            getattr(found.spectrum, name), getattr(original.spectrum, name)
        )
    assert found.spectrum.tick_labels == original.spectrum.tick_labels
    for other in (
        beamsteer.open_run(served[0], token=TOKEN),
        *beamsteer.open_runs(served[0], token=TOKEN),
    ):
        assert other.result == original.result


def test_every_read_comes_as_the_value_of_the_program(served, client, monkeypatch):
    (run,) = client.runs()
    assert (run.run_id, run.trusted) == ("ge-demo", True)
    assert client.verdict("ge-demo").advice.code == "turn"
    assert client.advice("ge-demo").next.word == client.verdict("ge-demo").advice.word
    assert client.estimate("ge-demo").parameters[0].name == "1NN xx"
    assert len(client.history("ge-demo")) == 8
    assert client.me().role == "admin"
    assert (client.workers(), client.alarms()) == ((), ())
    assert client.actions("ge-demo").live is False
    monkeypatch.setenv("BEAMSTEER_TOKEN", TOKEN)
    assert beamsteer.verdict(served[0]).trust.code == client.verdict("ge-demo").trust.code


def test_what_did_not_change_is_not_sent_again(served, client):
    sizes: list[int] = []
    client._http.event_hooks["response"].append(lambda answer: sizes.append(answer.status_code))
    first = client.spectrum("ge-demo")
    again = client.spectrum("ge-demo")
    assert sizes == [200, 304]
    np.testing.assert_array_equal(first.intensity, again.intensity)
    served[1].publish(snapshot())
    client.spectrum("ge-demo")
    assert sizes[-1] == 200


def test_long_histories_come_in_pages(served, client, monkeypatch):
    monkeypatch.setattr("beamsteer.client.PAGE", 3)
    asked: list[str] = []
    client._http.event_hooks["request"].append(lambda request: asked.append(str(request.url)))
    assert [one.chunk for one in client.history("ge-demo")] == [
        one.chunk for one in served[1].get("ge-demo").history
    ]
    assert len(asked) == 3


def test_news_come_as_they_are_published(served, client):
    news = client.events("ge-demo")
    first = next(news)
    served[1].publish(snapshot())
    assert next(news).version > first.version
    news.close()


def test_figures_that_are_not_finite_come_back_as_nan():
    before = snapshot()
    assert before.result is not None
    document = before.result.document()
    document["parameters"][0]["sigma"] = float("nan")
    document["covariance"][0][0] = float("inf")
    shown = snapshot(result=result_document(document))
    with serving(served_app(store(shown), folders=())) as url, Client(url) as client:
        assert math.isnan(client.estimate("ge-demo").parameters[0].sigma)
        assert math.isnan(client.run("ge-demo").result.parameters[0].sigma)


def test_refusals_name_what_is_wrong(served, client):
    with pytest.raises(InputError, match="expected one of: ge-demo"):
        client.run("none")
    with pytest.raises(InputError, match="expected one of"):
        client.run("../../etc/passwd")
    with pytest.raises(InputError, match="token is missing"), Client(served[0]) as nobody:
        nobody.runs()
    with pytest.raises(InputError, match="expected one of: ge-demo"):
        next(client.events("none"))
    with pytest.raises(ConnectionError, match="beamsteer predict"):
        client.predict("germanium")


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://127.0.0.1", "http://[", "", "http://"])
def test_what_is_no_address_is_told_as_such(url):
    with pytest.raises((InputError, ConnectionError), match="expected"), Client(url) as client:
        client.runs()


def test_a_server_that_is_away_is_a_connection_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(ConnectionError, match="Start it"),
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        client.runs()


def test_an_empty_server_and_one_of_several_runs_ask_for_a_name():
    runs = RunStore()
    with serving(served_app(runs, folders=())) as url:
        with pytest.raises(InputError, match="none yet"):
            beamsteer.open_run(url)
        for name in ("ge-1", "ge-2"):
            runs.publish(snapshot(run_id=name))
        with pytest.raises(InputError, match="ge-"):
            beamsteer.open_run(url)
        assert beamsteer.open_run(url, "ge-2").run_id == "ge-2"


def test_actions_are_asked_for_and_the_second_of_two_is_told(tmp_path, folder):
    with (
        serving(served_app(store(), folders=[tmp_path])) as url,
        Client(url) as ada,
        Client(url) as bob,
    ):
        seen = bob.actions("ge-demo").version
        done = ada.act("ge-demo", {"what": "pin", "psi_deg": 48.0}, why="look again", by="Ada")
        assert (done.asked.what, done.state) == ("pin", "asked for")
        with pytest.raises(ConflictError, match="Ada"):
            bob.act("ge-demo", {"what": "pin", "psi_deg": 12.0}, why="here", version=seen)
        with pytest.raises(InputError, match="psi_deg"):
            bob.act("ge-demo", {"what": "pin"}, why="here")
        assert [one.by for one in bob.actions("ge-demo").actions] == ["Ada (local)"]
