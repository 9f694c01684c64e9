"""``beamsteer demo``: the whole loop on a virtual germanium scan, then measured aluminium."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from steering.cli import _terminal as terminal
from steering.cli.invert_powder import print_powder

ORIENTATIONS_DEG = (0.0, 60.0, 30.0, 90.0, 15.0, 75.0)
MINUTES = 1.0
FINAL = "[bold]See the page again:[/] make serve   (or: beamsteer serve {})"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer demo -o build/demo")(demo)


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for all files.")
    ] = Path("build/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the virtual scan.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    json: terminal.Json = False,
) -> None:
    """Simulate, write and replay a short germanium scan; then invert measured aluminium."""
    import shutil
    from importlib import resources

    from steering.experiment import load_experiment
    from steering.report import write_replayed
    from steering.run import RunStore, replay
    from steering.study import simulate
    from steering.web import create_app, serving

    recorded, replayed = output / "recorded", output / "replay"
    for folder in (recorded, replayed):
        folder.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("steering").joinpath("cli", "demo.yaml")) as packaged:
        shutil.copyfile(packaged, output / "experiment.yaml")
    experiment = load_experiment(output / "experiment.yaml")

    store = RunStore()
    with ExitStack() as stack:
        url = stack.enter_context(serving(create_app(store), port=port))
        terminal.say(f"The live page is at [bold]{url}[/] while this runs.")
        with terminal.progress("simulate", quiet=json) as progress:
            truth = simulate(
                experiment,
                experiment_dir=output,
                output=recorded,
                psi_deg=list(ORIENTATIONS_DEG),
                minutes=MINUTES,
                seed=seed,
                formats=("nxspe", "sns"),
                progress=progress,
            )
        files = scan_files(recorded)
        with terminal.progress("replay", quiet=json) as progress:
            result = replay(
                files,
                experiment,
                experiment_dir=output,
                output=replayed,
                speed=None,
                store=store,
                run_id="demo",
                psi_deg=None,
                progress=progress,
            )
        snapshot = store.get("demo")
        picture = replayed / "folded.png"
        if snapshot is not None:
            write_replayed(snapshot, replayed)
        powder = invert_measured_aluminium(quiet=json)

    if json:
        terminal.print_json({"truth": truth, "result": result, "powder": powder, "url": url})
        return
    terminal.print_result(result, truth=true_values(truth))
    saved = minutes_saved(result, experiment.motion.limits_deg)
    terminal.out.print(saved)
    terminal.out.print(f"[bold]Folded map:[/] {picture}")
    terminal.out.print("\n[bold]Measured aluminium (ARCS, Ei = 50 meV, powder)[/]")
    print_powder(powder)
    terminal.out.print(FINAL.format(output))


def scan_files(folder: Path) -> list[Path]:
    """Raw event files of a simulated scan, or its NXSPE set where there are none."""
    events = sorted(folder.rglob("*.nxs.h5"))
    return events or sorted(folder.rglob("*.nxspe"))


def true_values(truth: dict[str, Any]) -> dict[str, float]:
    """Parameter names and true values from what ``simulate`` returned."""
    parameters = truth.get("parameters", {})
    if isinstance(parameters, dict):
        return {str(name): float(value) for name, value in parameters.items()}
    return {one["name"]: float(one["value"]) for one in parameters}


def minutes_saved(result: dict[str, Any], limits_deg: tuple[float, float]) -> str:
    """What stopping now would save against the planned sweep of one minute per degree."""
    if result.get("trusted") is False:
        return "The estimate is not trusted: nothing is said of minutes that a stop would save."
    planned = limits_deg[1] - limits_deg[0]
    left = planned - float(result.get("minutes_used", 0.0))
    to_target = (result.get("stop") or {}).get("minutes_to_target")
    line = f"Stopping now would save {max(left, 0):.0f} of the {planned:.0f} minutes planned"
    if to_target:
        line += f"; meeting every target first, {max(left - to_target, 0):.0f}"
    return line + "."


def invert_measured_aluminium(*, quiet: bool) -> dict[str, Any]:
    """Fit force constants to the measured spectrum in the package."""
    from model_server.powder import invert_powder

    with terminal.progress("invert aluminium", quiet=quiet) as progress:
        return invert_powder("aluminium", temperature_K=50.0, progress=progress)
