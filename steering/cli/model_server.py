"""``beamsteer model-server``: estimates and advice beside the fold workers of a state folder."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        name="model-server",
        epilog="Example: beamsteer model-server build/state",
    )(model_server)


def model_server(
    state: Annotated[
        Path | None, typer.Argument(help="State folder that `beamsteer consume` writes.")
    ] = None,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", "-e", help="Experiment file; the state folder's by default."),
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(help="Publish to the Kafka at HOST:PORT; the experiment's by default."),
    ] = None,
    publish: Annotated[
        bool, typer.Option(help="Publish estimates and advice where there is a Kafka to do it.")
    ] = True,
    once: Annotated[bool, typer.Option("--once", help="Answer what is there, and end.")] = False,
    host: Annotated[
        str, typer.Option(help="Address of /health, /ready and /metrics.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8082,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="BEAMSTEER_TOKEN", help="Secret that readers must present.", show_envvar=True
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.05, max=5.0, help="Seconds between two looks.")
    ] = 1.0,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the schemas of what is published, and end.")
    ] = False,
    log: terminal.Log = terminal.LogKind.TEXT,
    json: terminal.Json = False,
) -> None:
    """Estimate, judge and advise after every commit of the fold workers, until interrupted.

    Writes result.json, snapshot.npz (which `beamsteer serve STATE` shows) and folded.npz into the
    folder `estimate` of every run. Where the experiment reads from Kafka, estimates, advice and
    heartbeats are published there too, in topics that source.kafka.topics names.
    """
    if schema:
        from steering.service import message_schemas

        terminal.print_json(message_schemas())
        return
    from steering.web import check_binding, serving, stopped_by_signals

    check_binding(host, token)
    if kafka is not None and not publish:
        raise InputError(
            f"--kafka is {kafka} beside --no-publish; expected one of them. Leave one away."
        )
    if state is None or not state.is_dir():
        raise InputError(
            f"state folder is {state or 'missing'}, which is not there; expected the folder that "
            "`beamsteer consume` writes. Correct the path, or start `beamsteer consume` first."
        )
    path = experiment or state / "experiment.yaml"
    if experiment is None and not path.is_file():
        raise BlockingIOError(
            f"{path}: is not there yet; expected what `beamsteer consume` writes when it begins. "
            "Start it, or give --experiment."
        )

    from steering.experiment import load_experiment

    described = load_experiment(path)
    terminal.log_to_stderr(log)

    from steering.experiment import build_measurement
    from steering.service import (
        ModelService,
        OutputTopics,
        Publisher,
        operations_app,
        pulse,
        serve_estimates,
        service_registry,
    )

    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        publisher = None
        if publish and (kafka is not None or described.source.kind == "kafka"):
            sink, topics = _kafka_sink(described, kafka)
            publisher = Publisher(
                sink,
                topics=OutputTopics.of(topics),
                service_id="beamsteer-model-server",
                heartbeat=lambda: service.status(),
            )
            stack.callback(_close, publisher, sink)
        measurement = build_measurement(described, path.parent)
        _refuse_another(state, measurement)
        registry, timings = service_registry(lambda: service.status())
        service = ModelService(
            state,
            measurement,
            publisher=publisher,
            timings=timings,
            patience_s=0.0 if once else described.source.storage_s,
            publish_folded=described.source.kind != "kafka",  # else the fold worker does
        )
        if once:
            with service.alone(None):
                service.step()
            if publisher is not None and not publisher.pump():
                terminal.err.print(f"Not published: {publisher.trouble}")
        else:
            app = operations_app(service.status, registry, token=token)
            url = stack.enter_context(serving(app, host=host, port=port))
            if publisher is not None:
                publisher.start()
            told = {"url": url, "pid": os.getpid()}
            if json:
                terminal.print_json(told)
            else:
                terminal.out.print(f"Estimating beside {state}; see {url}ready. Stop with Ctrl-C.")
            with pulse(service.status):
                serve_estimates(service, every_s=every)
    if once:
        _tell(service.results(), service.status().error, json=json)


def _refuse_another(state: Path, measurement: Any) -> None:
    """Refuse a state that was folded with another experiment."""
    from consumers.state import check_fingerprint, read_state

    found = read_state(state)
    if found is not None:
        ours = measurement.fingerprint
        theirs = {key: value for key, value in found.fingerprint.items() if key in ours}
        check_fingerprint(str(state), theirs, ours)


def _kafka_sink(described: Any, servers: str | None) -> tuple[Any, Any]:
    """A sink that connects when it is needed, and the experiment's names of topics."""
    from consumers.transport import KafkaSection, KafkaTopics
    from steering.service import LateSink

    section = described.source.kafka
    if section is None:
        prefix = described.instrument.name.partition("/")[0].lower()
        section = KafkaSection(topics=KafkaTopics(prefix=prefix))
    if servers is not None:
        section = KafkaSection.model_validate(section.model_dump() | {"bootstrap_servers": servers})

    def open_sink() -> Any:
        from consumers.transport import KafkaSink

        return KafkaSink(section)

    return LateSink(open_sink), section.topics


def _close(publisher: Any, sink: Any) -> None:
    """Send what waits; a broker that is away does not keep the process from ending."""
    if publisher.close():
        sink.close()


def _tell(results: dict[str, Any], error: str | None, *, json: bool) -> None:
    """Print the results of ``--once``."""
    if json:
        terminal.print_json({"runs": results, "error": error})
    else:
        for run, result in results.items():
            terminal.out.print(f"[bold]{run}[/]")
            if result is not None:
                terminal.print_set_aside(result["chunks"])
                terminal.print_result(result, status="running")
    if error is not None:
        raise InputError(error)
