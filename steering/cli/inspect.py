"""``beamsteer inspect``: what is inside files, and what is wrong with them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from steering.cli import _terminal as terminal

_WORDS = {
    "title": "title",
    "chunk": "chunk",
    "run_number": "run",
    "structure": "structure",
    "instrument": "instrument",
    "ei_meV": "Ei, meV",
    "psi_deg": "psi, degrees",
    "temperature_K": "temperature, K",
    "start_time_ns": "started",
    "minutes": "minutes",
    "proton_charge": "proton charge, C",
    "events": "events",
    "filtered": "events left out",
    "account": "where events went",
    "counts": "counts in cells",
    "likelihood": "likelihood",
    "pixels": "pixels",
    "masked_pixels": "pixels masked",
    "two_theta_deg": "two theta, degrees",
    "solid_angle_sr": "solid angle, sr",
    "bins": "energy bins",
    "masked_bins": "bins masked in live pixels",
    "empty_bins": "bins without a count, kept",
    "energy_meV": "energy transfer, meV",
    "t0_us": "T0, microseconds",
    "angle_logs": "logs in degrees",
    "orientation": "orientation",
    "incident_energies": "incident energies",
    "clean_meV": "transfers of one Ei alone, meV",
    "runs": "runs with pixels",
    "psi_range_deg": "psi of the runs, degrees",
    "sqw_pixels": "pixels of the scan",
    "mount": "mount",
    "lattice": "lattice, angstrom and degrees",
    "residual": "pixels against headers",
    "path": "path",
    "components": "packs masked",
    "arrays": "arrays",
    "path_bins": "path bins",
    "momentum_bins": "|Q| bins",
    "momentum_inverse_angstrom": "|Q|, 1/angstrom",
    "energy_bins": "energy bins",
    "half_width_rlu": "half-width, r.l.u.",
    "psi_limits_deg": "psi allowed, degrees",
    "dipoles": "dipoles",
    "coverage_fraction": "coverage fraction",
}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer inspect HYS_178921.nxs.h5 HYS_178923.nxs.h5")(inspect)


def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(help="Recorded files, closed chunks, experiment files, or anything."),
    ],
    psi_log: Annotated[str, typer.Option(help="Log of event files that holds psi.")] = "s1",
    psi: Annotated[
        float | None, typer.Option(help="psi in degrees, for files that have none.")
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Say what is inside files and what is wrong with them; 2 if one cannot be read at all.

    3 if all can be read and something is wrong or odd.
    """
    from steering.report import inspect as look
    from steering.report import scan_of

    reports = [look(file, psi_log=psi_log, psi_deg=psi) for file in files]
    scan = scan_of(reports)
    if json:
        terminal.print_json({"files": reports, "scan": scan})
    else:
        for report in reports:
            _print(report)
        if scan["files"] > 1:
            _print_scan(scan)
    if any(report["kind"] == "unreadable" for report in reports):
        raise typer.Exit(2)
    if scan["problems"] or any(report["problems"] for report in reports):
        raise typer.Exit(terminal.ALARM)


def _print(report: dict[str, Any]) -> None:
    told = {key: report[key] for key in _WORDS if report.get(key) not in (None, [], {})}
    title = f"{Path(report['file']).name}: {report['format']}"
    if told:
        rows = [[_WORDS[key], _shown(key, value)] for key, value in told.items()]
        terminal.table(title, ["", ""], rows)
    else:
        terminal.out.print(title, markup=False)
    for problem in report["problems"]:
        terminal.out.print(f"  wrong or odd: {problem}", markup=False)
    if report["unknown"]:
        terminal.out.print(f"  not in the file: {', '.join(report['unknown'])}", markup=False)
    if not report["problems"]:
        terminal.out.print("  nothing wrong found")


def _print_scan(scan: dict[str, Any]) -> None:
    psi = ", ".join(f"{angle:.2f}" for angle in scan["psi_deg"]) or "-"
    terminal.out.print(
        f"Together: {scan['files']} files, psi {psi} degrees, "
        f"{terminal.number(scan['events'], 8)} events, "
        f"{terminal.number(scan['proton_charge'])} C, {terminal.number(scan['minutes'])} minutes"
    )
    for problem in scan["problems"]:
        terminal.out.print(f"  wrong or odd: {problem}", markup=False)


def _shown(key: str, value: Any) -> str:
    if key == "start_time_ns":
        return f"{datetime.fromtimestamp(value / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(name, item)}" for name, item in value.items())
    if key in (
        "two_theta_deg",
        "psi_range_deg",
        "clean_meV",
        "energy_meV",
        "momentum_inverse_angstrom",
        "psi_limits_deg",
    ):
        return " to ".join(terminal.number(item) for item in value)
    if isinstance(value, list | tuple):
        inner = ", ".join(_shown("", item) for item in value)
        return f"[{inner}]" if isinstance(value[0], int | float) else inner
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return terminal.number(value, 5) if isinstance(value, float) else str(value)
