"""``beamsteer fold``: recorded files into I(q,E), without an estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal
from steering.cli.replay import Files, Psi


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer fold build/ge/*.nxspe --experiment examples/ge-arcs.yaml "
        "-o build/ge/fold --plot"
    )(fold)


def fold(
    files: Files,
    experiment: terminal.ExperimentPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for folded.npz.")],
    psi: Psi = None,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot",
            help="Write folded.png (map, exposure, error) and folded-reach.png (zones and tubes).",
        ),
    ] = False,
    powder: Annotated[
        bool,
        typer.Option("--powder", help="Fold onto |Q| in place of the path: powder.npz and .png."),
    ] = False,
    q_step: Annotated[
        float, typer.Option(help="Width of the |Q| bins of --powder, 1/angstrom.")
    ] = 0.05,
    json: terminal.Json = False,
) -> None:
    """Fold recorded files into I(q,E) along the experiment's path, without estimating.

    With --powder they are folded into S(|Q|,E) whatever their orientation; of the experiment only
    instrument, Ei and energy axis are used then.
    """
    from steering.experiment import load_for_folding
    from steering.report import refuse_missing

    described = load_for_folding(experiment, powder=powder)
    refuse_missing(files)
    with terminal.set_aside_told_once(), terminal.progress("fold", quiet=json) as progress:
        if powder:
            from steering.report import write_powder_fold
            from steering.run import fold_powder

            folded = fold_powder(
                files,
                described,
                experiment_dir=experiment.parent,
                step=q_step,
                psi_deg=psi,
                progress=progress,
            )
            write_powder_fold(folded, output if output.suffix == ".npz" else output / "powder.npz")
            summary = folded.summary()
        else:
            from steering.report import fold as run

            summary = run(
                files,
                described,
                experiment_dir=experiment.parent,
                output=output,
                plot=plot,
                psi_deg=psi,
                progress=progress,
            )
    if json:
        terminal.print_json(summary)
        return
    told = terminal.plain(summary)
    chunks, notes = told.pop("chunks", []), told.pop("notes", [])
    terminal.table("Folded", ["", ""], [[key, _shown(value)] for key, value in told.items()])
    for note in notes:
        terminal.out.print(f"note: {note}", markup=False)
    aside = terminal.print_set_aside(chunks)
    terminal.out.print(f"Written to {output}{aside}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return terminal.number(value, 6) if isinstance(value, float) else str(value)
