"""State of a live fold: dwells under assembly, closed chunks, manifest."""

from consumers.state.assembled_chunk import AssembledChunk
from consumers.state.assembly import Assembler
from consumers.state.backup_store import (
    back_up,
    backup_name,
    read_backup,
    remove_old_backups,
    restore,
)
from consumers.state.chunk_recording_file import read_recording, write_recording
from consumers.state.chunk_store import ClosedChunk, close_chunk, read_chunk
from consumers.state.event_spill_file import EventSpill, HeldBound
from consumers.state.manifest_store import (
    MANIFEST,
    ChunkRecord,
    Cut,
    Manifest,
    PartitionLock,
    RunRecord,
    file_name,
    partition_folder,
    partition_folders,
    read_manifest,
    remove_unnamed,
    run_folder,
    write_manifest,
)
from consumers.state.nexus_template import instrument_xml, log_names
from consumers.state.offset_ledger import DeadLetter
from consumers.state.open_dwells import OpenDwell
from consumers.state.pulses import Identity
from consumers.state.retention import Bounds, recordings_to_remove, runs_to_remove
from consumers.state.state_store import (
    check_fingerprint,
    claim_state,
    only_model_server,
    read_state,
)
from consumers.state.stream_clock import SECOND
from consumers.state.versions_store import versions_of

__all__ = [
    "AssembledChunk",
    "Assembler",
    "Bounds",
    "ChunkRecord",
    "ClosedChunk",
    "Cut",
    "DeadLetter",
    "EventSpill",
    "HeldBound",
    "Identity",
    "MANIFEST",
    "Manifest",
    "OpenDwell",
    "PartitionLock",
    "RunRecord",
    "SECOND",
    "back_up",
    "backup_name",
    "check_fingerprint",
    "claim_state",
    "close_chunk",
    "file_name",
    "instrument_xml",
    "log_names",
    "only_model_server",
    "partition_folder",
    "partition_folders",
    "read_backup",
    "read_chunk",
    "read_manifest",
    "read_recording",
    "read_state",
    "recordings_to_remove",
    "remove_old_backups",
    "remove_unnamed",
    "restore",
    "run_folder",
    "runs_to_remove",
    "versions_of",
    "write_manifest",
    "write_recording",
]
