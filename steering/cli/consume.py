"""``beamsteer consume``: fold a live stream, every message exactly once."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from steering.cli import _terminal as terminal
from steering.cli._interruption import asked_to_stop


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer consume examples/mno-hyspec.yaml --kafka 127.0.0.1:9092 "
        "-o build/state"
    )(consume)


def consume(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", file_okay=False, help="State folder; a restart goes on from it."
        ),
    ],
    kafka: Annotated[
        str | None, typer.Option(help="Read from the Kafka at HOST:PORT, usual topics.")
    ] = None,
    zmq: Annotated[
        str | None, typer.Option(help="Read from a ZMQ publisher, e.g. tcp://127.0.0.1:5578.")
    ] = None,
    adara: Annotated[
        str | None,
        typer.Option(help="Read from an SNS beamline's live stream, e.g. 127.0.0.1:31415."),
    ] = None,
    tape: Annotated[
        Path | None, typer.Option(help="Read a tape that `beamsteer record` wrote.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Of the topics; the instrument's name by default.")
    ] = None,
    create_topics: Annotated[
        int | None,
        typer.Option(min=1, help="Make the topics that are missing, with so many partitions."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Run of messages without a key; the file's name by default.")
    ] = None,
    psi: Annotated[
        float | None, typer.Option(help="Degrees, for dwells that log no psi; never assumed.")
    ] = None,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0.1, help="End after so many seconds of silence, all dwells closed."),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Estimate and advise in this process too.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the live page too; with --estimate.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address of page, /health, /ready and /metrics.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the live page.")] = 8080,
    health_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /health; 0 takes a free one.")
    ] = 8081,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="BEAMSTEER_TOKEN", help="Secret that readers must present.", show_envvar=True
        ),
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option(
            envvar="BEAMSTEER_PEOPLE",
            help="File of named people for the live page, as of `beamsteer serve`.",
            show_envvar=True,
        ),
    ] = None,
    log: terminal.Log = terminal.LogKind.TEXT,
    json: terminal.Json = False,
) -> None:
    """Fold a live stream into closed chunks until interrupted; nothing is lost, nothing doubled.

    Reads where the experiment's source section says, or where an option does. The state folder
    holds a manifest, the closed chunks and a recording of every dwell; kill the process at any
    time and start it again.
    """
    from steering.web import check_binding, serving

    check_binding(host, token)
    from steering.experiment import load_experiment

    described = load_experiment(experiment)
    terminal.log_to_stderr(log)

    from steering.service import LiveOptions, open_live, pulse, serve_estimates

    options = LiveOptions(
        kafka=kafka,
        zmq=zmq,
        adara=adara,
        tape=tape,
        prefix=prefix,
        run=run or described.source.run or experiment.stem,
        psi_deg=psi,
        estimate=estimate or serve,
        create_topics=create_topics,
    )
    with ExitStack() as stack:
        live = stack.enter_context(
            open_live(described, experiment_dir=experiment.parent, state=output, options=options)
        )
        stop = stack.enter_context(asked_to_stop())
        health = stack.enter_context(
            serving(live.operations(token=token), host=host, port=health_port)
        )
        told: dict[str, Any] = {"state": str(output), "health": health, "pid": os.getpid()}
        if serve:
            from steering.alarms import alarm_router, watching
            from steering.web import BoundedPredictor, Heartbeats, People, create_app, mount

            app = create_app(
                live.store,
                BoundedPredictor(),
                people=People(token=token, path=people),
                folders=[output],
                workers=Heartbeats([output]),
            )
            mount(app, alarm_router([output]))
            told["page"] = stack.enter_context(serving(app, host=host, port=port))
            stack.enter_context(watching([output]))
        if json:
            terminal.print_json(told)
        else:
            terminal.say(f"Folding into {output}; see {health}ready. Stop with Ctrl-C.")
            if serve:
                terminal.say(f"The live page is at {told['page']}")
        if live.model is not None:
            thread = threading.Thread(
                target=serve_estimates, args=(live.model, stop), name="estimates", daemon=True
            )
            thread.start()
        with pulse(live.worker_status):
            live.consume(stop.is_set, until_idle_s=until_idle)
        stop.set()
        if live.model is not None:
            thread.join()
            with suppress(BlockingIOError), live.model.alone(None):
                live.model.step()
        status = live.worker_status()
    _tell(status, json=json)


def _tell(status: Any, *, json: bool) -> None:
    from steering.service import status_json

    if json:
        terminal.print_json(status_json(status))
        return
    for run, chunks in status.chunks.items():
        terminal.out.print(f"{run}: {chunks} chunks folded")
    letters = status.counters.get("dead_letters.message", 0)
    if letters:
        terminal.out.print(f"{letters} messages could not be used; see the dead letters")
