"""ISIS event files of invented events in the public layout, and broken ones made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from simulations.instrument import Instrument, flight_time_us, instrument_idf
from tests.consumers.hostile_files import EI_MEV, PSI_DEG, T0_US, put, toy_instrument

FRAMES = 1500
FRAME_HZ = 50.0
CHARGE_UAH = 0.05 / 3.6e-3


def virtual_events(
    ei_meV: float = EI_MEV, n: int = 3000, seed: int = 3, *, elastic: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixel, energy transfer, time of flight) as ``good_events`` of the SNS has them."""
    ins = toy_instrument()
    rng = np.random.default_rng(seed)
    pixel = rng.integers(0, ins.n_pixels, n)
    energy = rng.uniform(-0.6 * ei_meV, 0.8 * ei_meV, n)
    line = rng.random(n) < elastic
    energy[line] = rng.normal(0, 0.004 * ei_meV, int(line.sum()))
    tof = (
        T0_US
        + flight_time_us(ins.source_to_sample_m, ei_meV)
        + flight_time_us(ins.distance_m[pixel], ei_meV - energy)
    )
    return pixel, energy, tof


def write_isis(
    path: Path,
    pixel: np.ndarray,
    tof_us: np.ndarray,
    *,
    tables: bool = False,
    chopper_Hz: float | None = None,
    frames: int = FRAMES,
    good: np.ndarray | None = None,
    period: np.ndarray | None = None,
    spectra_of: int = 1,
    ei_log: float | None = None,
    run_number: int = 1001,
) -> np.ndarray:
    """Write events of the toy instrument; returns the frame of every event as given.

    With ``tables`` the places of the detectors stand in ``isis_vms_compat`` alone; ``spectra_of``
    detectors share a spectrum. Spectrum numbers run backwards, so that they are no identifiers.
    """
    ins = toy_instrument()
    n = len(pixel)
    golden = np.modf(np.arange(n) * 0.6180339887498949)[0]
    frame = np.minimum((golden * frames).astype(np.int64), frames - 1)
    order = np.argsort(frame, kind="stable")
    spectrum = 5 + (ins.n_pixels - 1 - np.arange(ins.n_pixels)) // spectra_of
    good = np.ones(frames) if good is None else good
    with h5py.File(path, "w") as file:
        entry = _group(file, "raw_data_1", "NXentry")
        for name, text in (("title", "toy"), ("start_time", "2020-09-13T12:26:40")):
            entry.create_dataset(name, data=np.array([text.encode()]))
        entry.create_dataset("name", data=np.array([ins.name.encode()]))
        entry.create_dataset("run_number", data=np.array([run_number], np.int32))
        for name, value in (
            ("duration", frames / FRAME_HZ),
            ("collection_time", frames / FRAME_HZ),
            ("proton_charge", CHARGE_UAH),
            ("good_frames", int((good > 0).sum())),
            ("raw_frames", frames),
        ):
            entry.create_dataset(name, data=np.array([value], np.float64))
        events = _group(entry, "detector_1_events", "NXevent_data")
        events.create_dataset(
            "event_id", data=spectrum[pixel][order].astype(np.uint32), chunks=True
        )
        # whole ns, as the layout of the SNS has them
        tof = (np.rint(tof_us[order] * 1000) / 1000).astype(np.float32)
        node = events.create_dataset("event_time_offset", data=tof, chunks=True)
        node.attrs["units"] = np.bytes_("microsecond")
        first = np.searchsorted(frame[order], np.arange(frames)).astype(np.uint64)
        events.create_dataset("event_index", data=first)
        times = np.arange(frames) / FRAME_HZ
        zero = events.create_dataset("event_time_zero", data=times)
        zero.attrs["units"], zero.attrs["offset"] = "second", "2020-09-13T12:26:40"
        events.create_dataset("total_counts", data=np.array([n], np.uint64))
        log = _group(entry, "framelog", "NXcollection")
        charge = good * CHARGE_UAH / max(float((good > 0).sum()), 1.0)
        for name, values in (
            ("good_frame_log", good.astype(np.int32)),
            ("period_log", np.ones(frames, np.int32) if period is None else period),
            ("proton_charge", charge),
        ):
            one = _group(log, name, "NXlog")
            one.create_dataset("value", data=values)
            one.create_dataset("time", data=times)
        compat = _group(entry, "isis_vms_compat", "IXvms")
        monitor = 900_001  # a detector of the tables that no event comes from
        compat.create_dataset("UDET", data=np.r_[monitor, ins.detector_id].astype(np.int32))
        compat.create_dataset("SPEC", data=np.r_[1, spectrum].astype(np.int32))
        compat.create_dataset("MDET", data=np.array([monitor], np.int32))
        x, y, z = ins.position_m.T
        for name, column in (
            ("LEN2", ins.distance_m),
            ("TTHE", np.degrees(np.arctan2(np.hypot(x, y), z))),
            ("UT01", np.degrees(np.arctan2(y, x))),
        ):
            compat.create_dataset(name, data=np.r_[-1.0, column])
        machine = _group(entry, "instrument", "NXinstrument")
        source = _group(machine, "source", "NXsource")
        source.create_dataset("frequency", data=np.array([FRAME_HZ]))
        moderator = _group(machine, "moderator", "NXmoderator")
        moderator.create_dataset("distance", data=np.array([-ins.source_to_sample_m]))
        if not tables:
            xml = _group(machine, "instrument_xml", "NXnote")
            xml.create_dataset("data", data=np.array([instrument_idf("HYSPEC/32").encode()]))
        if chopper_Hz is not None:
            chopper = _group(machine, "fermi", "NXfermi_chopper")
            chopper.create_dataset("rotation_speed", data=np.array([chopper_Hz]))
            chopper.create_dataset("distance", data=np.array([-2.0]))
        runlog = _group(entry, "runlog", "IXrunlog")
        _log(runlog, "s1", PSI_DEG, "deg")
        if ei_log is not None:
            _log(runlog, "Ei", ei_log, "meV")
        environment = _group(_group(entry, "selog", "IXselog"), "Sample_temp", "IXseblock")
        _log(environment, "value_log", 5.0, "K")
    return frame


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def _log(parent: h5py.Group, name: str, value: float, unit: str) -> None:
    log = _group(parent, name, "NXlog")
    log.create_dataset("value", data=np.array([value, value])).attrs["units"] = unit
    log.create_dataset("time", data=np.array([0.0, 10.0]))


def two_energies(high_meV: float, low_meV: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixel, time of flight, which) of events of two incident energies in one pulse."""
    one = virtual_events(high_meV, 4000, 11, elastic=0.5)
    two = virtual_events(low_meV, 3000, 12, elastic=0.5)
    which = np.r_[np.zeros(4000, np.int64), np.ones(3000, np.int64)]
    return np.r_[one[0], two[0]], np.r_[one[2], two[2]], which


def toy() -> Instrument:
    """The instrument of these files."""
    return toy_instrument()


@dataclass(frozen=True, kw_only=True, slots=True)
class HostileIsis:
    """A broken file: how it is made from a good one, and words its refusal must contain."""

    name: str
    spoil: Callable[[Path], None]
    words: str
    tables: bool = False

    def make(self, folder: Path) -> Path:
        """Write the broken file into ``folder``."""
        path = folder / f"{self.name.replace(' ', '_')}.nxs"
        pixel, _, tof = virtual_events()
        write_isis(path, pixel, tof, tables=self.tables, ei_log=EI_MEV)
        self.spoil(path)
        return path


def _edit(change: Callable[[h5py.Group], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file["raw_data_1"])

    return spoil


def _put(name: str, data: object) -> Callable[[Path], None]:
    parent, _, leaf = name.rpartition("/")
    return _edit(lambda entry: put(entry[parent] if parent else entry, leaf, data))


def _drop(*names: str) -> Callable[[Path], None]:
    def change(entry: h5py.Group) -> None:
        for name in names:
            del entry[name]

    return _edit(change)


def _cut(share: float) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return spoil


def _cases(*cases: tuple[str, Callable[[Path], None], str]) -> Sequence[HostileIsis]:
    return [HostileIsis(name=name, spoil=spoil, words=words) for name, spoil, words in cases]


EVENTS = "detector_1_events"
HOSTILE_ISIS: tuple[HostileIsis, ...] = (
    *(
        HostileIsis(name=f"cut at {share}", spoil=_cut(share), words="cut or damaged|no HDF5")
        for share in (0.0, 0.01, 0.3, 0.9, 0.999)
    ),
    *_cases(
        ("no event_id", _drop(f"{EVENTS}/event_id"), "event_id or event_time_offset only"),
        ("lengths differ", _put(f"{EVENTS}/event_id", np.zeros(3, np.uint32)), "as many of each"),
        ("float ids", _put(f"{EVENTS}/event_id", np.zeros(3000)), "expected integers"),
        ("announces more", _put(f"{EVENTS}/total_counts", np.array([2**60])), "announces"),
        ("index falls", _put(f"{EVENTS}/event_index", np.arange(FRAMES)[::-1]), "falls or passes"),
        ("index beyond", _put(f"{EVENTS}/event_index", np.full(FRAMES, 2**60)), "falls or passes"),
        ("index short", _put(f"{EVENTS}/event_index", np.zeros(3, np.int64)), "pulse indices"),
        ("no index", _drop(f"{EVENTS}/event_index"), "no event_index"),
        ("SPEC short", _put("isis_vms_compat/SPEC", np.zeros(4, np.int32)), "UDET and SPEC"),
        ("SPEC huge", _put("isis_vms_compat/SPEC", np.full(641, 2**60)), "SPEC runs from"),
        ("SPEC negative", _put("isis_vms_compat/SPEC", np.full(641, -4)), "SPEC runs from"),
        ("SPEC NaN", _put("isis_vms_compat/SPEC", np.full(641, np.nan)), "whole numbers"),
        ("UDET gone", _drop("isis_vms_compat/UDET"), "UDET and SPEC"),
        ("no good frame", _put("framelog/good_frame_log/value", np.zeros(FRAMES)), "no good frame"),
        ("frame log short", _put("framelog/period_log/value", np.ones(7)), "framelog: period_log"),
        ("periods", _put("framelog/period_log/value", np.arange(FRAMES) % 2 + 1), "source.period"),
        ("psi gone", _drop("runlog/s1"), "no log 's1' for psi"),
        ("psi NaN", _put("runlog/s1/value", np.full(2, np.nan)), "psi .*is NaN"),
        ("psi moves", _put("runlog/s1/value", np.array([1.0, 9.0])), "moved from 1"),
        ("no XML", _put("instrument/instrument_xml/data", np.array([b"<x"])), "geometry: the IDF"),
    ),
    *(
        HostileIsis(name=f"tables {name}", spoil=spoil, words=words, tables=True)
        for name, spoil, words in (
            ("without UT01", _drop("isis_vms_compat/UT01"), "neither instrument_xml nor"),
            ("LEN2 short", _put("isis_vms_compat/LEN2", np.ones(5)), "LEN2 5"),
            ("TTHE NaN", _put("isis_vms_compat/TTHE", np.full(641, np.nan)), "place no detector"),
            ("no distance", _drop("instrument/moderator"), "moderator/distance is missing"),
        )
    ),
)
