"""A live state folder at night, written by the program's own writers, and a clock to turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from consumers.state import (
    ChunkRecord,
    Manifest,
    RunRecord,
    claim_state,
    partition_folder,
    read_manifest,
    run_folder,
    write_manifest,
)
from steering.experiment import AlarmsSection, dump_experiment
from steering.run import result_document, save_result
from steering.web import HeartbeatFile
from tests.steering.fabricated import snapshot
from tests.steering.virtual_scan import small_experiment

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
BEGIN_NS = 1_772_416_800 * SECOND  # 2026-03-02 02:00 UTC, 03:00 CET
AWAY = "the source is not connected; expected a broker, or a publisher, that answers."


class LiveState:
    """A state folder that a test changes as workers would."""

    def __init__(self, folder: Path, **alarms: Any) -> None:
        self.folder = folder
        self.now_ns = BEGIN_NS
        folder.mkdir(parents=True, exist_ok=True)
        claim_state(folder, {"program.fold": "1"})
        self.describe(**alarms)
        self._beats = {
            service: HeartbeatFile(folder, service, clock=self.clock)
            for service in ("consume", "model-server")
        }

    def clock(self) -> int:
        return self.now_ns

    def describe(self, **alarms: Any) -> None:
        """Write the experiment with these alarms."""
        section = AlarmsSection.model_validate(alarms)
        experiment = small_experiment().model_copy(update={"alarms": section})
        dump_experiment(experiment, self.folder / "experiment.yaml")

    def beat(self, service: str = "consume", *reasons: str, stopped: bool = False) -> None:
        self._beats[service].write(partitions=(0,), reasons=reasons, stopped=stopped)

    def commit(
        self,
        chunks: Sequence[tuple[str, str | None]] = (("1", None),),
        *,
        run: str = "night",
        taken: int = 1000,
        closed: bool = False,
    ) -> None:
        """Chunks by name, each with why it was set aside; the newest ended just now."""
        inside = partition_folder(self.folder, 0)
        inside.mkdir(exist_ok=True)
        records = [
            ChunkRecord(
                chunk=name,
                job=name,
                generation=0,
                start_time_ns=self.now_ns - (len(chunks) - i) * 2 * MINUTE,
                stop_time_ns=self.now_ns - (len(chunks) - i - 1) * 2 * MINUTE,
                status="folded" if reason is None else "set aside",
                reason=reason,
            )
            for i, (name, reason) in enumerate(chunks)
        ]
        before = read_manifest(inside) or Manifest(partition=0)
        runs = dict(before.runs) | {run: RunRecord(chunks=tuple(records), closed=closed)}
        write_manifest(inside, replace(before, runs=runs, counters={"bytes.detector": taken}))

    def answer(
        self,
        chunks: Sequence[str] = ("1",),
        *,
        run: str = "night",
        trusted: bool = True,
        stop: bool = False,
        met: bool = False,
        events: Sequence[int] = (),
    ) -> None:
        """What a model service leaves of these chunks."""
        made = snapshot(run).result
        assert made is not None
        result = made.document()
        one = next(c for c in result["chunks"] if c["status"] == "folded")
        read = list(events) or [20_000] * len(chunks)
        result["chunks"] = [
            one | {"chunk": name, "events": one["events"] | {"read": n}}
            for name, n in zip(chunks, read, strict=True)
        ]
        result["targets"] = [target | {"met": met} for target in result["targets"]]
        result |= {"trusted": trusted, "reasons": ["chi-square per cell 4.1 (p = 1e-9)"]}
        result["stop"] = {
            "stop": stop,
            "reason": "every target was met by 3 looks in a row",
            "minutes_to_target": 0.0,
        }
        folder = run_folder(partition_folder(self.folder, 0), run) / "estimate"
        folder.mkdir(parents=True, exist_ok=True)
        save_result(result_document(result), folder / "result.json")
