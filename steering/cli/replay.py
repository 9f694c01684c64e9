"""``beamsteer replay``: recorded files or a tape through the code path of live data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._command_lines import aligned, command_line

if TYPE_CHECKING:
    from consumers.wire import RawMessage, Sink
    from steering.experiment import Experiment
    from steering.report import AlignmentVerdict


class Target(StrEnum):
    """Where a recorded stream goes."""

    INPROCESS = "inprocess"
    KAFKA = "kafka"
    ZMQ = "zmq"
    ADARA = "adara"


USUAL_ADDRESS = {
    Target.KAFKA: "127.0.0.1:9092",
    Target.ZMQ: "tcp://127.0.0.1:5577",
    Target.ADARA: "127.0.0.1:31415",
}

Files = Annotated[
    list[Path],
    typer.Argument(help="NXSPE, SQW, SNS or ISIS raw event files; or one tape."),
]
Psi = Annotated[
    float | None,
    typer.Option(help="Degrees, for files that record no psi; never assumed otherwise."),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer replay build/ge/*.nxspe --experiment examples/ge-arcs.yaml "
        "-o build/ge/replay --serve"
    )(replay)


def replay(
    files: Files,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", "-e", help="The experiment file; needed in process."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            file_okay=False,
            help="Folder for result.json and folded.npz; of a tape: state.",
        ),
    ] = None,
    to: Annotated[
        Target, typer.Option(help="Fold in this process, or send to a broker, over ZMQ or ADARA.")
    ] = Target.INPROCESS,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the broker (HOST:PORT, usually 127.0.0.1:9092) or of ZMQ (usually "
            "tcp://127.0.0.1:5577, the input of a bluesky proxy)."
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Over ADARA: wait for clients at HOST:PORT (usually 127.0.0.1:31415)."),
    ] = None,
    bind: Annotated[
        bool, typer.Option("--bind", help="Over ZMQ: wait for subscribers at the address.")
    ] = False,
    prefix: Annotated[
        str | None, typer.Option(help="Of the topics; the experiment's instrument by default.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=1e-6, help="1 is real time; absent: as fast as it goes.")
    ] = None,
    psi: Psi = None,
    run_id: Annotated[
        str | None, typer.Option(help="Name of the run; the experiment file's by default.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the live page on loopback meanwhile.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the live page.")] = 8080,
    json: terminal.Json = False,
) -> None:
    """Replay recorded files chunk by chunk: fold, estimate and advice after each.

    Writes result.json, result-experiment.yaml (what it was measured with), folded.npz, folded.png
    and snapshot.npz (which `beamsteer serve` shows again) into the output folder. A tape is folded
    as `beamsteer consume` would, into a state folder. With --to kafka, zmq or adara nothing is
    folded here: the messages of a tape, or those that a facility would have sent while the files
    were recorded, go out at the pace of --speed. Where the run is not trusted, its elastic peaks
    are looked at and told first. The exit status is 3 for a run that is not trusted or a file that
    was set aside.
    """
    if listen is not None and to is not Target.ADARA:
        raise InputError("--listen is given; expected it with --to adara alone. Leave it out")
    if to is Target.ADARA and address is not None:
        raise InputError("--address is given; ADARA waits for its clients. Give --listen HOST:PORT")
    if to is not Target.INPROCESS:
        from steering.experiment import load_experiment

        described = None if experiment is None else load_experiment(experiment)
        name = run_id or ("replay" if experiment is None else experiment.stem)
        send(files, described, to, address or listen, bind, prefix, name, psi, speed, json)
        return
    if experiment is None:
        raise InputError("--experiment is missing; expected the experiment file. Give -e FILE")
    described = _loaded(experiment, files)
    if is_tape(files):
        fold_tape(files[0], described, experiment, output, run_id, psi, speed, json)
        return

    from steering.report import refuse_missing, write_replayed
    from steering.run import RunStore
    from steering.run import replay as run

    refuse_missing(files)

    store = RunStore()
    name = run_id or experiment.stem
    put_right = command_line("align", files, experiment=experiment, correct=aligned(experiment))
    if not json and not _was_aligned(described):
        terminal.say(
            "Nobody has held u, v and the psi offset against the elastic peaks of these files; "
            f"that takes seconds:\n  {escape(put_right)}"
        )
    with ExitStack() as stack:
        if serve:
            from steering.web import create_app, serving

            url = stack.enter_context(serving(create_app(store), port=port))
            terminal.say(f"The live page is at {url}")
        stack.enter_context(terminal.set_aside_told_once())
        progress = stack.enter_context(terminal.progress("replay", quiet=json))
        result = run(
            files,
            described,
            experiment_dir=experiment.parent,
            output=output,
            speed=speed,
            store=store,
            run_id=name,
            psi_deg=psi,
            progress=progress,
        )
    snapshot = store.get(name)
    if output is not None and snapshot is not None:
        write_replayed(snapshot, output)
    explained = result["trusted"] or result.get("trust") == "cannot tell yet"
    blamed = None if explained else _alignment_of(files, described, experiment, psi, json)
    alarm = not explained or any(c["status"] == "set aside" for c in result["chunks"])
    if json:
        found = {} if blamed is None else {"alignment": blamed.as_dict(), "align": put_right}
        terminal.print_json(result | found)
        raise typer.Exit(terminal.ALARM if alarm else 0)
    aside = terminal.print_set_aside(result["chunks"])
    if blamed is not None:
        _blame(blamed)
    terminal.print_result(result)
    for note in result.get("notes", []):
        terminal.out.print(f"note: {note}", markup=False)
    if output is not None:
        terminal.out.print(
            f"Written to {output}{aside}; see the page again: beamsteer serve {output}"
        )
    if blamed is not None and blamed.code != "agrees":
        terminal.out.print(f"First put the alignment right:\n  {put_right}", markup=False)
    raise typer.Exit(terminal.ALARM if alarm else 0)


def _loaded(experiment: Path, files: list[Path]) -> Experiment:
    """Read the experiment; of a mount that is left open, say how it is found."""
    from steering.experiment import TodoError, load_experiment

    try:
        return load_experiment(experiment)
    except TodoError as error:
        if not any(todo.alignment for todo in error.todos) or is_tape(files):
            raise
        line = command_line("align", files, experiment=experiment, correct=aligned(experiment))
        raise InputError(f"{error}\nTo find the mount from elastic peaks:\n  {line}") from error


def _was_aligned(described: Experiment) -> bool:
    """Whether the experiment says how well its mount is known, as `align --correct` writes it."""
    off = described.missetting
    return off.psi_offset_deg > 0 or off.tilt_deg > 0


def _alignment_of(
    files: list[Path], described: Experiment, experiment: Path, psi: float | None, json: bool
) -> AlignmentVerdict:
    """Hold the set-up of a run that is not trusted against its elastic peaks."""
    from simulations.crystal import read_crystal, with_isotopes
    from steering.experiment import structure_of
    from steering.report import alignment_first

    crystal = with_isotopes(
        read_crystal(structure_of(described, experiment.parent)), described.sample.made_of
    )
    with terminal.progress("alignment", quiet=json) as progress:
        return alignment_first(files, described, crystal, psi_deg=psi, progress=progress)


def _blame(verdict: AlignmentVerdict) -> None:
    """Say what the elastic peaks tell, before what the model does not explain."""
    style = "yellow" if verdict.code == "agrees" else "bold red"
    terminal.out.print(f"[{style}]Alignment[/] {escape(verdict.words[0])}")
    for word in verdict.words[1:]:
        terminal.out.print(f"  - {escape(word)}")


def is_tape(files: list[Path]) -> bool:
    """Whether the one path given is the folder of a tape."""
    return len(files) == 1 and files[0].is_dir()


def send(
    files: list[Path],
    described: Experiment | None,
    to: Target,
    address: str | None,
    bind: bool,
    prefix: str | None,
    run: str,
    psi: float | None,
    speed: float | None,
    json: bool,
) -> None:
    """Send files or a tape to a broker, over ZMQ or over ADARA."""
    from steering.cli._interruption import asked_to_stop
    from steering.cli.record import told
    from steering.service import adara_of_stream, publish, stream_of_recorded

    stream: Iterator[RawMessage]
    if is_tape(files):
        from consumers.transport import TapeReader, read_tape

        TapeReader(files[0]).close()
        stream = read_tape(files[0])
    else:
        from steering.report import refuse_missing

        refuse_missing(files)
        if prefix is None and described is not None:
            prefix = described.instrument.name.partition("/")[0].lower()
        if prefix is None and to is Target.ADARA:
            prefix = "adara"  # which has no topics
        if prefix is None:
            raise InputError("the topics are unknown; give --prefix, e.g. hyspec, or --experiment")
        stream = stream_of_recorded(
            files,
            run=run,
            prefix=prefix,
            psi_log="s1" if described is None else described.source.psi_log,
            psi_deg=psi,
            ei_meV=None if described is None else described.instrument.ei_meV,
        )
    if to is Target.ADARA:
        stream = adara_of_stream(stream)
    sink = open_sink(described, to, address or USUAL_ADDRESS[to], bind, prefix)
    try:
        with asked_to_stop() as stop, terminal.progress("replay", quiet=json) as show:
            count = publish(
                stream,
                sink,
                speed=speed,
                stop=stop.is_set,
                each=(lambda c: show(told(c), 0.0)) if terminal.err.is_terminal else None,
            )
    finally:
        sink.close()
    if json:
        terminal.print_json({"to": to.value, "run": run, **count.summary()})
    else:
        terminal.out.print(f"{told(count)} sent to {to.value}")


def open_sink(
    described: Experiment | None, to: Target, address: str, bind: bool, prefix: str | None
) -> Sink:
    """Broker, ZMQ socket or ADARA server, with the credentials of the experiment where it has some.

    Raises
    ------
    ConnectionError
        If nobody is there.
    """
    source = None if described is None else described.source
    if to is Target.KAFKA:
        from consumers.transport import KafkaSection, KafkaSink
        from steering.service import kafka_section

        section = kafka_section(address, prefix=prefix or "recorded")
        if source is not None and source.kafka is not None:
            fields = source.kafka.model_dump() | {"bootstrap_servers": address}
            section = KafkaSection.model_validate(fields)
        return KafkaSink(section)
    if to is Target.ADARA:
        from consumers.transport import AdaraSink

        section = None if source is None else source.adara
        server = AdaraSink(
            address, allow_unencrypted=section is not None and section.allow_unencrypted
        )
        terminal.say(f"Waiting for clients at {server.address}")
        return server
    from consumers.transport import ZmqSection, zmq_sink

    sink = zmq_sink(ZmqSection(address=address, bind=bind))
    try:
        sink.wait_for_receiver(30.0)
    except ConnectionError:
        sink.close()
        raise
    return sink


def fold_tape(
    tape: Path,
    described: Experiment,
    experiment: Path,
    output: Path | None,
    run_id: str | None,
    psi: float | None,
    speed: float | None,
    json: bool,
) -> None:
    """Fold a tape to its end in this process, as `beamsteer consume` folds a stream."""
    from steering.cli._interruption import asked_to_stop
    from steering.service import LiveOptions, fold_to_the_end, open_live, status_json

    if output is None:
        raise InputError("--output is missing; expected a folder for the state. Give -o FOLDER")
    options = LiveOptions(
        run=run_id or described.source.run or experiment.stem, tape=tape, psi_deg=psi
    )
    with open_live(
        described, experiment_dir=experiment.parent, state=output, options=options
    ) as live:
        with asked_to_stop() as stop:
            fold_to_the_end(tape, live.worker, speed=speed, stop=stop.is_set)
        status = live.worker_status()
    if json:
        terminal.print_json(status_json(status))
        return
    for run, chunks in status.chunks.items():
        terminal.out.print(f"{run}: {chunks} chunks folded")
    terminal.out.print(f"Written to {output}; estimate from it: beamsteer model-server {output}")
