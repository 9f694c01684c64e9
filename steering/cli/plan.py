"""``beamsteer plan``: which incident energy, which orientations, how many hours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._option_text import three_numbers, within

MOST_ENERGIES = 12
MOST_ORIENTATIONS = 360


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer plan germanium --instrument ARCS --ei 30,40,60 --psi -90:90 "
        "-o plan.html"
    )(plan)


def plan(
    structure: Annotated[
        str | None,
        typer.Argument(help="CIF, POSCAR or phonopy.yaml, or the name of a builtin crystal."),
    ] = None,
    instrument: Annotated[
        str | None,
        typer.Option(help="Spectrometer: ARCS, CNCS, HYSPEC, SEQUOIA, or a file of pixels."),
    ] = None,
    ei: Annotated[
        str | None, typer.Option(help="Incident energies to choose from, meV: 30,40,60.")
    ] = None,
    psi: Annotated[
        str | None,
        typer.Option(help="Orientations, degrees: -90:90 (25 of them), -90:90:5 or 0,15,40."),
    ] = None,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", "-e", help="Take all that no option says from this file."),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="Name or file of a prior; else a stored one, prior.yaml beside the structure, or "
            "a box about the force constants that come with it."
        ),
    ] = None,
    u: Annotated[str | None, typer.Option(help="hkl along the beam at psi = 0: 1,1,0.")] = None,
    v: Annotated[str | None, typer.Option(help="hkl across it in the plane: 0,0,1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Kelvin; 300.")] = None,
    path: Annotated[
        str | None,
        typer.Option(help='Points in r.l.u. instead of the standard path: "G 0,0,0; X 0,0,1".'),
    ] = None,
    half_width: Annotated[
        float | None, typer.Option(help="Radius of the tubes round the path, r.l.u.; 0.1.")
    ] = None,
    free: Annotated[
        int | None, typer.Option(min=1, max=60, help="Force constants that are targeted; 6.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Wanted sigma over size of each; 0.05.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Dwell at every orientation; else what gains most of 1, 2, 4, 8."),
    ] = None,
    counts_per_minute: Annotated[
        float,
        typer.Option(help="One-phonon counts a minute inside the tubes, assumed at the first Ei."),
    ] = 3000.0,
    background: Annotated[
        float, typer.Option(help="Background counts per one-phonon count there.")
    ] = 1.0,
    flux: Annotated[
        str | None,
        typer.Option(help="Neutrons on the sample at every Ei, relative, in their order: 1,1.4,2."),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="Of the rotation, degrees per second; 2.")
    ] = None,
    overhead: Annotated[float | None, typer.Option(help="Seconds per change of psi; 30.")] = None,
    draws: Annotated[
        int, typer.Option(min=0, max=200, help="Of the prior, to average over; 0: its mean alone.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="Picture (.png, .svg, .pdf), page (.html) or .json; may be given again.",
        ),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Plan a scan before any file exists: which incident energy, which orientations, how long.

    Orientations and incident energies are ranked by the functions that advise a running
    experiment, at draws of the prior in the place of an estimate. The hours hang on the rate that
    is assumed; the answer says so, and what is approximate about it.
    """
    began = time.perf_counter()
    energies = None if ei is None else _numbers(ei, "--ei", 0.5, 5000.0, MOST_ENERGIES)
    limits, angles = (None, None) if psi is None else _orientations(psi)
    if minutes is not None:
        within(minutes, "--minutes", 0.05, 1440.0)
    within(counts_per_minute, "--counts-per-minute", 1e-3, 1e9)
    within(background, "--background", 0.0, 1e4)

    from steering.planning import ENDINGS, Assumed, plan_scan, planned_experiment, tables_of

    for one in output or ():
        if one.suffix.lower() not in ENDINGS:
            raise InputError(
                f"--output is {one}; expected a name that ends in one of {', '.join(ENDINGS)}."
            )
    motion = {"limits_deg": limits, "speed_deg_per_s": speed, "overhead_s": overhead}
    described, folder = planned_experiment(
        structure,
        experiment=experiment,
        instrument=instrument,
        ei_meV=energies,
        prior=prior,
        sample=_sample(u, v, temperature),
        points=None if path is None else _points(path),
        half_width_rlu=half_width,
        free=free,
        motion={key: value for key, value in motion.items() if value is not None},
        relative_sigma=target,
    )
    chosen = energies or (described.instrument.ei_meV,)
    shares = (1.0,) * len(chosen)
    if flux is not None:
        shares = _numbers(flux, "--flux", 1e-6, 1e6, MOST_ENERGIES)
        if len(shares) != len(chosen):
            raise InputError(
                f"--flux is {flux!r}, {len(shares)} numbers; expected one for each of the "
                f"{len(chosen)} incident energies."
            )
    with terminal.progress("plan", quiet=json) as progress:
        made = plan_scan(
            described,
            folder=folder,
            ei_meV=chosen,
            psi_deg=angles,
            minutes=minutes,
            assumed=Assumed(
                counts_per_minute=counts_per_minute,
                background_ratio=background,
                flux=dict(zip(chosen, shares, strict=True)),
            ),
            draws=draws,
            seed=seed,
            progress=progress,
        )

    from steering.planning import answer_of, content_of, write_plan

    written = [write_plan(made, one) for one in output or ()]
    seconds = time.perf_counter() - began
    if json:
        terminal.print_json({**content_of(made), "files": written, "seconds": round(seconds, 1)})
        return
    for one in tables_of(made):
        terminal.table(one.title, one.heads, one.rows)
        terminal.out.print(one.caption, style="dim", markup=False)
    terminal.out.print(f"[bold]{escape(answer_of(made))}[/]")
    terminal.out.print("It hangs on:")
    for word in made.assumptions:
        terminal.out.print(f"  - {escape(word)}")
    terminal.out.print("Approximations:")
    for word in made.approximations:
        terminal.out.print(f"  - {escape(word)}")
    for file in written:
        terminal.out.print(f"Written: {file}", markup=False)
    terminal.out.print(f"{seconds:.0f} s")


def _sample(u: str | None, v: str | None, temperature: float | None) -> dict[str, object]:
    """Fields of the sample section that options say."""
    found: dict[str, object] = {}
    if u is not None:
        found["u"] = three_numbers(u, "--u", "1,1,0")
    if v is not None:
        found["v"] = three_numbers(v, "--v", "0,0,1")
    if temperature is not None:
        found["temperature_K"] = within(temperature, "--temperature", 0.0, 2000.0)
    return found


def _numbers(text: str, option: str, low: float, high: float, most: int) -> tuple[float, ...]:
    """Read ``30,40,60``, each once."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not 1 <= len(found) <= most or not all(low <= x <= high for x in found):
        raise InputError(
            f"{option} is {text!r}; expected 1 to {most} numbers from {low:g} to {high:g}, as "
            "30,40,60."
        )
    if option == "--ei" and len(set(found)) < len(found):
        raise InputError(f"--ei is {text!r}; expected every energy once. Remove one.")
    return found


def _orientations(text: str) -> tuple[tuple[float, float] | None, list[float] | None]:
    """Limits, and orientations where a step or a list tells them."""
    try:
        if ":" not in text:
            angles = sorted({float(part) for part in text.split(",")})
        else:
            low, high, *step = (float(part) for part in text.split(":"))
            if len(step) > 1 or not -3600 <= low < high <= low + 360:
                raise ValueError
            if not step:
                return (low, high), None
            if not 1 <= (high - low) / step[0] < MOST_ORIENTATIONS:
                raise ValueError
            angles = [low + k * step[0] for k in range(int((high - low) / step[0] + 1e-9) + 1)]
        if not 1 <= len(angles) <= MOST_ORIENTATIONS or not all(abs(x) <= 3600 for x in angles):
            raise ValueError
    except (ValueError, ArithmeticError):
        raise InputError(
            f"--psi is {text!r}; expected lower:upper, lower:upper:step or 0,15,40 in degrees, at "
            f"most 360 apart and {MOST_ORIENTATIONS} of them."
        ) from None
    return ((angles[0], angles[-1]) if len(angles) > 1 else None), angles


def _points(text: str) -> list[dict[str, object] | None]:
    """Read ``Gamma 0,0,0; X 0,0,1; | ; K 0.75,0.75,0``."""
    found: list[dict[str, object] | None] = []
    for part in text.split(";"):
        words = part.split()
        if words == ["|"]:
            found.append(None)
            continue
        if len(words) != 2:
            raise InputError(
                f'--path has {part.strip()!r}; expected a label and hkl, as "Gamma 0,0,0; X 0,0,1",'
                " and | alone where the path breaks."
            )
        found.append({"label": words[0], "hkl": three_numbers(words[1], "--path", "0,0,1")})
    return found
