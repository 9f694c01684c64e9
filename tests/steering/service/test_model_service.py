"""A service beside a fold worker: answers depend on the manifest alone; nothing stops it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from pydantic import TypeAdapter

from consumers.fold import ChunkStart
from consumers.recorded import recorded_source
from consumers.state import (
    ChunkRecord,
    ClosedChunk,
    Manifest,
    RunRecord,
    partition_folder,
    read_manifest,
    run_folder,
    write_manifest,
)
from consumers.transport import KafkaSection, KafkaTopics
from consumers.wire.flatbuffers_codec import decode_data_array
from simulations.errors import StorageError
from steering.experiment import Experiment, Measurement, build_measurement, dump_experiment
from steering.run import ActionLog, Run, RunStore, live_runs, load_snapshot, save_snapshot, words_of
from steering.run.actions import Action, Asked
from steering.service import ModelService, OutputTopics, Publisher, service_registry
from steering.service.health import judge_health, judge_readiness
from steering.service.model_service import base_of, follow, serve_estimates
from steering.web import create_app, serving
from tests.steering import virtual_scan as scans
from tests.steering.fabricated import snapshot
from tests.steering.service.test_publishing import Wire
from tests.steering.virtual_scan import VirtualScan, virtual_scan

__all__ = ["virtual_scan"]
ROOT = Path(__file__).resolve().parents[3]


@cache
def small_experiment() -> Experiment:
    """Coarser still, one leg: here it matters who answers when, from what, and to whom."""
    experiment = scans.known_set_up(scans.small_experiment())
    path = experiment.path.model_copy(
        update={
            "points": (scans.X, scans.GAMMA),
            "bins": (10,),
            "energy": experiment.path.energy.model_copy(update={"bins": 26}),
        }
    )
    instrument = experiment.instrument.model_copy(update={"coarsen": 32})
    targets = experiment.targets.model_copy(update={"relative_sigma": 0.2})  # met by four chunks
    return experiment.model_copy(
        update={"instrument": instrument, "path": path, "targets": targets}
    )


@cache
def small_measurement() -> Measurement:
    return build_measurement(small_experiment(), scans.EXAMPLES)


TOPICS = OutputTopics.of(KafkaTopics(prefix="arcs"))


@pytest.fixture(scope="module")
def folded(virtual_scan: VirtualScan, tmp_path_factory) -> tuple[ClosedChunk, ...]:
    """Five closed chunks: four orientations, and the first again as if the crystal had turned."""
    run = Run(
        small_measurement(), run_id="ge", folder=tmp_path_factory.mktemp("folded"), estimate=False
    )
    for message in recorded_source(virtual_scan.events, run="ge").messages():
        run.accept(message)
    for message in recorded_source(virtual_scan.events[:1], run="ge").messages():
        payload = replace(message.payload, chunk="5")  # type: ignore[call-arg]
        if isinstance(payload, ChunkStart):
            later = run.chunks[-1].start_time_ns + 10**11
            payload = replace(payload, start_time_ns=later, psi_deg=payload.psi_deg + 17.0)
        run.accept(replace(message, source="again", payload=payload))
    assert len(run.chunks) == 5
    return tuple(run.chunks)


@dataclass(frozen=True)
class State:
    """A state folder as a fold worker leaves it."""

    folder: Path
    partition: int = 0

    @property
    def inside(self) -> Path:
        return partition_folder(self.folder, self.partition)

    def commit(self, closed: Sequence[ClosedChunk], run: str = "ge", **changes) -> Manifest:
        """Bring the manifest to exactly these chunks of a run; fields of records by chunk name."""
        chunks = run_folder(self.inside, run) / "chunks"
        chunks.mkdir(parents=True, exist_ok=True)
        records = []
        for chunk in closed:
            if not (chunks / chunk.path.name).exists():
                shutil.copy(chunk.path, chunks)
            record = ChunkRecord(
                chunk=chunk.chunk,
                job=f"job-{chunk.chunk}",
                generation=chunk.generation,
                start_time_ns=chunk.start_time_ns,
                stop_time_ns=chunk.start_time_ns + 10**11,
                status="folded",
                file=(chunks / chunk.path.name).relative_to(self.inside).as_posix(),
            )
            records.append(replace(record, **changes.get(f"chunk_{chunk.chunk}", {})))
        before = read_manifest(self.inside) or Manifest(partition=self.partition)
        runs = dict(before.runs) | {run: RunRecord(chunks=tuple(records))}
        return write_manifest(self.inside, replace(before, runs=runs))

    def answer(self, name: str = "result.json", run: str = "ge") -> Path:
        return run_folder(self.inside, run) / "estimate" / name

    def result(self, run: str = "ge") -> dict:
        return json.loads(self.answer(run=run).read_text())


def service_of(state: State, **how) -> ModelService:
    return ModelService(state.folder, small_measurement(), **how)


@dataclass(frozen=True)
class Answered:
    """A state folder that a service followed commit by commit."""

    state: State
    wire: Wire
    service: ModelService
    looks: tuple[bool, ...]


@pytest.fixture(scope="module")
def answered(folded, tmp_path_factory) -> Answered:
    """Followed from two chunks to five at once."""
    state, wire = State(tmp_path_factory.mktemp("state")), Wire()
    publisher = Publisher(wire, topics=TOPICS, service_id="model-server")
    service = service_of(state, publisher=publisher)
    looks = [service.step()]
    for number in (2, 5):
        state.commit(folded[:number])
        looks.append(service.step())
        publisher.pump()
    looks.append(service.step())
    return Answered(state, wire, service, tuple(looks))


def test_bases_are_few_and_never_far():
    assert [base_of(n) for n in range(1, 10)] == list(range(9))
    assert [base_of(n) for n in range(10, 18)] == [8, 10, 10, 12, 12, 14, 14, 16]
    for n in range(9, 3000):
        assert 0.79 * n <= base_of(n) < n
        assert base_of(base_of(n) + 1) == base_of(n)  # a base is one for all that follow it
    chain, n = 0, 2000
    while n:
        chain, n = chain + 1, base_of(n)
    assert chain <= 40


def test_a_run_of_which_no_chunk_can_be_used_is_shown_with_its_error(folded, tmp_path):
    state, store = State(tmp_path), RunStore()
    state.commit(folded[:1])
    (run_folder(state.inside, "ge") / "chunks" / folded[0].path.name).unlink()
    service = service_of(state, store=store)
    assert not service.step()
    assert not service.step()
    shown = store.get("ge")
    assert shown is not None
    assert folded[0].path.name in str(shown.error)


@pytest.mark.last_bit
def test_every_commit_is_answered_and_none_twice(answered: Answered):
    assert answered.looks == (False, True, True, False)
    result = answered.state.result()
    assert [c["chunk"] for c in result["chunks"]] == ["1", "2", "3", "4", "5"]
    assert result["state_generation"] == 2
    assert len(result["parameters"]) == 3
    assert result["advice"]
    # The first orientation's counts came again under another psi: no crystal scatters so.
    assert not result["trusted"]


@pytest.mark.last_bit
def test_the_same_manifest_gives_the_same_result_however_it_was_reached(
    answered: Answered, tmp_path
):
    fresh = State(tmp_path / "state")
    shutil.copytree(answered.state.folder, fresh.folder, ignore=shutil.ignore_patterns("estimate"))
    assert service_of(fresh).step()
    assert fresh.answer().read_bytes() == answered.state.answer().read_bytes()
    with (
        np.load(fresh.answer("folded.npz")) as ours,
        np.load(answered.state.answer("folded.npz")) as theirs,
    ):
        for name in theirs.files:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_restarted_service_takes_up_the_answer_and_computes_nothing(answered: Answered):
    before = answered.state.answer().read_bytes()
    told = answered.state.answer().stat().st_mtime_ns
    store, wire = RunStore(), Wire()
    publisher = Publisher(wire, topics=TOPICS, service_id="model-server")
    service = service_of(answered.state, store=store, publisher=publisher)
    assert not service.step()
    publisher.pump()
    assert answered.state.answer().read_bytes() == before
    assert answered.state.answer().stat().st_mtime_ns == told
    shown = store.get("ge")
    assert shown is not None
    assert len(shown.history) == 5  # of 2 commits, and of 3 looks that they depend on
    # Its predecessor may have ended before it published.
    assert {topic for topic, _, _ in wire.sent} == {
        TOPICS.folded,
        TOPICS.estimates,
        TOPICS.advice,
    }


def test_what_is_published_carries_its_generation_and_the_sums_of_the_fold(
    answered: Answered, folded
):
    spectra = [decode_data_array(v) for topic, v, _ in answered.wire.sent if topic == TOPICS.folded]
    assert [int(s.variables["state_generation"].values) for s in spectra] == [1, 2]
    total = sum(chunk.sums.signal for chunk in folded)
    np.testing.assert_array_equal(spectra[-1].variables["signal"].values, total)
    for topic in (TOPICS.estimates, TOPICS.advice):
        messages = [json.loads(v) for t, v, _ in answered.wire.sent if t == topic]
        assert [m["state_generation"] for m in messages] == [1, 2]
        assert {m["run"] for m in messages} == {"ge"}
    assert {key for _, _, key in answered.wire.sent} == {b"ge"}
    estimates = [json.loads(v) for t, v, _ in answered.wire.sent if t == TOPICS.estimates]
    assert estimates[-1]["parameters"] == answered.state.result()["parameters"]


def test_the_service_says_what_it_did(answered: Answered):
    status = answered.service.status()
    assert status.chunks == {"ge": 5}
    assert status.generation == {0: 2}
    assert status.error is None
    assert status.counters[f"published.{TOPICS.estimates}"] == 2
    health = judge_health(status, status.last_loop_ns)
    assert judge_readiness(status, health).ok


def test_a_commit_that_changes_no_chunk_moves_the_marker_only(answered: Answered, tmp_path):
    state = State(tmp_path / "state")
    shutil.copytree(answered.state.folder, state.folder)
    service = service_of(state)
    assert not service.step()
    manifest = read_manifest(state.inside)
    assert manifest is not None
    write_manifest(state.inside, replace(manifest, counters={"duplicates": 1}))
    before = state.answer("snapshot.npz").stat().st_mtime_ns
    assert not service.step()
    assert state.result()["state_generation"] == 3
    assert state.result() | {"state_generation": 2} == answered.state.result()
    assert state.answer("snapshot.npz").stat().st_mtime_ns == before


def test_a_withdrawn_chunk_leaves_the_answer_and_says_why(folded, tmp_path):
    state = State(tmp_path)
    state.commit(folded[:2])
    service = service_of(state)
    assert service.step()
    both = state.result()
    away = {"status": "withdrawn", "reason": "the shutter was closed", "file": None}
    state.commit(folded[:2], chunk_2=away)
    assert service.step()
    one = state.result()
    assert one["minutes_used"] == both["minutes_used"] / 2
    assert one["chunks"][1]["status"] == "withdrawn"
    assert one["chunks"][1]["reason"] == "the shutter was closed"
    assert _with_targets(state, relative_sigma=1e-4).step()  # another question, another answer
    assert state.result()["targets"] != one["targets"]
    state.commit(folded[:2], chunk_1=away, chunk_2=away)
    assert not service.step()
    none = state.result()
    assert none["parameters"] == none["advice"] == []
    assert none["stop"] == {
        "stop": False,
        "reason": "nothing measured yet",
        "minutes_to_target": None,
    }
    assert service.status().error is None
    shown = load_snapshot(state.answer("snapshot.npz"))
    assert [c.status for c in shown.chunks] == ["withdrawn", "withdrawn"]


def _with_targets(state: State, **targets) -> ModelService:
    """A service of which somebody has changed the targets in the experiment file."""
    measurement = small_measurement()
    experiment = measurement.experiment
    wanted = experiment.targets.model_copy(update=targets)
    changed = experiment.model_copy(update={"targets": wanted})
    return ModelService(state.folder, replace(measurement, experiment=changed))


# --- actions of people ---------------------------------------------------------------------------

ASIDE = ("actions", "asked", "chunks", "state_generation", "state_id")


def ask(state: State, number: int, what: str, run: str = "ge", **fields) -> Action:
    """Ask as the page does, having seen so many actions."""
    (found,) = [one for one in live_runs([state.folder]) if one.run_id == run]
    return found.ask(
        TypeAdapter(Asked).validate_python({"what": what, **fields}),
        by="Ada",
        role="operator",
        way="api",
        why="because",
        at_ns=time.time_ns(),
        number=number,
    )


def answer_of(state: State) -> dict:
    """All of an answer that does not tell how it came about."""
    return {name: value for name, value in state.result().items() if name not in ASIDE}


def live(folder: Path) -> State:
    (folder / "state.json").write_text("{}")
    return State(folder)


def test_a_chunk_that_somebody_withdraws_leaves_all_as_if_it_had_never_come(folded, tmp_path):
    """To the bit: the answer, and the arrays that it is made of."""
    for name in ("acted", "never"):
        (tmp_path / name).mkdir()
    state, never = live(tmp_path / "acted"), State(tmp_path / "never")
    state.commit(folded[:3])
    service = service_of(state)
    assert service.step()
    before = answer_of(state)
    ask(state, 0, "withdraw", chunk="2")
    assert service.step()
    never.commit((folded[0], folded[2]))
    assert service_of(never).step()
    assert answer_of(state) == answer_of(never) != before
    with np.load(state.answer("folded.npz")) as ours, np.load(never.answer("folded.npz")) as theirs:
        for name in theirs.files:
            np.testing.assert_array_equal(ours[name], theirs[name])
    told = state.result()
    assert told["actions"] == 1
    assert [(c["status"], c["reason"]) for c in told["chunks"]] == [
        ("folded", None),
        ("withdrawn", "because (Ada)"),
        ("folded", None),
    ]
    assert told["chunks"][1]["psi_deg"] == folded[1].psi_deg
    log = ActionLog(run_folder(state.inside, "ge"))
    assert log.read().applied_up_to("model-server") == 1
    # A service that begins anew, and one that was killed before it answered, say the same.
    assert not service_of(state).step()
    ask(state, 1, "restore", chunk="2")
    assert service_of(state).step()
    assert answer_of(state) == before
    assert service_of(state).status().error is None


def test_targets_of_people_are_those_of_an_experiment_that_has_them(folded, tmp_path):
    for name in ("acted", "never"):
        (tmp_path / name).mkdir()
    state, other = live(tmp_path / "acted"), State(tmp_path / "never")
    for one in (state, other):
        one.commit(folded[:4])
    service = service_of(state)
    assert service.step()
    before, fitted = answer_of(state), state.result()["parameters"]
    ask(state, 0, "targets", relative_sigma=1e-4)
    assert service.step()
    assert _with_targets(other, relative_sigma=1e-4).step()
    assert answer_of(state) == answer_of(other)
    assert state.result()["parameters"] == fitted
    assert state.result()["asked"] == {"relative_sigma": 1e-4}
    assert not state.result()["stop"]["stop"]
    ask(state, 1, "targets")
    assert service.step()
    assert answer_of(state) == before  # with all looks that were below target
    assert state.result()["stop"]["stop"]
    assert "asked" not in state.result()


def advised(state: State) -> list[tuple[float, str | None]]:
    return [(one["psi_deg"], one.get("wanted")) for one in state.result()["advice"]]


def test_a_pin_comes_first_a_veto_never_and_a_rejected_one_not_until_the_next_chunk(
    folded, tmp_path
):
    state = live(tmp_path)
    state.commit(folded[:2])
    service = service_of(state)
    assert service.step()
    first, second = (psi for psi, _ in advised(state)[:2])
    plain = advised(state)
    ask(state, 0, "veto", psi_deg=first)
    ask(state, 1, "pin", psi_deg=33.3)  # which is no candidate of ours
    ask(state, 2, "reject", psi_deg=second)
    assert service.step()
    told = advised(state)
    assert told[0] == (33.3, "pinned")
    assert first not in dict(told)
    assert second not in dict(told)
    gains = [one["gain_per_minute"] for one in state.result()["advice"]]
    assert gains[0] > 0  # it is known what the pinned one is worth
    assert gains[1:] == sorted(gains[1:], reverse=True)
    document = state.answer().read_bytes()
    state.answer().unlink()
    assert service_of(state).step()  # from nothing
    assert state.answer().read_bytes() == document
    state.commit(folded[:3])
    assert service.step()
    assert second in dict(advised(state))
    assert first not in dict(advised(state))
    ask(state, 3, "unpin", psi_deg=33.3)
    ask(state, 4, "unveto", psi_deg=first)
    ask(state, 5, "approve", psi_deg=advised(state)[3][0])
    assert service.step()
    assert [wanted for _, wanted in advised(state)[:2]] == ["approved", None]
    assert {psi for psi, _ in plain[:5]} & {psi for psi, _ in advised(state)}


def test_a_closed_run_is_advised_nothing_and_is_ended_until_it_is_opened_again(folded, tmp_path):
    state = live(tmp_path)
    state.commit(folded[:1])
    service = service_of(state)
    assert service.step()
    before = answer_of(state)
    ask(state, 0, "close")
    assert service.step()
    assert state.result()["advice"] == []
    shown = load_snapshot(state.answer("snapshot.npz"))
    assert shown.status == "finished"
    assert words_of(shown.result, status="finished").advice.code == "hidden"
    assert state.result()["parameters"] == before["parameters"]
    ask(state, 1, "reopen")
    assert service.step()
    assert answer_of(state) == before
    assert load_snapshot(state.answer("snapshot.npz")).status == "running"


def test_a_damaged_log_of_actions_is_told_and_changes_nothing(folded, tmp_path):
    state = live(tmp_path)
    state.commit(folded[:1])
    service = service_of(state)
    assert service.step()
    before = state.answer().read_bytes()
    path = run_folder(state.inside, "ge") / "actions.jsonl"
    path.write_text("something else\n")
    assert not service.step()
    assert "Restore it from a backup" in str(service.status().error)
    assert state.answer().read_bytes() == before
    path.unlink()
    assert not service.step()
    assert service.status().error is None


def test_a_broken_chunk_file_is_the_runs_own_fault_and_the_rest_is_answered(folded, tmp_path):
    state, other = State(tmp_path), State(tmp_path, partition=1)
    state.commit(folded[:2])
    (run_folder(state.inside, "ge") / "chunks" / folded[0].path.name).write_bytes(b"half a ch")
    other.commit(folded[2:3], run="other")
    (other.folder / "partition-2").mkdir()
    (other.folder / "partition-2" / "manifest.json").write_text('{"schema_version": 1')
    service = service_of(State(tmp_path))
    assert service.step()
    assert [c["status"] for c in state.result()["chunks"]] == ["set aside", "folded"]
    assert "cannot be used" in state.result()["chunks"][0]["reason"]
    shown = load_snapshot(state.answer("snapshot.npz"))
    assert "Restore the file, or fold it anew." in str(shown.error)
    assert other.result(run="other")["parameters"]
    # A manifest that nobody can read is the service's business.
    assert "not a manifest" in str(service.status().error)


def test_runs_of_the_same_name_in_two_partitions_stay_apart(folded, tmp_path):
    first, second = State(tmp_path), State(tmp_path, partition=1)
    away = {"status": "set aside", "reason": "no psi", "file": None}
    first.commit(folded[:1], chunk_1=away)
    second.commit(folded[:2], chunk_1=away, chunk_2=away)
    store = RunStore()
    service = service_of(State(tmp_path), store=store)
    service.step()
    assert {run.run_id: len(run.chunks) for run in store.list()} == {"ge": 1, "ge@1": 2}
    # And what is asked of one is written where that one lies.
    named = {one.run_id: one.partition for one in live_runs([live(tmp_path).folder])}
    assert named == {"ge": first.inside, "ge@1": second.inside}


def sse_lines(url: str) -> Iterator[str]:
    with httpx.stream("GET", url, timeout=60) as answer:
        yield from answer.iter_lines()


def test_the_page_follows_a_state_folder_with_runs_that_appear_later(tmp_path):
    store, stop = RunStore(), threading.Event()
    follower = threading.Thread(
        target=follow, args=(store, tmp_path, stop), kwargs={"every_s": 0.05}
    )
    follower.start()
    try:
        with serving(create_app(store)) as url:
            assert httpx.get(f"{url}runs").json()["runs"] == []
            lines = sse_lines(f"{url}events")
            threading.Timer(0.1, lambda: _leave(tmp_path, "first", 0)).start()
            told = next(line for line in lines if line.startswith("data:"))
            assert json.loads(told[5:])["run_id"] == "first"
            _leave(tmp_path, "second", 3)
            told = next(line for line in lines if line.startswith("data:"))
            assert json.loads(told[5:])["run_id"] == "second"
            runs = httpx.get(f"{url}runs").json()["runs"]
            assert {run["run_id"] for run in runs} == {"first", "second"}
    finally:
        stop.set()
        follower.join(20)
    assert not follower.is_alive()


def _leave(state: Path, run: str, partition: int) -> None:
    folder = partition_folder(state, partition) / run / "estimate"
    folder.mkdir(parents=True)
    save_snapshot(snapshot(run), folder / "snapshot.npz")


def test_the_verb_answers_once_and_says_what_is_wrong(folded, tmp_path, capsys):
    from steering import cli

    assert cli.run(["model-server", str(tmp_path / "none")]) == 2
    assert "is not there" in capsys.readouterr().err
    state = State(tmp_path)
    state.commit(folded[:1], chunk_1={"status": "set aside", "reason": "no psi", "file": None})
    assert cli.run(["model-server", str(tmp_path), "--once"]) == 75  # it comes with the worker
    assert "experiment.yaml" in capsys.readouterr().err
    dump_experiment(small_experiment(), tmp_path / "experiment.yaml")
    assert cli.run(["model-server", str(tmp_path), "--once", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"]["ge"]["chunks"][0]["reason"] == "no psi"
    assert cli.run(["model-server", "--schema"]) == 0
    schemas = json.loads(capsys.readouterr().out)
    assert set(schemas) == {"beamsteer.estimate", "beamsteer.advice", "beamsteer.folded"}


@pytest.mark.kafka
def test_an_experiment_on_kafka_is_published_there_unless_told_otherwise(
    folded, kafka, kafka_topics, tmp_path, capsys
):
    """Of the topics one is missing; the estimate is made all the same."""
    from steering import cli

    kafka_topics("beamsteer_advice", "beamsteer_folded")
    section = KafkaSection(
        bootstrap_servers=kafka.bootstrap,
        topics=KafkaTopics(prefix=kafka_topics.prefix),
        connect_timeout_s=2.0,
    )
    experiment = small_experiment()
    source = experiment.source.model_copy(update={"kind": "kafka", "kafka": section})
    state = State(tmp_path)
    state.commit(folded[:1])
    dump_experiment(experiment.model_copy(update={"source": source}), tmp_path / "experiment.yaml")
    topic = TopicPartition(f"{kafka_topics.prefix}_beamsteer_advice", 0)
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)
    for words, sent in ((["--no-publish"], 0), ([], 1)):
        assert cli.run(["model-server", str(tmp_path), "--once", "--json", *words]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["runs"]["ge"]["advice"]
        assert ("beamsteer_estimates" in told.err) == bool(sent)
        assert consumer.end_offsets([topic])[topic] == sent
    consumer.close()
    refused = ["model-server", str(tmp_path), "--no-publish", "--kafka", kafka.bootstrap]
    assert cli.run(refused) == 2


def test_the_process_serves_its_health_and_ends_cleanly_amid_an_estimate(folded, tmp_path):
    state = State(tmp_path)
    away = {"status": "set aside", "reason": "no psi", "file": None}
    state.commit(folded[:1], chunk_1=away)
    dump_experiment(small_experiment(), tmp_path / "experiment.yaml")
    command = ["model-server", str(tmp_path), "--port", "0", "--log", "json", "--every", "0.05"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "steering.cli", *command, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        head = ""
        while "}" not in head:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            head += line
        url = json.loads(head)["url"]
        assert httpx.get(f"{url}health").status_code == 200
        assert httpx.get(f"{url}ready").status_code == 200
        assert "beamsteer_state_generation" in httpx.get(f"{url}metrics").text
        state.commit(folded[:1])
        while not httpx.get(f"{url}status").json()["generation"]:
            time.sleep(0.05)
        while not _estimating(httpx.get(f"{url}metrics").text, state):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
        for line in log.splitlines():
            assert json.loads(line)["event"]
    finally:
        process.kill()
        process.communicate()
    assert not list(tmp_path.rglob("*.partial"))


def _estimating(text: str, state: State) -> bool:
    """Whether the first estimate is under way, or made."""
    return state.answer("snapshot.npz").exists() and "beamsteer_failing 0.0" in text


def test_figures_of_a_service_are_those_of_its_status(answered: Answered):
    registry, _ = service_registry(answered.service.status)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    assert samples["beamsteer_stream_chunks", "ge"] == 5
    assert samples["beamsteer_state_generation", "0"] == 2


def test_answers_that_find_no_room_are_written_once_there_is_some(folded, small_disk, tmp_path):
    small_disk.grow(160 * 2**20)
    states = State(tmp_path / "roomy"), State(small_disk.folder / "full")
    services = []
    for state in states:
        state.commit(folded[:1])
        services.append(service_of(state))
    roomy, full = services
    assert roomy.step()
    small_disk.fill(8_000)
    full.step()
    assert "cannot be written (No space left on device)" in (full.status().error or "")
    assert not states[1].answer().exists()
    assert not judge_readiness(full.status(), judge_health(full.status(), time.time_ns())).ok
    small_disk.make_room()
    end = time.monotonic() + 30
    while not states[1].answer().exists() and time.monotonic() < end:
        full.step()
        time.sleep(0.05)
    assert full.status().error is None
    assert states[1].result() == states[0].result()
    assert load_snapshot(states[1].answer("snapshot.npz")).result is not None
    assert not [p for p in states[1].folder.rglob("*partial*") if p.is_file()]


def test_answers_that_cannot_be_written_for_long_end_the_service(folded, small_disk):
    state = State(small_disk.folder / "state")
    state.commit(folded[:1])
    small_disk.fill()
    with pytest.raises(StorageError, match="nothing could be written"):
        service_of(state, patience_s=0.0).step()


def test_of_two_services_on_a_folder_one_waits_and_says_so(tmp_path):
    state = State(tmp_path)
    first, second = service_of(state), service_of(state)
    stops = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=serve_estimates, args=(service, stop), kwargs={"every_s": 0.05})
        for service, stop in zip((first, second), stops, strict=True)
    ]

    def wait_for(found):
        end = time.monotonic() + 10
        while not found() and time.monotonic() < end:
            time.sleep(0.02)
        assert found()

    for thread in threads:
        thread.start()
    wait_for(lambda: first.status().error or second.status().error)
    works, waits = (0, 1) if second.status().error else (1, 0)
    working, waiting = (first, second)[works], (first, second)[waits]
    assert "another model server works on state folder" in (waiting.status().error or "")
    now = time.time_ns()
    assert judge_health(waiting.status(), now).ok
    assert not judge_readiness(waiting.status(), judge_health(waiting.status(), now)).ok
    assert working.status().error is None
    with pytest.raises(BlockingIOError, match="This one waits"), waiting.alone(None):
        pass
    stops[works].set()
    threads[works].join()
    wait_for(lambda: waiting.status().error is None)
    stops[waits].set()
    threads[waits].join()


def test_a_state_of_another_experiment_gets_no_estimate(folded, tmp_path):
    state = State(tmp_path)
    state.commit(folded[:1])
    measurement = small_measurement()
    other = {**measurement.fingerprint, "source.t0_us": "3.0", "psi_deg": "null"}
    manifest = read_manifest(state.inside)
    assert manifest is not None
    write_manifest(state.inside, replace(manifest, fingerprint=other, state_id="0a"))
    service = service_of(state)
    assert not service.step()
    assert "source.t0_us was 3.0 and is" in (service.status().error or "")
    assert not state.answer().exists()


def test_a_chunk_of_another_experiment_is_refused_by_a_run(folded, tmp_path):
    run = Run(small_measurement(), run_id="ge", folder=tmp_path, estimate=False)
    assert folded[0].fingerprint == small_measurement().fingerprint
    other = {**folded[0].fingerprint, "sample.temperature_K": "4.0"}
    with pytest.raises(ValueError, match="sample.temperature_K was 4.0 and is"):
        run.adopt(replace(folded[0], fingerprint=other))
    run.adopt(folded[0])
