"""Which chunks a run holds: folded, withdrawn, replaced, set aside; their sums in one fixed order.

A closed chunk is an immutable file. The ledger keeps handles and records, never an estimate.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import structlog

from consumers.fold import EventAccount
from consumers.state import ClosedChunk
from simulations.errors import InputError
from simulations.fold import CellSums, Form, VoxelExposure

log = structlog.get_logger()

ONE_ORIENTATION_DEG = 1.0  # orientations that differ by less tell no answers apart
KEPT_BYTES = 1_500_000_000  # exposures of chunks held in memory; the others are read again
OTHER_KIND = (
    "raw counts and reduced intensity cannot be added; expected the kind of the first chunk. Fold "
    "event files and reduced files in separate runs."
)


class ChunkLedger:
    """Chunks of one run, in canonical order.

    Parameters
    ----------
    run_id : str
    shape : (int, int)
        Path bins and energy bins of the experiment.
    n_voxels : int
    form : Form
        Of every exposure.
    n_atoms : int
    has_can : bool
        Whether every chunk must have a can.
    """

    def __init__(
        self, *, run_id: str, shape: tuple[int, int], n_voxels: int, form: Form, n_atoms: int,
        has_can: bool,
    ) -> None:  # fmt: skip
        self.run_id = run_id
        self.chunks: list[ClosedChunk] = []  # in canonical order, see ``add``
        self.newest: ClosedChunk | None = None  # the one that came last
        self.records: list[dict[str, Any]] = []
        self._shape, self._n_voxels, self._form = shape, n_voxels, form
        self._n_atoms, self._has_can = n_atoms, has_can
        self._generation: dict[str, int] = {}  # of the next fold of a chunk's name, if not 0
        self._withdrawn: dict[str, str] = {}  # chunk, reason
        self._pooled: VoxelExposure | None = None
        self._pooled_chunks = 0
        self._kept: dict[str, VoxelExposure] = {}

    # -- what may come -----------------------------------------------------------------------------

    def fault_of_name(self, chunk: str) -> str | None:
        """Why a chunk of this name must not start; None: it may."""
        if any(c.chunk == chunk for c in self.chunks):
            return f"chunk {chunk!r} started twice; expected every chunk once"
        if chunk in self._withdrawn:
            return (
                f"chunk {chunk!r} was withdrawn ({self._withdrawn[chunk]}); expected another one. "
                "Reopen it to fold it again."
            )
        return None

    def fault_of_kind(self, gaussian: bool) -> str | None:
        """Why a chunk of raw counts or of reduced intensity must not be added; None: it may."""
        return OTHER_KIND if self.chunks and self.chunks[0].sums.gaussian != gaussian else None

    def generation_of(self, chunk: str) -> int:
        """Generation of the next fold of a chunk's name."""
        return self._generation.get(chunk, 0)

    # -- what came ---------------------------------------------------------------------------------

    def add(self, closed: ClosedChunk) -> None:
        """Put a chunk in its place: sums of floats depend on their order, so it is fixed.

        Chunks are in the order of their start, those without a start time first and as they came.
        """
        self.chunks.append(closed)
        self.chunks.sort(key=_canonical)
        self.records.append(
            {
                "chunk": closed.chunk,
                "psi_deg": closed.psi_deg,
                "minutes": closed.minutes,
                "events": asdict(closed.account),
                "status": "folded",
                "reason": None,
            }
        )
        places = [i for i, r in enumerate(self.records) if r["status"] == "folded"]
        of_chunk = {self.records[i]["chunk"]: self.records[i] for i in places}
        for i, chunk in zip(places, self.chunks, strict=True):
            self.records[i] = of_chunk[chunk.chunk]
        self.newest = closed
        if self.chunks.index(closed) < self._pooled_chunks:
            self._pooled, self._pooled_chunks = None, 0

    def set_aside(self, origin: str, reason: str, psi_deg: float | None = None) -> None:
        """Note what could not be folded, and why."""
        log.warning("chunk_set_aside", run=self.run_id, origin=origin, reason=reason)
        self.records.append(
            {
                "chunk": origin,
                "psi_deg": psi_deg,
                "minutes": 0.0,
                "events": {},
                "status": "set aside",
                "reason": reason,
            }
        )

    def adopt(self, closed: ClosedChunk) -> None:
        """Take a chunk that was closed earlier or elsewhere. Its file stays where it is.

        Raises
        ------
        InputError
            If the chunk is in the run already, was folded on another path, energy axis or voxel
            map, has its exposure in another form, or is of another kind than the chunks before.
        """
        self._check_adoptable(closed)
        self._withdrawn.pop(closed.chunk, None)
        self._generation[closed.chunk] = closed.generation
        self.add(closed)
        log.info("chunk_adopted", run=self.run_id, chunk=closed.chunk, psi_deg=closed.psi_deg)

    def _check_adoptable(
        self, closed: ClosedChunk, *, instead_of: ClosedChunk | None = None
    ) -> None:
        others = [c for c in self.chunks if c is not instead_of]
        if any(c.chunk == closed.chunk for c in others):
            raise InputError(
                f"chunk {closed.chunk!r} is in the run already; expected every chunk once. "
                "Replace it to take a newer generation."
            )
        if closed.sums.signal.shape != self._shape:
            raise InputError(
                f"{closed.path}: sums have shape {closed.sums.signal.shape}; expected "
                f"{self._shape}, path bins x energy bins of the experiment. Fold the chunk anew."
            )
        if closed.n_voxels != self._n_voxels:
            raise InputError(
                f"{closed.path}: the chunk has {closed.n_voxels} voxels; expected "
                f"{self._n_voxels}, those of the experiment. Fold the chunk anew."
            )
        if closed.form != self._form:
            raise InputError(
                f"{closed.path}: the chunk's exposure is in the form {closed.form!r}; expected "
                f"{self._form!r}, which {self._n_atoms} atoms take. Fold the chunk anew."
            )
        if (closed.can is not None) != self._has_can:
            raise InputError(
                f"{closed.path}: the chunk has {'a' if closed.can is not None else 'no'} can; "
                f"expected {'one' if self._has_can else 'none'}, as the experiment's background "
                "says. Fold the chunk anew."
            )
        if others and others[0].sums.gaussian != closed.sums.gaussian:
            raise InputError(f"{closed.path}: {OTHER_KIND}")

    # -- what goes ---------------------------------------------------------------------------------

    def withdraw(self, chunk: str, reason: str) -> ClosedChunk:
        """Take a folded chunk out of the sums; its record says why, its file stays.

        Raises
        ------
        InputError
            If no such chunk is folded.
        """
        closed = self._folded(chunk)
        self._remove(closed)
        self._withdrawn[chunk] = reason
        self._generation[chunk] = closed.generation + 1
        record = self._record_of(closed)
        record |= {"status": "withdrawn", "reason": reason}
        log.warning("chunk_withdrawn", run=self.run_id, chunk=chunk, reason=reason)
        return closed

    def replace(self, closed: ClosedChunk) -> ClosedChunk:
        """Put a newer generation in the place of a folded chunk, which is returned.

        Raises
        ------
        InputError
            As ``adopt``, or if no older generation is folded; the run is unchanged then.
        """
        old = self._folded(closed.chunk)
        if closed.generation <= old.generation:
            raise InputError(
                f"chunk {closed.chunk!r} is of generation {closed.generation}; expected above "
                f"{old.generation}, the one folded. Keep the newer one."
            )
        self._check_adoptable(closed, instead_of=old)
        self.reopen(closed.chunk)
        self.adopt(closed)
        return old

    def reopen(self, chunk: str) -> ClosedChunk | None:
        """Forget a folded or withdrawn chunk, so that its name may start again.

        What is folded then is the next generation, in a file of its own.

        Returns
        -------
        ClosedChunk or None
            What was folded; None: it was withdrawn before.

        Raises
        ------
        InputError
            If no such chunk is folded or withdrawn.
        """
        if chunk in self._withdrawn:
            del self._withdrawn[chunk]
            return None
        closed = self._folded(chunk)
        self._remove(closed)
        self.records.remove(self._record_of(closed))
        self._generation[chunk] = closed.generation + 1
        log.info("chunk_reopened", run=self.run_id, chunk=chunk)
        return closed

    def _folded(self, chunk: str) -> ClosedChunk:
        for closed in self.chunks:
            if closed.chunk == chunk:
                return closed
        raise InputError(
            f"chunk {chunk!r} is not folded in run {self.run_id!r}; expected one of "
            f"{[c.chunk for c in self.chunks]}"
        )

    def _record_of(self, closed: ClosedChunk) -> dict[str, Any]:
        of_chunk = (
            r for r in self.records if (r["chunk"], r["status"]) == (closed.chunk, "folded")
        )
        return next(of_chunk)

    def _remove(self, closed: ClosedChunk) -> None:
        if self.chunks.index(closed) < self._pooled_chunks:
            self._pooled, self._pooled_chunks = None, 0
        self.chunks.remove(closed)
        self._kept.pop(closed.key, None)

    # -- together ----------------------------------------------------------------------------------

    @property
    def sums(self) -> CellSums:
        """All folded chunks together, in chunk order."""
        total = self.chunks[0].sums
        for chunk in self.chunks[1:]:
            total = total + chunk.sums
        return total

    @property
    def account(self) -> EventAccount:
        """Where the events of all folded chunks went."""
        return sum((chunk.account for chunk in self.chunks), EventAccount())

    @property
    def minutes_used(self) -> float:
        """Beam minutes of the folded chunks."""
        return float(sum(c.minutes for c in self.chunks))

    @property
    def orientations(self) -> int:
        """How many different psi were measured."""
        return len({round(c.psi_deg, 3) for c in self.chunks})

    def turn_deg(self, psi_deg: float) -> float:
        """How far an orientation is from the nearest that was measured; infinite from none."""
        return min((abs(c.psi_deg - psi_deg) for c in self.chunks), default=math.inf)

    @property
    def alone(self) -> bool:
        """Whether all chunks were measured at one orientation, up to what tells nothing new."""
        psi = [c.psi_deg for c in self.chunks]
        return not psi or max(psi) - min(psi) < ONE_ORIENTATION_DEG

    def pooled_exposure(self) -> VoxelExposure:
        """Exposure of all folded chunks together, summed in chunk order."""
        for chunk in self.chunks[self._pooled_chunks :]:
            exposure = self.exposure_of(chunk)
            self._pooled = exposure if self._pooled is None else self._pooled + exposure
            self._pooled_chunks += 1
        if self._pooled is None:
            raise InputError("no chunk is folded yet")
        return self._pooled

    def exposure_of(self, chunk: ClosedChunk) -> VoxelExposure:
        """A chunk's exposure, kept in memory while all kept ones stay below the limit."""
        if chunk.key in self._kept:
            return self._kept[chunk.key]
        exposure = chunk.exposure()
        if sum(e.nbytes for e in self._kept.values()) + exposure.nbytes < KEPT_BYTES:
            self._kept[chunk.key] = exposure
        return exposure


def _canonical(closed: ClosedChunk) -> tuple[int, str]:
    started = closed.start_time_ns > 0
    return (closed.start_time_ns, closed.chunk) if started else (0, "")
