"""``beamsteer record``: a live stream onto a tape, to be replayed bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal

if TYPE_CHECKING:
    from consumers.transport import AdaraSection, KafkaSection, ZmqSection
    from steering.service import StreamCount


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer record --kafka 127.0.0.1:9092 --prefix hyspec -o build/tape"
    )(record)


def record(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", file_okay=False, help="Folder of the tape; one that is there goes on."
        ),
    ],
    kafka: Annotated[
        str | None,
        typer.Option(help="Record from the Kafka at HOST:PORT, oldest message first."),
    ] = None,
    zmq: Annotated[
        str | None, typer.Option(help="Record from a ZMQ publisher, e.g. tcp://127.0.0.1:5578.")
    ] = None,
    adara: Annotated[
        str | None,
        typer.Option(help="Record from an SNS beamline's live stream, e.g. 127.0.0.1:31415."),
    ] = None,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", "-e", help="Take source and credentials from this file."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Of the usual topics; with --zmq, of the messages.")
    ] = None,
    topics: Annotated[
        str | None, typer.Option(help="Names with commas: record these topics alone (Kafka).")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="End after so long.")] = None,
    messages: Annotated[int | None, typer.Option(min=1, help="End with so many messages.")] = None,
    json: terminal.Json = False,
) -> None:
    """Record every message as it comes, until Ctrl-C: bytes, keys, headers, times and offsets.

    Of ZMQ only what arrives while this runs is recorded; of ADARA also what its server still has
    of a run. Of Kafka, a second recording to the same tape goes on behind the first one. A tape
    that a crash left torn is cut after its last whole message.
    """
    from consumers.transport import TapeWriter
    from steering.cli._interruption import asked_to_stop
    from steering.service import live_source
    from steering.service import record as put_on_tape

    chosen = sections(kafka, zmq, adara, experiment, prefix, topics)
    with TapeWriter(output) as tape:
        if tape.note is not None:
            terminal.say(f"{output}: {tape.note}")
        source = live_source(tape, chosen)
        try:
            with asked_to_stop() as stop, terminal.progress("record", quiet=json) as show:
                if seconds is None and messages is None:
                    terminal.say(f"Recording to {output}. Stop with Ctrl-C.")

                def tell(count: StreamCount) -> None:
                    done = 0.0 if messages is None else count.messages / messages
                    show(told(count), done)

                count = put_on_tape(
                    source,
                    tape,
                    seconds=seconds,
                    messages=messages,
                    stop=stop.is_set,
                    each=tell if terminal.err.is_terminal else None,
                )
        finally:
            source.close()
        lost = getattr(source, "disconnections", 0)
    if json:
        terminal.print_json({"tape": str(output), **count.summary(), "disconnections": lost})
        return
    terminal.out.print(f"{told(count)}. Written to {output}")
    if count.gaps or lost:
        terminal.out.print(
            f"[yellow]Sequence numbers lack {count.gaps:,} messages[/]; connections lost: {lost}"
        )
    terminal.out.print(f"Replay it: beamsteer replay {output} --to kafka|zmq|adara|inprocess")


def told(count: StreamCount) -> str:
    """One line about a stream."""
    line = f"{count.messages:,} messages, {count.bytes / 1e6:,.1f} MB, {count.events:,} events"
    if count.gaps:
        line += f", {count.gaps:,} missing"
    return line + (f", {count.unreadable:,} unreadable" if count.unreadable else "")


def sections(
    kafka: str | None,
    zmq: str | None,
    adara: str | None,
    experiment: Path | None,
    prefix: str | None,
    topics: str | None,
) -> KafkaSection | ZmqSection | AdaraSection:
    """Connection of the options, else of the experiment's source section.

    Raises
    ------
    ValueError
        If there is none, or more than one.
    """
    from consumers.transport import AdaraSection, ZmqSection
    from steering.service import kafka_section

    given = {"kafka": kafka, "zmq": zmq, "adara": adara}
    named = [name for name, address in given.items() if address is not None]
    if len(named) > 1:
        raise InputError(f"--{' and --'.join(named)} are given; expected one of them")
    described = None
    if experiment is not None:
        from steering.experiment import load_experiment

        described = load_experiment(experiment).source
    kind = named[0] if named else "kafka" if described is None else described.kind
    names = [name.strip() for name in (topics or "").split(",") if name.strip()]
    if kind in ("zmq", "adara"):
        base = None if described is None else getattr(described, kind)
        fields = {} if base is None else base.model_dump()
        if given[kind] is not None:
            fields["address"] = given[kind]
        if kind == "adara":
            return AdaraSection.model_validate(fields)
        if prefix is not None:
            fields["prefix"] = prefix
        return ZmqSection.model_validate(fields)
    if kafka is None and (described is None or described.kafka is None):
        raise InputError(
            "no live source is given; expected --kafka HOST:PORT, --zmq ADDRESS, --adara "
            "HOST:PORT, or --experiment with a live source"
        )
    base = described.kafka if described is not None else None
    if base is None:
        return kafka_section(str(kafka), prefix=prefix, topics=names)
    plain = kafka_section("127.0.0.1:1", prefix=prefix or base.topics.prefix, topics=names)
    fields = base.model_dump() | {"topics": plain.topics if names or prefix else base.topics}
    fields["topics"] = fields["topics"].model_dump()
    if kafka is not None:
        fields["bootstrap_servers"] = kafka
    return type(base).model_validate(fields)
