"""``beamsteer serve``: the status API and the live page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer serve build/demo --port 8080")(serve)


def serve(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="State folders of live runs, or folders of replayed ones; build/ by default."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
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
            help="File of named people, each with a role; `beamsteer token` adds to it.",
            show_envvar=True,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name that browsers know the server by; any, under a token, if absent."),
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option(
            help="A store of `beamsteer database build`, whose structures predictions may name."
        ),
    ] = None,
    prediction_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder where predictions are kept, 1 GiB at most; in memory alone, if none."
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="A bundle of `beamsteer train`, a folder of bundles, or the https address of one, "
            "that may be asked beside those shipped; all are loaded at the start."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Start, report the address, and stop again.")
    ] = False,
    json: terminal.Json = False,
) -> None:
    """Serve the status API and the live page until interrupted.

    The planner's page, /predict, shows what a crystal will look like before beam time.

    Runs that were, or are meanwhile, replayed into the folders are shown, and live ones that
    `beamsteer model-server` estimates. Meanwhile alarms of the live ones are evaluated and sent:
    see `beamsteer alarms`.
    """
    from steering.web import People, check_binding, serving

    check_binding(host, token, people=people is not None)
    door = People(token=token, path=people)
    looked = folders if folders else [Path("build")]
    for folder in folders or ():
        if not folder.exists():
            raise InputError(
                f"{folder}: is not there; expected a folder that `beamsteer replay -o` wrote. "
                "Correct the path."
            )

    if database is not None:
        from steering.database import open_database

        open_database(database)  # says now what is wrong with it

    from steering.alarms import watching
    from steering.cli._interruption import asked_to_stop
    from steering.cli._served_app import served_app
    from steering.run import RunStore, SnapshotFolders
    from steering.web import BoundedPredictor, Heartbeats, Models, answers, notify

    networks = Models(models or ())
    if models:
        networks.warm()  # says now what is wrong with them

    store = RunStore()
    stored = SnapshotFolders(looked)

    def publish_new() -> None:
        for fault in stored.publish_new(store):
            terminal.complain(fault)

    publish_new()
    workers = Heartbeats(looked)
    workers()
    app = served_app(
        store,
        BoundedPredictor(database=database, cache_folder=prediction_cache),
        people=door,
        names=tuple(name or ()),
        folders=looked,
        workers=workers,
        models=networks,
    )
    with asked_to_stop() as asked, serving(app, host=host, port=port) as url:
        runs = [run.run_id for run in store.list()]
        if json:
            terminal.print_json({"url": url, "runs": runs, "pid": os.getpid()})
        else:
            terminal.out.print(
                f"The live page is at [bold]{url}[/]; runs: {', '.join(runs) or 'none'}"
            )
            terminal.out.print("Stop with Ctrl-C.")
        if not check:

            def look() -> None:
                publish_new()
                workers()  # also while nobody asks: what it hears it need not believe
                if answers(url):
                    notify("READY=1", "WATCHDOG=1")

            look()
            with watching(looked):
                while not asked.wait(1.0):
                    look()
            notify("STOPPING=1")
