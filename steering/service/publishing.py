"""What goes out on the wire: folded spectra, estimates, advice, heartbeats.

Folded spectra are `da00`, estimates and advice JSON of the models below, heartbeats `x5f2`. The
Kafka key is the run (of heartbeats the service). ``state_generation`` grows with the state that a
message was made from: a reader keeps the largest, so repeats and stragglers do no harm.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, Field

from consumers.transport import KafkaTopics
from consumers.wire import (
    DataVariable,
    Heartbeat,
    Sink,
    UndeliveredError,
    encode_data_array,
    encode_heartbeat,
)
from simulations.arrays import FloatArray
from simulations.fold import CellSums
from steering.run import AdviceResult, ParameterResult, Run, RunResult, StopResult
from steering.service.clocks import Clock
from steering.service.health import WorkerStatus, status_json

log = structlog.get_logger()

SOFTWARE = "beamsteer"
FOLDED_SCHEMA, ESTIMATE_SCHEMA, ADVICE_SCHEMA = (
    "beamsteer.folded",
    "beamsteer.estimate",
    "beamsteer.advice",
)
SCHEMA_VERSION = 1
HEARTBEAT_SECONDS = 2.0
RETRY_SECONDS = 10.0
FLUSH_SECONDS = 10.0


class _Outgoing(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ParameterEstimate(ParameterResult):
    """A free parameter with its error; every number is finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class EstimateMessage(_Outgoing):
    """Force constants of a run with their errors, and whether the model explains the data."""

    schema_name: Literal["beamsteer.estimate"] = ESTIMATE_SCHEMA
    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    state_generation: int = Field(ge=0, description="grows with the state; keep the largest")
    state_id: str = Field(default="", description="of the state; another one begins anew at 1")
    time_ns: int = Field(description="when it was made, since the Unix epoch")
    parameters: tuple[ParameterEstimate, ...]
    covariance: tuple[tuple[float, ...], ...] = Field(
        default=(), description="of the parameters, in their order"
    )
    trusted: bool
    reasons: tuple[str, ...] = Field(description="why it is not trusted")
    chunks: tuple[str, ...] = Field(description="names of the folded chunks, in order")
    minutes_used: float
    coverage_fraction: float = Field(description="share of path cells with exposure")


class AdvisedOrientation(AdviceResult):
    """One place to measure, with what it is worth; every number is finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class StopVerdict(StopResult):
    """Whether to stop, and why; every number is finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class AdviceMessage(_Outgoing):
    """Next orientations, best first, and whether to stop."""

    schema_name: Literal["beamsteer.advice"] = ADVICE_SCHEMA
    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    state_generation: int = Field(ge=0, description="grows with the state; keep the largest")
    state_id: str = Field(default="", description="of the state; another one begins anew at 1")
    time_ns: int = Field(description="when it was made, since the Unix epoch")
    trusted: bool
    policy: str | None
    advice: tuple[AdvisedOrientation, ...]
    stop: StopVerdict


def message_schemas() -> dict[str, Any]:
    """JSON schemas of the messages by name, and what the variables of a folded spectrum are."""
    return {
        ESTIMATE_SCHEMA: EstimateMessage.model_json_schema(),
        ADVICE_SCHEMA: AdviceMessage.model_json_schema(),
        FOLDED_SCHEMA: {
            "format": "da00",
            "source_name": f"{FOLDED_SCHEMA}/RUN",
            "schema_version": SCHEMA_VERSION,
            "variables": {
                name: {"axes": list(axes), "unit": unit, "description": text}
                for name, axes, unit, text in _FOLDED
            },
        },
    }


def estimate_message(run: str, result: RunResult, *, generation: int, time_ns: int) -> bytes:
    """Estimate of a result, as JSON.

    Raises
    ------
    pydantic.ValidationError
        If a number is not finite.
    """
    message = EstimateMessage(
        run=run,
        state_generation=generation,
        state_id=result.state_id or "",
        time_ns=time_ns,
        parameters=tuple(ParameterEstimate(**one.document()) for one in result.parameters),
        covariance=result.covariance or (),
        trusted=result.trusted,
        reasons=result.reasons,
        chunks=result.folded_chunks,
        minutes_used=result.minutes_used,
        coverage_fraction=result.coverage_fraction,
    )
    return message.model_dump_json().encode()


def advice_message(run: str, result: RunResult, *, generation: int, time_ns: int) -> bytes:
    """Advice of a result, as JSON.

    Raises
    ------
    pydantic.ValidationError
        If a number is not finite.
    """
    message = AdviceMessage(
        run=run,
        state_generation=generation,
        state_id=result.state_id or "",
        time_ns=time_ns,
        trusted=result.trusted,
        policy=result.policy,
        advice=tuple(AdvisedOrientation(**one.document()) for one in result.advice),
        stop=StopVerdict(**result.stop.document()),
    )
    return message.model_dump_json().encode()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldedSpectrum:
    """Sums of a run on the path, with their axes."""

    run: str
    state_generation: int
    sums: CellSums
    path_position: FloatArray  # (path_bins,) 1/angstrom along the path
    path_hkl: FloatArray  # (path_bins, 3) r.l.u. of the conventional cell
    energy_edges_meV: FloatArray  # (energy_bins + 1,)
    chunks: int = 0
    state_id: str = ""  # hexadecimal


def folded_spectrum(run: Run, generation: int, *, state_id: str = "") -> FoldedSpectrum:
    """What is published of a run's fold.

    Parameters
    ----------
    run : Run
        With at least one chunk.
    generation : int
        Of the manifest that names its chunks.
    state_id : str
        Of the state, hexadecimal; empty: not known.
    """
    measurement = run.measurement
    reciprocal = measurement.crystal.conventional_reciprocal
    return FoldedSpectrum(
        run=run.run_id,
        state_generation=generation,
        state_id=state_id,
        sums=run.sums,
        path_position=measurement.path.position(reciprocal)[0],
        path_hkl=measurement.path.centres_hkl(),
        energy_edges_meV=measurement.energy.edges_meV,
        chunks=len(run.chunks),
    )


_CELL = ("path_bin", "energy_transfer")
_FOLDED = (  # name, axes, unit, text
    ("signal", _CELL, "counts", "S, sum of weights; reduced input: intensity x sr meV"),
    ("variance", _CELL, "counts^2", "V, sum of squared weights"),
    ("counts", _CELL, "counts", "N, events; reduced input: effective ones"),
    ("exposure", _CELL, "C*sr*meV", "D; 0 means unknown, not empty"),
    ("intensity", _CELL, "counts/(C*sr*meV)", "S / D; NaN where D = 0"),
    ("error", _CELL, "counts/(C*sr*meV)", "sqrt(V) / D; NaN where D = 0"),
    ("path_position", ("path_bin",), "1/angstrom", "centre of a bin along the path"),
    ("path_hkl", ("path_bin", "hkl"), "r.l.u.", "centre of a bin in the conventional cell"),
    ("energy_transfer", ("energy_transfer_edge",), "meV", "edges, one more than bins"),
    ("state_generation", (), None, "grows with the state; keep the largest"),
    ("state_id", (), None, "of the state; another one begins anew at 1; 0 is unknown"),
    ("chunks", (), None, "number of folded chunks"),
    ("schema_version", (), None, "of these variables"),
)


def folded_message(folded: FoldedSpectrum, *, time_ns: int) -> bytes:
    """Encode a folded spectrum as `da00`; its source name is ``beamsteer.folded/RUN``."""
    sums = folded.sums
    values: dict[str, Any] = {
        "signal": sums.signal,
        "variance": sums.variance,
        "counts": sums.counts,
        "exposure": sums.exposure,
        "intensity": sums.intensity,
        "error": sums.sigma,
        "path_position": folded.path_position,
        "path_hkl": folded.path_hkl,
        "energy_transfer": folded.energy_edges_meV,
        "state_generation": np.int64(folded.state_generation),
        "state_id": np.int64(int(folded.state_id or "0", 16)),
        "chunks": np.int64(folded.chunks),
        "schema_version": np.int64(SCHEMA_VERSION),
    }
    variables = [
        DataVariable(name=name, unit=unit, axes=axes, values=np.asarray(values[name]))
        for name, axes, unit, _ in _FOLDED
    ]
    return encode_data_array(f"{FOLDED_SCHEMA}/{folded.run}", time_ns, variables)


def heartbeat_message(
    service_id: str, status: Mapping[str, Any], *, interval_s: float = HEARTBEAT_SECONDS
) -> bytes:
    """Encode a sign of life as `x5f2`; it names the service, not the machine or the process."""
    return encode_heartbeat(
        Heartbeat(service=service_id, status=status),
        software_name=SOFTWARE,
        software_version=software_version(),
        update_interval_ms=round(interval_s * 1000),
    )


def software_version() -> str:
    """Version of the installed package."""
    return importlib.metadata.version(SOFTWARE)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputTopics:
    """Where the messages go."""

    folded: str
    estimates: str
    advice: str
    heartbeat: str

    @classmethod
    def of(cls, topics: KafkaTopics) -> OutputTopics:
        """Topics of an instrument, e.g. prefix ``hyspec`` gives ``hyspec_beamsteer_folded``."""
        names = {f.name: topics.name(f.name) for f in fields(cls)}
        return cls(**{field: name for field, name in names.items() if name is not None})


class LateSink:
    """A sink that is opened by what is sent first, so that a broker may come up later.

    Parameters
    ----------
    open_sink : callable
        Makes the sink; it may raise, and is then tried again at the next sending.
    """

    def __init__(self, open_sink: Callable[[], Sink]) -> None:
        self._open = open_sink
        self._opening = threading.Lock()
        self._sink: Sink | None = None

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """As of the sink; opens it first."""
        with self._opening:
            if self._sink is None:
                self._sink = self._open()
        self._sink.send(topic, value, key=key, headers=headers)

    def flush(self, timeout_s: float = 30.0) -> None:
        """As of the sink, once it is open."""
        if self._sink is not None:
            self._sink.flush(timeout_s)

    def close(self) -> None:
        """As of the sink, once it is open."""
        if self._sink is not None:
            self._sink.close()


class Publisher:
    """Sends the newest state of every run; a sink that fails or waits never stops the caller.

    There is one slot for every (topic, key): what is newer replaces what waits there. What could
    not be sent stays in its slot and is tried again with the next state, or after some seconds. A
    topic that is not there, or forbidden, holds no other topic back.

    Parameters
    ----------
    sink : Sink
    topics : OutputTopics
    service_id : str
        Names this service in heartbeats, whatever machine it runs on.
    heartbeat : callable, optional
        Newest status; without it no heartbeats are sent.
    interval_s : float
        Time between heartbeats.
    retry_s : float
        Time after which a failed sending is tried again without a change.
    clock : callable
        Unix time, ns.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        topics: OutputTopics,
        service_id: str,
        heartbeat: Callable[[], WorkerStatus] | None = None,
        interval_s: float = HEARTBEAT_SECONDS,
        retry_s: float = RETRY_SECONDS,
        clock: Clock = time.time_ns,
    ) -> None:
        self.topics = topics
        self._sink, self._service_id, self._heartbeat = sink, service_id, heartbeat
        self._interval_s, self._retry_s, self._clock = interval_s, retry_s, clock
        self._waiting: dict[tuple[str, str], bytes] = {}
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._counters: dict[str, int] = {}
        self._news = False  # something waits that was not tried yet
        self._again = False  # it is a state: topics that failed are tried too
        self._failing: frozenset[str] = frozenset()  # topics
        self._reason = ""  # why they do
        self._closed = False
        self._thread: threading.Thread | None = None

    # -- what goes out --------------------------------------------------------------------------

    def folded(self, folded: FoldedSpectrum) -> None:
        """Hand over the newest folded spectrum of a run."""
        self._offer(
            self.topics.folded, folded.run, lambda: folded_message(folded, time_ns=self._clock())
        )

    def result(self, run: str, result: RunResult, *, generation: int) -> None:
        """Hand over the newest estimate and advice of a run."""
        known: dict[str, Any] = {"generation": generation, "time_ns": self._clock()}
        self._offer(self.topics.estimates, run, lambda: estimate_message(run, result, **known))
        self._offer(self.topics.advice, run, lambda: advice_message(run, result, **known))

    def beat(self) -> None:
        """Hand over a sign of life."""
        if self._heartbeat is None:
            return
        status = self._heartbeat

        def encode() -> bytes:
            told = status_json(status())
            return heartbeat_message(self._service_id, told, interval_s=self._interval_s)

        self._offer(self.topics.heartbeat, self._service_id, encode)

    def _offer(self, topic: str, key: str, encode: Callable[[], bytes]) -> None:
        try:
            value = encode()
        except Exception as error:
            self._count("publish_failures", topic)
            log.error("message_not_made", topic=topic, run=key, reason=str(error))
            return
        with self._changed:
            self._waiting[topic, key] = value
            # A sign of life does not try a topic again that has just failed; a new state does.
            self._news |= topic != self.topics.heartbeat or topic not in self._failing
            self._again |= topic != self.topics.heartbeat
            self._changed.notify_all()

    # -- sending --------------------------------------------------------------------------------

    def pump(self, flush_s: float = FLUSH_SECONDS, *, again: bool = True) -> bool:
        """Send all that waits, now and here; False when something could not be sent.

        Parameters
        ----------
        flush_s : float
            How long to wait for the broker's word.
        again : bool
            False leaves out topics that failed last time.
        """
        with self._sending:
            with self._changed:
                left_out = frozenset[str]() if again else self._failing
                waiting = {p: v for p, v in self._waiting.items() if p[0] not in left_out}
                self._news = self._again = False
            if not waiting:
                return not self._failing
            failed, reason = self._send(waiting, flush_s)
            with self._changed:
                for place, value in waiting.items():
                    self._count("publish_failures" if place in failed else "published", place[0])
                    if place not in failed and self._waiting.get(place) is value:
                        del self._waiting[place]
            failing = left_out | {topic for topic, _ in failed}
        if failing - self._failing:
            log.error("publishing_failed", topics=sorted(failing), reason=reason)
        if self._failing and not failing:
            log.info("publishing_recovered")
        self._failing, self._reason = failing, reason or (self._reason if failing else "")
        return not failing

    def _send(
        self, waiting: Mapping[tuple[str, str], bytes], flush_s: float
    ) -> tuple[set[tuple[str, str]], str]:
        """What could not be sent, and why; a topic that fails keeps no other one back."""
        failed: set[tuple[str, str]] = set()
        lost: set[str] = set()  # topics
        reason = ""

        def note(error: UndeliveredError) -> None:
            nonlocal reason
            lost.update(error.topics or {topic for topic, _ in waiting})
            reason = str(error)

        try:
            # those that failed wait longest, so they come last
            for topic, key in sorted(waiting, key=lambda place: place[0] in self._failing):
                while topic not in lost:
                    try:
                        self._sink.send(topic, waiting[topic, key], key=key.encode())
                    except UndeliveredError as error:  # of this topic, or one sent before
                        note(error)
                        continue
                    except ConnectionError:
                        raise
                    except Exception as error:  # this one cannot be sent, others may
                        failed.add((topic, key))
                        reason = f"{type(error).__name__}: {error}"
                    break
            while True:
                try:
                    self._sink.flush(flush_s)
                except UndeliveredError as error:
                    note(error)
                    continue
                break
        except Exception as error:
            return set(waiting), f"{type(error).__name__}: {error}"
        return failed | {place for place in waiting if place[0] in lost}, reason

    @property
    def trouble(self) -> str | None:
        """Which topics cannot be published to, and why; None while all can."""
        failing, reason = self._failing, self._reason
        if not failing:
            return None
        return f"nothing can be published to {', '.join(sorted(failing))}: {reason}"

    def _count(self, family: str, topic: str) -> None:
        with self._changed:
            name = f"{family}.{topic}"
            self._counters[name] = self._counters.get(name, 0) + 1

    @property
    def counters(self) -> dict[str, int]:
        """Messages sent and not sent, named as in :class:`steering.service.health.WorkerStatus`."""
        with self._changed:
            return dict(self._counters)

    def start(self) -> Publisher:
        """Send from a thread of its own from now on, with heartbeats."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
            self._thread.start()
        return self

    def _work(self) -> None:
        next_beat, retry_at = time.monotonic(), 0.0
        while True:
            if self._heartbeat is not None and time.monotonic() >= next_beat:
                self.beat()
                next_beat = time.monotonic() + self._interval_s
            with self._changed:
                again = self._again or time.monotonic() >= retry_at
                due = self._waiting and (self._news or again)
            if due and not self.pump(again=again) and again:
                retry_at = time.monotonic() + self._retry_s
            with self._changed:
                if self._closed:
                    return
                if self._news:
                    continue
                until = [retry_at] if self._waiting else []
                until += [next_beat] if self._heartbeat is not None else []
                self._changed.wait(max(min(until) - time.monotonic(), 0.0) if until else None)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Try a last time to send what waits, and stop; True when nothing waits any more.

        The sink stays open. Where this is False its own ``close`` may wait long in vain.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():  # the sink waits; the process ends without it
                return False
        return self.pump(timeout_s)
