"""``beamsteer replay``: recorded files through the code path of live data."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal

Files = Annotated[
    list[Path], typer.Argument(help="NXSPE or SNS raw event files, one per orientation.")
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
    experiment: terminal.ExperimentPath,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for result.json and folded.npz.")
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

    Writes result.json, folded.npz, folded.png and snapshot.npz (which `beamsteer serve` shows
    again) into the output folder.
    """
    from steering.experiment_file import load_experiment

    described = load_experiment(experiment)
    check_files(files)

    from steering.run_store import RunStore, save_snapshot
    from steering.runs import replay as run

    store = RunStore()
    name = run_id or experiment.stem
    with ExitStack() as stack:
        if serve:
            from steering.api import create_app
            from steering.serving import serving

            url = stack.enter_context(serving(create_app(store), port=port))
            terminal.say(f"The live page is at {url}")
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
        save_snapshot(snapshot, output / "snapshot.npz")
        if snapshot.spectrum is not None:
            from steering.plots_file import write_folded_map

            write_folded_map(snapshot.spectrum, output / "folded.png", title=snapshot.title)
    if json:
        terminal.print_json(result)
        return
    terminal.print_set_aside(snapshot.chunks if snapshot is not None else ())
    terminal.print_result(result)
    if output is not None:
        terminal.out.print(f"Written to {output}; see the page again: beamsteer serve {output}")


def check_files(files: list[Path]) -> None:
    """Raise for files that are not there; what is inside is judged chunk by chunk."""
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path}: is no file; expected a recorded file. Correct the path.")
