"""The source section of an experiment file: where messages come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from consumers.transport.adara_settings import AdaraSection
from consumers.transport.kafka_settings import KafkaSection
from consumers.transport.retention_settings import RetentionSection
from consumers.transport.zmq_settings import ZmqSection
from consumers.wire import FaultPolicy
from simulations.section import Count, Number, Positive, Section, Text, expected


class SourceSection(Section):
    """Where chunks come from, and how long a worker waits for what is late."""

    kind: Literal["files", "kafka", "zmq", "adara"] = Field(
        default="files", description="`files` (recorded), `kafka`, `zmq` or `adara` (live)"
    )
    run: Text | None = Field(
        default=None, description="run of live messages without a key; the file's name by default"
    )
    psi_log: Text = Field(default="s1", description="log of raw events that holds psi in degrees")
    ei_meV: Positive | None = Field(
        default=None,
        description="incident energy of event data in meV, or null: the one that they log",
    )
    t0_us: Number | None = Field(
        default=None,
        description="emission time of event data in microseconds, or null: the instrument's own",
    )
    period: Count | None = Field(
        default=None, description="period of ISIS event files that counts, where they hold several"
    )
    kafka: KafkaSection | None = Field(default=None, description="connection of kind kafka")
    zmq: ZmqSection | None = Field(default=None, description="connection of kind zmq")
    adara: AdaraSection | None = Field(default=None, description="connection of kind adara")
    settle_s: Positive = Field(
        default=2.0, description="a dwell closes this long after its stop; what is late reopens it"
    )
    lateness_s: Positive = Field(
        default=60.0, description="data of no dwell are dropped, and counted, after so long"
    )
    timeout_s: Positive = Field(
        default=600.0, description="a dwell without a stop closes after so much silence"
    )
    longest_dwell_s: Positive = Field(
        default=3600.0,
        description="longest dwell; with timeout_s how long Kafka must keep messages at least",
    )
    storage_s: Positive = Field(
        default=600.0,
        description="how long nothing can be written (a full disk) before the worker ends with 75",
    )
    undecodable: FaultPolicy = Field(
        default="dead-letter",
        description="what becomes of a message that cannot be decoded or is too large: kept among "
        "the dead letters, `skip` (counted and logged), or `stop` (the worker ends with 2)",
    )
    memory_bytes: int = Field(
        default=64 * 2**20,
        ge=0,
        description="events of open dwells that a worker keeps in memory; more wait on disk",
    )
    retention: RetentionSection = Field(
        default=RetentionSection(), description="what is removed once nobody needs it; nothing"
    )

    @model_validator(mode="after")
    def _connected(self) -> SourceSection:
        if self.kind != "files" and getattr(self, self.kind) is None:
            raise expected(f"a section source.{self.kind} for kind {self.kind}. Add it.")
        return self
