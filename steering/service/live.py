"""A live experiment put together: source, fold worker, outputs, and the model service if asked."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from consumers.state import (
    Bounds,
    HeldBound,
    Manifest,
    check_fingerprint,
    read_state,
)
from consumers.transport import (
    AdaraSection,
    DeadLetters,
    KafkaSection,
    KafkaTopics,
    Keep,
    SourceSection,
    Taped,
    TapeSink,
    ZmqSection,
)
from consumers.wire import PartitionOwner, RawSource, Sink
from simulations.errors import InputError, storing
from steering.experiment import (
    Experiment,
    Measurement,
    build_measurement,
    dump_experiment,
    with_absolute_files,
)
from steering.run import Run, RunStore
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from steering.service.health import WorkerStatus, operations_app
from steering.service.membership import group_member
from steering.service.metrics import service_registry
from steering.service.model_service import ModelService
from steering.service.publishing import LateSink, OutputTopics, Publisher, folded_spectrum
from steering.service.retaining import Kept

log = structlog.get_logger()

EXPERIMENT = "experiment.yaml"  # in a state folder: what it was folded with
DEAD_LETTERS = "dead_letters"
Connection = KafkaSection | ZmqSection | AdaraSection
_KINDS = {KafkaSection: "kafka", ZmqSection: "zmq", AdaraSection: "adara"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveOptions:
    """What a command adds to the experiment file."""

    run: str  # of messages without a key
    kafka: str | None = None  # HOST:PORT
    zmq: str | None = None  # address
    adara: str | None = None  # HOST:PORT
    tape: Path | None = None
    prefix: str | None = None  # of topics
    psi_deg: float | None = None
    estimate: bool = False
    create_topics: int | None = None  # partitions of topics to be made where they are missing


class Live:
    """A fold worker with its source and whatever follows it; made by ``open_live``."""

    def __init__(
        self,
        *,
        source: RawSource,
        worker: FoldWorker,
        registry: Any,
        store: RunStore,
        model: ModelService | None,
        publisher: Publisher | None = None,
    ) -> None:
        self.source, self.worker = source, worker
        self.store, self.model = store, model
        self._registry, self._publisher = registry, publisher

    def consume(
        self,
        stop: Callable[[], bool],
        *,
        until_idle_s: float | None = None,
        each: Callable[[], None] | None = None,
    ) -> None:
        """Fold until told to stop, or until the stream is silent for long."""
        consume(self.source, self.worker, stop=stop, until_idle_s=until_idle_s, each=each)

    def worker_status(self) -> WorkerStatus:
        """One moment of the fold worker, and of the estimates made in the same process."""
        lag = getattr(self.source, "lag", dict)
        status = self.worker.status(connected=self.source.connected, lag=lag())
        counters = Counter(status.counters)
        warnings: tuple[str, ...] = getattr(self.source, "warnings", ())
        if self._publisher is not None:
            counters.update(self._publisher.counters)
            if self._publisher.trouble is not None:
                warnings = (*warnings, self._publisher.trouble)
        removed = getattr(self.source, "removed_segments", 0)
        if removed:
            counters["removed.tape_segments"] = removed
        lost_s: float | None = getattr(self.source, "lost_s", None)
        if lost_s is not None:
            counters["lost_seconds"] = math.ceil(lost_s)
        error, progress, estimating = status.error, dict(status.progress), None
        if self.model is not None:
            model = self.model.status()
            error, estimating = error or model.error, model.estimating_since_ns
            for name, one in model.progress.items():
                folded = max(one.folded, progress[name].folded if name in progress else 0)
                progress[name] = replace(one, folded=folded)
        error = error or getattr(self.source, "trouble", None)
        return replace(
            status,
            counters=counters,
            error=error,
            joined=getattr(self.source, "joined", True),
            progress=progress,
            estimating_since_ns=estimating,
            warnings=warnings,
        )

    def operations(self, *, token: str | None = None) -> Any:
        """App with ``/health``, ``/ready``, ``/status`` and ``/metrics``."""
        return operations_app(self.worker_status, self._registry, token=token)


@contextmanager
def open_live(
    experiment: Experiment,
    *,
    experiment_dir: Path,
    state: Path,
    options: LiveOptions,
    environment: Mapping[str, str] = os.environ,
    measurement: Measurement | None = None,
) -> Iterator[Live]:
    """Put a live experiment together, and take it apart in the end.

    What was folded is committed when the block ends well; after a fault only what was committed
    before counts.

    Parameters
    ----------
    experiment : Experiment
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    state : Path
        State folder; made if it is not there.
    options : LiveOptions
    environment : mapping
        Where secrets are.
    measurement : Measurement, optional
        The experiment made concrete, where the caller has it.

    Raises
    ------
    ConnectionError, ValueError
        If source or experiment cannot be used, or the state folder is of another experiment.
    """
    chosen = _connection(experiment, options)
    kafka = chosen if isinstance(chosen, KafkaSection) else None
    connection: dict[str, Any] = {"kafka": None, "zmq": None, "adara": None, "run": options.run}
    kind = "files" if chosen is None else _KINDS[type(chosen)]
    connection |= {} if chosen is None else {kind: chosen}
    described = experiment.source.model_copy(update=connection | {"kind": kind})
    described = experiment.model_copy(update={"source": described})
    if measurement is None:
        measurement = build_measurement(experiment, experiment_dir)
    with storing(state / EXPERIMENT):
        state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        status: list[Callable[[], WorkerStatus]] = []
        registry, timings = service_registry(lambda: status[0]())
        sink: Sink
        publisher = None
        if kafka is not None:
            section = kafka
            sink = LateSink(lambda: _kafka_sink(section, environment))
            topic = section.topics.name("dead_letters") or DEAD_LETTERS
            publisher = Publisher(
                sink,
                topics=OutputTopics.of(section.topics),
                service_id="beamsteer-consume",
                heartbeat=lambda: status[0](),
            )
            stack.callback(_close_outputs, sink, publisher)
        else:
            sink, topic = TapeSink(state / DEAD_LETTERS), DEAD_LETTERS
            stack.callback(sink.close)

        def publish(folder: Path, manifest: Manifest, runs: Mapping[str, Run]) -> None:
            for run in runs.values():
                if publisher is not None and run.chunks:
                    found = folded_spectrum(run, manifest.generation, state_id=manifest.state_id)
                    publisher.folded(found)

        source_section = experiment.source
        worker = FoldWorker(
            measurement,
            state=state,
            default_run=options.run,
            psi_deg=options.psi_deg,
            patience=Patience(
                settle_s=source_section.settle_s,
                lateness_s=source_section.lateness_s,
                timeout_s=source_section.timeout_s,
                storage_s=source_section.storage_s,
            ),
            dead_letters=DeadLetters(sink, topic),
            on_commit=publish,
            timings=timings,
            undecodable=source_section.undecodable,
            held=HeldBound(limit_bytes=source_section.memory_bytes),
            on_take=lambda: _remember(described, experiment_dir, state),
            kept=Kept(
                recordings=_bounds(source_section.retention.recordings),
                runs=_bounds(source_section.retention.runs),
            ),
        )
        _refuse_another(worker)
        if kafka is not None and kafka.member is None:
            chosen = kafka.model_copy(update={"member": stack.enter_context(group_member(state))})
        source = _source(
            chosen, options.tape, worker, state, environment, options.create_topics, source_section
        )
        store = RunStore()
        model = None
        if options.estimate:
            model = ModelService(
                state,
                measurement,
                publisher=publisher,
                store=store,
                timings=timings,
                publish_folded=False,
            )
        live = Live(
            source=source,
            worker=worker,
            registry=registry,
            store=store,
            model=model,
            publisher=publisher,
        )
        status.append(live.worker_status)
        if publisher is not None:
            publisher.start()
        try:
            yield live
            worker.close()
        finally:
            worker.abandon()
            source.close()


def _connection(experiment: Experiment, options: LiveOptions) -> Connection | None:
    """Where to read from: what the command says, else the experiment's source; None: a tape."""
    section = experiment.source
    named = [n for n in ("kafka", "zmq", "adara", "tape") if getattr(options, n) is not None]
    if len(named) > 1:
        raise InputError(f"--{' and --'.join(named)} are given; expected one source")
    if not named and section.kind == "files":
        raise InputError(
            "source.kind is 'files'; expected a live source. Give --kafka HOST:PORT, --zmq "
            "ADDRESS, --adara HOST:PORT or --tape FOLDER, or name one in the experiment's source "
            "section; recorded files are for `beamsteer replay`."
        )
    kind = named[0] if named else section.kind
    if kind == "tape":
        return None
    if kind in ("zmq", "adara"):
        described, address = getattr(section, kind), getattr(options, kind)
        if address is None:
            return described
        base = {} if described is None else described.model_dump()
        model = ZmqSection if kind == "zmq" else AdaraSection
        return model.model_validate(base | {"address": address})
    kafka = section.kafka
    if kafka is None:
        prefix = options.prefix or experiment.instrument.name.partition("/")[0].lower()
        kafka = KafkaSection(topics=KafkaTopics(prefix=prefix))
    changed: dict[str, Any] = kafka.model_dump()
    if options.kafka is not None:
        changed["bootstrap_servers"] = options.kafka
    if options.prefix is not None:
        changed["topics"]["prefix"] = options.prefix
    return KafkaSection.model_validate(changed)


def _refuse_another(worker: FoldWorker) -> None:
    """Refuse the state of another experiment before anything is connected or written."""
    found = read_state(worker.state)
    if found is not None:
        check_fingerprint(str(worker.state), found.fingerprint, worker.fingerprint)


def _remember(experiment: Experiment, experiment_dir: Path, state: Path) -> None:
    """Keep the experiment in the state folder, for model server and page."""
    path = state / EXPERIMENT
    temporary = state / f".{EXPERIMENT}.{os.getpid()}.partial"
    with storing(path):
        dump_experiment(with_absolute_files(experiment, experiment_dir), temporary)
        temporary.replace(path)


def _bounds(keep: Keep) -> Bounds:
    return Bounds(days=keep.days, size_bytes=keep.bytes)


def _close_outputs(sink: Sink, publisher: Publisher) -> None:
    """A broker that is gone must not hold the process up."""
    if publisher.close():
        sink.close()


def _kafka_sink(section: KafkaSection, environment: Mapping[str, str]) -> Sink:
    from consumers.transport import KafkaSink

    return KafkaSink(section, environment=environment)


def _source(
    chosen: Connection | None,
    tape: Path | None,
    owner: PartitionOwner,
    state: Path,
    environment: Mapping[str, str],
    partitions: int | None,
    section: SourceSection,
) -> RawSource:
    if isinstance(chosen, KafkaSection):
        from consumers.transport import KafkaSource, consumer_arguments, create_topics

        if partitions is not None:
            made = create_topics(chosen, consumer_arguments(chosen, environment), partitions)
            log.info("topics_created", topics=made, partitions=partitions)

        needed_s = section.longest_dwell_s + section.timeout_s
        return KafkaSource(chosen, owner, environment=environment, needed_s=needed_s)
    if isinstance(chosen, ZmqSection):
        from consumers.transport import zmq_source

        # what ZMQ delivers once is on the tape first, so that a restart can read it again
        source = zmq_source(chosen, environment=environment)
        return _taped(source, state, owner, section)
    if isinstance(chosen, AdaraSection):
        from consumers.transport import AdaraSource

        return _taped(AdaraSource(chosen), state, owner, section)
    from consumers.transport import TapeSource

    if tape is None:
        raise InputError("no source is given; expected Kafka, ZMQ, ADARA or a tape")
    return TapeSource(tape, owner)


def _taped(source: RawSource, state: Path, owner: PartitionOwner, section: SourceSection) -> Taped:
    """On a tape first, for sources that cannot repeat."""
    return Taped(
        source,
        state / "tape",
        owner,
        patience_s=section.storage_s,
        keep=section.retention.tape,
    )
