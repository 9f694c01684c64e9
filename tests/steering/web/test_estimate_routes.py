"""``/v1/estimate`` over HTTP: what is read, what is refused, many at once."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import shutil
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from model_server.networks import BundleRegistry, FoldedSpectrum, read_spectra
from steering.run import RunStore, guess_folded
from steering.web import Models, create_app, estimate_routes, serving
from steering.web.guards import LARGER_BODIES
from tests.model_server.networks.small_bundle import sums, trained

PATH = "/v1/estimate"
TOKEN = "a-token-of-this-test-alone"  # noqa: S105


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("models")
    trained().save(found / "small")
    trained().save(found / "broken")
    (found / "broken" / "weights.safetensors").write_bytes(b"nothing")
    return found


@pytest.fixture(scope="module")
def served(folder):
    with serving(create_app(RunStore(), models=Models([folder]))) as url:
        yield url


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served, timeout=120) as found:
        yield found


def npz(**more) -> bytes:
    file = io.BytesIO()
    told = {**sums(), **more}
    np.savez(file, **{key: value for key, value in told.items() if value is not None})
    return file.getvalue()


def asked(name="one", **more):
    told = sums()
    keys = {"signal": "S", "exposure": "D", "counts": "N"}
    same = ("path_hkl_rlu", "energy_edges_meV")
    return (
        {"name": name}
        | {label: told[key].tolist() for label, key in keys.items()}
        | {key: told[key].tolist() for key in same}
        | more
    )


def in_process(bundle, seed=0):
    told = sums(seed=seed)
    spectrum = FoldedSpectrum.of_sums(
        name="x",
        signal=told["S"],
        exposure=told["D"],
        counts=told["N"],
        path_hkl=told["path_hkl_rlu"],
        energy_edges_meV=told["energy_edges_meV"],
    )
    return read_spectra(bundle, [spectrum])[0]


def values(answer):
    assert answer.status_code == 200, answer.text
    return [[one["value"] for one in each["parameters"]] for each in answer.json()["estimates"]]


def test_sums_a_file_and_a_form_give_what_the_process_gives(client, folder, tmp_path):
    own = in_process(BundleRegistry([folder]).get("small"))
    (tmp_path / "folded.npz").write_bytes(npz())
    verb = guess_folded([tmp_path / "folded.npz"], model="small", models=[folder])
    sent = [
        client.post(PATH, json={"model": "small", "spectra": [asked()]}),
        client.post(PATH, params={"model": "small"}, content=npz(), headers=OCTETS),
        client.post(PATH, data={"model": "small"}, files=[("files", ("folded.npz", npz()))]),
    ]
    for answer in sent:
        np.testing.assert_allclose(values(answer)[0], own.values, rtol=1e-9)
        assert answer.headers["cache-control"] == "no-store"
        told = answer.json()
        assert told["model"] == "small"
        one = told["estimates"][0]
        assert one["counts"] == own.counts
        assert one["latent_distance"] == pytest.approx(own.latent_distance)
        assert one["checked"] == ["path", "energy axis"]
        assert one["parameters"][0]["typical_error"] > 0
    form = sent[-1].json()
    form["estimates"][0]["name"] = verb["estimates"][0]["name"]
    assert json.loads(json.dumps(verb)) == form, "the verb gives the same document"


OCTETS = {"Content-Type": "application/octet-stream"}


def test_several_in_one_request_are_answered_in_order(client, folder):
    bundle = BundleRegistry([folder]).get("small")
    files = [("files", (f"{k}.npz", npz(**sums(seed=k)))) for k in range(5)]
    answer = client.post(PATH, data={"model": "small"}, files=files)
    for k, read in enumerate(values(answer)):
        np.testing.assert_allclose(read, in_process(bundle, k).values, rtol=1e-5)
    assert [one["name"] for one in answer.json()["estimates"]] == [f"{k}.npz" for k in range(5)]


def test_nulls_stand_where_nothing_is_known_and_nowhere_else(client):
    told = asked()
    known = values(client.post(PATH, json={"model": "small", "spectra": [told]}))
    for label in ("signal", "exposure", "counts"):
        told[label][3] = [None] * 10
    again = client.post(PATH, json={"model": "small", "spectra": [told]})
    assert values(again) == known
    told["signal"][0][2] = None
    refused = client.post(PATH, json={"model": "small", "spectra": [told]})
    assert refused.status_code == 422
    assert "one: signal is null where exposure is not" in refused.json()["detail"]


def test_models_are_listed_with_their_faults(client):
    client.post(PATH, json={"model": "small", "spectra": [asked()]})
    found = {one["name"]: one for one in client.get("/v1/models").json()["models"]}
    assert {"small", "broken", "germanium"} <= set(found)
    assert found["small"]["parameters"] == ["a", "b"]
    assert found["small"]["loaded"]
    assert found["germanium"]["shipped"]
    refused = client.post(PATH, json={"model": "broken", "spectra": [asked()]})
    assert refused.status_code == 503
    assert "broken" in refused.json()["detail"]


NAMES = ("none", "../small", "..%2Fsmall", "/etc/passwd", "small/../small", ".", "a" * 200, "\0")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_none_is_404_and_leads_to_no_file(client, name):
    for answer in (
        client.post(PATH, json={"model": name, "spectra": [asked()]}),
        client.post(PATH, params={"model": name}, content=npz(), headers=OCTETS),
        client.get(f"/v1/models/{quote(name, safe='')}/card"),
    ):
        assert answer.status_code == 404, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def bomb() -> bytes:
    """A few hundred kilobytes that claim, and unpack to, much more."""
    told = "{'descr': '<f8', 'fortran_order': False, 'shape': (8, 10), }".ljust(117) + "\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told.encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("S.npy", head + bytes(64 * 2**20))
    return file.getvalue()


NAN = np.full((8, 10), np.nan)
BODIES = {
    "empty": (b"", 422, "body is empty"),
    "binary": (bytes(range(256)) * 100, 422, "is no NPZ"),
    "pickled": (pickle.dumps({"S": 1}), 422, "is no NPZ"),
    "objects": (npz(S=np.full((8, 10), None)), 422, "would have to be unpickled"),
    "bomb": (bomb(), 422, "longer or shorter than its head says"),
    "wrong shape": (npz(S=np.ones((8, 9))), 422, r"S has shape \(8, 9\)"),
    "NaN": (npz(S=NAN), 422, "values that are not finite"),
    "nothing counted": (npz(S=np.zeros((8, 10))), 422, "nothing was counted"),
    "cut off": (npz()[:2000], 422, "is no NPZ"),
    "no axes": (npz(path_hkl_rlu=None), 422, "has no path_hkl_rlu"),
    "another path": (npz(path_hkl_rlu=sums()["path_hkl_rlu"] + 1), 422, "path differ"),
    "others": (npz(parameter_names=np.array(["c", "d"])), 422, "parameter names differ"),
    "isotopes": (npz(isotopes=np.array(["70Ge"])), 422, "isotopes differ"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_bodies_that_are_no_fold_of_this_experiment_are_refused(client, kind):
    body, status, says = BODIES[kind]
    answers = [client.post(PATH, params={"model": "small"}, content=body, headers=OCTETS)]
    if body:
        answers.append(client.post(PATH, data={"model": "small"}, files=[("f", ("x.npz", body))]))
    for answer in answers:
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert re.search(says, answer.json()["detail"]), answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body is"),
        (b"{", "body is"),
        (b"[" * 5000, "body is"),
        (b"[]", "body is"),
        (b'{"model": "small"}', "spectra is"),
        (b'{"model": "small", "spectra": []}', "spectra is"),
        (b'{"model": 3, "spectra": [1]}', "model is 3"),
    ],
)
def test_json_that_is_no_request_is_refused(client, body, says):
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"signal": [[1.0], [2.0, 3.0]]}, "S is no array of numbers"),
        ({"signal": [["1"] * 10] * 8}, "spectra.0.signal.0.0 is '1'"),
        ({"signal": [[True] * 10] * 8}, "spectra.0.signal.0.0 is True"),
        ({"exposure": [[-1.0] * 10] * 8}, "D is as low as -1"),
        ({"signal": [[1e200] * 10] * 8}, "beyond 1e+100"),
        ({"energy_edges_meV": [0.0, 1.0]}, "S has shape (8, 10); expected (8, 1)"),
        ({"path_hkl_rlu": [[0.0, 0.0]] * 8}, "path_hkl_rlu"),
        ({"colour": "red"}, "colour is 'red'"),
        ({"parameter_names": ["a", "z"]}, "parameter names differ"),
    ],
)
def test_sums_that_make_no_sense_are_refused_by_their_field(client, more, says):
    answer = client.post(PATH, json={"model": "small", "spectra": [asked(**more)]})
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_not_a_number_is_no_json_number(client):
    text = json.dumps({"model": "small", "spectra": [asked(signal=[[float("nan")] * 10] * 8)]})
    answer = client.post(PATH, content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_another_experiment_is_refused_by_its_hash(client):
    body = {"model": "small", "spectra": [asked()]}
    own = client.get("/v1/models/small/card").json()["experiment"]["hash"]
    assert client.post(PATH, json=body | {"experiment": own}).status_code == 200
    refused = client.post(PATH, json=body | {"experiment": "0123456789abcdef"})
    assert refused.status_code == 422
    assert own in refused.json()["detail"]


def test_other_kinds_of_bodies_and_forms_are_told_what_is_expected(client):
    assert client.post(PATH, content=b"x", headers={"Content-Type": "text/csv"}).status_code == 415
    assert "model is missing" in client.post(PATH, content=npz(), headers=OCTETS).text
    assert "no file came" in client.post(PATH, files={"model": (None, "small")}).text
    many = [("files", (f"{k}.npz", b"x")) for k in range(101)]
    assert client.post(PATH, data={"model": "small"}, files=many).status_code in (400, 422)
    odd = client.post(PATH, data={"model": "small", "colour": "red"}, files=[("f", npz())])
    assert "field is 'colour'" in odd.json()["detail"]


def test_what_is_too_large_is_refused_before_it_is_kept(served, client):
    host = urlsplit(served).netloc
    declared = HTTPConnection(host, timeout=60)
    declared.putrequest("POST", f"{PATH}?model=small")
    declared.putheader("Content-Type", OCTETS["Content-Type"])
    declared.putheader("Content-Length", str(200 * 2**20))
    declared.endheaders(b"PK")
    assert declared.getresponse().status == 413
    declared.close()
    streamed = HTTPConnection(host, timeout=60)
    streamed.putrequest("POST", f"{PATH}?model=small")
    streamed.putheader("Content-Type", OCTETS["Content-Type"])
    streamed.putheader("Transfer-Encoding", "chunked")
    streamed.endheaders()
    piece = bytes(2**20)
    with contextlib.suppress(ConnectionError):  # the server hangs up on what it refused
        for _ in range(LARGER_BODIES[PATH] // len(piece) + 1):
            streamed.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    assert streamed.getresponse().status == 413
    streamed.close()
    text = b'{"model": "small", "spectra": [' + b" " * (estimate_routes.JSON_BYTES + 1)
    too_long = client.post(PATH, content=text, headers={"Content-Type": "application/json"})
    assert too_long.status_code == 413
    assert "Send files" in too_long.json()["detail"]


def figures(client):
    text = client.get("/metrics").text
    return {
        key: float(value)
        for key, value in re.findall(r"^(beamsteer_learned\S+) (\S+)$", text, re.MULTILINE)
    }


def test_fifty_at_once_are_all_answered_and_counted(served, client):
    before = figures(client)
    body = npz()

    def ask(_):
        with httpx.Client(base_url=served, timeout=120) as own:
            return own.post(PATH, params={"model": "small"}, content=body, headers=OCTETS)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    client.post(PATH, json={"model": "none", "spectra": [asked()]})
    after = figures(client)

    def grown(name):
        return after[name] - before[name]

    assert grown('beamsteer_learned_requests_total{outcome="estimated"}') == 50
    assert grown('beamsteer_learned_requests_total{outcome="refused"}') == 1
    assert grown("beamsteer_learned_spectra_total") == 50
    assert grown("beamsteer_learned_estimate_seconds_count") == 50


def test_who_finds_no_place_is_told_when_to_come_again(folder, monkeypatch):
    app = create_app(RunStore(), models=Models([folder]))
    client = TestClient(app, base_url="http://127.0.0.1")
    monkeypatch.setattr(estimate_routes, "REQUESTS", 0)
    answer = client.post(PATH, params={"model": "small"}, content=npz(), headers=OCTETS)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert figures(client)['beamsteer_learned_requests_total{outcome="busy"}'] == 1
    monkeypatch.setattr(estimate_routes, "REQUESTS", 5)
    again = client.post(PATH, params={"model": "small"}, content=npz(), headers=OCTETS)
    assert again.status_code == 200, "the place was given back"


def test_bytes_are_counted_where_a_body_does_not_say_how_long_it_is():
    places = estimate_routes._Places()
    with places.taken(LARGER_BODIES[PATH]):
        room = estimate_routes.BYTES // LARGER_BODIES[PATH] - 1
        held = [places.taken(LARGER_BODIES[PATH]) for _ in range(room)]
        for one in held:
            one.__enter__()
        with pytest.raises(estimate_routes.HTTPException, match="are here already"):
            with places.taken(1):
                pass
        for one in held:
            one.__exit__(None, None, None)
    assert (places.requests, places.bytes) == (0, 0)


def test_a_token_guards_models_and_estimates(folder):
    app = create_app(RunStore(), token=TOKEN, models=Models([folder]))
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get("/v1/models").status_code == 401
    assert client.post(PATH, content=npz(), headers=OCTETS).status_code == 401
    known = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/models", headers=known).status_code == 200


def test_a_model_that_is_replaced_answers_anew(folder, tmp_path):
    shutil.copytree(folder / "small", tmp_path / "small")
    client = TestClient(
        create_app(RunStore(), models=Models([tmp_path])), base_url="http://127.0.0.1"
    )
    body = {"model": "small", "spectra": [asked()]}
    assert client.post(PATH, json=body).json()["experiment"]
    shutil.rmtree(tmp_path / "small")
    assert client.post(PATH, json=body).status_code == 404


def test_the_models_of_a_server_are_loaded_at_its_start(folder, tmp_path):
    shutil.copytree(folder / "small", tmp_path / "small")
    assert set(Models([tmp_path]).warm()) == {"small", "germanium"}
    with pytest.raises(ValueError, match="broken"):
        Models([folder]).warm()
