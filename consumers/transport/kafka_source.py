"""Raw messages from Kafka, from where the owner of a partition's state says.

The broker's committed offsets only tell others how far we are. Partition p of all topics belongs
together: it holds the same runs, and goes from one consumer to another as a whole.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from kafka import KafkaConsumer, errors

# The stubs that pyright brings along describe an older kafka-python.
from kafka.consumer.subscription_state import (
    AsyncConsumerRebalanceListener,  # pyright: ignore[reportAttributeAccessIssue]
)
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.structs import OffsetAndMetadata, TopicPartition

from consumers.transport.kafka_connection import (
    describe_topics,
    explain,
    leave_group,
    open_client,
    refuse_certificates,
)
from consumers.transport.kafka_facts import LOOK_S, BrokerWatch
from consumers.transport.kafka_oversize import REFUSED, oversize_batches
from consumers.transport.kafka_settings import KafkaSection, consumer_arguments
from consumers.transport.time_merge import TimeMerge
from consumers.wire import FAULT_HEADER, PartitionOwner, RawMessage
from simulations.errors import InputError

log = structlog.get_logger()
PROBE_S = 3.0  # how often the ends of the partitions are asked for, to see lag and a lost broker
PROBE_PATIENCE_S = 3.0


class _ReleaseFirstError(Exception):
    """Partitions go away, and their state is not saved yet."""


def _not_ours(record: logging.LogRecord) -> bool:
    """Whether the library's report is anything but our own way out of its callback."""
    return not (record.exc_info and isinstance(record.exc_info[1], _ReleaseFirstError))


logging.getLogger("kafka.coordinator.consumer").addFilter(_not_ours)


class _Listener(AsyncConsumerRebalanceListener):
    """What the group decides; only noted here, because this runs in the library's thread.

    ``take`` and ``release`` belong into the thread that polls. A revocation must wait for
    ``release``: raising makes the library give control back to ``poll``, and ask again later.
    """

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.taken: set[int] = set()
        self.lost: set[int] = set()
        self.assigned: set[TopicPartition] | None = None  # not acted upon yet

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if self.taken:
            raise _ReleaseFirstError

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self.lost |= self.taken

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        # Nothing may be fetched before it is known where to begin.
        for place in assigned:
            self.consumer.pause(place)
            self.consumer.seek(place, 0)
        self.assigned = set(assigned)


class KafkaSource:
    """Messages of a consumer group's share of the partitions; a ``wire.RawSource``.

    Not for use by several threads, except ``lag``. Between two calls of ``poll`` no more than
    ``max_poll_interval_s`` may pass: a thread of the library keeps the group's membership alive
    meanwhile; after that others take the partitions over and ``forget`` of the owner is called.

    Parameters
    ----------
    section : KafkaSection
        Connection, topics and limits.
    owner : PartitionOwner
        Asked where to begin (``take``), told when a partition goes (``release``), both from
        within ``poll`` and in the thread that calls it; its exceptions come out of ``poll``.
    environment : mapping
        Where passwords are.
    clock : callable
        Monotonic seconds.
    needed_s : float
        How long messages are needed: less retention makes a warning.
    look_s : float
        How often the broker is asked for what ``warnings`` tells.

    Raises
    ------
    ConnectionError
        If no broker answers within ``connect_timeout_s``, or it lets nobody in.
    ValueError
        If a topic is not there or compacted, the numbers of partitions differ, or a password is
        missing.
    """

    def __init__(
        self,
        section: KafkaSection,
        owner: PartitionOwner,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        needed_s: float = 0.0,
        look_s: float = LOOK_S,
    ) -> None:
        self._section, self._owner, self._clock = section, owner, clock
        self._arguments = consumer_arguments(section, environment)
        self._topics = section.topics.read
        self._identities = describe_topics(section, self._arguments, self._topics)
        self._grown: tuple[str, ...] = ()  # topics that got more partitions meanwhile, in words
        self._settled: dict[tuple[str, int], int] = {}  # replaced as a whole: others read it
        self._broker = BrokerWatch(
            section,
            self._arguments,
            needed_s=needed_s,
            needed=lambda: self._settled,
            every_s=look_s,
        )
        self._consumer: Any = open_client(
            KafkaConsumer,
            section,
            {**self._arguments, "partition_assignment_strategy": [RangePartitionAssignor]},
        )
        self._listener = _Listener(self._consumer)
        self._consumer.subscribe(self._topics, listener=self._listener)
        self._paused: set[int] = set()
        self._merge = TimeMerge()
        self._ahead: set[tuple[str, int]] = set()  # not read until the other topics follow
        self._ends: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._heard = self._probed = self._moved = clock()
        self._silent = False  # the last question was not answered, and nothing came since
        self._failure: Exception | None = None
        self._closed = False
        self.joined = False  # the group has said which partitions are ours, if any
        self._broker.start()

    @property
    def connected(self) -> bool:
        """Whether the broker answered when it was asked last, some seconds ago at most."""
        return not self._silent

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should change at the broker before messages are lost."""
        return (*self._broker.warnings, *self._grown)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Partitions whose state is ours now."""
        return tuple(sorted(self._listener.taken))

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        """Messages that came; none after the time-out.

        Those of a partition come in the order of their time stamps, whatever their topic, as far as
        the broker holds them already. At most about ``buffer_bytes`` wait in the process, those
        that are returned included. A message larger than ``max_message_bytes`` comes without its
        value, with a header ``FAULT_HEADER`` that says its offset and size; so does every message
        of a batch that is too large to be read at all, with the size of the batch.

        Raises
        ------
        ConnectionError
            If the broker was gone for ``patience_s``, messages do not arrive although they are
            there, or rights are missing.
        ValueError
            If a position is not in its partition any more (messages are gone, or the topic was
            made anew).
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._poll(timeout_s)
        except Exception as error:
            # The library would go on from the broker's committed offsets, and skip messages.
            self._failure = error
            raise

    def _poll(self, timeout_s: float) -> list[RawMessage]:
        deadline = self._clock() + timeout_s
        while True:
            left = max(0.0, deadline - self._clock())
            # A poll that waits long inside the library sees neither assignment nor broker.
            batches = self._poll_library(min(left, 0.5))
            self._finish_joining()
            self._refuse_namesakes()
            self._follow_the_group()
            if self._broker.fault is not None:
                raise self._broker.fault
            read = self._messages(batches)
            if REFUSED.take() is not None:
                read += self._unreadable()
            self._watch(came=bool(read))
            self._merge.put(read)
            behind = {(place.topic, place.partition) for place, n in self._lags().items() if n}
            messages = self._merge.take(behind)
            self._hold_back()
            if messages or self._clock() >= deadline:
                return messages

    def _hold_back(self) -> None:
        """Read no more of topics that are far ahead of the others, until those have followed."""
        ahead = self._merge.ahead(self._section.buffer_bytes // 4)
        for place in self._consumer.assignment():
            key = (place.topic, place.partition)
            if place not in self._positions or (key in ahead) == (key in self._ahead):
                continue
            with suppress(KeyError):  # lost a moment ago
                if key in ahead:
                    self._consumer.pause(place)
                elif place.partition not in self._paused:
                    self._consumer.resume(place)
                    self._moved = self._clock()
        self._ahead = ahead

    def _poll_library(self, timeout_s: float) -> Mapping[TopicPartition, Sequence]:
        try:
            return self._consumer.poll(timeout_ms=int(1000 * timeout_s))
        except errors.OffsetOutOfRangeError as error:
            self._check_positions(self._positions)  # says which, and how many are gone
            raise explain(error, self._section) from error
        except errors.KafkaError as error:
            if isinstance(error.__cause__, _ReleaseFirstError):
                self._release_all()
                return {}
            if isinstance(error, errors.RetriableError):  # pyright: ignore[reportAttributeAccessIssue]
                return {}  # the broker is away or moves; `_watch` counts how long
            raise explain(error, self._section) from error

    def _finish_joining(self) -> None:
        """Join again where the library lost track of a join that ended between two polls.

        A leader that joins again because topics became known counts as up to date as soon as it has
        shared out the partitions, before it is told its own: it would wait for ever, in silence.
        """
        coordinator = self._consumer._coordinator
        if coordinator.rejoining and not coordinator.need_rejoin():
            coordinator.request_rejoin()

    def _refuse_namesakes(self) -> None:
        """Stop when another worker has taken our name in the group.

        The library ends its heartbeats then, and reads on beside the other one, in silence.
        """
        coordinator = self._consumer._coordinator
        with coordinator._lock:
            fenced = (
                coordinator.stable()
                and not coordinator.rejoining
                and not coordinator._heartbeat_enabled
            )
        if fenced and self._section.member is not None:
            raise explain(errors.FencedInstanceIdError(), self._section)

    def _release_all(self) -> None:
        for partition in sorted(self._listener.taken):
            self._listener.taken.discard(partition)
            self._merge.drop(partition)
            self._owner.release(partition)
            log.info("partition_released", partition=partition, group=self._section.group)
        self._positions.clear()
        self._ends = {}

    def _follow_the_group(self) -> None:
        """Forget what was lost, take what was assigned."""
        listener = self._listener
        for partition in sorted(listener.lost):
            listener.taken.discard(partition)
            self._merge.drop(partition)
            self._owner.forget(partition)
            for place in [p for p in self._positions if p.partition == partition]:
                del self._positions[place]
                self._ends.pop(place, None)
            log.warning("partition_lost", partition=partition, group=self._section.group)
        listener.lost = set()
        assigned, listener.assigned = listener.assigned, None
        if assigned is not None:
            self._take(assigned)
            self.joined = True

    def _take(self, assigned: set[TopicPartition]) -> None:
        partitions = sorted({place.partition for place in assigned})
        whole = {TopicPartition(topic, p) for topic in self._topics for p in partitions}
        now = describe_topics(self._section, self._arguments, self._topics)
        anew = [name for name in self._topics if now[name][1] != self._identities[name][1]]
        if anew:
            raise InputError(
                f"kafka.topics names {', '.join(anew)}, made anew while this worker ran; "
                "expected the topics it began with, because the messages of the old ones are "
                "gone. End the run, and begin one with a state of its own."
            )
        self._tell_growth({name: now[name][0] for name in self._topics})
        if assigned != whole:
            odd = ", ".join(f"{p.topic}[{p.partition}]" for p in sorted(whole - assigned))
            raise InputError(
                f"kafka.group {self._section.group} gave partitions without {odd}; expected "
                "partition p of all topics together. Give every worker of the group the same "
                "kafka.topics, and all topics the same number of partitions."
            )
        begins: dict[TopicPartition, int] = {}
        for partition in partitions:
            wanted = self._owner.take(partition)
            self._listener.taken.add(partition)
            strange = set(wanted) - set(self._topics)
            if strange:
                raise InputError(
                    f"The saved state of partition {partition} holds positions of "
                    f"{', '.join(sorted(strange))}, which kafka.topics does not name; expected "
                    "the topics it was made from. Name them again, or begin a new state."
                )
            for topic in self._topics:
                begins[TopicPartition(topic, partition)] = wanted.get(topic, -1)
        first, _ = self._check_positions(begins)
        self._settled = {(p.topic, p.partition): n for p, n in begins.items() if n >= 0}
        for place, position in begins.items():
            position = first[place] if position < 0 else position
            try:
                self._consumer.seek(place, position)
                if place.partition not in self._paused:
                    self._consumer.resume(place)
            except (KeyError, ValueError):
                continue  # lost a moment ago; the next poll says so
            self._positions[place] = position
        self._moved = self._clock()
        log.info("partitions_taken", partitions=partitions, group=self._section.group)

    def _tell_growth(self, partitions: Mapping[str, int]) -> None:
        """Warn of partitions that came while this worker ran: keys choose others since."""
        self._grown = tuple(
            f"{name} has {n} partitions, and had {self._identities[name][0]} when this worker "
            "started; expected as many while a run goes on, because its messages go to another "
            "partition now and its dwell falls apart. Begin a new run, and restart this worker."
            for name, n in partitions.items()
            if n != self._identities[name][0]
        )
        for reason in self._grown:
            log.warning("broker_warning", reason=reason)

    def _check_positions(
        self, positions: Mapping[TopicPartition, int]
    ) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
        """First and next offsets of partitions, in which the positions must lie (-1: any)."""
        places = list(positions)
        patience = int(1000 * self._section.connect_timeout_s)
        try:
            first = self._consumer.beginning_offsets(places, timeout_ms=patience)
            end = self._consumer.end_offsets(places, timeout_ms=patience)
        except errors.KafkaError as error:
            raise explain(error, self._section) from error
        self._ends |= end
        for place, position in positions.items():
            where = f"{place.topic}[{place.partition}]"
            if 0 <= position < first[place]:
                raise InputError(
                    f"{where} begins at offset {first[place]}, and the saved state needs "
                    f"{position}: {first[place] - position} messages are gone from the broker; "
                    "expected a retention longer than a pause of this worker. Replay them from a "
                    "tape, or begin a new state, which will lack them; then raise retention.ms."
                )
            if position > end[place]:
                raise InputError(
                    f"{where} ends at offset {end[place]}, and the saved state needs {position}: "
                    f"{position - end[place]} messages are gone, so the topic was made anew or the "
                    "broker lost data; expected the topic that the state was made from. Begin a "
                    "new state for the new topic, or replay the old messages from a tape."
                )
        return first, end

    def _messages(self, batches: Mapping[TopicPartition, Sequence]) -> list[RawMessage]:
        messages = []
        largest = self._section.max_message_bytes
        for place, records in batches.items():
            topic, partition = place
            for record in records:
                value, headers = record.value or b"", tuple(record.headers or ())
                if len(value) > largest:
                    fault = (
                        f"kafka.max_message_bytes is {largest}, and {topic}[{partition}] offset "
                        f"{record.offset} has {len(value)} bytes; expected at most that many. "
                        "Raise it (and kafka.buffer_bytes), or let the sender split its messages; "
                        "the broker has this one until its retention ends"
                    )
                    value, headers = b"", (*headers, (FAULT_HEADER, fault.encode()))
                messages.append(
                    RawMessage(
                        topic=topic,
                        partition=partition,
                        offset=record.offset,
                        value=value,
                        key=record.key,
                        timestamp_ns=max(0, record.timestamp) * 1_000_000,
                        headers=headers,
                    )
                )
            if records:
                self._positions[place] = records[-1].offset + 1
                highest = self._consumer.highwater(place)
                if highest is not None:
                    self._ends[place] = max(highest, self._ends.get(place, 0))
        return messages

    def _unreadable(self) -> list[RawMessage]:
        """Stand-ins for messages whose batches are too large for an answer; steps over them."""
        messages = []
        for place, lag in self._lags().items():
            if not lag or place.partition in self._paused:
                continue
            begin = self._positions[place]
            sizes = oversize_batches(
                self._section, self._arguments, place, begin, self._ends[place]
            )
            for offset, size in sizes.items():
                fault = (
                    f"kafka.max_message_bytes is {self._section.max_message_bytes}, and the batch "
                    f"of {place.topic}[{place.partition}] offset {offset} has about {size} bytes, "
                    "which is too large to be read; expected at most that many. Raise it (and "
                    "kafka.buffer_bytes), or let the sender split its messages; the broker has "
                    "this one until its retention ends"
                )
                messages.append(
                    RawMessage(
                        topic=place.topic,
                        partition=place.partition,
                        offset=offset,
                        value=b"",
                        headers=((FAULT_HEADER, fault.encode()),),
                    )
                )
            if sizes:
                log.warning("batch_too_large", place=str(place), offsets=len(sizes))
                with suppress(KeyError, errors.IllegalStateError):  # lost a moment ago
                    self._consumer.seek(place, begin + len(sizes))
                    self._positions[place] = begin + len(sizes)
        return messages

    def _watch(self, *, came: bool) -> None:
        """Notice a broker that is gone, and messages that are there but never arrive."""
        now = self._clock()
        if came:
            self._heard = self._moved = now
            self._silent = False
        if now - self._probed >= PROBE_S:
            self._probed = now
            self._silent = not self._probe()
            if not self._silent:
                self._heard = self._clock()
            else:
                log.warning("broker_silent", servers=self._section.bootstrap_servers)
        patience = self._section.patience_s
        if now - self._heard > patience:
            refuse_certificates(self._section, self._arguments)
            raise ConnectionError(
                f"kafka.bootstrap_servers is {self._section.bootstrap_servers}, which has not "
                f"answered for kafka.patience_s = {patience:g} s; expected a broker. Start it; "
                "the worker goes on from its saved state, and nothing is lost."
            )
        waiting = [
            place
            for place, lag in self._lags().items()
            if lag > 0 and place.partition not in self._paused
        ]
        if not waiting:
            self._moved = now
        elif now - self._moved > patience:
            place = min(waiting)
            raise ConnectionError(
                f"{place.topic}[{place.partition}] holds messages from offset "
                f"{self._positions[place]} on, of which none arrived within kafka.patience_s = "
                f"{patience:g} s; expected them. A sender's transaction may still be open."
            )

    def _probe(self) -> bool:
        """Whether the broker answers; learns where the partitions end."""
        places = list(self._positions) or [TopicPartition(name, 0) for name in self._topics]
        try:
            ends = self._consumer.end_offsets(places, timeout_ms=int(1000 * PROBE_PATIENCE_S))
        except errors.AuthorizationError as error:
            raise explain(error, self._section) from error
        except errors.KafkaError:
            return False
        for place in self._positions:
            self._ends[place] = ends[place]
            # What is only a transaction's mark is no message; the library steps over it.
            try:
                position = self._consumer.position(place, timeout_ms=1)
            except errors.IllegalStateError:
                continue  # lost a moment ago; the next poll says so
            if position is not None:
                self._positions[place] = max(position, self._positions[place])
        return True

    def _lags(self) -> dict[TopicPartition, int]:
        return {
            place: max(0, self._ends[place] - position)
            for place, position in tuple(self._positions.items())
            if place in self._ends
        }

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Messages by (topic, partition) that the broker holds and ``poll`` has not returned.

        What was asked for last, at most a few seconds ago: for metrics, from any thread.
        """
        return {
            (place.topic, place.partition): lag + self._merge.waiting(place.topic, place.partition)
            for place, lag in self._lags().items()
        }

    def pause(self, partition: int) -> None:
        """Read nothing more of a partition whose messages cannot be worked on; harmless twice."""
        self._paused.add(partition)
        self._apply(self._consumer.pause, partition)

    def resume(self, partition: int) -> None:
        """Read it again from where it was; harmless twice."""
        self._paused.discard(partition)
        if self._listener.assigned is None:  # else it starts when it is taken
            self._apply(self._consumer.resume, partition)
        self._moved = self._clock()

    def _apply(self, act: Callable[[TopicPartition], None], partition: int) -> None:
        for place in self._consumer.assignment():
            if place.partition == partition and place in self._positions:
                with suppress(KeyError):  # lost a moment ago
                    act(place)

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Commit next offsets by (topic, partition), for others to see.

        Where to begin is the owner's to say, so a commit that fails is only logged.
        """
        ours = {
            TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1)
            for (topic, partition), offset in positions.items()
            if partition in self._listener.taken
        }
        if ours and not self._closed:
            self._settled = {(p.topic, p.partition): n.offset for p, n in ours.items()}
            self._consumer.commit_async(ours, callback=_committed)

    def close(self) -> None:
        """Release what is ours and leave the group; nothing is acknowledged by it.

        After an error nothing is released: the state on disk is the last that is known good. A
        member with a name of its own stays in the group then, for the restart to go on at once.
        """
        if self._closed:
            return
        self._closed = True
        self._broker.close()
        try:
            if self._failure is None:
                self._release_all()
        finally:
            self._listener.taken = set()
            try:
                self._consumer.close(
                    autocommit=False, timeout_ms=int(1000 * self._section.connect_timeout_s)
                )
                if self._failure is None and self.joined and self._section.member is not None:
                    leave_group(self._section, self._arguments)
            except (errors.KafkaError, ConnectionError) as error:
                log.warning("leaving_failed", reason=str(error))


def _committed(offsets: Mapping, response: object) -> None:
    if isinstance(response, Exception):
        log.warning("commit_failed", reason=str(response), partitions=len(offsets))
