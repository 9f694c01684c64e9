"""One run of a partition: its dwells, what waits for them, and the chunks that are due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter

import numpy as np

from consumers.recorded import UnreadableError
from consumers.state.assembled_chunk import AssembledChunk
from consumers.state.closing import Closing, Patience, closing_of
from consumers.state.cut_off import CutOff
from consumers.state.dwells import Dwell, Dwells, Origin, dwell_that_begins
from consumers.state.event_spill_file import EventSpill
from consumers.state.foreign_starts import judge_start
from consumers.state.held_data import (
    Held,
    HeldData,
    held_data,
    times_of,
)
from consumers.state.late_data import (
    LateSample,
    effect_of_sample,
    log_name,
    reopened,
    why_unreadable,
)
from consumers.state.log_series import CHARGE_LOG, LogBook, LogSeries, Sample, joined
from consumers.state.manifest_store import ChunkRecord, RunRecord
from consumers.state.nexus_template import log_names
from consumers.state.offset_ledger import NOWHERE, OffsetLedger, place_of
from consumers.state.pulses import (
    Identity,
    identity,
    in_order,
    reduced_in_order,
    same_data,
    select_pulses,
)
from consumers.state.stream_clock import JUMP_NS, SECOND, StreamClock, Suspect
from consumers.wire import Events, LogSample, RawMessage, ReducedHistogram, RunBegins, RunEnds
from simulations.arrays import BoolArray

MAX_LOGS = 10_000  # of a run: what a sender invents must not grow the manifest without end
MAX_DESCRIPTORS = 1_000  # of a dwell
IDLE_NS = 86_400 * SECOND
REOPENED_AT_ONCE = 8  # dwells: whoever waits for the turn must not wait for a whole night

Outline = Callable[[str, ChunkRecord], AssembledChunk]


class RunAssembly:
    """Holds what came of one run and says which of its chunks are complete.

    Parameters
    ----------
    name : str
        Of the run.
    ledger : OffsetLedger
        Of the partition.
    outline : callable
        (run, record) to the chunk as it was recorded. It is asked for when something came late,
        once for all that came within the settle time.
    patience : Patience
    spill : EventSpill, optional
        Where events wait that are too many for memory.
    instrument : str
        Name of the instrument that is folded; empty where it is not known.
    """

    def __init__(
        self,
        name: str,
        *,
        ledger: OffsetLedger,
        outline: Outline,
        patience: Patience,
        spill: EventSpill | None = None,
        instrument: str = "",
    ) -> None:
        self.name = name
        self.dwells, self.held = Dwells(), HeldData(spill)
        self.logs, self.clock = LogBook(), StreamClock()
        self.cut_off = CutOff(self.held, self.logs)
        self._ledger, self._outline, self._patience = ledger, outline, patience
        self._now_ns, self._stream_ns, self._finishing = 0, 0, False  # of the last turn
        self._instrument, self._established = instrument, set[Origin]()
        self._questioned: list[Dwell] = []  # starts inside a dwell of another origin
        self._late_samples: list[LateSample] = []
        self._late_since_ns: int | None = None  # when the first came that is not judged yet

    def restore(self, record: RunRecord, now_ns: int) -> None:
        """Begin where a manifest ended."""
        self.logs.carried = {k: (t, tuple(v)) for k, (t, v) in record.logs.items()}
        for chunk in record.chunks:
            self.dwells.add(
                Dwell(
                    job=chunk.job,
                    start_ns=chunk.start_time_ns,
                    begins=None,
                    record=chunk,
                    descriptors=chunk.descriptors,
                )
            )
            self.clock.newest_ns = max(self.clock.newest_ns, chunk.stop_time_ns)
            self.cut_off.restore(chunk, partial(self._outline, self.name), now_ns)

    # -- messages in ----------------------------------------------------------------------------

    def begin(self, raw: RawMessage, begins: RunBegins, now_ns: int) -> bool:
        """A dwell begins; False if another one began at that time, or it is somebody else's.

        One inside a dwell of another origin waits until it is known to which of the two it is true.
        """
        if self.dwells.at(begins.start_time_ns) is not None:
            self._ledger.bury(
                raw,
                f"start_time is {begins.start_time_ns}, that of another job of run {self.name!r}; "
                "expected one dwell at a time. The first start counts",
            )
            return False
        dwell = dwell_that_begins(begins, raw, now_ns)
        if not self._admit(dwell):
            return False
        after = self.dwells.after(dwell) if dwell not in self._questioned else None
        if after is not None and after.record is None:  # it may be inside this one
            self.dwells.remove(after)
            self._admit(after)
        return True

    def _admit(self, dwell: Dwell) -> bool:
        """Let a dwell begin, or wait; False if it is foreign."""
        rival = self.dwells.before_time(dwell.start_ns)
        verdict = (
            "begins"
            if rival is None
            else judge_start(
                rival, dwell, instrument=self._instrument, established=self._established
            )
        )
        if verdict == "foreign" and rival is not None:
            self._refuse(dwell, rival)
            return False
        if verdict == "open":
            self._questioned.append(dwell)
        else:
            self.dwells.add(dwell)
            self.clock.bound(dwell.start_ns)
        return True

    def _refuse(self, dwell: Dwell, rival: Dwell) -> None:
        """A start that is somebody else's, with all that was said of its job."""
        if dwell.raw is not None:
            self._ledger.bury(
                dwell.raw,
                f"job {dwell.job!r} of {dwell.origin} starts inside job {rival.job!r} of "
                f"{rival.origin}, which goes on; expected starts of one source. It cuts nothing. "
                "Give the other source a topic or a key of its own",
            )
        for place in dwell.places:
            self._ledger.settle(place, "bounds")
        self._ledger.counters["foreign_starts"] += 1

    def _judge_starts(self) -> None:
        """Look again at starts inside a dwell of another origin; most wait for its stop.

        A dwell whose stop never comes must not hold them for ever.
        """
        waiting, self._questioned = self._questioned, []
        for dwell in sorted(waiting, key=attrgetter("start_ns")):
            self._admit(dwell)
            waited = self._now_ns - dwell.since_ns >= self._patience.timeout_ns
            if dwell in self._questioned and (waited or self._finishing):
                self._questioned.remove(dwell)
                self.dwells.add(dwell)
                self.clock.bound(dwell.start_ns)

    def knows(self, job: str, start_ns: int) -> bool:
        """Whether a job began, or asked to, at exactly this time."""
        dwell = self._dwell_of(job)
        return dwell is not None and dwell.start_ns == start_ns

    def _dwell_of(self, job: str) -> Dwell | None:
        """The dwell of a job, also if it is not certain that it begins; None if it was refused."""
        return self.dwells.of_job(job) or next((d for d in self._questioned if d.job == job), None)

    def end(self, raw: RawMessage, ends: RunEnds, now_ns: int) -> None:
        """A dwell that began ends."""
        self.clock.heard_ns = now_ns
        dwell = self._dwell_of(ends.job)
        if dwell is None:
            self._ledger.bury(raw, f"stop of job {ends.job!r}, whose start was refused")
            return
        record = dwell.record
        if record is not None and record.recording is None and not record.explicit_stop:
            self._ledger.bury(raw, _why_final(record))
            return
        if ends.stop_time_ns <= dwell.start_ns:
            self._ledger.bury(
                raw,
                f"stop_time is {ends.stop_time_ns}; expected one after the start of job "
                f"{ends.job!r}, {dwell.start_ns}. Check the clock of the sender",
            )
            return
        known = dwell.ends.stop_time_ns if dwell.ends is not None else None
        if dwell.record is not None and dwell.record.explicit_stop:
            known = dwell.record.stop_time_ns
        if known is not None:
            if known == ends.stop_time_ns:
                self._settle(raw, "duplicates", again="bounds")
            else:
                self._ledger.bury(
                    raw,
                    f"job {ends.job!r} stopped at {known} and again at {ends.stop_time_ns}; "
                    "expected one stop. The first counts",
                )
            return
        dwell.ends, dwell.ends_since_ns = ends, now_ns
        dwell.places.append(place_of(raw))
        if dwell.record is not None:
            dwell.changed_ns = now_ns
        self.clock.bound(ends.stop_time_ns)

    def describe(self, raw: RawMessage, job: str, descriptor: str) -> None:
        """A dwell that began gets a descriptor, by which later documents name it."""
        dwell = self._dwell_of(job)
        if dwell is None:
            self._ledger.bury(raw, f"descriptor of job {job!r}, whose start was refused")
            return
        if len(dwell.descriptors) >= MAX_DESCRIPTORS and descriptor not in dwell.descriptors:
            self._ledger.bury(
                raw,
                f"descriptor {descriptor!r} is one more than the {MAX_DESCRIPTORS} of job {job!r}; "
                "expected fewer. Check the sender",
            )
            return
        dwell.descriptors = tuple(sorted({*dwell.descriptors, descriptor}))
        if dwell.record is None:
            dwell.places.append(place_of(raw))
        else:
            self._settle(raw, "logs")

    def sample(self, raw: RawMessage, sample: LogSample, now_ns: int) -> None:
        """A log has a new value."""
        self.clock.heard_ns = now_ns
        if len(sample.value) != 1:
            self._settle(raw, "logs")  # no dwell is described by a vector
            return
        if sample.source not in self.logs.samples and len(self.logs.samples) >= MAX_LOGS:
            self._ledger.bury(
                raw,
                f"log {sample.source!r} is one more than the {MAX_LOGS} of run {self.name!r}; "
                "expected fixed names. Check the sender",
            )
            return
        value, t = float(sample.value[0]), sample.time_ns
        known = self.logs.at(sample.source, t)
        if known is not None:
            if known.value == value or (np.isnan(value) and np.isnan(known.value)):
                self._settle(raw, "duplicates", again="logs")
            else:
                self._ledger.bury(
                    raw,
                    f"log {sample.source!r} has the values {known.value} and {value} at the "
                    f"time {t}; expected one. The first counts",
                )
            return
        self.clock.advance(raw, t, now_ns)
        self.logs.add(sample.source, Sample(t, value, place_of(raw), now_ns))
        for dwell in self.dwells.around(t):
            if dwell.start_ns <= t:
                dwell.heard_ns = now_ns
        late = self._closed_at(t)
        if late:
            self._late_samples.append(LateSample(sample.source, t, raw))
            self._judge_later(late, now_ns)

    def _closed_at(self, time_ns: int) -> list[Dwell]:
        """Recorded dwells that a sample of this time may belong to, or come before."""
        found: list[Dwell] = []
        for dwell in self.dwells.around(time_ns):
            if dwell.record is None or dwell.record.recording is None:
                continue
            stop = self.dwells.end_of(dwell)
            if stop is None or time_ns < stop:
                found.append(dwell)
        return found

    def _judge_later(self, dwells: list[Dwell], now_ns: int) -> None:
        for dwell in dwells:
            dwell.late = True
        if self._late_since_ns is None:
            self._late_since_ns = now_ns

    def hold(self, raw: RawMessage, value: Events | ReducedHistogram, now_ns: int) -> None:
        """Data came; what is not known waits for its dwell to close."""
        self.clock.heard_ns = now_ns
        own = identity(value)
        same = self.held.known(own)
        if same is not None:
            if same_data(same.value, value):
                self._settle(raw, "duplicates", again="data")
            else:
                self._ledger.bury(
                    raw,
                    f"source {own[0]!r} sent message {own[1]} of time {own[2]} twice with other "
                    "content; expected one. The first counts",
                )
            return
        times = times_of(value)
        if len(times) == 0:
            self._settle(raw, "empty")
            return
        if value.job is None:
            self.clock.advance(raw, int(times.max()), now_ns)
        held = held_data(value, raw, now_ns)
        late: list[Dwell] = []
        final: ChunkRecord | None = None
        for dwell in self._near(held):
            mine = self._pulses_of(dwell, held)
            if not mine.any():
                continue
            dwell.heard_ns = now_ns
            if dwell.record is None:
                continue
            if dwell.record.recording is None:
                held.left = held.left & ~mine
                final = dwell.record
            else:
                late.append(dwell)
        if not held.left.any():
            if final is not None and final.status != "set aside":
                self._ledger.bury(raw, _why_final(final))
            else:
                self._settle(raw, "duplicates", again="data")
            return
        self.held.add(held)
        if late:
            held.late = raw
            self._judge_later(late, now_ns)

    def _near(self, held: Held) -> list[Dwell]:
        """Dwells that data may belong to."""
        if held.value.job is not None:
            return [d for d in self.dwells if d.job == held.value.job]
        return self.dwells.between(held.first_ns, int(held.times.max()))

    def _pulses_of(self, dwell: Dwell, held: Held) -> BoolArray:
        return held.pulses_of(dwell, self.dwells.end_of(dwell))

    # -- chunks out -----------------------------------------------------------------------------

    def due(self, now_ns: int, *, finish: bool, stream_ns: int = 0) -> list[AssembledChunk]:
        """Chunks that are complete, or changed after they were closed.

        Parameters
        ----------
        now_ns : int
            Clock here.
        finish : bool
            The stream has ended: close what is open and settle what is left.
        stream_ns : int
            How far any run has come: what it has passed is over for a silent run as well.
        """
        self._now_ns, self._stream_ns, self._finishing = now_ns, stream_ns, finish
        since_ns = self._late_since_ns
        if since_ns is not None and (
            finish
            or now_ns - since_ns >= self._patience.settle_ns
            or any(d.changed_ns is not None for d in self.dwells)
        ):
            self._judge_late()
        self._judge_starts()
        reopened_now = 0
        chunks: list[AssembledChunk] = []
        for dwell in self.dwells:
            if dwell.record is None:
                end_ns = self.dwells.end_of(dwell)
                end = closing_of(
                    dwell,
                    end_ns=end_ns,
                    after=self.dwells.after(dwell),
                    newest_ns=partial(self.held.newest_of, dwell),
                    clock=self.clock,
                    patience=self._patience,
                    now_ns=now_ns,
                    finish=finish,
                )
                if end is not None:
                    before = self.dwells.ran_on_into(dwell)
                    if before is not None:
                        chunks.append(self._assemble_again(before))
                    chunks.append(self._assemble(dwell, end))
            elif dwell.changed_ns is not None and (
                finish
                or now_ns - dwell.changed_ns >= self._patience.settle_ns
                and reopened_now < REOPENED_AT_ONCE
            ):
                chunks.append(self._assemble_again(dwell))
                reopened_now += 1
        self._drop_between()
        return chunks

    def closed(self, job: str, record: ChunkRecord) -> None:
        """The chunk of a job is on disk."""
        dwell = self.dwells.of_job(job)
        if dwell is None:
            raise RuntimeError(f"job {job!r} never began; this is a fault of Beamsteer")
        dwell.record, dwell.raw = record, None
        if record.explicit_stop and dwell.origin is not None:
            self._established.add(dwell.origin)
        self._settle_samples()

    def needed(self) -> list[str]:
        """Jobs of which something is open, or waits."""
        jobs = [d.job for d in (*self.dwells, *self._questioned) if d.waiting]
        for held in self.held:
            jobs += [d.job for d in self._near(held)]
        return jobs

    def is_idle(self, now_ns: int) -> bool:
        """Whether it holds nothing that a successor would need; logs alone are kept for a day."""
        if any(True for _ in self.dwells) or any(True for _ in self.held):
            return False
        if self._questioned or self.clock.suspects or any(self.logs.samples.values()):
            return False
        return not self.logs.carried or now_ns - self.clock.heard_ns >= IDLE_NS

    def without_recording(self, job: str) -> None:
        """The recording of a closed dwell is not kept: it stays as it is."""
        dwell = self.dwells.of_job(job)
        if dwell is not None and dwell.record is not None:
            dwell.record = replace(dwell.record, recording=None)

    def _assemble(self, dwell: Dwell, end: Closing) -> AssembledChunk:
        begins = dwell.begins
        if begins is None:
            raise RuntimeError(f"job {dwell.job!r} has no start; this is a fault of Beamsteer")
        names = log_names(begins.structure)
        logs: dict[str, LogSeries] = {}
        for source in self.logs.sources:
            named = log_name(names, source)
            series = self.logs.series(
                source,
                dwell.start_ns,
                end.stop_ns,
                carry=named.name != CHARGE_LOG,
                unit=named.unit,
            )
            if len(series.time_ns):
                logs[named.name] = series
        events, reduced = self._parts(dwell, end.stop_ns)
        self._settle_bounds(dwell)
        return AssembledChunk(
            run=self.name,
            job=dwell.job,
            chunk=begins.chunk,
            generation=0,
            instrument_name=begins.instrument_name,
            structure=begins.structure,
            start_time_ns=dwell.start_ns,
            stop_time_ns=end.stop_ns,
            explicit_stop=end.explicit,
            note=end.note,
            descriptors=dwell.descriptors,
            logs=dict(sorted(logs.items())),
            events=in_order(events),
            reduced=reduced_in_order(reduced),
        )

    def _assemble_again(self, dwell: Dwell) -> AssembledChunk:
        """The chunk as recorded together with what came late."""
        known, record = self._recorded(dwell), dwell.record
        if record is None:
            raise RuntimeError(f"job {dwell.job!r} was not recorded; this is a fault of Beamsteer")
        explicit = record.explicit_stop or dwell.ends is not None
        end = self.dwells.end_of(dwell)
        if end is None:
            newest = self.held.newest_of(dwell)
            end = record.stop_time_ns if newest is None else max(record.stop_time_ns, newest + 1)
        names = log_names(known.structure)
        logs = dict(known.logs)
        for source in self.logs.samples:
            named = log_name(names, source)
            late = self.logs.series(
                source, dwell.start_ns, end, carry=named.name != CHARGE_LOG, unit=named.unit
            )
            logs[named.name] = joined(logs.get(named.name), late, dwell.start_ns, end)
        self.cut_off.give_back(known, record, end, self._now_ns)
        events, reduced = self._parts(dwell, end)
        self._settle_bounds(dwell)
        self._ledger.counters["reopened"] += 1
        return reopened(
            known,
            generation=record.generation + 1,
            stop_time_ns=end,
            explicit_stop=explicit,
            note=None if explicit else record.note,
            descriptors=dwell.descriptors,
            logs=logs,
            events=events,
            reduced=reduced,
        )

    def _parts(self, dwell: Dwell, end_ns: int) -> tuple[list[Events], list[ReducedHistogram]]:
        """Take what belongs to a dwell out of what is held."""
        events: list[Events] = []
        reduced: list[ReducedHistogram] = []
        for held in self.held:
            mine = held.pulses_of(dwell, end_ns)
            if not mine.any():
                continue
            if isinstance(held.value, Events):
                events.append(select_pulses(held.value, mine))
            else:
                reduced.append(held.value)
            held.left = held.left & ~mine
            held.used = True
        self._settle_used_up()
        return events, reduced

    # -- what came late ------------------------------------------------------------------------

    def _judge_late(self) -> None:
        """Tell what closed dwells have already from what changes them, and mark these.

        Every recording is read once, however much came late.
        """
        changed: list[Dwell] = []
        for sample in sorted(self._late_samples, key=attrgetter("time_ns")):
            place = place_of(sample.raw)
            try:
                effects = [
                    (dwell, effect_of_sample(self._recorded(dwell), sample.source, sample.time_ns))
                    for dwell in self._closed_at(sample.time_ns)
                ]
            except UnreadableError as error:  # people may delete recordings
                self.logs.remove(sample.source, place)
                self._ledger.bury(sample.raw, why_unreadable(error))
                continue
            if any(effect == "known" for _, effect in effects):
                # it settles with the others: an earlier dwell that is open may need it too
                self.logs.mark_known(sample.source, sample.time_ns)
            else:
                changed += [dwell for dwell, effect in effects if effect == "changes"]
        changed += self._judge_late_data()
        self._late_samples.clear()
        self._late_since_ns = None
        for dwell in self.dwells:
            dwell.late = False
        for dwell in changed:
            dwell.changed_ns = self._now_ns - self._patience.settle_ns

    def _judge_late_data(self) -> list[Dwell]:
        """Take from late data what closed dwells have already; those that the rest changes."""
        changed: list[Dwell] = []
        known: dict[str, frozenset[Identity]] = {}
        for held in sorted(
            (h for h in self.held if h.late is not None), key=attrgetter("first_ns")
        ):
            raw, held.late = held.late, None
            for dwell in self._near(held):
                if dwell.record is None or dwell.record.recording is None:
                    continue
                mine = self._pulses_of(dwell, held)
                if not mine.any():
                    continue
                if dwell.job not in known:
                    try:
                        known[dwell.job] = self._recorded(dwell).identities
                    except UnreadableError as error:
                        held.left = held.left & ~mine
                        if raw is not None and not held.left.any():
                            self._ledger.bury(raw, why_unreadable(error))
                            held.place = NOWHERE
                        continue
                    for job in list(known)[:-2]:
                        del known[job]
                if held.identity_of(mine) in known[dwell.job]:
                    held.left = held.left & ~mine
                else:
                    changed.append(dwell)
        for held in self.held.used_up():
            self._ledger.settle(held.place, "data" if held.used else "duplicates", again="data")
        return changed

    def _recorded(self, dwell: Dwell) -> AssembledChunk:
        if dwell.record is None or dwell.record.recording is None:
            raise RuntimeError(f"job {dwell.job!r} was not recorded; this is a fault of Beamsteer")
        return self._outline(self.name, dwell.record)

    # -- what belongs nowhere -------------------------------------------------------------------

    def _drop_between(self) -> None:
        """Count pulses of no dwell that the stream is well beyond."""
        finish, since_ns = self._finishing, self._now_ns - self._patience.lateness_ns
        for suspect in self.clock.without_witness(None if finish else since_ns):
            self._drop_suspect(suspect)
        limit = self._passed_ns()
        waiting = [(d, d.start_ns, self.dwells.end_of(d)) for d in self.dwells if d.waiting]
        questioned = {d.job for d in self._questioned}
        dropped = False
        for held in self.held:
            if held.late is not None or held.value.job in questioned:
                continue
            if not finish and (held.first_ns >= limit or held.since_ns > since_ns):
                continue
            if any(held.inside(start, end) for _, start, end in waiting):
                continue  # thousands of pulses of a dwell that goes on
            old = held.left & (finish | (held.times < limit))
            for dwell, _, end in waiting:
                old &= ~held.pulses_of(dwell, end)
            if old.any():
                dropped = True
                if isinstance(held.value, Events):
                    lost = select_pulses(held.value, old)
                    self._ledger.counters["events_between_chunks"] += len(lost.time_of_flight_ns)
                held.left = held.left & ~old
        if dropped:
            self._settle_used_up()
        self._settle_samples()

    def _passed_ns(self) -> int:
        """What the stream is well beyond: of a silent run, what all other runs are beyond."""
        quiet = self._now_ns - self.clock.heard_ns >= self._patience.lateness_ns
        newest_ns = max(self.clock.newest_ns, self._stream_ns if quiet else 0)
        return newest_ns - self._patience.lateness_ns

    def _drop_suspect(self, suspect: Suspect) -> None:
        """A message that jumped ahead of the stream and stayed alone; not if a dwell has it."""
        raw, t = suspect.raw, suspect.time_ns
        held = self.held.of_message(raw)
        if held is not None:
            if any(self._pulses_of(d, held).any() for d in self._near(held)):
                return
            self.held.remove(held)
        else:
            source = self.logs.source_of(place_of(raw))
            if source is None or any(d.start_ns <= t for d in self.dwells if d.record is None):
                return
            self.logs.remove(source, place_of(raw))
        self._ledger.bury(
            raw,
            f"time is {t}, {(t - self.clock.newest_ns) / SECOND:.0f} s ahead of the stream of run "
            f"{self.name!r}, and no other message agrees; expected a step of at most "
            f"{JUMP_NS // SECOND} s. Check the sender's clock",
        )

    # -- accounts -------------------------------------------------------------------------------

    def _settle(self, raw: RawMessage, outcome: str, *, again: str | None = None) -> None:
        self._ledger.settle(place_of(raw), outcome, again=again)

    def _settle_bounds(self, dwell: Dwell) -> None:
        """Start, stop and descriptors are in the chunk; nothing late is left."""
        for place in dwell.places:
            self._ledger.settle(place, "bounds")
        dwell.places.clear()
        dwell.changed_ns = None

    def _settle_used_up(self) -> None:
        for held in self.held.used_up():
            self._ledger.settle(held.place, "data" if held.used else "between_chunks")

    def _settle_samples(self) -> None:
        """Samples that no open dwell needs: the newest is carried, the others are done with."""
        limit = self._passed_ns()
        waiting = [d.start_ns for d in (*self.dwells, *self._questioned) if d.waiting]
        limit = min([limit, *waiting])
        if self._finishing and not waiting:
            limit = max(limit, self.logs.beyond_ns)
        # a topic that is read later may still bring the dwell of a new sample
        since_ns = None if self._finishing else self._now_ns - self._patience.lateness_ns
        for sample in self.logs.settle(limit, since_ns):
            self._ledger.settle(
                sample.place, "duplicates" if sample.known else "logs", again="logs"
            )


def _why_final(record: ChunkRecord) -> str:
    return (
        f"it belongs to chunk {record.chunk!r}, which is closed and whose recording was removed; "
        "expected it before. Keep recordings longer (source.retention.recordings)"
    )
