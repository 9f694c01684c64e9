"""A run: chunks in, estimates and verdicts out; what is kept of it."""

from steering.run.action_log_store import ActionLog, Logged
from steering.run.actions import (
    NO_ORDERS,
    NO_WISHES,
    Action,
    ConflictError,
    Orders,
    Wishes,
)
from steering.run.answer import stop_of
from steering.run.estimator import Estimate
from steering.run.folded_estimate import estimate_folded
from steering.run.live_runs import LiveRun, live_run, live_runs, live_states, read_only_run
from steering.run.powder_folds import PowderFold, fold_powder
from steering.run.powder_inversion import Inverted, invert_aluminium, invert_measured
from steering.run.replay import replay
from steering.run.result import (
    AdviceResult,
    ChunkResult,
    DerivedResult,
    EventCounts,
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
from steering.run.verdict import (
    AdviceWord,
    StopWord,
    Verdict,
    VerdictWord,
    Words,
    judge,
    targets_met,
    trust_word,
    words_of,
)
from steering.run.wall_time import wall_time

__all__ = [
    "Action",
    "ActionLog",
    "AdviceResult",
    "AdviceWord",
    "ChunkResult",
    "ConflictError",
    "DerivedResult",
    "Estimate",
    "EventCounts",
    "Figure",
    "HistoryEntry",
    "Inverted",
    "LiveRun",
    "Logged",
    "NO_ORDERS",
    "NO_WISHES",
    "Orders",
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
    "StopWord",
    "Verdict",
    "VerdictWord",
    "Wishes",
    "Words",
    "chunk_results",
    "estimate_folded",
    "fold_powder",
    "history_entries",
    "invert_aluminium",
    "invert_measured",
    "judge",
    "live_run",
    "live_runs",
    "live_states",
    "load_result",
    "load_snapshot",
    "now_ns",
    "read_only_run",
    "read_result",
    "replay",
    "result_document",
    "save_result",
    "save_snapshot",
    "stop_of",
    "targets_met",
    "trust_word",
    "wall_time",
    "words_of",
]
