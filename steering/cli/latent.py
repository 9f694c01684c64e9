"""``beamsteer latent``: what the latent of a model bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer latent germanium -e examples/ge-arcs.yaml "
        "--run build/ge/fold/folded.npz -o build/latent"
    )(latent)


def latent(
    model: Annotated[
        str,
        typer.Argument(help="A shipped bundle by name, or the folder of one.", metavar="BUNDLE"),
    ],
    experiment: terminal.ExperimentPath,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", file_okay=False, help="Folder for latent.json and pictures."
        ),
    ],
    run: Annotated[
        list[Path] | None,
        typer.Option(
            help="folded.npz, result.json or the folder of a replay, to be placed among the "
            "simulated; may be given again."
        ),
    ] = None,
    sets: Annotated[int, typer.Option(min=12, help="Sets of force constants.")] = 48,
    orientations: Annotated[int, typer.Option(min=2, help="At which they are simulated.")] = 7,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed, the same spectra.")] = 0,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Keep the distances on the card of BUNDLE, a folder, for `guess` and the API.",
        ),
    ] = False,
    json: terminal.Json = False,
) -> None:
    """Analyse the latent of a bundle on simulated spectra, and place measured ones among them.

    Active dimensions, how they move with each force constant, principal components, a way from one
    spectrum to another, errors against psi, and how far measured spectra lie from simulated ones.
    """
    folder = Path(model)
    named = folder.is_dir()
    if calibrate and not named:
        raise InputError(
            f"BUNDLE is {model!r}, which is no folder; expected one whose card may be written. "
            "Copy the bundle, or leave --calibrate out."
        )

    from steering.experiment import load_experiment

    described = load_experiment(experiment)
    output.mkdir(parents=True, exist_ok=True)  # before the work, not after it

    from steering.report import latent_pictures, write_json, write_pictures
    from steering.study import analyse_latent, keep_analysis

    with terminal.progress("latent", quiet=json) as progress:
        found = analyse_latent(
            folder.resolve().name if named else model,
            described,
            experiment_dir=experiment.parent,
            models=[folder] if named else [],
            runs=run or [],
            sets=sets,
            orientations=orientations,
            seed=seed,
            progress=progress,
        )
    if calibrate:
        keep_analysis(folder, found)
    told = terminal.plain({key: found[key] for key in found if key != "interpolation"})
    between = terminal.plain(found["interpolation"])
    told["interpolation"] = {key: between[key] for key in between if key != "spectra"}
    write_json(told, output / "latent.json")
    write_pictures(latent_pictures(found), output)
    if json:
        terminal.print_json(told)
        return
    active = found["activity"]["active"]
    terminal.out.print(f"{int(active.sum())} of {len(active)} dimensions are active.")
    for one in found["runs"]:
        terminal.out.print(
            f"{one['name']}: latent distance {terminal.number(one['latent_distance'], 3)}, farther "
            f"than {100 * one['latent_share']:.3g} % of simulated spectra",
            markup=False,
        )
    terminal.out.print(f"Figures and pictures are in {output}.", markup=False)
