"""Uploads end a process of their own at worst, never the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from steering.run import RunStore
from steering.web import BoundedPredictor, create_app, serving
from steering.web.prediction_cache_store import PredictionCache
from steering.web.prediction_jobs import PredictionJobs
from steering.web.prediction_process import Limits

NAN = "Si\n1.0\nnan 2.7 2.7\n2.7 0 2.7\n2.7 2.7 0\nSi\n2\nDirect\n0 0 0\n0.25 0.25 0.25\n"
MANY = "Si\n1.0\n0 2.7 2.7\n2.7 0 2.7\n2.7 2.7 0\nSi\n1000000000\nDirect\n0 0 0\n"
GOOD = {"structure": "germanium", "quantity": "dos"}
SLOW = {"structure": "MnO", "quantity": "all", "ei_meV": 300}


def predictor(**limits):
    return contextlib.closing(BoundedPredictor(Limits(**limits)))


def child_of(one: BoundedPredictor) -> int:
    until = time.monotonic() + 60
    while one._child is None and time.monotonic() < until:
        time.sleep(0.01)
    assert one._child is not None
    return one._child._process.pid


def said(prediction) -> str:
    return json.loads(prediction.content)["detail"]


def largest_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def test_a_server_outlives_what_others_upload_and_says_what_was_wrong():
    one = BoundedPredictor()
    with (
        serving(create_app(RunStore(), one)) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        for text, says in (
            (NAN, "finite"),
            (MANY, "1,000,000,000 atoms"),
            ("Si", "expected one of"),
        ):
            answer = client.post("/predict", files={"file": ("POSCAR", text)})
            assert answer.status_code == 422
            assert says in answer.json()["detail"]
        pid = child_of(one)
        for text in (NAN, MANY):  # the process is there by now
            began = time.monotonic()
            assert client.post("/predict", files={"file": ("POSCAR", text)}).status_code == 422
            assert time.monotonic() - began < 10
        assert largest_bytes(pid) < 2 * 2**30
        assert client.post("/predict", json=GOOD).status_code == 200
        assert child_of(one) == pid  # nobody waits for the libraries twice
        with ThreadPoolExecutor(1) as beside:
            asked = beside.submit(client.post, "/predict", json=SLOW)
            until = time.monotonic() + 60
            while not one._one_at_a_time.locked() and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(pid, signal.SIGSEGV)
            answer = asked.result()
        assert answer.status_code == 422
        assert "crashed (SIGSEGV)" in answer.json()["detail"]
        assert client.get("/health").status_code == 200
        assert client.post("/predict", json=GOOD).status_code == 200
        assert child_of(one) != pid
        last = child_of(one)
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_memory_is_bounded_and_told():
    with predictor(memory_bytes=20 * 2**20) as one:
        told = one.predict(SLOW)
        assert told.status == 422
        assert "GiB" in said(told) or "crashed (SIG" in said(told)


def test_time_is_bounded_and_told():
    with predictor(wall_s=0.3) as one:
        told = one.predict(SLOW)
        assert told.status == 422
        assert "longer than 0.3 s" in said(told)
    with predictor(processor_s=0.0) as one:
        told = one.predict(SLOW)
        assert told.status == 422
        assert "processor time" in said(told)
        assert "beamsteer predict" in said(told)


def test_a_server_that_stops_ends_the_computation():
    one = BoundedPredictor()
    asked = threading.Thread(target=one.predict, args=(SLOW,))
    asked.start()
    child_of(one)
    began = time.monotonic()
    one.close()
    asked.join()
    assert time.monotonic() - began < 10
    assert one.predict(GOOD).status == 503


def test_a_process_that_cannot_start_is_told(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with predictor() as one:
        told = one.predict(GOOD)
    assert told.status == 503
    assert "does not start" in said(told)


FAULTY = {"uploaded": 5}  # no request of the server's own looks like it


def test_a_fault_ends_its_process_and_is_no_fault_of_the_next_request():
    with predictor() as one:
        for _ in range(3):
            fault = one.predict(FAULTY)
            assert fault.status == 500
            assert "fault of Beamsteer" in said(fault)
            assert one._child is None  # nobody is given to what ends
            assert one.predict(GOOD).status == 200
        pid = child_of(one)
        assert one.predict({"structure": "nothing"}).status == 422
        assert child_of(one) == pid  # the words of a refusal end nothing


def test_want_of_memory_is_no_fault_of_the_next_request():
    with predictor(memory_bytes=80 * 2**20) as one:
        for _ in range(2):
            told = one.predict(SLOW)
            assert told.status == 422
            assert "GiB" in said(told) or "crashed (SIG" in said(told)
            refused = one.predict({"structure": "nothing"})
            assert "structure is 'nothing'" in said(refused)


def test_a_job_after_a_fault_gets_its_answer(tmp_path):
    async def states(one) -> list[tuple[str, int]]:
        jobs = PredictionJobs(one, PredictionCache(folder=tmp_path))
        begun = [
            await jobs.submit(f"user {k}", f"{k:064x}", asked, size=100)
            for k, asked in enumerate((FAULTY, GOOD, FAULTY | {"uploaded": 6}, GOOD))
        ]
        for job in begun:
            await jobs.wait(job, 120)
        return [(job.state, 200 if job.fault is None else job.fault.status) for job in begun]

    with predictor() as one:
        found = asyncio.run(states(one))
    assert found == [("failed", 500), ("done", 200)] * 2
