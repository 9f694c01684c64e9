"""``beamsteer spectrum``: what a spectrometer will see of a crystal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from steering.cli import _terminal as terminal
from steering.cli.phonons import (
    Outputs,
    Route,
    Structure,
    Supercell,
    print_files,
    print_notes,
    whole_numbers,
)

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from steering.spectra import SpectrumMap, Vibrations

MOST_BINS = 20_000
MAP = "What to compute"
SEEN = "Instrument and sample"
AXES = "Axes"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer spectrum germanium --powder --ei-meV 50 --temperature-K 300 "
        "-o build/ge-powder\n\n"
        "Example: beamsteer spectrum germanium --cut --from 2,2,-2 --to 2,2,2\n\n"
        "Example: beamsteer spectrum germanium --cut --u 1,1,0 --v 0,0,1 --band-meV 9:11"
    )(spectrum)


def spectrum(
    structure: Structure,
    powder: Annotated[
        bool, typer.Option("--powder", help="S(|Q|,E) of a powder.", rich_help_panel=MAP)
    ] = False,
    path: Annotated[
        bool,
        typer.Option("--path", help="S(Q,E) along a high-symmetry path.", rich_help_panel=MAP),
    ] = False,
    cut: Annotated[
        bool,
        typer.Option(
            "--cut",
            help="Single crystal: a line (--from, --to) or a plane (--u, --v, --band-meV).",
            rich_help_panel=MAP,
        ),
    ] = False,
    vision: Annotated[
        bool,
        typer.Option(
            "--vision", help="S(E) of VISION, or of TOSCA (--instrument).", rich_help_panel=MAP
        ),
    ] = False,
    instrument: Annotated[
        str | None,
        typer.Option(
            help="ARCS by default, or another known one; for --vision VISION or TOSCA.",
            rich_help_panel=SEEN,
        ),
    ] = None,
    ei_meV: Annotated[  # noqa: N803
        float | None,
        typer.Option(
            "--ei-meV",
            "--ei",
            help="Incident energy; by default the highest phonon lies at three quarters of it.",
            rich_help_panel=SEEN,
        ),
    ] = None,
    temperature_K: Annotated[  # noqa: N803
        float | None,
        typer.Option(
            "--temperature-K",
            "--temperature",
            help="Of the sample; 300 by default, 10 for --vision.",
            rich_help_panel=SEEN,
        ),
    ] = None,
    chopper: Annotated[
        str | None,
        typer.Option(
            help="Slit package and Hz for the resolution of ARCS, e.g. FC2:300.",
            rich_help_panel=SEEN,
        ),
    ] = None,
    fwhm_meV: Annotated[  # noqa: N803
        float | None,
        typer.Option(
            "--fwhm-meV",
            help="One energy resolution for all energies, in place of the instrument's.",
            rich_help_panel=SEEN,
        ),
    ] = None,
    q_fwhm: Annotated[
        float,
        typer.Option(
            "--q-fwhm-inverse-A",
            min=0.0,
            help="Resolution in Q, for --powder and --cut.",
            rich_help_panel=SEEN,
        ),
    ] = 0.0,
    energy_meV: Annotated[  # noqa: N803
        str | None,
        typer.Option(
            "--energy-meV",
            help="Energy transfer as min:max:step; from 0 to above the highest phonon by default.",
            rich_help_panel=AXES,
        ),
    ] = None,
    q_axis: Annotated[
        str | None,
        typer.Option(
            "--q-inverse-A",
            help="--powder: |Q| as min:max:step.",
            rich_help_panel=AXES,
        ),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(
            "--points",
            help="--path: 'Gamma X | K Gamma L' or label=h,k,l; the standard path by default.",
            rich_help_panel=AXES,
        ),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            "--zone",
            help="--path: h,k,l of the reflection it starts from; a strong one by default.",
            rich_help_panel=AXES,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="--cut: h,k,l where a line starts.", rich_help_panel=AXES),
    ] = None,
    stop: Annotated[
        str | None,
        typer.Option("--to", help="--cut: h,k,l where a line ends.", rich_help_panel=AXES),
    ] = None,
    u: Annotated[
        str | None,
        typer.Option(help="--cut: h,k,l, first direction of a plane.", rich_help_panel=AXES),
    ] = None,
    v: Annotated[
        str | None,
        typer.Option(
            help="--cut: h,k,l, second direction; what is perpendicular to u counts.",
            rich_help_panel=AXES,
        ),
    ] = None,
    band_meV: Annotated[  # noqa: N803
        str | None,
        typer.Option(
            "--band-meV",
            help="--cut: energies min:max that a plane is averaged over.",
            rich_help_panel=AXES,
        ),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(help="--cut: h,k,l where a plane is centred.", rich_help_panel=AXES),
    ] = None,
    u_axis: Annotated[
        str | None,
        typer.Option(
            "--u-inverse-A", help="--cut: axis along u as min:max:step.", rich_help_panel=AXES
        ),
    ] = None,
    v_axis: Annotated[
        str | None,
        typer.Option(
            "--v-inverse-A", help="--cut: axis along v as min:max:step.", rich_help_panel=AXES
        ),
    ] = None,
    half_width: Annotated[
        float,
        typer.Option(
            "--half-width-inverse-A",
            min=0.0,
            help="--cut: integrate so far to each side, across.",
            rich_help_panel=AXES,
        ),
    ] = 0.05,
    route: Route = "auto",
    supercell: Supercell = None,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute what a spectrometer will see: powder, path, single-crystal cut or vibrations.

    Intensities are S(Q,E) in barn/meV/sr per primitive cell, averaged over bins, with the
    instrument's resolution; hkl is in r.l.u. of the conventional cell.
    """
    kind = chosen_kind({"powder": powder, "path": path, "cut": cut, "vision": vision})
    _refuse_strangers(
        kind,
        {
            ("vision",): {},
            ("powder",): {"--q-inverse-A": q_axis},
            ("path",): {"--points": points, "--zone": zone},
            ("cut",): {
                "--from": start, "--to": stop, "--u": u, "--v": v, "--band-meV": band_meV,
                "--origin": origin, "--u-inverse-A": u_axis, "--v-inverse-A": v_axis,
            },
            ("powder", "path", "cut"): {"--ei-meV": ei_meV, "--chopper": chopper},
        },
    )  # fmt: skip
    plane = _plane_or_line(start, stop, u, v, band_meV) if kind == "cut" else False

    from steering.tables_file import named_files

    files = named_files(output or [])
    repeats = whole_numbers(supercell, "--supercell")
    energy = axis(energy_meV, "--energy-meV")
    kelvin = (10.0 if kind == "vision" else 300.0) if temperature_K is None else temperature_K
    if not 0 <= kelvin <= 5000:
        raise ValueError(f"--temperature-K is {kelvin}; expected 0 to 5000.")
    numbers: dict[str, Any] = {
        "q": axis(q_axis, "--q-inverse-A"),
        "u": axis(u_axis, "--u-inverse-A"),
        "v": axis(v_axis, "--v-inverse-A"),
        "zone": vector(zone, "--zone"),
        "from": vector(start, "--from"),
        "to": vector(stop, "--to"),
        "u_hkl": vector(u, "--u"),
        "v_hkl": vector(v, "--v"),
        "origin": vector(origin, "--origin"),
        "band": band(band_meV),
    }

    from steering import spectra
    from steering.lattice_model import lattice_model, open_structure
    from steering.spectra_file import write_spectrum

    with terminal.progress("spectrum", quiet=json) as progress:
        progress(f"force constants of {structure}, route {route}", 0.02)
        with open_structure(structure, files=True) as opened:
            lattice = lattice_model(opened, route, supercell=repeats)
        progress("density of states", 0.15)
        dos = spectra.stable_dos(lattice)
        progress(f"{kind} spectrum", 0.3)
        if kind == "vision":
            found: SpectrumMap | Vibrations = spectra.vibrations(
                lattice,
                dos,
                instrument=instrument or "VISION",
                temperature_K=kelvin,
                energy_edges_meV=energy,
                fwhm_meV=fwhm_meV,
            )
        else:
            seen = spectra.optics(
                spectra.top_meV(dos),
                instrument=instrument or "ARCS",
                ei_meV=ei_meV,
                chopper=chopper,
                fwhm_meV=fwhm_meV,
            )
            common: dict[str, Any] = {"temperature_K": kelvin}
            if not plane:
                common["energy_edges_meV"] = energy
            if kind != "path":
                common["momentum_fwhm"] = q_fwhm
            if kind == "powder":
                found = spectra.powder_map(
                    lattice, dos, seen, momentum_edges=numbers["q"], **common
                )
            elif kind == "path":
                found = spectra.path_map(
                    lattice, dos, seen, path=points, zone_hkl=numbers["zone"], **common
                )
            elif plane:
                found = spectra.plane_map(
                    lattice, dos, seen, numbers["u_hkl"], numbers["v_hkl"], numbers["band"],
                    origin_hkl=numbers["origin"], u_edges=numbers["u"], v_edges=numbers["v"],
                    half_width=half_width, **common,
                    progress=lambda done: progress("plane", 0.3 + 0.6 * done),
                )  # fmt: skip
            else:
                found = spectra.line_map(
                    lattice, dos, seen, numbers["from"], numbers["to"],
                    half_widths=(half_width, half_width), **common,
                )  # fmt: skip
        progress("writing", 0.95)
        written = write_spectrum(found, files)
    if json:
        terminal.print_json({**found.content(), "files": written})
        return
    terminal.out.print(f"{found.setting.title}; {found.setting.words}", markup=False)
    print_notes(found.setting.route, found.setting.approximations)
    if isinstance(found, spectra.Vibrations):
        _print_vibrations(found)
    else:
        _print_map(found)
    print_files(written)


def chosen_kind(flags: dict[str, bool]) -> str:
    """The one kind of spectrum that was asked for."""
    asked = [name for name, on in flags.items() if on]
    if len(asked) != 1:
        told = " and ".join(f"--{name}" for name in asked) or "none of them"
        raise ValueError(
            f"what to compute: {told} given; expected one of "
            f"{', '.join(f'--{name}' for name in flags)}."
        )
    return asked[0]


def _refuse_strangers(kind: str, options: dict[tuple[str, ...], dict[str, object]]) -> None:
    """Raise for options that mean nothing for this kind."""
    for kinds, values in options.items():
        given = [name for name, value in values.items() if value is not None]
        if given and kind not in kinds:
            raise ValueError(
                f"{', '.join(given)} given with --{kind}; expected with "
                f"{', '.join(f'--{name}' for name in kinds)} only. Leave it out."
            )


def _plane_or_line(
    start: str | None, stop: str | None, u: str | None, v: str | None, band_meV: str | None
) -> bool:
    """Whether a cut is a plane; raises unless all of a line or all of a plane is given."""
    line = {"--from": start, "--to": stop}
    plane = {"--u": u, "--v": v, "--band-meV": band_meV}
    given = [name for name, value in {**line, **plane}.items() if value is not None]
    if given == list(line):
        return False
    if given == list(plane):
        return True
    raise ValueError(
        f"--cut: {', '.join(given) or 'nothing more'} given; expected --from 2,2,-2 --to 2,2,2 for "
        "a line, or --u 1,1,0 --v 0,0,1 --band-meV 9:11 for a plane."
    )


def axis(text: str | None, option: str) -> NDArray[float64] | None:
    """Read bin edges from ``min:max:step``."""
    if text is None:
        return None
    import numpy as np

    try:
        low, high, step = (float(part) for part in text.split(":"))
        bins = (high - low) / step
    except (ValueError, ArithmeticError):
        bins = float("nan")
        low = step = 0.0
    if not (0.999 <= bins <= MOST_BINS and step > 0):
        raise ValueError(
            f"{option} is {text!r}; expected min:max:step with min < max and at most "
            f"{MOST_BINS:,} steps, e.g. 0:40:0.25."
        )
    return np.asarray(low + step * np.arange(round(bins) + 1), dtype=np.float64)


def vector(text: str | None, option: str) -> NDArray[float64] | None:
    """Read three numbers, ``h,k,l``."""
    if text is None:
        return None
    import numpy as np

    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError:
        values = np.zeros(0)
    if values.shape != (3,) or not np.all(np.abs(values) <= 1000):
        raise ValueError(f"{option} is {text!r}; expected three numbers h,k,l like 2,2,-2.")
    return values


def band(text: str | None) -> tuple[float, float] | None:
    """Read ``min:max`` in meV."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise ValueError(f"--band-meV is {text!r}; expected min:max with min < max, e.g. 9:11.")
    return low, high


def _print_map(found: SpectrumMap) -> None:
    import numpy as np

    values = found.intensity
    whole = float(np.nansum(values))
    rows = [
        ["cells", " x ".join(map(str, values.shape))],
        ["within reach", f"{np.isfinite(values).mean():.0%}"],
        ["99 % of cells below, barn/meV/sr", f"{np.nanpercentile(values, 99):.4g}"],
    ]
    for name, part in found.parts.items():
        share = float(np.nansum(part)) / whole if whole > 0 else 0.0
        rows.append([f"share of {name}", f"{share:.1%}"])
    if found.kind == "path" and found.origin_hkl is not None:
        zone = ", ".join(f"{x:g}" for x in found.origin_hkl)
        rows.append(["starts from the reflection", zone])
    terminal.table(f"Spectrum of {found.setting.title}", ["", ""], rows)


def _print_vibrations(found: Vibrations) -> None:
    import numpy as np

    s = found.spectrum
    width = np.diff(s.energy_edges_meV)
    rows = []
    for b, bank in enumerate(s.banks):
        weights = s.orders[b] @ width
        phonons = weights[1:].sum()
        rows.append(
            [
                bank,
                f"{phonons:.4g}",
                f"{weights[1] / phonons:.0%}",
                f"{weights[2] / phonons:.0%}",
                f"{weights[3:].sum() / phonons:.0%}",
            ]
        )
    terminal.table(
        f"Vibrational spectrum of {found.setting.title}",
        ["bank", "phonons, barn/sr per cell", "1 phonon", "2 phonons", "more"],
        rows,
    )
