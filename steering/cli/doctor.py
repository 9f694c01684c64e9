"""``beamsteer doctor``: is this machine ready, is a state folder readable, and what to do."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal

REQUIRED = (
    "fastapi",
    "h5py",
    "matplotlib",
    "numba",
    "numpy",
    "periodictable",
    "phonopy",
    "plotly",
    "prometheus-client",
    "pydantic",
    "pymatgen",
    "pyyaml",
    "safetensors",
    "scipy",
    "seekpath",
    "spglib",
    "sse-starlette",
    "structlog",
    "torch",
    "uvicorn",
)
FORCE_FIELDS = ("ase", "chgnet", "e3nn", "sevenn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    state: Literal["ok", "optional", "broken"]
    found: str
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer doctor --experiment examples/mno-hyspec.yaml")(doctor)


def doctor(
    state: Annotated[
        Path | None,
        typer.Argument(help="A state folder: say which versions it has, and nothing else."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port that the page would take.")
    ] = 8080,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", "-e", help="Look at the Kafka that this one names, too."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Check Python, packages, threads, browser, data, disk, port and broker; say what to do."""
    if state is not None:
        _tell_versions(state, json=json)
        return
    findings = examine(port)
    if experiment is not None:
        findings.append(_broker(experiment))
    broken = [finding.name for finding in findings if finding.state == "broken"]
    if json:
        terminal.print_json(
            {"ready": not broken, "findings": [asdict(finding) for finding in findings]}
        )
    else:
        signs = {
            "ok": "[green]ok[/]      ",
            "optional": "[yellow]optional[/]",
            "broken": "[red]broken[/]  ",
        }
        for finding in findings:
            terminal.out.print(f"{signs[finding.state]} {finding.name:<14} {finding.found}")
            if finding.remedy:
                terminal.out.print(f"{'':<24}{finding.remedy}")
    if broken:
        _end(f"{', '.join(broken)}: not ready; do what is said beside them.", json=json)


def _tell_versions(state: Path, *, json: bool) -> None:
    """Which versions the files of a state folder have; bad input if workers would not go on."""
    from consumers.state import versions_of

    found = versions_of(state)
    stopping = [one for one in found if one.verdict != "opens"]
    if json:
        terminal.print_json({"opens": not stopping, "files": [asdict(one) for one in found]})
    else:
        rows = [(o.kind, str(o.files), o.version, o.known, o.verdict) for o in found]
        terminal.table(str(state), ("files", "number", "version", "known here", "verdict"), rows)
    if stopping:
        told = (f"{one.kind} {one.verdict} ({one.version}): {one.remedy}" for one in stopping)
        _end(
            "\n".join((f"{state}: workers of this version do not go on from it.", *told))
            + "\nSee docs/upgrade.md.",
            json=json,
        )
    if not json:
        terminal.say("Workers of this version go on from it.")


def _end(complaint: str, *, json: bool) -> None:
    """End as of bad input; what went to stdout stays the one object that a program reads."""
    if not json:
        raise InputError(complaint)
    terminal.complain(complaint)
    raise typer.Exit(2)


def examine(port: int) -> list[Finding]:
    """Look at everything; one fault never hides another."""
    findings = []
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("force fields", _force_fields),
        ("threads", _threads),
        ("accelerator", _accelerator),
        ("chromium", _chromium),
        ("java, maven", _java),
        ("shared data", _shared_data),
        ("disk", _disk),
        ("port", lambda: _port(port)),
    )
    for name, check in checks:
        try:
            findings.append(check())
        except Exception as error:
            findings.append(Finding(name=name, state="broken", found=f"check failed: {error}"))
    return findings


def _broker(path: Path) -> Finding:
    """What `consume` would look at before its first message."""
    from consumers.transport import describe_broker
    from steering.experiment import load_experiment

    source = load_experiment(path).source
    if source.kafka is None:
        return Finding(name="broker", state="ok", found=f"{path.name} names no Kafka")
    needed_s = source.longest_dwell_s + source.timeout_s
    try:
        facts, warnings = describe_broker(source.kafka, needed_s=needed_s)
    except (ConnectionError, ValueError) as error:
        return Finding(name="broker", state="broken", found="cannot be used", remedy=str(error))
    return Finding(
        name="broker",
        state="optional" if warnings else "ok",
        found="; ".join((source.kafka.bootstrap_servers, *facts)),
        remedy=" ".join(warnings),
    )


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(name="python", state="ok", found=found)


def _versions(names: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    from importlib import metadata

    present, absent = {}, []
    for name in names:
        try:
            present[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    return present, absent


def _packages() -> Finding:
    present, absent = _versions(REQUIRED)
    shown = ", ".join(f"{name} {present[name]}" for name in ("numpy", "torch") if name in present)
    if absent:
        return Finding(
            name="packages",
            state="broken",
            found=f"without {', '.join(absent)}",
            remedy="Run `make setup`.",
        )
    return Finding(name="packages", state="ok", found=f"{len(present)} present; {shown}")


def _force_fields() -> Finding:
    present, absent = _versions(FORCE_FIELDS)
    if absent:
        return Finding(
            name="force fields",
            state="optional",
            found=f"without {', '.join(absent)}",
            remedy="Predictions need given force constants, or run `make setup`.",
        )
    return Finding(
        name="force fields",
        state="ok",
        found=f"chgnet {present['chgnet']}, sevenn {present['sevenn']}",
    )


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = {
        name: os.environ[name]
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        if name in os.environ
    }
    found = f"{cores} cores" + "".join(f", {name}={value}" for name, value in asked.items())
    over = [name for name, value in asked.items() if value.isdigit() and int(value) > (cores or 1)]
    if over:
        return Finding(
            name="threads",
            state="optional",
            found=found,
            remedy=f"{', '.join(over)} asks for more threads than there are cores; lower it.",
        )
    return Finding(name="threads", state="ok", found=found)


def _accelerator() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding(name="accelerator", state="ok", found="none; the CPU is used")
    import subprocess

    listed = subprocess.run(  # noqa: S603
        [program, "-L"], capture_output=True, text=True, timeout=20, check=False
    )
    return Finding(name="accelerator", state="ok", found=listed.stdout.strip() or "none visible")


def _chromium() -> Finding:
    for name in (os.environ.get("BEAMSTEER_CHROMIUM"), "chromium", "chromium-browser"):
        program = shutil.which(name) if name else None
        if program:
            return Finding(name="chromium", state="ok", found=program)
    return Finding(
        name="chromium",
        state="optional",
        found="absent; the test of the page is skipped",
        remedy="Run: apt-get install chromium",
    )


def _java() -> Finding:
    found = [name for name in ("java", "mvn") if shutil.which(name)]
    if len(found) == 2:
        return Finding(name="java, maven", state="ok", found="present; nothing needs them yet")
    return Finding(name="java, maven", state="optional", found="absent; nothing needs them yet")


def _shared_data() -> Finding:
    folder = Path(os.environ.get("BEAMSTEER_SHARED_DATA", "../shared/data"))
    if (folder / "README.md").is_file():
        return Finding(name="shared data", state="ok", found=str(folder.resolve()))
    return Finding(
        name="shared data",
        state="optional",
        found=f"none in {folder}; tests on measured files are skipped",
        remedy="Set BEAMSTEER_SHARED_DATA to the folder, if you have it.",
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 2:
        return Finding(
            name="disk",
            state="broken",
            found=f"{free:.1f} GB free here",
            remedy="A reference run takes 2 GB; make room, or work in another folder.",
        )
    return Finding(name="disk", state="ok", found=f"{free:.0f} GB free here")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(
                name="port",
                state="optional",
                found=f"127.0.0.1:{port} is taken ({error.strerror})",
                remedy="Choose another: beamsteer serve --port 8081",
            )
    return Finding(name="port", state="ok", found=f"127.0.0.1:{port} is free")
