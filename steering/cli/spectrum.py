"""``beamsteer spectrum``: what a spectrometer will see of a crystal, one verb per kind of map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulations.progress import Progress
from steering.cli import _terminal as terminal
from steering.cli._option_text import (
    DatabasePath,
    DipoleSum,
    Imaginary,
    Order,
    Summed,
    Treatment,
    axis,
    band,
    isotopes_named,
    named_database,
    supercell_numbers,
    vector,
    within,
)
from steering.cli.phonons import (
    Isotopes,
    Outputs,
    Route,
    Structure,
    Supercell,
    print_files,
    print_notes,
)

if TYPE_CHECKING:
    from steering.predict import IndirectSpectrum, Optics, SpectrumMap, Vibrations

SEEN = "Instrument and sample"
AXES = "Axes"

InstrumentName = Annotated[str, typer.Option(help="A known instrument.", rich_help_panel=SEEN)]
EiMeV = Annotated[
    float | None,
    typer.Option(
        "--ei-meV",
        "--ei",
        help="Incident energy; by default the highest phonon lies at three quarters of it.",
        rich_help_panel=SEEN,
    ),
]
TemperatureK = Annotated[
    float,
    typer.Option("--temperature-K", "--temperature", help="Of the sample.", rich_help_panel=SEEN),
]
Chopper = Annotated[
    str | None,
    typer.Option(
        help="Slit package and Hz for the resolution of ARCS, e.g. FC2:300.", rich_help_panel=SEEN
    ),
]
FwhmMeV = Annotated[
    float | None,
    typer.Option(
        "--fwhm-meV",
        help="One energy resolution for all energies, in place of the instrument's.",
        rich_help_panel=SEEN,
    ),
]
MomentumFwhm = Annotated[
    float,
    typer.Option("--q-fwhm-inverse-A", help="Resolution in Q, FWHM.", rich_help_panel=SEEN),
]
EnergyAxis = Annotated[
    str | None,
    typer.Option(
        "--energy-meV",
        help="Energy transfer as min:max:step; from 0 to above the highest phonon by default.",
        rich_help_panel=AXES,
    ),
]
HalfWidth = Annotated[
    float,
    typer.Option(
        "--half-width-inverse-A",
        help="Integrate so far to each side, across.",
        rich_help_panel=AXES,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb and what follows it."""
    group = typer.Typer(
        help="Compute what a spectrometer will see: powder, path, line, plane or vibrations.\n\n"
        "Intensities are S(Q,E) in barn/meV/sr per primitive cell, averaged over bins, with the "
        "instrument's resolution; hkl is in r.l.u. of the conventional cell.",
        epilog="Example: beamsteer spectrum powder germanium --ei-meV 50 --temperature-K 300 "
        "-o build/ge-powder (each kind has its own --help; all print --json)",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    for verb, example in (
        (powder, "germanium --ei-meV 50 --temperature-K 300 -o build/ge-powder"),
        (path, "germanium --points 'Gamma X | K Gamma L' -o build/ge-path"),
        (line, "germanium --from 2,2,-2 --to 2,2,2 -o build/ge-line"),
        (plane, "germanium --u 1,1,0 --v 0,0,1 --band-meV 9:11 -o build/ge-plane"),
        (vision, "germanium --instrument TOSCA -o build/ge-tosca"),
    ):
        group.command(epilog=f"Example: beamsteer spectrum {verb.__name__} {example}")(verb)
    app.add_typer(group, name="spectrum")


def powder(
    structure: Structure,
    instrument: InstrumentName = "ARCS",
    ei_meV: EiMeV = None,  # noqa: N803
    temperature_K: TemperatureK = 300.0,  # noqa: N803
    chopper: Chopper = None,
    fwhm_meV: FwhmMeV = None,  # noqa: N803
    q_fwhm: MomentumFwhm = 0.0,
    energy_meV: EnergyAxis = None,  # noqa: N803
    q_axis: Annotated[
        str | None,
        typer.Option("--q-inverse-A", help="|Q| as min:max:step.", rich_help_panel=AXES),
    ] = None,
    error: Annotated[
        float,
        typer.Option(help="Wanted relative error of the powder average.", rich_help_panel=SEEN),
    ] = 0.005,
    route: Route = "auto",
    supercell: Supercell = None,
    isotopes: Isotopes = None,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    database: DatabasePath = None,
    order: Order = False,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute S(|Q|,E) of a powder: coherent and incoherent one-phonon, and multiphonon."""
    seen = _Seen(instrument, ei_meV, chopper, fwhm_meV)
    common = _common(temperature_K, energy_meV) | _momentum(q_fwhm)
    edges = axis(q_axis, "--q-inverse-A")
    wanted = within(error, "--error", 1e-4, 0.5)

    def compute(found: Vibrations, tell: Progress) -> SpectrumMap:
        from steering.predict import powder_map

        return powder_map(
            found, seen.optics(found), momentum_edges=edges, tolerance=wanted, **common
        )

    _run(
        "powder",
        _Asked(
            structure,
            route,
            supercell,
            isotopes,
            dipole_sum,
            imaginary,
            database,
            order,
            output,
            json,
        ),
        compute,
    )


def path(
    structure: Structure,
    points: Annotated[
        str | None,
        typer.Option(
            "--points",
            help="'Gamma X | K Gamma L' or label=h,k,l; the standard path by default.",
            rich_help_panel=AXES,
        ),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            "--zone",
            help="h,k,l of the reflection it starts from; a strong one by default.",
            rich_help_panel=AXES,
        ),
    ] = None,
    instrument: InstrumentName = "ARCS",
    ei_meV: EiMeV = None,  # noqa: N803
    temperature_K: TemperatureK = 300.0,  # noqa: N803
    chopper: Chopper = None,
    fwhm_meV: FwhmMeV = None,  # noqa: N803
    energy_meV: EnergyAxis = None,  # noqa: N803
    route: Route = "auto",
    supercell: Supercell = None,
    isotopes: Isotopes = None,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    database: DatabasePath = None,
    order: Order = False,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute S(Q,E) of a single crystal along a high-symmetry path."""
    seen = _Seen(instrument, ei_meV, chopper, fwhm_meV)
    common = _common(temperature_K, energy_meV)
    start = None if zone is None else vector(zone, "--zone")

    def compute(found: Vibrations, tell: Progress) -> SpectrumMap:
        from steering.predict import path_map

        return path_map(found, seen.optics(found), path=points, zone_hkl=start, **common)

    _run(
        "path",
        _Asked(
            structure,
            route,
            supercell,
            isotopes,
            dipole_sum,
            imaginary,
            database,
            order,
            output,
            json,
        ),
        compute,
    )


def line(
    structure: Structure,
    start: Annotated[
        str, typer.Option("--from", help="h,k,l where it starts.", rich_help_panel=AXES)
    ],
    stop: Annotated[str, typer.Option("--to", help="h,k,l where it ends.", rich_help_panel=AXES)],
    half_width: HalfWidth = 0.05,
    instrument: InstrumentName = "ARCS",
    ei_meV: EiMeV = None,  # noqa: N803
    temperature_K: TemperatureK = 300.0,  # noqa: N803
    chopper: Chopper = None,
    fwhm_meV: FwhmMeV = None,  # noqa: N803
    q_fwhm: MomentumFwhm = 0.0,
    energy_meV: EnergyAxis = None,  # noqa: N803
    route: Route = "auto",
    supercell: Supercell = None,
    isotopes: Isotopes = None,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    database: DatabasePath = None,
    order: Order = False,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute S(Q,E) of a single crystal along a line, integrated across it."""
    seen = _Seen(instrument, ei_meV, chopper, fwhm_meV)
    common = _common(temperature_K, energy_meV) | _momentum(q_fwhm)
    ends = vector(start, "--from"), vector(stop, "--to")
    width = within(half_width, "--half-width-inverse-A", 0.0, 10.0)

    def compute(found: Vibrations, tell: Progress) -> SpectrumMap:
        from steering.predict import Line, line_map

        along = Line(start_hkl=ends[0], stop_hkl=ends[1], half_widths=(width, width))
        return line_map(found, seen.optics(found), along, **common)

    _run(
        "line",
        _Asked(
            structure,
            route,
            supercell,
            isotopes,
            dipole_sum,
            imaginary,
            database,
            order,
            output,
            json,
        ),
        compute,
    )


def plane(
    structure: Structure,
    u: Annotated[str, typer.Option(help="h,k,l, first direction.", rich_help_panel=AXES)],
    v: Annotated[
        str,
        typer.Option(
            help="h,k,l, second direction; what is perpendicular to u counts.",
            rich_help_panel=AXES,
        ),
    ],
    band_meV: Annotated[  # noqa: N803
        str,
        typer.Option(
            "--band-meV", help="Energies min:max that it is averaged over.", rich_help_panel=AXES
        ),
    ],
    origin: Annotated[
        str | None, typer.Option(help="h,k,l where it is centred.", rich_help_panel=AXES)
    ] = None,
    u_axis: Annotated[
        str | None,
        typer.Option("--u-inverse-A", help="Axis along u as min:max:step.", rich_help_panel=AXES),
    ] = None,
    v_axis: Annotated[
        str | None,
        typer.Option("--v-inverse-A", help="Axis along v as min:max:step.", rich_help_panel=AXES),
    ] = None,
    half_width: HalfWidth = 0.05,
    instrument: InstrumentName = "ARCS",
    ei_meV: EiMeV = None,  # noqa: N803
    temperature_K: TemperatureK = 300.0,  # noqa: N803
    chopper: Chopper = None,
    fwhm_meV: FwhmMeV = None,  # noqa: N803
    q_fwhm: MomentumFwhm = 0.0,
    route: Route = "auto",
    supercell: Supercell = None,
    isotopes: Isotopes = None,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    database: DatabasePath = None,
    order: Order = False,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute S(Q,E) of a single crystal over a plane of Q, averaged over a band of energies."""
    seen = _Seen(instrument, ei_meV, chopper, fwhm_meV)
    common = _common(temperature_K) | _momentum(q_fwhm)
    asked: dict[str, Any] = {
        "u_hkl": vector(u, "--u"),
        "v_hkl": vector(v, "--v"),
        "band_meV": band(band_meV, "--band-meV"),
        "origin_hkl": None if origin is None else vector(origin, "--origin"),
        "u_edges": axis(u_axis, "--u-inverse-A"),
        "v_edges": axis(v_axis, "--v-inverse-A"),
        "half_width": within(half_width, "--half-width-inverse-A", 0.0, 10.0),
    }

    def compute(found: Vibrations, tell: Progress) -> SpectrumMap:
        from steering.predict import Plane, plane_map

        return plane_map(
            found,
            seen.optics(found),
            Plane(**asked),
            **common,
            progress=lambda done: tell("plane", 0.3 + 0.6 * done),
        )

    _run(
        "plane",
        _Asked(
            structure,
            route,
            supercell,
            isotopes,
            dipole_sum,
            imaginary,
            database,
            order,
            output,
            json,
        ),
        compute,
    )


def vision(
    structure: Structure,
    instrument: Annotated[
        str, typer.Option(help="VISION or TOSCA.", rich_help_panel=SEEN)
    ] = "VISION",
    temperature_K: TemperatureK = 10.0,  # noqa: N803
    fwhm_meV: FwhmMeV = None,  # noqa: N803
    energy_meV: EnergyAxis = None,  # noqa: N803
    route: Route = "auto",
    supercell: Supercell = None,
    isotopes: Isotopes = None,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    database: DatabasePath = None,
    order: Order = False,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute the vibrational spectrum S(E) of VISION or TOSCA."""
    common = _common(temperature_K, energy_meV)

    def compute(found: Vibrations, tell: Progress) -> IndirectSpectrum:
        from steering.predict import indirect_spectrum

        return indirect_spectrum(found, instrument=instrument, fwhm_meV=fwhm_meV, **common)

    _run(
        "vision",
        _Asked(
            structure,
            route,
            supercell,
            isotopes,
            dipole_sum,
            imaginary,
            database,
            order,
            output,
            json,
        ),
        compute,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """Where vibrations come from and results go, alike for every kind."""

    structure: str
    route: str
    supercell: str | None
    isotopes: str | None
    dipole_sum: Summed
    imaginary: Treatment
    database: Path | None
    order: bool
    output: list[Path] | None
    json: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    """A direct-geometry instrument as it was asked for."""

    instrument: str
    ei_meV: float | None
    chopper: str | None
    fwhm_meV: float | None

    def optics(self, found: Vibrations) -> Optics:
        """The instrument for these vibrations."""
        from steering.predict import optics, top_meV

        return optics(
            top_meV(found.dos),
            instrument=self.instrument,
            ei_meV=self.ei_meV,
            chopper=self.chopper,
            fwhm_meV=self.fwhm_meV,
        )


def _common(temperature_K: float, energy_meV: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"temperature_K": within(temperature_K, "--temperature-K", 0, 5000)}
    if energy_meV is not None:
        found["energy_edges_meV"] = axis(energy_meV, "--energy-meV")
    return found


def _momentum(q_fwhm: float) -> dict[str, Any]:
    return {"momentum_fwhm": within(q_fwhm, "--q-fwhm-inverse-A", 0.0, 10.0)}


def _run(
    kind: str,
    asked: _Asked,
    compute: Callable[[Vibrations, Progress], SpectrumMap | IndirectSpectrum],
) -> None:
    """Find the vibrations, compute, write and print."""
    from steering.report import named_files

    files = named_files(asked.output or [])
    repeats, made_of = supercell_numbers(asked.supercell), isotopes_named(asked.isotopes)

    from steering.predict import (
        IndirectSpectrum,
        open_structure,
        ordered_structure,
        stable,
        vibrations_of,
        write_spectrum,
    )

    with terminal.progress("spectrum", quiet=asked.json) as progress:
        progress(f"vibrations of {asked.structure}, route {asked.route}", 0.02)
        database = named_database(asked.database)
        with (
            open_structure(asked.structure, files=True, database=database) as opened,
            ordered_structure(opened, asked.order) as (source, notes),
        ):
            vibrations = stable(
                vibrations_of(
                    source,
                    asked.route,
                    supercell=repeats,
                    isotopes=made_of,
                    dipole_sum=asked.dipole_sum.value,
                    database=database,
                    notes=notes,
                    wanted="density" if kind == "vision" else "all",
                ),
                asked.imaginary.value,
            )
        progress(f"{kind} spectrum", 0.3)
        found = compute(vibrations, progress)
        progress("writing", 0.95)
        written = write_spectrum(found, files)
    if asked.json:
        terminal.print_json({**found.content(), "files": written})
        return
    terminal.out.print(f"{found.setting.title}; {found.setting.words}", markup=False)
    print_notes(found.setting.route, found.setting.approximations)
    for name, words in found.setting.sampling.items():
        terminal.out.print(f"  - {name.replace('_', ' ')}: {words}", markup=False)
    for warning in found.setting.warnings:
        terminal.out.print("[bold yellow]WARNING[/]: ", end="")
        terminal.out.print(warning, markup=False)
    if isinstance(found, IndirectSpectrum):
        _print_indirect(found)
    else:
        _print_map(found)
    print_files(written)


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


def _print_indirect(found: IndirectSpectrum) -> None:
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
