"""``beamsteer guess``: force constants off a fold by a frozen network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer guess build/ge/fold/folded.npz --model germanium")(guess)


def guess(
    folded: Annotated[
        list[Path], typer.Argument(help="One or more folded.npz of `beamsteer fold` or `replay`.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A shipped bundle, one of --models, or the https address of one."
        ),
    ] = "germanium",
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="A bundle of `beamsteer train`, a folder of bundles, or the https address of one."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="JSON file for the result."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Read force constants off folded.npz with a frozen network, in milliseconds.

    A first answer, not the last word: beside each value stands the error that the network made on
    simulated spectra of as many counts, or the 90 % interval of a flow, whose calibration is told.
    `beamsteer estimate` fits, with error bars.
    """
    from steering.run import guess_folded

    told = guess_folded(folded, model=model, models=models or ())
    if output is not None:
        from steering.report import write_json

        write_json(terminal.plain(told), output)
    if json:
        terminal.print_json(told)
        return
    for one in told["estimates"]:
        posterior = one["parameters"][0]["low"] is not None
        terminal.table(
            f"{one['name']}, eV/angstrom^2",
            ("parameter", "value", "90 % interval" if posterior else "typical error", "prior"),
            [
                (
                    row["name"],
                    terminal.number(row["value"]),
                    f"{terminal.number(row['low'])} to {terminal.number(row['high'])}"
                    if posterior
                    else terminal.number(row["typical_error"], 2),
                    f"{terminal.number(row['prior_mean'])} ± "
                    f"{terminal.number(row['prior_sigma'], 2)}",
                )
                for row in one["parameters"]
            ],
        )
        terminal.out.print(_where(one), markup=False)
    for note in told["notes"]:
        terminal.out.print(f"note: {note}", markup=False)


def _where(one: dict[str, object]) -> str:
    """Words for where a spectrum lies among those trained on."""
    distance = terminal.number(one["latent_distance"], 3)
    share = one["latent_share"]
    if not isinstance(share, float):
        return f"latent distance {distance}; about 1 for spectra like those trained on"
    words = f"latent distance {distance}, farther than {100 * share:.3g} % of simulated spectra"
    if one["inside"]:
        return words
    return f"{words}: not like those trained on, so do not believe the values"
