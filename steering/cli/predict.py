"""``beamsteer predict``: what a crystal will look like, before beam time."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._option_text import (
    DatabasePath,
    DipoleSum,
    Imaginary,
    Order,
    Summed,
    Treatment,
    isotopes_named,
    named_database,
    supercell_numbers,
)

MOST_SECONDS = 1e6


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer predict POSCAR --instrument ARCS --ei 40 --temperature 300 "
        "-o build/predicted"
    )(predict)


def predict(
    structure: Annotated[
        str,
        typer.Argument(
            help="POSCAR, CIF or phonopy.yaml (with FORCE_CONSTANTS or FORCE_SETS and BORN beside "
            "it if there are any), the name of a builtin crystal, or an id of the database."
        ),
    ],
    instrument: Annotated[
        str,
        typer.Option(
            help="ARCS, SEQUOIA, CNCS, HYSPEC; VISION or TOSCA for S(E); generic for one width."
        ),
    ] = "ARCS",
    ei: Annotated[float, typer.Option(help="Incident energy, meV.")] = 40.0,
    fwhm_meV: Annotated[  # noqa: N803
        float | None,
        typer.Option(
            "--fwhm-meV",
            help="One resolution for all energies in place of the instrument's; of generic 2 % of "
            "Ei by default.",
        ),
    ] = None,
    energy_max_meV: Annotated[  # noqa: N803
        float | None,
        typer.Option("--energy-max-meV", help="Where the energy axis ends; 0.98 Ei by default."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Temperature, kelvin.")] = 300.0,
    route: Annotated[
        str,
        typer.Option(
            help="auto, force_constants (given), database, direct, force_field, or the name of a "
            "force field."
        ),
    ] = "auto",
    quantity: Annotated[
        str, typer.Option(help="all, dos, dispersion, powder, background or vibrational.")
    ] = "all",
    can: Annotated[
        str, typer.Option(help="Metal of the can: aluminium, vanadium, stainless steel or none.")
    ] = "aluminium",
    supercell: Annotated[
        str | None,
        typer.Option(help="Supercell of given force constants, e.g. 2,2,1, if no file says it."),
    ] = None,
    isotopes: Annotated[
        str | None,
        typer.Option(
            help="Isotopes in place of natural elements, e.g. H=D,Li=7Li, or with shares "
            "H=D:0.9+1H:0.1."
        ),
    ] = None,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    database: DatabasePath = None,
    order: Order = False,
    time_limit: Annotated[
        float | None,
        typer.Option(
            help="Give up after about so many seconds; route auto asks none that takes longer, as "
            "far as that was measured.",
            min=0.001,
            max=MOST_SECONDS,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Tell what the other routes say, the quickest first, as far as --time-limit (or "
            "2 minutes) allows, and how long the rest would take.",
        ),
    ] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="File ending in .png, .npz or .csv; may be given again. Without an ending: all "
            "three. By default a picture, STRUCTURE-predicted.png in this folder.",
        ),
    ] = None,
    picture: Annotated[
        bool, typer.Option("--picture/--no-picture", help="Draw the picture where no -o is given.")
    ] = True,
    json: terminal.Json = False,
) -> None:
    """Predict dispersion, phonon DOS, S(|Q|,E) or S(E), and the expected background of a crystal.

    Draws a picture of it, unless --json or -o say otherwise.
    """
    from steering.report import named_files

    names = list(output or [])
    if not names and picture and not json:
        names = [_default_picture(structure)]
    files = named_files(names)

    from steering.predict import predict as run
    from steering.predict import prediction_request

    request = prediction_request(
        structure=structure,
        instrument=instrument,
        ei_meV=ei,
        fwhm_meV=fwhm_meV,
        energy_max_meV=energy_max_meV,
        temperature_K=temperature,
        route=route,
        quantity=quantity,
        imaginary=imaginary.value,
        dipole_sum=dipole_sum.value,
        can=None if can == "none" else can,
        supercell=supercell_numbers(supercell),
        isotopes=isotopes_named(isotopes),
        order=order,
        time_limit_s=time_limit,
        compare=compare,
    )
    with terminal.progress("predict", quiet=json) as progress, _time_limit(time_limit):
        progress(f"{structure}, route {route}", 0.01)
        prediction = run(request, files=True, database=named_database(database), progress=progress)
        if files:
            from steering.report import write_prediction

            progress("writing", 0.95)
            files = write_prediction(prediction, files)
    if json:
        terminal.print_json(prediction)
        return
    print_prediction(structure, prediction)
    for warning in prediction["warnings"]:
        terminal.err.print(f"warning: {warning}", markup=False)
    listed = ", ".join(map(str, files))
    terminal.out.print(
        f"Written: {listed}" if listed else "Write picture and data with -o NAME", markup=False
    )


def _default_picture(structure: str) -> Path:
    """Name of the picture in the working folder."""
    name = Path(os.path.abspath(structure)).name if "/" in structure else structure
    stem = re.sub(r"[^\w.+-]+", "-", name).strip("-.")
    return Path(f"{stem[:80] or 'structure'}-predicted.png")


class _TimeIsUpError(BaseException):
    """Passes handlers of ordinary errors."""


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """End a block after so many seconds; what a library computes then it finishes first.

    Raises
    ------
    InputError
        If the time is up.
    """
    if seconds is None:
        yield
        return

    def ring(*_: object) -> None:
        raise _TimeIsUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TimeIsUpError:
        raise InputError(
            f"--time-limit is {seconds:g} s, and it takes longer; expected more time or a smaller "
            "cell. Raise it, or ask for less with --quantity"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def print_prediction(title: str, prediction: dict[str, Any]) -> None:
    """Print what was predicted and with which approximations; arrays by their shape."""
    rows: list[list[str]] = []
    told = dict(terminal.plain(prediction))
    routes = told.pop("routes", [])
    _collect(told, "", rows)
    terminal.table(f"Prediction for {title}", ["", ""], rows)
    if routes:
        terminal.table(
            "Routes",
            ["route", "mean, meV", "highest, meV", "differs", "error", "takes"],
            [_route_row(one) for one in routes],
        )
        for one in routes:
            terminal.out.print(f"  - {one['route']}: {one['words']}", markup=False)
            if not one["asked"]:
                terminal.out.print(f"    not asked: {one['why']}", markup=False)


def _route_row(one: dict[str, Any]) -> list[str]:
    """One route of a comparison: what it says where it was asked, its error and its time."""
    said = ["", "", ""]
    if one["asked"]:
        said = [f"{one[key]:.4g}" for key in ("mean_energy_meV", "highest_meV")]
        said.append("taken" if one["chosen"] else f"{one['differs']:.2g}")
    error = "?" if one["error"] is None else f"{one['error']:.2g}"
    return [one["route"], *said, error, "?" if one["takes"] is None else one["takes"]]


def _collect(value: Any, name: str, rows: list[list[str]]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _collect(item, f"{name}.{key}" if name else str(key), rows)
    elif isinstance(value, list) and value and not isinstance(value[0], str | dict):
        shape = []
        inner: Any = value
        while isinstance(inner, list):
            shape.append(str(len(inner)))
            inner = inner[0] if inner else None
        rows.append([name, f"array of {' x '.join(shape)}"])
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _collect(item, f"{name}[{i}]", rows)
    else:
        rows.append([name, terminal.number(value, 5) if isinstance(value, float) else str(value)])
