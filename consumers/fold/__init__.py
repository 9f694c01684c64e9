"""Messages into sums: events and histograms added to cells."""

from consumers.fold.can_fold import CanRun, PredictedCan
from consumers.fold.chunk_fold import (
    FOLD_VERSION,
    Can,
    ChunkFold,
    Foreseen,
    fault_of,
    foresee,
    trajectories_of,
)
from consumers.fold.folding import EventAccount
from consumers.fold.histogram_fold import histogram_input
from consumers.fold.messages import (
    ChunkStart,
    ChunkStop,
    EventBlock,
    HistogramBlock,
    Message,
    Payload,
    SetAside,
)
from consumers.fold.powder_folding import fold_powder_events, fold_powder_histogram

__all__ = [
    "Can",
    "CanRun",
    "ChunkFold",
    "ChunkStart",
    "ChunkStop",
    "EventAccount",
    "EventBlock",
    "FOLD_VERSION",
    "Foreseen",
    "HistogramBlock",
    "Message",
    "Payload",
    "PredictedCan",
    "SetAside",
    "fault_of",
    "fold_powder_events",
    "fold_powder_histogram",
    "foresee",
    "histogram_input",
    "trajectories_of",
]
