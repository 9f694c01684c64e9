"""Live streams onto a tape, and recorded ones back to where live ones come from."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from consumers.state import instrument_xml, log_names
from consumers.transport import AdaraSection, KafkaSection, KafkaTopics, TapeWriter, ZmqSection
from consumers.wire import (
    AdaraSender,
    AdaraStream,
    Described,
    Events,
    LogSample,
    RawMessage,
    RawSource,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    Several,
    Sink,
    Variable,
    WireError,
    WireValue,
    decode,
)
from simulations.errors import InputError

if TYPE_CHECKING:
    from steering.service.fold_worker import FoldWorker

READ_TOPICS = ("detector", "run_info", "motion", "sample_environment", "reduced", "bluesky")


@dataclass(kw_only=True, slots=True)
class StreamCount:
    """What went by: messages, bytes, neutrons, and sequence numbers that are missing.

    A gap is told by sequence numbers alone (of `ev44`, `da00` and bluesky events with arrays): a
    number that jumps says how many messages never came, or came later. Logs have none.
    """

    messages: int = 0
    bytes: int = 0
    events: int = 0
    unreadable: int = 0
    gaps: int = 0
    topics: Counter[str] = field(default_factory=Counter)
    _last: dict[tuple[str | None, str], int] = field(default_factory=dict)

    def add(self, raw: RawMessage) -> None:
        """Count one message."""
        self.messages += 1
        self.bytes += len(raw.value)
        self.topics[raw.topic] += 1
        try:
            value = decode(raw)
        except WireError:
            self.unreadable += 1
            return
        if isinstance(value, Several):  # its packets have no numbers that count
            self.events += sum(
                len(one.time_of_flight_ns) for one in value.values if isinstance(one, Events)
            )
            return
        for name, one in _numbered(value):
            if isinstance(one, Events):
                self.events += len(one.time_of_flight_ns)
            place = (raw.run, f"{name}/{one.source}")
            last = self._last.get(place)
            if last is not None and one.sequence > last + 1:
                self.gaps += one.sequence - last - 1
            # senders count from 0 again in every dwell
            self._last[place] = one.sequence

    def summary(self) -> dict[str, object]:
        """Counts for people and machines."""
        return {
            "messages": self.messages,
            "bytes": self.bytes,
            "events": self.events,
            "gaps": self.gaps,
            "unreadable": self.unreadable,
            "topics": dict(sorted(self.topics.items())),
        }


def _numbered(value: WireValue) -> Iterator[tuple[str, Events | ReducedHistogram]]:
    if isinstance(value, Events | ReducedHistogram):
        yield "", value
    elif isinstance(value, Described):
        for one in value.values:
            if isinstance(one, Events | ReducedHistogram):
                yield value.descriptor, one


class AlongTape:
    """Asks a source to go on behind what a tape holds; a ``wire.PartitionOwner``."""

    def __init__(self, tape: TapeWriter) -> None:
        self._tape = tape

    def take(self, partition: int) -> Mapping[str, int]:
        """Next offset by topic."""
        return {t: n for (t, p), n in self._tape.positions.items() if p == partition}

    def release(self, partition: int) -> None:
        """Nothing to save: it is on the tape."""

    def forget(self, partition: int) -> None:
        """Nothing to forget."""


def live_source(
    tape: TapeWriter,
    chosen: KafkaSection | ZmqSection | AdaraSection,
    *,
    environment: Mapping[str, str] = os.environ,
) -> RawSource:
    """Source to be recorded, from where the tape ends.

    Parameters
    ----------
    tape : TapeWriter
        Says where to go on.
    chosen : KafkaSection, ZmqSection or AdaraSection
        Read from there: from Kafka in a consumer group of its own, so that what others read stays
        theirs; from ADARA with what is missing behind the tape, as far as its server has it.
    environment : mapping
        Where secrets are.

    Raises
    ------
    ValueError, ConnectionError
        If it cannot be read from.
    """
    if isinstance(chosen, KafkaSection):
        from consumers.transport import KafkaSource

        group = f"beamsteer-record-{uuid.uuid4().hex[:12]}"
        alone = chosen.model_copy(update={"group": group})
        return KafkaSource(alone, AlongTape(tape), environment=environment)
    if isinstance(chosen, AdaraSection):
        from consumers.transport import AdaraSource

        source = AdaraSource(chosen, AlongTape(tape))
        if tape.newest is not None:
            source.resume(tape.newest)
        return source
    from consumers.transport import zmq_source

    return zmq_source(chosen, AlongTape(tape), environment=environment)


def kafka_section(
    servers: str, *, prefix: str | None = None, topics: Sequence[str] = ()
) -> KafkaSection:
    """Connection with the usual topics of a prefix, or with these alone.

    Raises
    ------
    ValueError
        If there is neither prefix nor topics, or more than six topics.
    """
    if not topics:
        if not prefix:
            raise InputError(
                "the topics are unknown; give --prefix, e.g. hyspec, or --topics with commas"
            )
        return KafkaSection(bootstrap_servers=servers, topics=KafkaTopics(prefix=prefix))
    if len(topics) > len(READ_TOPICS):
        raise InputError(
            f"--topics names {len(topics)}; expected at most {len(READ_TOPICS)}. Record the others "
            "with a second command"
        )
    named = dict.fromkeys(READ_TOPICS) | dict(zip(READ_TOPICS, topics, strict=False))
    return KafkaSection(
        bootstrap_servers=servers,
        topics=KafkaTopics.model_validate({"prefix": prefix or "recorded", **named}),
    )


def record(
    source: RawSource,
    tape: TapeWriter,
    *,
    seconds: float | None = None,
    messages: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    each: Callable[[StreamCount], None] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> StreamCount:
    """Put a stream onto a tape until told to stop.

    Parameters
    ----------
    source : RawSource
    tape : TapeWriter
    seconds, messages : optional
        End after so long, or with so many.
    stop : callable
        True ends the recording.
    each : callable, optional
        Called after every poll with the count so far.
    monotonic : callable
        Clock in seconds.

    Returns
    -------
    StreamCount
        Of what was recorded now; all of it is on the disk.

    Raises
    ------
    OSError, TapeError
        If the tape cannot be written.
    """
    count = StreamCount()
    end = None if seconds is None else monotonic() + seconds
    while not stop() and (end is None or monotonic() < end):
        wait = 0.2 if end is None else min(0.2, max(0.0, end - monotonic()))
        batch = source.poll(wait)
        if messages is not None:
            batch = batch[: messages - count.messages]
        tape.append(batch)
        for raw in batch:
            count.add(raw)
        if each is not None:
            each(count)
        if messages is not None and count.messages >= messages:
            break
    tape.sync()
    return count


def stream_of_recorded(
    files: Sequence[Path],
    *,
    run: str,
    prefix: str,
    psi_log: str = "s1",
    psi_deg: float | None = None,
    ei_meV: float | None = None,
) -> Iterator[RawMessage]:
    """Recorded files as the messages that a facility would have sent; see `recorded_stream`."""
    from consumers.recorded import timed_stream_of_files

    offsets: Counter[str] = Counter()
    for time_ns, topic, key, value in timed_stream_of_files(
        files, run=run, prefix=prefix, psi_log=psi_log, psi_deg=psi_deg, ei_meV=ei_meV
    ):
        yield RawMessage(
            topic=topic,
            partition=0,
            offset=offsets[topic],
            key=key,
            value=value,
            timestamp_ns=time_ns,
        )
        offsets[topic] += 1


def adara_of_stream(stream: Iterable[RawMessage]) -> Iterator[RawMessage]:
    """Dwells of events as the ADARA packets that a beamline of the SNS would have sent.

    ADARA packets among the messages go through as they are.

    Parameters
    ----------
    stream : iterable of RawMessage
        Starts, stops, logs and events; keys are left out, for ADARA knows one run after the other.

    Yields
    ------
    RawMessage
        Of the topic ``adara``, with the headers that a receiver would put beside it.

    Raises
    ------
    InputError
        If a message is none of these, or a pulse has no charge.
    """
    sender, follower, offset = AdaraSender(), AdaraStream(), 0
    for raw in stream:
        if any(name == "adara" for name, _ in raw.headers):
            yield replace(raw, topic="adara", partition=0, offset=offset)
            offset += 1
            continue
        value = decode(raw)
        if isinstance(value, RunBegins):
            names = log_names(value.structure)
            packets = sender.begin(
                value,
                geometry=instrument_xml(value.structure) or "",
                logs={k: Variable(name=log.name, unit=log.unit) for k, log in names.items()},
            )
        elif isinstance(value, LogSample | Events | RunEnds):
            packets = sender.take(value)
        else:
            raise InputError(
                f"{raw.topic}: holds a {type(value).__name__}, which ADARA cannot carry; expected "
                "raw events. Send it over Kafka or ZMQ"
            )
        for packet in packets:
            for content, headers in follower.take(packet):
                yield RawMessage(
                    topic="adara",
                    partition=0,
                    offset=offset,
                    value=content,
                    timestamp_ns=follower.time_ns or raw.timestamp_ns,
                    headers=headers,
                )
                offset += 1


def publish(
    stream: Iterable[RawMessage],
    sink: Sink,
    *,
    speed: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    each: Callable[[StreamCount], None] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> StreamCount:
    """Send a recorded stream to a sink.

    Parameters
    ----------
    stream : iterable of RawMessage
    sink : Sink
        Flushed in the end, not closed.
    speed : float, optional
        1 is the recorded pace, by the messages' timestamps; absent: as fast as it goes.
    stop : callable
        True ends it.
    each : callable, optional
        Called with the count so far after every message.
    monotonic, sleep : callable
        Clock in seconds, and waiting.

    Raises
    ------
    ValueError
        If speed is not positive.
    ConnectionError
        If the messages do not arrive.
    """
    if speed is not None and not speed > 0:
        raise InputError(f"speed is {speed}; expected a positive number, or none for no pause")
    count = StreamCount()
    origin: tuple[float, int] | None = None
    for message in stream:
        if speed is not None:
            origin = origin or (monotonic(), message.timestamp_ns)
            due = origin[0] + (message.timestamp_ns - origin[1]) * 1e-9 / speed
            while not stop() and (left := due - monotonic()) > 0:
                sleep(min(left, 0.2))
        if stop():
            break
        sink.send(message.topic, message.value, key=message.key, headers=message.headers)
        count.add(message)
        if each is not None:
            each(count)
    sink.flush()
    return count


def fold_to_the_end(
    tape: Path,
    worker: FoldWorker,
    *,
    speed: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Fold a tape from where a worker's state ends to its own end, and close what is open then.

    Parameters
    ----------
    tape : Path
    worker : FoldWorker
    speed : float, optional
        1 is the recorded pace; absent: as fast as it goes.
    stop : callable
        True ends it early; open dwells stay open.

    Raises
    ------
    TapeError
        If the tape is damaged.
    """
    from consumers.transport import TapeSource
    from steering.service.consuming import consume

    source = TapeSource(tape, worker, speed=speed)
    try:
        consume(source, worker, stop=lambda: source.exhausted or stop())
        if source.exhausted:
            worker.turn(finish=True)
    finally:
        source.close()
