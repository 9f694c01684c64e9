"""``beamsteer invert-powder``: force constants from a measured powder spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "invert-powder",
        epilog="Example: beamsteer invert-powder aluminium --temperature 50; or "
        "beamsteer invert-powder silicon.nxspe -e silicon.yaml --plot silicon.png",
    )(invert_powder)


def invert_powder(
    spectrum: Annotated[
        str,
        typer.Argument(
            help="`aluminium` (measured, in the package), an NPZ file in its layout or of `fold "
            "--powder`, an NXSPE powder run, or a reduced I(|Q|,E) in HDF5."
        ),
    ] = "aluminium",
    experiment: Annotated[
        Path | None,
        typer.Option(
            "--experiment", "-e", help="The experiment file (YAML); without it, aluminium on ARCS."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Which of several spectra, kelvin; all by default."),
    ] = None,
    shells: Annotated[
        int,
        typer.Option(min=1, max=5, help="Neighbour shells with free constants, of aluminium."),
    ] = 2,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            dir_okay=False,
            help="PNG file for data, fit and residual; one per temperature.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="JSON file for the result."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Fit the force constants of a crystal to a measured powder spectrum S(|Q|,E).

    Scale, multiphonons, a can and a smooth background are fitted with them, widths and offsets of
    the axes too. The verdict says whether the model explains the spectrum, and if not, why.
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(f"--plot is {plot}; expected a name that ends in .png.")

    from steering.run import invert_aluminium, invert_measured

    with terminal.progress("invert-powder", quiet=json) as progress:
        if experiment is None:
            found = invert_aluminium(
                spectrum, temperature_K=temperature, shells=shells, progress=progress
            )
        else:
            from steering.experiment import load_experiment

            found = invert_measured(
                spectrum,
                load_experiment(
                    experiment,
                    spared=("motion", "sample.u", "sample.v", "sample.psi_offset_deg"),
                ),
                experiment_dir=experiment.parent,
                temperature_K=temperature,
                progress=progress,
            )
    told: dict[str, Any] = {"spectra": list(found.results)}
    if plot is not None:
        from steering.report import write_powder_fits

        told["plots"] = [str(path) for path in write_powder_fits(found, plot)]
    if output is not None:
        from steering.report import write_json

        write_json(terminal.plain(told), output)
    if json:
        terminal.print_json(told)
        return
    for result in found.results:
        print_powder(result)
    for path in told.get("plots", []):
        terminal.out.print(f"Written: {path}", markup=False)


def print_powder(result: dict) -> None:
    """Print what a powder inversion found, and how good the fit is."""
    terminal.print_result(result)
    prior = [p["name"] for p in result.get("parameters", []) if p.get("informed") is False]
    if prior:
        terminal.out.print(f"still the prior's: {', '.join(prior)}", markup=False)
    for one in result.get("derived", []):
        value, sigma = terminal.number(one["value"]), terminal.number(one["sigma"], 2)
        terminal.out.print(f"{one['name']}: {value} +- {sigma} {one['unit']}")
    misfit = terminal.number(result.get("nmse_free"), 3)
    terminal.out.print(
        f"{result['spectrum']}, "
        f"Ei {terminal.number(result['ei_meV'])} meV; misfit {misfit} of the squared signal"
    )
    if "chi_square" in result:
        terminal.out.print(
            f"chi_square {terminal.number(result['chi_square'], 3)} per degree of freedom (noise "
            f"{result['noise']}); nmse_free {misfit}, nmse_paper "
            f"{terminal.number(result['nmse_paper'], 3)}, of the phonons alone "
            f"{terminal.number(result['nmse_phonons'], 3)}, of noise alone "
            f"{terminal.number(result['nmse_noise'], 3)}"
        )
    terminal.out.print(result["error_bars"])
    if result.get("outside_prior"):
        terminal.out.print(f"outside the prior: {', '.join(result['outside_prior'])}")
