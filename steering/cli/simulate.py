"""``beamsteer simulate``: a virtual experiment, written as recorded files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal

MOST = 3600  # orientations of one scan


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer simulate examples/ge-arcs.yaml --psi 0:120:30 --minutes 4 "
        "--seed 1 -o build/ge"
    )(simulate)


def simulate(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for what is written.")
    ],
    psi: Annotated[
        str, typer.Option(help="Orientations in degrees: 0,30,60 or start:stop:step.")
    ] = "0:120:10",
    minutes: Annotated[float, typer.Option(min=1e-3, help="Dwell at each orientation.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed, the same files.")] = 0,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="nxspe or sns; may be given twice. Both by default."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Simulate a rotation scan, with the truth written beside it.

    Poisson counts of one-phonon scattering, elastic line and background are written as an NXSPE
    set and as raw events in the SNS layout.
    """
    from steering.experiment import load_experiment

    described = load_experiment(experiment)
    angles = orientations(psi)
    wanted = tuple(formats or ("nxspe", "sns"))
    unknown = sorted(set(wanted) - {"nxspe", "sns"})
    if unknown:
        raise InputError(f"--format is {', '.join(unknown)}; expected nxspe or sns.")

    output.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    from steering.study import simulate as run

    with terminal.progress("simulate", quiet=json) as progress:
        truth = run(
            described,
            experiment_dir=experiment.parent,
            output=output,
            psi_deg=angles,
            minutes=minutes,
            seed=seed,
            formats=wanted,
            progress=progress,
        )
    if json:
        terminal.print_json(truth)
    else:
        for note in truth["notes"]:
            terminal.out.print(f"note: {note}", markup=False)
        terminal.out.print(f"Files and truth are in {output}. Replay them with")
        ending = "nxs.h5" if "sns" in wanted else "nxspe"
        terminal.out.print(
            f"  beamsteer replay {output}/*.{ending} --experiment {experiment} -o {output}/replay"
        )


def orientations(text: str) -> list[float]:
    """Read ``0,30,60`` or ``start:stop:step`` (stop included) as degrees."""
    try:
        if ":" not in text:
            found = [float(part) for part in text.split(",")]
        else:
            start, stop, step = (float(part) for part in text.split(":"))
            steps = (stop - start) / step
            if not 0 <= steps < MOST:
                raise ValueError
            found = [start + i * step for i in range(int(steps + 1e-9) + 1)]
    except (ValueError, ArithmeticError):
        found = []
    if not found or len(found) > MOST or not all(abs(psi) <= 3600 for psi in found):
        raise InputError(
            f"--psi is {text!r}; expected degrees as 0,30,60 or start:stop:step. Correct it."
        )
    return found
