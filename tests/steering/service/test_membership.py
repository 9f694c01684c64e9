"""A worker that was killed is known again by its name in the group; measured at a real broker."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from consumers.transport import KafkaSection, KafkaSource
from steering.service.membership import group_member
from tests.consumers.transport.test_kafka_source import (
    Owner,
    partition_of,
    read,
    section_of,
)

WORKER = """
import sys
from consumers.transport import KafkaSection, KafkaSource
from tests.consumers.transport.test_kafka_source import Owner

source = KafkaSource(KafkaSection.model_validate_json(sys.argv[1]), Owner())
while not source.partitions:
    source.poll(0.2)
print("joined", flush=True)
while True:
    source.poll(0.2)
"""


def kill_a_worker(section: KafkaSection) -> None:
    """Let a process join the group, and kill it."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, section.model_dump_json()], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert "joined\n" in iter(process.stdout.readline, "")
        finally:
            process.kill()


def restart_s(section: KafkaSection, *, patience_s: float) -> float:
    """Seconds until partitions are assigned again after a kill."""
    began = time.monotonic()
    source = KafkaSource(section, Owner())
    while not source.partitions and time.monotonic() - began < patience_s:
        source.poll(0.1)
    passed = time.monotonic() - began
    source.close()
    return passed


def test_workers_beside_each_other_have_names_of_their_own_and_a_restart_has_the_old_one(tmp_path):
    with group_member(tmp_path) as first:
        with group_member(tmp_path) as second, group_member(tmp_path / "other") as elsewhere:
            assert len({first, second, elsewhere}) == 3
        with group_member(tmp_path) as again:
            assert again == second
    KafkaSection.model_validate({"topics": {"prefix": "x"}, "member": first})


@pytest.mark.kafka
def test_a_killed_worker_with_a_name_goes_on_at_once_and_one_without_waits_for_its_session(
    kafka, kafka_topics
):
    (events,) = kafka_topics("detector", partitions=2)
    partition_of(kafka, events, 0, [b"one"])
    named = section_of(kafka, [events], member="host-1-0", session_timeout_s=45.0)
    kill_a_worker(named)
    took_s = restart_s(named, patience_s=40.0)
    assert took_s < 20.0  # the machine may be busy; without a name it is the session's 45 s
    nameless = section_of(kafka, [events], group=f"{events}-2", session_timeout_s=6.0)
    kill_a_worker(nameless)
    assert restart_s(nameless, patience_s=60.0) > 2.0


@pytest.mark.kafka
def test_of_two_workers_of_one_name_the_first_is_told_and_the_second_goes_on(kafka, kafka_topics):
    (events,) = kafka_topics("detector")
    partition_of(kafka, events, 0, [b"one", b"two"])
    section = section_of(kafka, [events], member="host-1-0")
    first, second = (KafkaSource(section, Owner()) for _ in range(2))
    assert [m.value for m in read(first, 2)] == [b"one", b"two"]
    began = time.monotonic()
    found = []

    def both() -> None:
        while time.monotonic() - began < 60.0:
            found.extend(second.poll(0.1))
            first.poll(0.1)

    with pytest.raises(ValueError, match="kafka.member is host-1-0, which another worker"):
        both()
    assert time.monotonic() - began < 10.0
    first.close()
    assert [m.value for m in found + read(second, 2 - len(found))] == [b"one", b"two"]
    second.close()


@pytest.mark.kafka
def test_a_named_worker_that_ends_in_peace_leaves_its_partitions_to_others(kafka, kafka_topics):
    (events,) = kafka_topics("detector")
    first = KafkaSource(section_of(kafka, [events], member="host-1-0"), Owner())
    while not first.partitions:
        first.poll(0.1)
    first.close()
    other = section_of(kafka, [events], member="host-2-0", session_timeout_s=45.0)
    assert restart_s(other, patience_s=40.0) < 20.0
