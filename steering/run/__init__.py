"""A run: chunks in, estimates and verdicts out; what is kept of it."""

from steering.run.answer import stop_of
from steering.run.estimator import Estimate
from steering.run.powder_folds import PowderFold, fold_powder
from steering.run.replay import replay
from steering.run.result import (
    AdviceResult,
    ChunkResult,
    DerivedResult,
    Figure,
    HistoryEntry,
    ParameterResult,
    RunResult,
    StopResult,
    chunk_results,
    history_entries,
    result_document,
)
from steering.run.run import Run
from steering.run.store import (
    RESULT_EXPERIMENT,
    RunSnapshot,
    RunStore,
    SnapshotFolders,
    SpectrumView,
    load_result,
    load_snapshot,
    now_ns,
    read_result,
    save_result,
    save_snapshot,
)

__all__ = [
    "AdviceResult",
    "ChunkResult",
    "DerivedResult",
    "Estimate",
    "Figure",
    "HistoryEntry",
    "ParameterResult",
    "PowderFold",
    "RESULT_EXPERIMENT",
    "Run",
    "RunResult",
    "RunSnapshot",
    "RunStore",
    "SnapshotFolders",
    "SpectrumView",
    "StopResult",
    "chunk_results",
    "fold_powder",
    "history_entries",
    "load_result",
    "load_snapshot",
    "now_ns",
    "read_result",
    "replay",
    "result_document",
    "save_result",
    "save_snapshot",
    "stop_of",
]
