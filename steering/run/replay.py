"""Recorded files through the code that live data takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from consumers.recorded import recorded_source
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.experiment import (
    Experiment,
    build_measurement,
    dump_experiment,
    recorded_instrument,
    with_absolute_files,
)
from steering.run.result import result_document
from steering.run.run import Run
from steering.run.store import RESULT_EXPERIMENT, RunStore, save_result

MOST_MORE = 12  # fits after the last chunk: as much again as a long run


def replay(
    files: Sequence[Path],
    experiment: Experiment,
    *,
    experiment_dir: Path,
    output: Path | None = None,
    speed: float | None = None,
    store: RunStore | None = None,
    run_id: str = "replay",
    psi_deg: float | None = None,
    progress: Progress | None = None,
    estimate: bool = True,
) -> dict[str, Any]:
    """Replay recorded files chunk by chunk through the code that live data takes.

    Parameters
    ----------
    files : sequence of Path
        NXSPE or SNS event files, one orientation each.
    experiment : Experiment
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    output : Path, optional
        Gets ``result.json``, the experiment beside it, ``folded.npz`` and the closed chunks.
    speed : float, optional
        1 waits the dwell of each chunk, 10 a tenth of it; absent: as fast as it goes.
    store : RunStore, optional
        Gets a snapshot after every chunk.
    run_id : str
    psi_deg : float, optional
        Operator's psi for files that have none.
    progress : callable, optional
        Called with (message, fraction).
    estimate : bool
        False folds only.

    Returns
    -------
    dict
        As ``result.json``.

    Raises
    ------
    ValueError
        If the experiment cannot be made concrete or no chunk could be folded.
    """
    say = progress or silent
    say("reading the experiment", 0.0)
    recorded = recorded_instrument(files, experiment)
    measurement = build_measurement(experiment, experiment_dir, recorded=recorded)
    with ExitStack() as stack:
        if output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = output / "chunks"
            folder.mkdir(parents=True, exist_ok=True)
        run = Run(measurement, run_id=run_id, folder=folder, estimate=estimate)
        source = recorded_source(
            files,
            run=run_id,
            psi_log=experiment.source.psi_log,
            psi_deg=psi_deg,
            ei_meV=experiment.source.ei_meV,
            t0_us=experiment.source.t0_us,
            period=experiment.source.period,
            nominal_ei_meV=experiment.instrument.ei_meV,
        )
        try:
            if store is not None:
                store.publish(run.snapshot())
            for message in source.messages():
                new = run.accept(message)
                source.acknowledge(message)
                done = len(run.records) / max(len(files), 1)
                if not new:
                    continue
                newest = run.newest or run.chunks[-1]
                say(f"chunk {newest.chunk}, psi {newest.psi_deg:g} deg", done)
                if store is not None:
                    store.publish(run.snapshot())
                if speed is not None:
                    time.sleep(newest.minutes * 60 / speed)
            for _ in range(MOST_MORE):  # no chunk follows that would
                if not run.go_on():
                    break
                say("the refinement is on its way", 1.0)
            if not run.chunks:
                reasons = "\n".join(f"{r['chunk']}: {r['reason']}" for r in run.records)
                raise InputError(
                    f"no chunk could be folded:\n{reasons}" if reasons else "no files were given"
                )
        except Exception as error:
            if store is not None:
                store.publish(run.snapshot("failed", str(error)))
            raise
        result = run.result()
        if output is not None:
            described = with_absolute_files(experiment, experiment_dir)
            dump_experiment(described, output / RESULT_EXPERIMENT)
            save_result(result_document(result), output / "result.json")
            run.write_folded(output / "folded.npz")
        if store is not None:
            store.publish(run.snapshot("finished"))
    say("done", 1.0)
    return result
