from dataclasses import replace

import numpy as np
import pytest

from consumers.state import (
    SECOND,
    Assembler,
    ChunkRecord,
    EventSpill,
    HeldBound,
    Manifest,
    RunRecord,
)
from consumers.wire import (
    Described,
    Description,
    Events,
    Heartbeat,
    LogSample,
    RawMessage,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    Several,
    WireError,
)

BEGIN = 1_700_000_000 * SECOND
DWELL, PAUSE = 20 * SECOND, 4 * SECOND


def begins(job, start_ns, **more):
    return RunBegins(
        job=job, chunk=job, source="s", start_time_ns=start_ns, instrument_name="ARCS", **more
    )


def ends(job, stop_ns):
    return RunEnds(job=job, source="s", stop_time_ns=stop_ns)


def events(source, sequence, times_ns, rng=None, per_pulse=3):
    rng = rng or np.random.default_rng([sequence, int(times_ns[0]) % 1_000_000])
    n = per_pulse * len(times_ns)
    return Events(
        source=source,
        sequence=sequence,
        reference_time_ns=np.array(times_ns, np.int64),
        reference_index=np.arange(len(times_ns), dtype=np.int64) * per_pulse,
        time_of_flight_ns=rng.integers(1_000_000, 16_000_000, n).astype(np.int32),
        pixel_id=rng.integers(0, 1000, n).astype(np.int32),
    )


def sample(source, time_ns, value, **more):
    return LogSample(source=source, time_ns=time_ns, value=np.array([float(value)]), **more)


def scan(dwells=4):
    """(topic, value) of a rotation scan in the order of time, beam between the dwells too."""
    found, start = [], BEGIN
    found.append((BEGIN - 3 * SECOND, "log", sample("s1", BEGIN - 3 * SECOND, 0.0)))
    number = 0
    for k in range(dwells):
        stop = start + DWELL
        found.append((start, "bounds", begins(f"job{k}", start)))
        found.append((stop, "bounds", ends(f"job{k}", stop)))
        found.append((start - SECOND, "log", sample("s1", start - SECOND, 5.0 * k)))
        for t in range(start, stop + PAUSE, SECOND):
            found.append((t + 1, "log", sample("proton_charge", t + 1, 2.0 + k)))
            for bank in range(2):
                times = [t + 1, t + SECOND // 3, t + 2 * SECOND // 3]
                found.append((times[-1], "events", events(f"bank{bank}", number, times)))
            number += 1
        start = stop + PAUSE
    return [(topic, value) for _, topic, value in sorted(found, key=lambda f: f[0])]


class Disk:
    """What a worker keeps: the manifest and what every closed chunk holds."""

    def __init__(self):
        self.manifest = Manifest(partition=0)
        self.chunks = {}
        self.dead = []
        self.read = 0  # recordings

    def outline(self, run, record):
        self.read += 1
        return self.chunks[record.recording]

    def assembler(self, **more):
        options = {"settle_ns": 2 * SECOND, "lateness_ns": 60 * SECOND} | more
        assembler = Assembler(default_run="run", outline=self.outline, **options)
        assembler.restore(self.manifest)
        return assembler

    def close(self, assembler, chunk):
        recording = f"{chunk.job}.g{chunk.generation}"
        self.chunks[recording] = chunk
        record = ChunkRecord(
            chunk=chunk.chunk,
            job=chunk.job,
            generation=chunk.generation,
            start_time_ns=chunk.start_time_ns,
            stop_time_ns=chunk.stop_time_ns,
            status="folded",
            recording=recording,
            explicit_stop=chunk.explicit_stop,
            note=chunk.note,
            descriptors=chunk.descriptors,
        )
        assembler.closed(chunk, record)
        return record

    def turn(self, assembler, now_ns, finish=False, commit=True):
        records = {c.job: c for r in self.manifest.runs.values() for c in r.chunks}
        runs = {name: {c.job: c for c in r.chunks} for name, r in self.manifest.runs.items()}
        assembler.relieve()
        for chunk in assembler.due(now_ns, finish=finish):
            records[chunk.job] = runs.setdefault(chunk.run, {})[chunk.job] = self.close(
                assembler, chunk
            )
        if commit:
            logs, cuts = assembler.logs(), assembler.cuts()
            runs = {
                name: {job: replace(c, cut=cuts.get((name, job), ())) for job, c in of.items()}
                for name, of in runs.items()
            }
            self.manifest = replace(
                self.manifest,
                positions=assembler.positions(),
                counters=dict(assembler.counters),
                runs={
                    name: RunRecord(
                        chunks=tuple(
                            sorted(runs.get(name, {}).values(), key=lambda c: c.start_time_ns)
                        ),
                        logs=logs.get(name, {}),
                    )
                    for name in {*runs, *logs}
                },
            )
            self.dead += assembler.dead
            assembler.dead.clear()
            named = self.manifest.files()  # what it does not name is deleted
            self.chunks = {name: c for name, c in self.chunks.items() if name in named}

    def final(self):
        return {
            c.job: self.chunks[f"{c.job}.g{c.generation}"]
            for r in self.manifest.runs.values()
            for c in r.chunks
        }


def broker(messages, key=None):
    """Messages as a broker keeps them, an offset for each in its topic."""
    counts, kept = {}, []
    for topic, value in messages:
        offset = counts.get(topic, 0)
        counts[topic] = offset + 1
        kept.append(
            (RawMessage(topic=topic, partition=0, offset=offset, key=key, value=b""), value)
        )
    return kept


def play(messages, *, disk=None, crash_at=(), turn_every=7, shuffle=None, **more):
    """Feed messages, dying and coming back where told; returns what is on disk in the end.

    A broker keeps the order of a topic alone: with ``shuffle`` every life reads the topics in
    another order among each other.
    """
    disk = disk or Disk()
    kept = broker(messages)
    crashes, now = sorted(crash_at), BEGIN
    while True:
        assembler = disk.assembler(**more)
        positions = disk.manifest.positions
        rest = [
            (raw, value)
            for raw, value in kept
            if raw.offset >= (positions[raw.topic].next if raw.topic in positions else 0)
        ]
        if shuffle is not None:
            rest = interleaved(rest, shuffle)
        dies_after = crashes.pop(0) if crashes else None
        for n, (raw, value) in enumerate(rest[:dies_after], start=1):
            assembler.accept(raw, value, now)
            now += SECOND // 50
            if n % turn_every == 0 and n != dies_after:
                disk.turn(assembler, now)
        if dies_after is None:
            break
    disk.turn(assembler, now + 10 * SECOND, finish=True)
    disk.turn(assembler, now + 20 * SECOND, finish=True)
    return disk, assembler


def interleaved(kept, rng):
    """Topics in bursts, the order of each kept."""
    topics = {}
    for raw, value in kept:
        topics.setdefault(raw.topic, []).append((raw, value))
    found = []
    while topics:
        topic = rng.choice(sorted(topics))
        n = int(rng.integers(1, 80))
        found += topics[topic][:n]
        topics[topic] = topics[topic][n:]
        if not topics[topic]:
            del topics[topic]
    return found


def facts(disk):
    """Everything in the closed chunks, generation and order of arrival aside."""
    found = {}
    for job, chunk in sorted(disk.final().items()):
        found[job] = (
            chunk.start_time_ns,
            chunk.stop_time_ns,
            tuple((k, s.time_ns.tobytes(), s.value.tobytes()) for k, s in chunk.logs.items()),
            tuple(
                (e.source, e.sequence, e.reference_time_ns.tobytes(), e.reference_index.tobytes(),
                 e.time_of_flight_ns.tobytes(), e.pixel_id.tobytes())
                for e in chunk.events
            ),
        )  # fmt: skip
    return found


def test_a_plain_scan_gives_every_dwell_its_events_and_logs():
    disk, assembler = play(scan())
    chunks = disk.final()
    assert list(chunks) == ["job0", "job1", "job2", "job3"]
    for k, chunk in enumerate(chunks.values()):
        assert chunk.stop_time_ns - chunk.start_time_ns == DWELL
        assert chunk.explicit_stop
        assert chunk.note is None
        assert len(chunk.events) == 40
        times = np.concatenate([e.reference_time_ns for e in chunk.events])
        assert times.min() >= chunk.start_time_ns
        assert times.max() < chunk.stop_time_ns
        # the angle was set before the start; the charge of the pause before is not ours
        assert chunk.logs["s1"].value.tolist() == [5.0 * k]
        assert np.all(chunk.logs["proton_charge"].value == 2.0 + k)
        assert len(chunk.logs["proton_charge"].value) == 20
    assert assembler.counters["events_between_chunks"] == 4 * 4 * 2 * 9
    assert not disk.dead
    settled = {topic: p.next for topic, p in disk.manifest.positions.items()}
    assert settled == {"bounds": 8, "log": 5 + 4 * 24, "events": 4 * 24 * 2}
    assert all(not p.done for p in disk.manifest.positions.values())


def disturbed(messages, rng, duplicates=0.1, displaced=0.1, distance=60):
    """Some messages twice, some far from their place."""
    keys = []
    for i, message in enumerate(messages):
        away = rng.uniform(-distance, distance) if rng.random() < displaced else 0
        keys.append((i + away, message))
        if rng.random() < duplicates:
            keys.append((i + rng.uniform(0, 4 * distance), message))
    return [m for _, m in sorted(keys, key=lambda k: k[0])]


@pytest.mark.parametrize("seed", range(50))
def test_order_duplicates_and_crashes_change_nothing(seed):
    plain, _ = play(scan())
    rng = np.random.default_rng(seed)
    messages = disturbed(scan(), rng)
    crashes = rng.integers(1, 150, rng.integers(0, 12)).tolist()
    disk, assembler = play(
        messages,
        crash_at=crashes,
        turn_every=int(rng.integers(1, 30)),
        shuffle=rng if seed % 2 else None,
    )
    assert facts(disk) == facts(plain)
    assert not disk.dead
    total = sum(v for k, v in assembler.counters.items() if k.startswith("messages."))
    assert total == len(messages)  # every message settled, and counted once


@pytest.mark.parametrize("limit", [0, 5_000])
def test_events_that_wait_on_disk_change_nothing(limit, tmp_path):
    spill = EventSpill(tmp_path, HeldBound(limit_bytes=limit), segment_bytes=1 << 16)
    rng = np.random.default_rng(3)
    disk, assembler = play(disturbed(scan(), rng), spill=spill, turn_every=5)
    assert facts(disk) == facts(play(scan())[0])
    assert not disk.dead
    assert spill.memory_bytes == 0


@pytest.mark.parametrize("order", [("events", "log", "bounds"), ("log", "bounds", "events")])
def test_topics_that_are_read_one_after_the_other_change_nothing(order):
    """After a pause a broker hands over hours of one topic before the next."""
    messages = scan(8)
    skewed = [m for topic in order for m in messages if m[0] == topic]
    disk, _ = play(skewed, lateness_ns=30 * SECOND)
    assert facts(disk) == facts(play(messages)[0])


def test_a_late_message_reopens_its_chunk_and_a_duplicate_does_not():
    messages = scan()
    late = next(m for m in messages if isinstance(m[1], Events))
    plain, _ = play(messages)
    moved = [m for m in messages if m is not late] + [late]
    disk, assembler = play(moved)
    assert facts(disk) == facts(plain)
    assert assembler.counters["reopened"] == 1
    again, assembler = play([*messages, late])
    assert facts(again) == facts(plain)
    assert (assembler.counters["reopened"], assembler.counters["duplicates"]) == (0, 1)


def closed_scan(disk, dwells=4, **more):
    """An assembler whose dwells were all closed and committed by their stops."""
    assembler = disk.assembler(**more)
    for raw, value in broker(scan(dwells)):
        assembler.accept(raw, value, BEGIN)
    disk.turn(assembler, BEGIN + SECOND)
    disk.turn(assembler, BEGIN + 10 * SECOND)
    assert len(disk.final()) == dwells
    return assembler


def test_late_samples_read_a_recording_once_however_many_they_are():
    disk = Disk()
    assembler = closed_scan(disk)
    now, known = BEGIN + 11 * SECOND, BEGIN + 1
    before = disk.read
    for k in range(500):
        late = sample("temperature", BEGIN + SECOND + k * SECOND // 100, 4.0 + k)
        raw = RawMessage(topic="late", partition=0, offset=2 * k, value=b"")
        assembler.accept(raw, late, now)
        again = RawMessage(topic="late", partition=0, offset=2 * k + 1, value=b"")
        assembler.accept(again, sample("proton_charge", known + (k % 20) * SECOND, 2.0), now)
    assert disk.read == before  # nothing is read while messages are taken
    disk.turn(assembler, now + SECOND)
    assert disk.read == before
    assert disk.manifest.positions["late"].next == 0  # all are needed until they are judged
    disk.turn(assembler, now + 2 * SECOND)
    assert disk.final()["job0"].generation == 1
    assert len(disk.final()["job0"].logs["temperature"].value) == 500
    # the next dwell begins with the newest of them
    assert [disk.final()[f"job{k}"].generation for k in (1, 2, 3)] == [1, 0, 0]
    assert assembler.counters["duplicates"] == 500
    disk.turn(assembler, now + 200 * SECOND)
    assert disk.manifest.positions["late"].next == 1000


def test_a_night_of_late_samples_is_taken_in_a_few_dwells_at_a_time():
    disk = Disk()
    assembler = closed_scan(disk, dwells=12)
    now = BEGIN + 11 * SECOND
    for k in range(12):
        late = sample("temperature", BEGIN + k * (DWELL + PAUSE) + SECOND, 4.0 + k)
        raw = RawMessage(topic="late", partition=0, offset=k, value=b"")
        assembler.accept(raw, late, now)
    reopened = []
    for step in range(2, 5):
        disk.turn(assembler, now + step * SECOND)
        reopened.append(assembler.counters["reopened"])
    assert reopened == [8, 12, 12]
    starts = [BEGIN + k * (DWELL + PAUSE) for k in range(12)]
    extra = [("log", sample("temperature", t + SECOND, 4.0 + k)) for k, t in enumerate(starts)]
    ordered = [*scan(12), *extra]
    assert facts(disk) == facts(play(ordered)[0])


def test_late_events_are_told_from_repeated_ones_by_one_look_at_each_recording():
    disk = Disk()
    assembler = closed_scan(disk)
    now = BEGIN + 11 * SECOND
    before = disk.read
    repeated = [m for m in scan() if isinstance(m[1], Events)]
    new = [("events", events("bank7", k, [BEGIN + 5 * SECOND + k])) for k in range(50)]
    for offset, (_, value) in enumerate([*repeated, *new]):
        raw = RawMessage(topic="again", partition=0, offset=offset, value=b"")
        assembler.accept(raw, value, now)
    assert disk.read == before
    disk.turn(assembler, now + 2 * SECOND)
    assert disk.read - before <= 4 + 1  # once for each dwell, and to add what is new to one
    assert [disk.final()[f"job{k}"].generation for k in range(4)] == [1, 0, 0, 0]
    assert len(disk.final()["job0"].events) == 40 + 50
    assert assembler.counters["duplicates"] == len(repeated)


def test_a_dwell_whose_sender_set_its_clock_back_closes_while_the_run_goes_on():
    disk = Disk()
    assembler = disk.assembler(timeout_ns=10 * SECOND)
    kept = broker([m for m in scan(1) if not isinstance(m[1], RunEnds)][:30])
    for raw, value in kept:
        assembler.accept(raw, value, BEGIN)
    for k in range(12):  # the sender goes on, an hour back
        raw = RawMessage(topic="back", partition=0, offset=k, value=b"")
        value = events("bank0", 5000 + k, [BEGIN - (3600 - k) * SECOND])
        assembler.accept(raw, value, BEGIN + k * SECOND)
        disk.turn(assembler, BEGIN + k * SECOND)
    assert "no stop came in time" in disk.final()["job0"].note


def test_a_late_angle_reopens_the_chunk_that_it_describes():
    messages = scan()
    late = next(m for m in messages if isinstance(m[1], LogSample) and m[1].value[0] == 10.0)
    disk, assembler = play([m for m in messages if m is not late] + [late])
    assert facts(disk) == facts(play(messages)[0])
    assert assembler.counters["reopened"] == 1


@pytest.mark.parametrize("kills", [(), (1,), (2,), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("next_starts", [True, False])
def test_what_a_late_stop_cuts_off_survives_a_kill(kills, next_starts):
    """A closed dwell is cut; its rest belongs to a dwell that starts later, or between dwells."""
    messages = scan(2)
    if not next_starts:
        messages = [m for m in messages if getattr(m[1], "job", "") != "job1"]
    late = [m for m in messages if isinstance(m[1], RunEnds) and m[1].job == "job0"]
    late += [m for m in messages if isinstance(m[1], RunBegins | RunEnds) and m[1].job == "job1"]
    first = [m for m in messages if not any(m is other for other in late)]
    kept = broker([*first, *late])
    ended = [raw for raw, value in kept if any(value is other for _, other in late)]
    options = {"timeout_ns": 10 * SECOND, "lateness_ns": 200 * SECOND}
    disk, now = Disk(), BEGIN
    assembler = disk.assembler(**options)

    def die():
        assembler = disk.assembler(**options)
        at = disk.manifest.positions
        for raw, value in kept[:fed]:
            if raw.offset >= at[raw.topic].next:
                assembler.accept(raw, value, now)
        return assembler

    fed, step = len(first), 0
    for raw, value in kept[:fed]:
        assembler.accept(raw, value, now)
    # nothing said that the first dwell ends: silence closes it, with all that came
    while True:
        now += 15 * SECOND
        disk.turn(assembler, now)
        step += 1
        if step in kills:
            assembler = die()
        if not ended:
            break
        whole = disk.final()["job0"]
        if step == 1:
            assert len(whole.events) == 2 * 2 * (DWELL + PAUSE) // SECOND
        else:
            assert len(whole.events) == 2 * DWELL // SECOND
        raw, value = kept[fed]
        assert raw is ended.pop(0)
        assembler.accept(raw, value, now)
        fed += 1
    now += 15 * SECOND
    disk.turn(assembler, now)
    assert bool(assembler.cuts())
    now += 300 * SECOND
    disk.turn(assembler, now)
    beyond = sample("s1", BEGIN + 1000 * SECOND, 9.0)
    kept.append((RawMessage(topic="new", partition=0, offset=0, value=b""), beyond))
    fed += 1
    assembler.accept(*kept[-1], now)
    disk.turn(assembler, now + SECOND)
    disk.turn(assembler, now + 300 * SECOND, finish=True)
    assert not assembler.cuts()
    expected, plain = play(messages)
    assert facts(disk) == facts(expected)
    between = "events_between_chunks"
    assert assembler.counters[between] == plain.counters[between] > 0


@pytest.mark.parametrize("missing", ["job0", "job1", "job3"])
def test_a_dwell_without_stop_ends_where_the_next_begins_or_with_the_stream(missing):
    messages = [m for m in scan() if not (isinstance(m[1], RunEnds) and m[1].job == missing)]
    chunk = play(messages)[0].final()[missing]
    assert not chunk.explicit_stop
    if missing == "job3":
        assert "the stream ended" in chunk.note
    else:
        assert "no stop came" in chunk.note
        assert chunk.stop_time_ns - chunk.start_time_ns == DWELL + PAUSE


def test_a_stop_that_comes_late_corrects_the_dwell():
    messages = scan()
    late = next(m for m in messages if isinstance(m[1], RunEnds) and m[1].job == "job1")
    disk, _ = play([m for m in messages if m is not late] + [late])
    assert facts(disk) == facts(play(messages)[0])
    assert disk.final()["job1"].explicit_stop


def test_a_dwell_waits_for_its_stop_after_a_restart_too():
    """What a restart knows of the next dwell is old; the stop may be as late as ever."""
    messages = scan()
    late = next(m for m in messages if isinstance(m[1], RunEnds) and m[1].job == "job1")
    kept = broker([m for m in messages if m is not late])
    disk = Disk()
    for life in range(2):
        now = BEGIN + 1000 * life * SECOND
        assembler = disk.assembler()
        for raw, value in kept:
            assembler.accept(raw, value, now)
        disk.turn(assembler, now + SECOND)
        assert set(disk.final()) == {"job0", "job2", "job3"}
    disk.turn(assembler, now + 100 * SECOND)
    assert disk.final()["job1"].note == "no stop came; closed where the next dwell starts"


def test_a_start_that_comes_late_takes_its_share_from_the_dwell_before():
    messages = scan()
    lost = [m for m in messages if isinstance(m[1], RunEnds) and m[1].job == "job1"]
    late = next(m for m in messages if isinstance(m[1], RunBegins) and m[1].job == "job2")
    rest = [m for m in messages if m is not late and m not in lost]
    disk, _ = play([*rest, late, *lost])
    assert facts(disk) == facts(play(messages)[0])


def test_a_silent_dwell_is_closed_by_the_clock_and_opened_again_by_more_events():
    messages = [m for m in scan(1) if not isinstance(m[1], RunEnds)]
    disk = Disk()
    assembler = disk.assembler(timeout_ns=10 * SECOND)
    kept = broker(messages)
    for raw, value in kept[:40]:
        assembler.accept(raw, value, BEGIN)
    disk.turn(assembler, BEGIN + SECOND)
    assert not disk.final()
    disk.turn(assembler, BEGIN + 11 * SECOND)
    first = disk.final()["job0"]
    assert "no stop came in time" in first.note
    for raw, value in kept[40:]:
        assembler.accept(raw, value, BEGIN + 12 * SECOND)
    disk.turn(assembler, BEGIN + 30 * SECOND, finish=True)
    again = disk.final()["job0"]
    assert again.generation > first.generation
    assert len(again.events) == len([m for m in messages if isinstance(m[1], Events)])


def test_a_stop_without_start_is_a_dead_letter_in_the_end():
    disk, _ = play([*scan(1), ("bounds", ends("ghost", BEGIN + SECOND))])
    (letter,) = disk.dead
    assert "'ghost' came without a start" in letter.reason
    assert disk.manifest.positions["bounds"].next == 3


def test_a_stop_before_its_start_and_a_second_stop_are_refused():
    bad = [("bounds", ends("job0", BEGIN - SECOND)), ("bounds", ends("job0", BEGIN + SECOND))]
    disk, _ = play([*scan(1), *bad])
    reasons = sorted(letter.reason for letter in disk.dead)
    assert "stopped at" in reasons[0]
    assert "Check the clock" in reasons[1]
    assert facts(disk) == facts(play(scan(1))[0])


def test_a_clock_that_jumps_ahead_alone_is_refused_and_the_stream_goes_on():
    jump = ("events", events("bank0", 9_999, [BEGIN + 10 * 86_400 * SECOND]))
    messages = scan()
    messages.insert(60, jump)
    disk, _ = play(messages)
    (letter,) = disk.dead
    assert "ahead of the stream" in letter.reason
    assert facts(disk) == facts(play(scan())[0])


def together(value):
    """Neutrons with the charge of their first pulse, as one message of an ADARA stream says it."""
    t = int(value.reference_time_ns[0])
    return Several(values=(sample("proton_charge", t, 2.0), value))


def test_a_message_that_says_several_things_is_settled_once_and_counts_twice_never():
    pulses = [("all", together(v)) for t, v in scan(1) if t == "events"]
    bounds = [("all", v) for t, v in scan(1) if t == "bounds"]
    messages = [bounds[0], *pulses, *pulses[:7], ("all", Several()), bounds[1]]
    disk, _ = play(messages)
    assert not disk.dead
    assert disk.manifest.positions["all"].next == len(messages)
    assert disk.manifest.counters["messages.all"] == len(messages)
    (chunk,) = disk.final().values()
    inside = [v.values[1] for _, v in pulses if v.values[1].reference_time_ns[0] < BEGIN + DWELL]
    assert len(chunk.events) == len(inside)
    assert len(chunk.logs["proton_charge"].value) == DWELL // SECOND


def test_a_message_of_several_values_is_no_witness_of_itself():
    jump = ("events", together(events("bank0", 9_999, [BEGIN + 10 * 86_400 * SECOND])))
    messages = scan()
    messages.insert(60, jump)
    disk, _ = play(messages)
    assert {"ahead of the stream" in letter.reason for letter in disk.dead} == {True}
    assert facts(disk) == facts(play(scan())[0])


def test_a_value_from_long_ago_that_comes_first_still_holds():
    """A beamline tells first what was set days ago; nothing then agrees with its time."""
    old = [
        ("log", sample("s2", BEGIN - 9 * 86_400 * SECOND, -33.0)),
        ("log", sample("s3", BEGIN - 5 * 86_400 * SECOND, 1.5)),
    ]
    disk, _ = play([*old, *scan()])
    assert not disk.dead
    for chunk in disk.final().values():
        assert chunk.logs["s2"].value.tolist() == [-33.0]
        assert chunk.logs["s3"].value.tolist() == [1.5]


FOREIGN = RunBegins(
    job="theirs", chunk="theirs", source="other", start_time_ns=BEGIN + 7 * SECOND,
    instrument_name="ARCS",
)  # fmt: skip
THEIR_STOP = RunEnds(job="theirs", source="other", stop_time_ns=BEGIN + 12 * SECOND)


@pytest.mark.parametrize("seed", range(12))
def test_a_start_of_another_source_inside_a_dwell_cuts_nothing_whatever_the_order(seed):
    rng = np.random.default_rng(seed)
    messages = [m for m in scan() if not isinstance(m[1], RunEnds | RunBegins)]
    # both on one topic, in any order of the two dwells that the foreign one meets
    mixed = [m for m in scan() if isinstance(m[1], RunEnds | RunBegins)]
    foreign = [("bounds", FOREIGN), ("bounds", THEIR_STOP)]
    head = [mixed[0], *foreign, mixed[1]] if seed % 2 else [mixed[0], mixed[1], *foreign]
    place = int(rng.integers(1, 150))
    stream = [head[0], *messages[:place], *head[1:], *mixed[2:], *messages[place:]]
    disk, assembler = play(stream, turn_every=int(rng.integers(1, 30)))
    assert facts(disk) == facts(play(scan())[0])
    reasons = [letter.reason for letter in disk.dead]
    assert any("starts inside job 'job0'" in r and "cuts nothing" in r for r in reasons)
    assert len(reasons) <= 2  # its stop came without a start
    assert assembler.counters["foreign_starts"] == 1


@pytest.mark.parametrize(
    "change",
    [{"instrument_name": "CNCS", "source": "s"}, {"instrument_name": "CNCS", "source": "other"}],
)
def test_a_start_of_another_instrument_is_refused_at_once(change):
    """Also if the stop of the dwell that it would cut never comes."""
    stream = [m for m in scan() if not (isinstance(m[1], RunEnds) and m[1].job == "job0")]
    plain, _ = play(stream)
    messages = [*stream[:60], ("bounds", replace(FOREIGN, **change)), *stream[60:]]
    disk, _ = play(messages, instrument="ARCS/16")
    assert facts(disk) == facts(plain)
    assert "instrument 'CNCS'" in disk.dead[0].reason
    early = Disk()
    assembler = early.assembler(instrument="ARCS/16")
    for raw, value in broker(messages[:61]):
        assembler.accept(raw, value, BEGIN)
    early.turn(assembler, BEGIN + SECOND)
    assert "instrument 'CNCS'" in early.dead[0].reason


def test_the_own_start_inside_a_foreign_dwell_begins():
    theirs = replace(FOREIGN, instrument_name="CNCS", start_time_ns=BEGIN - 10 * SECOND)
    stop = replace(THEIR_STOP, stop_time_ns=BEGIN + 15 * SECOND)
    disk, _ = play([("bounds", theirs), *scan(), ("bounds", stop)], instrument="ARCS")
    ours = {job: what for job, what in facts(disk).items() if job != "theirs"}
    assert ours == facts(play(scan())[0])
    assert disk.final()["theirs"].stop_time_ns == BEGIN


def test_another_source_takes_over_where_the_stop_of_the_first_never_comes():
    messages = [m for m in scan(1) if not isinstance(m[1], RunEnds)]
    disk = Disk()
    assembler = disk.assembler(timeout_ns=100 * SECOND, lateness_ns=10 * SECOND)
    kept = broker([*messages, ("bounds", FOREIGN)])
    for raw, value in kept:
        assembler.accept(raw, value, BEGIN)
    for k in range(13):
        raw = RawMessage(topic="more", partition=0, offset=k, value=b"")
        later = [BEGIN + DWELL + PAUSE + k * 10 * SECOND]
        assembler.accept(raw, events("bank0", 800 + k, later), BEGIN + k * 10 * SECOND)
        disk.turn(assembler, BEGIN + k * 10 * SECOND)
        assert bool(disk.final()) == (k >= 10)
    assert disk.final()["job0"].stop_time_ns == FOREIGN.start_time_ns
    assert not disk.dead


def test_what_comes_for_a_dwell_without_recording_is_a_dead_letter_and_ends_nothing():
    disk = Disk()
    messages = [m for m in scan(2) if not (isinstance(m[1], RunEnds) and m[1].job == "job0")]
    assembler = disk.assembler(lateness_ns=5 * SECOND)
    for raw, value in broker(messages):
        assembler.accept(raw, value, BEGIN)
    disk.turn(assembler, BEGIN + 100 * SECOND)
    assert len(disk.final()) == 2
    assert ("run", "job0") not in assembler.needed()
    assembler.without_recording("run", "job0")
    late = [ends("job0", BEGIN + DWELL), events("bank9", 77, [BEGIN + SECOND])]
    for offset, value in enumerate(late):
        raw = RawMessage(topic="late", partition=0, offset=offset, value=b"")
        assembler.accept(raw, value, BEGIN + 101 * SECOND)
    disk.turn(assembler, BEGIN + 110 * SECOND)
    assert [c.generation for c in disk.final().values()] == [0, 0]
    assert len(disk.dead) == 2
    assert all("whose recording was removed" in letter.reason for letter in disk.dead)


def test_keys_log_names_and_descriptors_that_a_sender_invents_do_not_stay(monkeypatch):
    monkeypatch.setattr("consumers.state.run_assembly.MAX_LOGS", 50)
    monkeypatch.setattr("consumers.state.run_assembly.MAX_DESCRIPTORS", 20)
    disk = Disk()
    assembler = disk.assembler()
    invented = [
        *((b"run", sample(f"log{k}", BEGIN + k, 1.0)) for k in range(80)),
        *((b"run", Description(descriptor=f"d{k}", job="job0")) for k in range(30)),
        *((f"key{k}".encode(), events("b", 0, [BEGIN])) for k in range(40)),
    ]
    values = [(b"run", begins("job0", BEGIN)), *invented]
    for offset, (key, value) in enumerate(values):
        raw = RawMessage(topic="all", partition=0, offset=offset, key=key, value=b"")
        assembler.accept(raw, value, BEGIN)
    assert len(assembler.dead) == 30 + 10
    for passed_s in (1, 200, 400):
        disk.turn(assembler, BEGIN + passed_s * SECOND, finish=passed_s == 400)
    assert set(disk.manifest.runs) == {"run"}
    assert len(disk.manifest.runs["run"].logs) == 50
    assert disk.manifest.positions["all"].next == len(values)


def test_hours_without_beam_are_no_clock_jump():
    late = scan(2)
    hours = 8 * 3600 * SECOND

    def moved(value):
        if isinstance(value, RunBegins):
            return replace(value, job=value.job + "b", start_time_ns=value.start_time_ns + hours)
        if isinstance(value, RunEnds):
            return replace(value, job=value.job + "b", stop_time_ns=value.stop_time_ns + hours)
        if isinstance(value, LogSample):
            return replace(value, time_ns=value.time_ns + hours)
        return replace(value, reference_time_ns=value.reference_time_ns + hours)

    disk, _ = play([*scan(2), *((topic, moved(value)) for topic, value in late)])
    assert not disk.dead
    assert list(disk.final()) == ["job0", "job1", "job0b", "job1b"]
    assert [len(c.events) for c in disk.final().values()] == [40] * 4


def test_two_runs_interleaved_keep_apart():
    one, two = scan(2), scan(2)
    disk, now = Disk(), BEGIN
    assembler = disk.assembler()
    offset = 0
    for (topic, a), (_, b) in zip(one, two, strict=True):
        for key, value in ((b"one", a), (b"two", b)):
            if isinstance(value, RunBegins | RunEnds):
                value = replace(value, job=f"{key.decode()}-{value.job}")
            assembler.accept(
                RawMessage(topic="all", partition=0, offset=offset, key=key, value=b""), value, now
            )
            offset += 1
        del topic
    disk.turn(assembler, now, finish=True)
    assert {name: len(r.chunks) for name, r in disk.manifest.runs.items()} == {"one": 2, "two": 2}
    assert all(len(c.events) == 40 for c in disk.final().values())
    assert disk.manifest.positions["all"].next == offset


def test_the_same_message_with_other_content_is_refused():
    messages = scan(1)
    i = next(i for i, m in enumerate(messages) if isinstance(m[1], Events))
    forged = replace(messages[i][1], pixel_id=messages[i][1].pixel_id + 1)
    messages.insert(i + 1, ("events", forged))
    disk, _ = play(messages)
    assert "twice with other content" in disk.dead[0].reason
    assert facts(disk) == facts(play(scan(1))[0])


def test_a_job_that_starts_twice_is_refused_and_a_repeated_start_is_not():
    again = ("bounds", begins("job0", BEGIN))
    other = ("bounds", begins("job0", BEGIN + SECOND))
    same_time = ("bounds", begins("rival", BEGIN))
    disk, assembler = play([*scan(1), again, other, same_time])
    assert assembler.counters["duplicates"] == 1
    reasons = sorted(letter.reason for letter in disk.dead)
    assert "started twice with different times" in reasons[0]
    assert "that of another job" in reasons[1]


def test_undecodable_bytes_and_heartbeats_are_settled():
    raws = broker(
        [("x", WireError("unknown schema 'abcd'")), ("x", Heartbeat(service="s", status={}))]
    )
    disk = Disk()
    assembler = disk.assembler()
    for raw, value in raws:
        assembler.accept(raw, value, BEGIN)
    disk.turn(assembler, BEGIN)
    assert disk.manifest.positions["x"].next == 2
    assert [letter.reason for letter in disk.dead] == ["unknown schema 'abcd'"]
    assert assembler.counters["heartbeats"] == 1


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_bluesky_documents_belong_by_descriptor(order):
    histogram = ReducedHistogram(
        source="arcs",
        sequence=1,
        time_ns=BEGIN + SECOND,
        energy_edges_meV=np.array([0.0, 1.0]),
        intensity=np.ones((2, 1)),
        error=np.ones((2, 1)),
    )
    documents = [
        begins("uid", BEGIN, metadata={"run": "mine"}),
        Description(descriptor="d", job="uid"),
        Described(descriptor="d", values=(sample("s1", BEGIN + SECOND, 7.0), histogram)),
        ends("uid", BEGIN + DWELL),
    ]
    disk, _ = play([("documents", documents[i]) for i in order])
    chunk = disk.final()["uid"]
    assert disk.manifest.runs["mine"].chunks[0].descriptors == ("d",)
    assert chunk.logs["s1"].value.tolist() == [7.0]
    assert len(chunk.reduced) == 1
    assert not disk.dead
    assert disk.manifest.positions["documents"].next == 4


def test_an_event_of_an_unknown_descriptor_is_a_dead_letter():
    lost = Described(descriptor="who", values=(sample("s1", BEGIN, 1.0),))
    disk, _ = play([("documents", lost)])
    assert "descriptor 'who'" in disk.dead[0].reason
