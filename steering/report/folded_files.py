"""Recorded files folded without an estimate, as numbers and pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consumers.fold import (
    ChunkStart,
)
from consumers.recorded import recorded_source
from simulations.errors import InputError
from simulations.instrument import Instrument
from simulations.progress import Progress, silent
from steering.experiment import (
    Experiment,
    build_measurement,
    recorded_instrument,
)
from steering.run import Run


def refuse_missing(files: Sequence[Path]) -> None:
    """Raise for files that are not there; what is inside is judged chunk by chunk."""
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: is no file; expected a recorded file. Correct the path.")


def fold(
    files: Sequence[Path],
    experiment: Experiment,
    *,
    experiment_dir: Path,
    output: Path,
    plot: bool = True,
    psi_deg: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fold recorded files without estimating.

    Writes ``output``, or ``folded.npz`` in it where it is a folder, and a PNG beside it.

    Returns
    -------
    dict
        Coverage, events and chunks, as in ``result.json``.
    """
    say = progress or silent
    recorded = recorded_instrument(files, experiment)
    measurement = build_measurement(experiment, experiment_dir, recorded=recorded)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(measurement, run_id=output.stem, folder=Path(folder), estimate=False)
        source = recorded_source(
            files,
            run=output.stem,
            psi_log=experiment.source.psi_log,
            psi_deg=psi_deg,
            ei_meV=experiment.source.ei_meV,
            t0_us=experiment.source.t0_us,
            period=experiment.source.period,
            nominal_ei_meV=experiment.instrument.ei_meV,
        )
        geometry: dict[str, Instrument | None] = {}
        for message in source.messages():
            run.accept(message)
            if isinstance(message.payload, ChunkStart):
                geometry[message.payload.chunk] = message.payload.geometry
            say("folding", len(run.records) / max(len(files), 1))
        if not run.chunks:
            reasons = "\n".join(f"{r['chunk']}: {r['reason']}" for r in run.records)
            raise InputError(f"no chunk could be folded:\n{reasons}")
        target = output if output.suffix == ".npz" else output / "folded.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        run.write_folded(target)
        spectrum = run.spectrum()
        if plot and spectrum is not None:
            from steering.report.fold_pictures import write_fold_pictures

            write_fold_pictures(run, spectrum, target, geometry)
        result = run.result()
    told = ("coverage_fraction", "events", "chunks", "minutes_used", "notes")
    return {key: result[key] for key in told}
