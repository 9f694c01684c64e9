"""Files of a run's report: finds what a run left, writes one HTML file, and a PDF of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from consumers.state import read_chunk
from simulations.errors import InputError
from steering.experiment import Experiment, build_measurement, dump_experiment, load_experiment
from steering.report.run_report import ChunkFacts, Decision, PriorFacts, RunFacts, run_report
from steering.run import RESULT_EXPERIMENT, RunSnapshot, load_snapshot

ENDINGS = (".html", ".pdf")
PACKAGES = ("beamsteer", "numpy", "scipy", "numba", "torch", "phonopy")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOLDERS_UP = 4  # from a snapshot to the state folder's experiment
PRINT_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRun:
    """A run that was found, and where."""

    snapshot: RunSnapshot
    folder: Path  # of its snapshot
    top: Path  # that was asked for


def runs_found(place: Path) -> tuple[ReportRun, ...]:
    """Runs in a state folder, a replay's folder, or beside a result; by name.

    Raises
    ------
    InputError
        If there is none, or one is damaged.
    """
    if place.is_file():
        files = [place if place.suffix == ".npz" else place.with_name("snapshot.npz")]
        top = place.parent
    else:
        top = place
        skipped = {"chunks", "recorded"}
        files = [
            path
            for path in sorted(place.rglob("snapshot.npz"))
            if not skipped & set(path.relative_to(place).parts)
        ]
    found = [
        ReportRun(snapshot=load_snapshot(path), folder=path.parent, top=top)
        for path in files
        if path.is_file()
    ]
    if not found:
        raise InputError(
            f"{place}: holds no run (no snapshot.npz); expected a state folder that `beamsteer "
            "model-server` estimates, a folder that `beamsteer replay -o` wrote, or the "
            "result.json in one. Correct the path."
        )
    return tuple(sorted(found, key=lambda one: one.snapshot.run_id))


def chosen_run(found: Sequence[ReportRun], name: str | None) -> ReportRun:
    """The run of a name, or the only one.

    Raises
    ------
    InputError
        If there is no such run, or more than one and no name.
    """
    names = [one.snapshot.run_id for one in found]
    if name is None and len(found) == 1:
        return found[0]
    for one in found:
        if one.snapshot.run_id == name:
            return one
    raise InputError(
        f"--run is {name or 'missing'}; expected one of: {', '.join(names)}. Name the run that the "
        "report is about."
    )


def write_run_report(
    run: ReportRun,
    path: Path,
    *,
    made_ns: int,
    zone: str | None = None,
    decisions: Sequence[Decision] = (),
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    run : ReportRun
    path : Path
        ``.html``, or ``.pdf`` where a Chromium is installed.
    made_ns : int
        Unix time of the report.
    zone : str, optional
        Time zone; that of the experiment's alarms by default.
    decisions : sequence of Decision
        What was told, decided or acknowledged, oldest first.
    environment : mapping
        ``BEAMSTEER_CHROMIUM`` may name the browser.

    Raises
    ------
    InputError
        If the name has another ending, or there is no browser for a PDF.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"--output is {path}; expected a name that ends in {' or '.join(ENDINGS)}."
        )
    pdf = path.suffix.lower() == ".pdf"
    browser = _browser(environment) if pdf else None
    if pdf and browser is None:
        raise InputError(
            f"--output is {path}, and no Chromium is installed to print it; expected one (or its "
            "path in BEAMSTEER_CHROMIUM). Write .html, and print that from any browser."
        )
    facts, usual = _facts(run, decisions)
    page = run_report(run.snapshot, facts, zone=zone or usual, made_ns=made_ns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if browser is None:
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(page, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    else:
        _print(page, path, browser)
    return path


def _facts(run: ReportRun, decisions: Sequence[Decision]) -> tuple[RunFacts, str]:
    """What lies beside a snapshot, and the zone that its experiment names."""
    notes: list[str] = []
    experiment, folder = _experiment(run.folder)
    prior: dict[str, PriorFacts] = {}
    fingerprint: Mapping[str, str] = {}
    fitted_from: float | None = None
    if experiment is None:
        notes.append(
            "the experiment file does not lie with the run: prior and fingerprint are left away"
        )
    else:
        try:
            measurement = build_measurement(experiment, folder)
            fingerprint = measurement.fingerprint
            fitted_from = measurement.elastic_cut_meV
            prior = {
                name: PriorFacts(mean=float(mean), sigma=float(sigma))
                for name, mean, sigma in zip(
                    measurement.prior.names,
                    measurement.prior.mean,
                    measurement.prior.sigma,
                    strict=True,
                )
            }
        except (ValueError, OSError) as error:
            notes.append(f"prior and fingerprint are left away: {error}")
    chunks, fault = _chunks(run)
    if fault is not None:
        notes.append(fault)
    facts = RunFacts(
        chunks=chunks,
        prior=prior,
        decisions=decisions,
        fingerprint=fingerprint,
        versions=_versions(run.snapshot),
        experiment_yaml="" if experiment is None else dump_experiment(experiment),
        fitted_from_meV=fitted_from,
        notes=notes,
    )
    return facts, "UTC" if experiment is None else experiment.alarms.zone


def _experiment(folder: Path) -> tuple[Experiment | None, Path]:
    folder = folder.resolve()
    above = [folder, *folder.parents][: FOLDERS_UP + 1]
    for path in (folder / RESULT_EXPERIMENT, *(one / "experiment.yaml" for one in above)):
        if path.is_file():
            try:
                return load_experiment(path), path.parent
            except ValueError:
                return None, folder
    return None, folder


def _chunks(run: ReportRun) -> tuple[dict[str, ChunkFacts], str | None]:
    """Start and charge of the folded chunks, from the chunk files of the run."""
    wanted = {c.chunk for c in run.snapshot.chunks if c.status == "folded"}
    result = run.snapshot.result
    keys = None if result is None else result.chunk_keys
    found: dict[str, tuple[int, ChunkFacts]] = {}
    for place in (run.folder / "chunks", run.folder.parent / "chunks"):
        for path in sorted(place.glob("*.safetensors")):
            try:
                chunk = read_chunk(path)
            except (ValueError, OSError):
                continue
            if chunk.chunk not in wanted or (keys is not None and chunk.key not in keys):
                continue
            if found.get(chunk.chunk, (-1,))[0] < chunk.generation:
                facts = ChunkFacts(
                    start_time_ns=chunk.start_time_ns, proton_charge=chunk.proton_charge
                )
                found[chunk.chunk] = (chunk.generation, facts)
    missing = len(wanted) - len(found)
    fault = (
        f"the files of {missing} of {len(wanted)} folded chunks are not there: their start and "
        "charge are left away"
        if missing
        else None
    )
    return {name: facts for name, (_, facts) in found.items()}, fault


def _versions(snapshot: RunSnapshot) -> dict[str, str]:
    result = snapshot.result
    told: dict[str, str] = {"run": snapshot.run_id}
    if result is not None:
        if result.state_id is not None:
            told["state, generation"] = f"{result.state_id}, {result.state_generation}"
        if result.fingerprint is not None:
            told["fingerprint of the folds (SHA-256)"] = result.fingerprint
        if result.chunk_keys:
            told["chunks, as generation:name"] = ", ".join(result.chunk_keys)
        told["schema of the result"] = str(result.schema_version)
    installed: list[str] = []
    for name in PACKAGES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    told["report made with"] = f"{', '.join(installed)}, Python {platform.python_version()}"
    return told


def _browser(environment: Mapping[str, str]) -> str | None:
    given = environment.get("BEAMSTEER_CHROMIUM")
    if given:
        return given
    return next((path for path in map(shutil.which, BROWSERS) if path is not None), None)


def _print(page: str, path: Path, browser: str) -> None:
    with tempfile.TemporaryDirectory(prefix="beamsteer-report-") as temporary:
        source, printed = Path(temporary) / "run.html", Path(temporary) / "run.pdf"
        source.write_text(page.replace("<details>", "<details open>"), encoding="utf-8")
        # The page asks for nothing and runs nothing; a container has no user for the sandbox.
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-pdf-header-footer",
            f"--user-data-dir={temporary}/profile",
            f"--print-to-pdf={printed}",
            source.as_uri(),
        ]
        try:
            done = subprocess.run(  # noqa: S603  the browser that the user installed or named
                command, capture_output=True, text=True, timeout=PRINT_SECONDS, check=False
            )
            fault = done.stderr.strip().splitlines()[-1:] if not printed.is_file() else None
        except (OSError, subprocess.TimeoutExpired) as error:
            fault = [str(error)]
        if fault is not None:
            raise InputError(
                f"--output is {path}, and {browser} did not print it ({' '.join(fault)}); expected "
                "a Chromium that works. Write .html, and print that from any browser."
            )
        shutil.copyfile(printed, path)
