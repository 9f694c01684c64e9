"""``/v1/predict`` over HTTP with the real process behind it: answers, jobs, what is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from steering.run import RunStore
from steering.web import BoundedPredictor, create_app, serving

DOS = {"structure": "germanium", "quantity": "dos", "wait_s": 30}
SLOW = {"structure": "MnO", "ei_meV": 300, "wait_s": 0}
CUBIC = "{title}\n1.0\n4 0 0\n0 4 0\n0 0 4\n{species}\n{count}\ndirect\n{rows}\n"
GOOD = CUBIC.format(title="Al", species="Al", count=1, rows="0 0 0")
CIF = (
    "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n"
    "_cell_angle_beta 90\n_cell_angle_gamma 90\nloop_\n_atom_site_label\n_atom_site_type_symbol\n"
    "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
    "Al1 Al 0 0 0 0.5\nNi1 Ni 0 0 0 0.5\n"
)


@pytest.fixture(scope="module")
def served():
    one = BoundedPredictor()
    with serving(create_app(RunStore(), one)) as url:
        yield url, one


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served[0], timeout=120) as found:
        yield found


def ended(client, answer):
    """What becomes of a request, however long that takes."""
    if answer.status_code != 202:
        return answer
    job = until(client, answer.json(), "done", "failed", "cancelled", seconds=170)
    return client.get(f"/v1/jobs/{job['id']}/result")


def predicted(client, fields):
    """Answer to fields as JSON."""
    return ended(client, client.post("/v1/predict", json=fields))


def sent(client, *files, **fields):
    """Answer to a form with files."""
    fields = {"quantity": "dos", "wait_s": "30"} | fields
    files = [("files", one) for one in files]
    return ended(client, client.post("/v1/predict", files=files, data=fields))


def state_of(client, job):
    return client.get(f"/v1/jobs/{job['id']}").json()


def until(client, job, *states, seconds=120.0):
    end = time.monotonic() + seconds
    while (now := state_of(client, job))["state"] not in states:
        assert time.monotonic() < end, now
        time.sleep(0.02)
    return now


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def child_of(one: BoundedPredictor) -> int:
    assert one._child is not None
    return one._child._process.pid


# --- answers -----------------------------------------------------------------------------------


def test_a_prediction_comes_as_json_arrays_table_and_picture(client):
    answer = predicted(client, DOS)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    width = np.diff(found["dos"]["energy_meV"]).mean()
    assert np.sum(found["dos"]["total"]) * width == pytest.approx(6.0, rel=0.01)
    assert found["structure"]["symbols"] == ["Ge", "Ge"]
    again = client.post("/v1/predict", json=DOS | {"format": "npz"})
    assert again.headers["x-beamsteer-known"] == "yes"
    arrays = np.load(io.BytesIO(again.content), allow_pickle=False)
    np.testing.assert_allclose(arrays["dos.total"], found["dos"]["total"])
    assert json.loads(str(arrays["about"]))["route.kind"] == "force_constants"
    where = again.headers["location"]
    table = client.get(f"{where}/result", params={"format": "csv", "part": "dos"})
    lines = [line for line in table.text.splitlines() if not line.startswith("#")]
    assert lines[0] == "energy_meV,total_per_meV,Ge_per_meV"
    assert float(lines[9].split(",")[1]) == pytest.approx(found["dos"]["total"][8], rel=1e-6)
    picture = client.get(f"{where}/result", params={"format": "png"})
    assert picture.content.startswith(b"\x89PNG")
    assert len(picture.content) > 20_000
    wrong = client.get(f"{where}/result", params={"format": "csv", "part": "powder"})
    assert wrong.status_code == 422
    assert "expected one of dos" in wrong.json()["detail"]


def test_every_preset_is_told_with_its_reach(client):
    told = client.get("/v1/predict/options").json()
    kinds = {one["name"]: one["kind"] for one in told["presets"]}
    direct = dict.fromkeys(("ARCS", "CNCS", "HYSPEC", "SEQUOIA"), "direct")
    assert kinds == direct | {"VISION": "indirect", "TOSCA": "indirect", "generic": "generic"}
    arcs = told["presets"][0]
    assert 0 < arcs["two_theta_deg"][0] < arcs["two_theta_deg"][1] < 180
    assert np.all(np.diff(arcs["elastic_fwhm_meV"]) > 0)
    assert "auto" in told["routes"]
    assert told["database"] is None
    assert client.get("/v1/predict/search", params={"text": "Si"}).status_code == 404


def test_files_of_one_structure_go_together(client, shared_data):
    folder = shared_data / "phonopy-test" / "NaCl"
    names = ("phonopy_disp.yaml", "FORCE_SETS", "BORN")
    whole = sent(client, *[(name, (folder / name).read_bytes()) for name in names])
    assert whole.status_code == 200, whole.text
    found = whole.json()
    assert found["structure"]["formula"] == "NaCl"
    assert found["route"] == {"kind": "force_constants", "source": "phonopy_disp.yaml"}
    assert "beamsteer-" not in whole.text  # no place of this machine is told
    alone = sent(client, ("FORCE_SETS", (folder / "FORCE_SETS").read_bytes()))
    assert alone.status_code == 422
    assert "without a structure" in alone.json()["detail"]


def test_a_job_tells_its_progress_by_events_and_then_its_result(client):
    begun = client.post("/v1/predict", json=DOS | {"wait_s": 0, "temperature_K": 11})
    assert begun.status_code == 202
    job = begun.json()
    assert begun.headers["location"] == f"/v1/jobs/{job['id']}"
    states, stages = [], []
    with client.stream("GET", job["events"]) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                told = json.loads(line.removeprefix("data: "))
                states.append(told["state"])
                stages.append(told["stage"])
    assert states[-1] == "done"
    # What changes while nobody looks is told once, as it is then.
    assert {"begins", "structure and vibrations"} & set(stages)
    result = client.get(state_of(client, job)["result"])
    assert result.json()["temperature_K"] == 11
    assert client.get("/v1/jobs/unknown").status_code == 404


# --- bad input ---------------------------------------------------------------------------------

MILLION = "Al\n1.0\n900 0 0\n0 900 0\n0 0 900\nAl\n1000000\ndirect\n" + "0.1 0.2 0.3\n" * 1_000_000
BAD_FILES = {
    "empty": (("POSCAR", b" \n"), "is empty"),
    "binary": (("POSCAR", bytes(range(256)) * 9), "is binary"),
    "a million atoms": (("POSCAR.gz", gzip.compress(MILLION.encode(), 1)), "1,000,000 atoms"),
    "a thousand million atoms": (
        ("POSCAR", GOOD.replace("\n1\n", "\n1000000000\n").encode()),
        "1,000,000,000 atoms",
    ),
    "NaN cell": (("POSCAR", GOOD.replace("4 0 0", "nan 0 0").encode()), "finite"),
    "needle cell": (("POSCAR", GOOD.replace("4 0 0", "4000 0 0").encode()), "needle"),
    "flat cell": (("POSCAR", GOOD.replace("4 0 0", "0 4 0.0001").encode()), "structure"),
    "unknown species": (("POSCAR", GOOD.replace("Al", "Xx").encode()), "Xx"),
    "overlapping atoms": (
        (
            "POSCAR",
            CUBIC.format(title="x", species="Al Ni", count="1 1", rows="0 0 0\n0 0 0.01").encode(),
        ),
        "atoms 1 (Al) and 2 (Ni)",
    ),
    "partial occupancy": (("x.cif", CIF.encode()), "--order"),
    "a bomb": (("POSCAR", gzip.compress(b"0" * 80 * 2**20, 1)), "unpacks to too much"),
    "half of gzip": (("POSCAR", gzip.compress(GOOD.encode())[:40]), "cannot be unpacked"),
    "a tag": (
        ("phonopy.yaml", b"unit_cell: !!python/object/apply:os.system ['true']\n"),
        "tag",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_words_and_the_process_goes_on(client, served, name):
    file, says = BAD_FILES[name]
    predicted(client, DOS)  # so that there is a process
    before = child_of(served[1])
    answer = sent(client, file)
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["detail"]
    assert child_of(served[1]) == before
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/passwd", "a/POSCAR", "..", "x" * 300, "..\\..\\x", "file:POSCAR"],
)
def test_a_name_with_a_path_is_refused(client, name):
    answer = sent(client, (name, GOOD.encode()))
    assert answer.status_code == 422
    assert "without any folder" in answer.json()["detail"]


def test_a_name_with_nul_is_refused(client):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="PO\x00SCAR"\r\n\r\n'
        + GOOD.encode()
        + b"\r\n--b--\r\n"
    )
    answer = client.post(
        "/v1/predict", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 422, answer.text
    assert "without any folder" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ei_meV": 20, "energy_max_meV": 30}, "expected less than Ei"),
        ({"ei_meV": -4}, "ei_meV"),
        ({"instrument": "NONESUCH"}, "expected one of ARCS"),
        ({"instrument": "VISION", "quantity": "powder"}, "sees S(E) alone"),
        ({"quantity": "vibrational"}, "VISION or TOSCA"),
        ({"route": "guess"}, "route is 'guess'"),
        ({"colour": "red"}, "colour"),
        ({"wait_s": "soon"}, "wait_s is 'soon'"),
        ({"time_limit_s": 1e5}, "expected at most 600"),
        ({"format": "xml"}, "expected one of json"),
        ({"structure": "/etc/hostname"}, "expected one of"),
        ({"structure": "germanium", "isotopes": {"Ge": "71Xx"}}, "'Xx' is no element"),
    ],
)
def test_a_bad_field_is_refused_in_words(client, fields, says):
    answer = predicted(client, DOS | fields)
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["detail"]


def test_isotopes_of_a_form_are_read_as_at_the_command_line(client):
    twice = sent(client, ("POSCAR", GOOD.encode()), isotopes="Si=28Si,Si=30Si")
    assert twice.status_code == 422
    assert "isotopes is 'Si=28Si,Si=30Si', which names Si twice" in twice.json()["detail"]


def test_a_body_that_is_none_is_refused(client):
    for content, kind, status in (
        (b"{", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b"x", "text/plain", 415),
        (b" " * 3_000_000, "application/json", 413),
    ):
        answer = client.post("/v1/predict", content=content, headers={"content-type": kind})
        assert answer.status_code == status, answer.text
    both = sent(client, ("POSCAR", GOOD.encode()), structure="germanium")
    assert "both structure and files" in both.json()["detail"]
    twice = sent(client, ("POSCAR", GOOD.encode()), ("POSCAR", GOOD.encode()))
    assert "second POSCAR" in twice.json()["detail"]


def test_an_upload_of_200_megabytes_is_refused_while_it_is_read(client):
    taken = 0

    def pieces():
        nonlocal taken
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="POSCAR"\r\n\r\n'
        for _ in range(200):
            taken += 2**20
            yield b"x" * 2**20

    headers = {"content-type": "multipart/form-data; boundary=b"}
    before = resident_bytes()
    with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        answer = client.post("/v1/predict", content=pieces(), headers=headers)
        assert answer.status_code == 413
        assert "16777216 bytes" in answer.json()["detail"]
    assert taken < 60 * 2**20  # the rest was never taken
    assert resident_bytes() - before < 80 * 2**20
    parts = urlsplit(str(client.base_url))
    with socket.create_connection((parts.hostname, parts.port), 20) as declared:
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000000\r\n"
        declared.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        assert b" 413 " in declared.recv(65536)[:20]
    assert client.get("/health").status_code == 200


# --- faults ------------------------------------------------------------------------------------


def computing(client, job):
    """Wait until the process is at work on a job."""
    end = time.monotonic() + 120
    while (now := state_of(client, job))["fraction"] < 0.05:
        assert now["state"] in ("waiting", "running"), now
        assert time.monotonic() < end, now
        time.sleep(0.02)


def test_a_cancelled_job_ends_its_process_but_not_while_another_waits_for_it(client, served):
    first, second = (client.post("/v1/predict", json=SLOW).json() for _ in range(2))
    assert first["id"] != second["id"]
    computing(client, first)
    pid = child_of(served[1])
    assert client.delete(f"/v1/jobs/{first['id']}").json()["state"] == "cancelled"
    assert client.get(f"/v1/jobs/{first['id']}/result").status_code == 410
    time.sleep(0.3)
    assert state_of(client, second)["state"] == "running"
    assert alive(pid)
    client.delete(f"/v1/jobs/{second['id']}")
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(pid)
    assert predicted(client, DOS | {"temperature_K": 12}).status_code == 200
    assert child_of(served[1]) != pid


def test_a_process_that_dies_is_told_and_replaced(client, served):
    predicted(client, DOS)
    job = client.post("/v1/predict", json=SLOW | {"ei_meV": 302}).json()
    computing(client, job)
    os.kill(child_of(served[1]), signal.SIGSEGV)
    told = until(client, job, "failed")
    assert told["fault"]["status"] == 422
    assert "crashed (SIGSEGV)" in told["fault"]["detail"]
    assert client.get(f"/v1/jobs/{job['id']}/result").status_code == 422
    assert sent(client, BAD_FILES["binary"][0]).status_code == 422  # by a new one
    os.kill(child_of(served[1]), signal.SIGKILL)  # between two requests: nobody is told
    time.sleep(0.2)
    answer = sent(client, BAD_FILES["unknown species"][0])
    assert "Xx" in answer.json()["detail"]


@pytest.mark.slow
def test_a_time_limit_ends_a_job(client):
    fields = SLOW | {"ei_meV": 303, "time_limit_s": 0.3, "wait_s": 30}
    answer = predicted(client, fields | {"route": "force_field"})
    assert answer.status_code == 422
    assert "longer than 0.3 s" in answer.json()["detail"]


def test_auto_asks_no_route_beyond_the_time_limit_and_others_are_compared_within_it(client):
    fields = {"structure": "MnO", "quantity": "dispersion", "time_limit_s": 4.0}
    answer = predicted(client, fields)
    assert answer.status_code == 422
    assert "no route fits into the time limit of 4 s" in answer.json()["detail"]
    fields = DOS | {"compare": True, "time_limit_s": 25}
    known = predicted(client, fields).json()["routes"]
    assert [one["route"] for one in known if one["chosen"]] == ["force_constants"]
    assert {one["route"] for one in known} >= {"database", "direct", "force_field"}


def test_the_older_path_waits_in_the_same_queue(monkeypatch):
    monkeypatch.setattr("steering.web.prediction_jobs.JOBS_IN_ALL", 1)
    with (
        serving(create_app(RunStore(), BoundedPredictor())) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        job = client.post("/v1/predict", json=SLOW | {"ei_meV": 330})
        assert job.status_code == 202
        older = client.post("/predict", json={"structure": "germanium", "quantity": "dos"})
        assert older.status_code == 429
        assert int(older.headers["retry-after"]) >= 1
        client.delete(f"/v1/jobs/{job.json()['id']}")


def test_two_users_at_once_are_both_served_in_turn(served):
    url, _ = served

    def asked(temperature_K):
        with httpx.Client(base_url=url, timeout=120) as one:
            fields = DOS | {"temperature_K": temperature_K, "wait_s": 30}
            return predicted(one, fields)

    with ThreadPoolExecutor(2) as users:
        both = list(users.map(asked, (21.0, 22.0)))
    assert [one.status_code for one in both] == [200, 200]
    assert [one.json()["temperature_K"] for one in both] == [21.0, 22.0]


def test_fifty_at_once_are_answered_and_what_is_asked_twice_is_computed_once(served, monkeypatch):
    url, one = served
    computed = []
    predict = one.predict
    monkeypatch.setattr(
        one, "predict", lambda asked, **more: (computed.append(asked), predict(asked, **more))[1]
    )
    before = resident_bytes()

    def asked(k):
        with httpx.Client(base_url=url, timeout=120) as own:
            fields = DOS | {"quantity": "dispersion", "temperature_K": 30.0 + k % 5}
            return predicted(own, fields).status_code

    with ThreadPoolExecutor(50) as users:
        found = list(users.map(asked, range(50)))
    assert found == [200] * 50
    assert len(computed) == 5
    assert resident_bytes() - before < 200 * 2**20


@pytest.mark.slow
def test_too_many_waiting_requests_are_told_when_to_come_again(monkeypatch):
    monkeypatch.setattr("steering.web.prediction_jobs.JOBS_PER_USER", 2)
    with (
        serving(create_app(RunStore(), BoundedPredictor())) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        jobs = [client.post("/v1/predict", json=SLOW | {"ei_meV": 310 + k}) for k in range(3)]
        assert [one.status_code for one in jobs] == [202, 202, 429]
        assert int(jobs[2].headers["retry-after"]) >= 1
        waiting = jobs[1].json()
        assert state_of(client, waiting)["state"] == "waiting"
        client.delete(f"/v1/jobs/{waiting['id']}")
        assert state_of(client, waiting)["state"] == "cancelled"
        assert client.post("/v1/predict", json=SLOW | {"ei_meV": 320}).status_code == 202


@pytest.mark.slow
def test_a_full_disk_costs_the_cache_and_an_upload_says_so(small_disk, monkeypatch):
    folder = small_disk.folder / "cache"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(small_disk.folder))  # of the process
    one = BoundedPredictor(cache_folder=folder)
    with (
        serving(create_app(RunStore(), one)) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        assert sent(client, BAD_FILES["unknown species"][0]).status_code == 422  # there is room yet
        small_disk.fill()
        answer = predicted(client, DOS)
        assert answer.status_code == 200, answer.text  # computed, and kept in memory alone
        assert client.post("/v1/predict", json=DOS).headers["x-beamsteer-known"] == "yes"
        assert not list(folder.iterdir())
        full = sent(client, ("POSCAR", GOOD.encode()), route="given")
        assert full.status_code == 507
        assert "full" in full.json()["detail"]
        small_disk.make_room()
        again = sent(client, ("POSCAR", GOOD.encode()), route="given")
        assert again.status_code == 422
        assert "no force constants" in again.json()["detail"]
        assert predicted(client, DOS | {"temperature_K": 5}).status_code == 200
        assert len(list(folder.iterdir())) == 1


@pytest.mark.slow
def test_a_server_that_stops_ends_jobs_and_their_events():
    one = BoundedPredictor()
    lines: list[str] = []
    with serving(create_app(RunStore(), one)) as url:
        job = httpx.post(f"{url}v1/predict", json=SLOW, timeout=60).json()

        def follow():
            with contextlib.suppress(httpx.HTTPError):
                with httpx.stream("GET", url.rstrip("/") + job["events"], timeout=60) as stream:
                    lines.extend(stream.iter_lines())

        reader = threading.Thread(target=follow)
        reader.start()
        end = time.monotonic() + 30
        while not lines and time.monotonic() < end:
            time.sleep(0.02)
        began = time.monotonic()
    reader.join(20)
    assert time.monotonic() - began < 12
    assert not reader.is_alive()
    assert one.predict(DOS).status == 503
