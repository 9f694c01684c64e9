"""Broken, foreign and odd recorded files, made from good ones; shared by several test modules."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from consumers.recorded import write_nxspe, write_sns_events
from consumers.recorded.event_reduction import ERROR_BIT
from simulations.instrument import Instrument, flight_time_us, instrument_idf, load_instrument

EI_MEV = 25.0
T0_US = 60.0
PSI_DEG = 12.5


@cache
def toy_instrument() -> Instrument:
    """HYSPEC with four pixels per tube: small files, real geometry."""
    return load_instrument("HYSPEC/32")


def good_events(
    path: Path, *, run_number: str = "1001", n: int = 3000, seed: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Write a good event file; returns the pixels and energy transfers of its events."""
    ins = toy_instrument()
    rng = np.random.default_rng(seed)
    pixel = rng.integers(0, ins.n_pixels, n)
    energy = rng.uniform(-15.0, 20.0, n)
    tof = (
        T0_US
        + flight_time_us(ins.source_to_sample_m, EI_MEV)
        + flight_time_us(ins.distance_m[pixel], EI_MEV - energy)
    )
    write_sns_events(
        path,
        idf_xml=instrument_idf("HYSPEC/32"),
        instrument_name="HYSPEC/32",
        detector_id=ins.detector_id[pixel],
        tof_us=tof,
        ei_meV=EI_MEV,
        psi_deg=PSI_DEG,
        proton_charge=0.05,
        minutes=0.5,
        run_number=run_number,
        title="toy",
        temperature_K=5.0,
        t0_us=T0_US,
        start_time_ns=1_600_000_000_123_456_789,
    )
    return pixel, energy


def good_nxspe(path: Path, *, run_number: str = "2001", psi_deg: float = PSI_DEG) -> np.ndarray:
    """Write a good NXSPE file; returns its counts."""
    ins = toy_instrument()
    edges = np.linspace(-5.0, 20.0, 26)
    counts = np.random.default_rng(5).poisson(0.2, (ins.n_pixels, 25))
    intensity = counts / ins.solid_angle_sr[:, None]
    error = np.sqrt(counts) / ins.solid_angle_sr[:, None]
    write_nxspe(
        path,
        instrument=ins,
        ei_meV=EI_MEV,
        psi_deg=psi_deg,
        energy_edges_meV=edges,
        intensity=intensity,
        error=error,
        counts=counts,
        proton_charge=0.05,
        minutes=0.5,
        temperature_K=5.0,
        run_number=run_number,
        start_time_ns=7,
    )
    return counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Hostile:
    """A broken file: how it is made from a good one, and words its refusal must contain."""

    name: str
    kind: str  # "events" or "nxspe"
    spoil: Callable[[Path], None]
    words: str

    def make(self, folder: Path) -> Path:
        """Write the broken file into ``folder``."""
        suffix = "nxs.h5" if self.kind == "events" else "nxspe"
        path = folder / f"{self.name.replace(' ', '_')}.{suffix}"
        (good_events if self.kind == "events" else good_nxspe)(path)
        self.spoil(path)
        return path


def _cut(share: float) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return spoil


def _edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def put(group: h5py.Group, name: str, data: object) -> None:
    """Replace a dataset, keeping its attributes."""
    attrs = dict(group[name].attrs) if name in group else {}
    if name in group:
        del group[name]
    group.create_dataset(name, data=data).attrs.update(attrs)


def _delete(name: str) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return _edit(change)


def _set(group: str, **data: object) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        for name, value in data.items():
            put(file[group], name, value)

    return _edit(change)


def _moving_psi(file: h5py.File) -> None:
    log = file["entry/DASlogs/s1"]
    put(log, "value", np.array([12.0, 14.0]))
    put(log, "time", np.array([0.0, 10.0]))


def _falling_index(file: h5py.File) -> None:
    index = file["entry/bank1_events/event_index"][()]
    index[len(index) // 2] = 10**6
    put(file["entry/bank1_events"], "event_index", index)


def _no_beam(file: h5py.File) -> None:
    log = file["entry/DASlogs/proton_charge"]
    put(log, "value", np.zeros_like(log["value"][()]))


def _damaged_bank(path: Path) -> None:
    """Overwrite compressed events in place: the file opens, the bank does not read."""
    with h5py.File(path, "r") as file:
        chunk = file["entry/bank3_events/event_id"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(bytes(data))


def _two_entries(file: h5py.File) -> None:
    file.copy("w1", "w2")


def _falling_energy(file: h5py.File) -> None:
    put(file["w1/data"], "energy", file["w1/data/energy"][()][::-1])


HOSTILE: tuple[Hostile, ...] = (
    *(
        Hostile(name=f"{kind} cut at {share}", kind=kind, spoil=_cut(share), words=words)
        for kind in ("events", "nxspe")
        for share, words in (
            (0.0, "no HDF5 file"),
            (0.0001, "no HDF5 file|cut or damaged"),
            (0.1, "cut or damaged"),
            (0.5, "cut or damaged"),
            (0.9, "cut or damaged"),
            (0.9999, "cut or damaged"),
        )
    ),
    Hostile(
        name="text file",
        kind="events",
        spoil=lambda path: path.write_text("psi = 3"),  # pyright: ignore[reportArgumentType]
        words="no HDF5 file",
    ),
    Hostile(
        name="absent file",
        kind="events",
        spoil=lambda path: path.unlink(),
        words="no such file",
    ),
    Hostile(name="foreign HDF5", kind="events", spoil=_delete("entry"), words="none of them NXSPE"),
    Hostile(name="damaged bank", kind="events", spoil=_damaged_bank, words="bank|cut or damaged"),
    Hostile(
        name="psi NaN",
        kind="events",
        spoil=_set("entry/DASlogs/s1", value=np.array([np.nan]), average_value=np.array([np.nan])),
        words="psi .*is NaN.*Give --psi",
    ),
    Hostile(
        name="psi log missing",
        kind="events",
        spoil=_delete("entry/DASlogs/s1"),
        words="no log 's1' for psi.*give --psi",
    ),
    Hostile(name="psi moved", kind="events", spoil=_edit(_moving_psi), words="moved from 12"),
    Hostile(name="no logs", kind="events", spoil=_delete("entry/DASlogs"), words="incident energy"),
    Hostile(
        name="Ei missing",
        kind="events",
        spoil=_delete("entry/DASlogs/EnergyRequest"),
        words="no log of the incident energy",
    ),
    Hostile(
        name="no geometry",
        kind="events",
        spoil=_set("entry/instrument", name=np.array([b"NOWHERE"]), instrument_xml=0),
        words="geometry: instrument.name is 'NOWHERE'",
    ),
    Hostile(
        name="geometry is no XML",
        kind="events",
        spoil=_set("entry/instrument/instrument_xml", data=np.array([b"<instrument"])),
        words="geometry: the IDF is no XML",
    ),
    Hostile(
        name="times and identifiers differ",
        kind="events",
        spoil=_set("entry/bank1_events", event_id=np.zeros(3, np.uint32)),
        words="as many of each",
    ),
    Hostile(
        name="bank announces more",
        kind="events",
        spoil=_set("entry/bank1_events", total_counts=np.array([10**7], np.uint64)),
        words="announces 10000000 events",
    ),
    Hostile(name="falling index", kind="events", spoil=_edit(_falling_index), words="event_index"),
    Hostile(
        name="no index",
        kind="events",
        spoil=_delete("entry/bank2_events/event_index"),
        words="no event_index",
    ),
    Hostile(
        name="identifiers are floats",
        kind="events",
        spoil=_set("entry/bank1_events", event_id=np.zeros(3), event_time_offset=np.zeros(3)),
        words="expected integers",
    ),
    Hostile(name="no beam", kind="events", spoil=_edit(_no_beam), words="no pulse carries charge"),
    Hostile(
        name="psi NaN nxspe",
        kind="nxspe",
        spoil=_set("w1/NXSPE_info", psi=np.array([np.nan])),
        words="psi is NaN.*Give --psi",
    ),
    Hostile(
        name="psi missing nxspe",
        kind="nxspe",
        spoil=_delete("w1/NXSPE_info/psi"),
        words="psi is missing",
    ),
    Hostile(
        name="Ei NaN nxspe",
        kind="nxspe",
        spoil=_edit(
            lambda file: (
                (
                    put(file["w1/NXSPE_info"], "fixed_energy", np.array([np.nan])),
                    put(file["w1/instrument/fermi"], "energy", np.array([np.nan])),
                )
                and None
            )
        ),
        words="Give --ei to init",
    ),
    Hostile(
        name="no info nxspe",
        kind="nxspe",
        spoil=_delete("w1/NXSPE_info"),
        words="none of them NXSPE",
    ),
    Hostile(name="no data nxspe", kind="nxspe", spoil=_delete("w1/data"), words="no group 'data'"),
    Hostile(
        name="two entries nxspe", kind="nxspe", spoil=_edit(_two_entries), words="Split the file"
    ),
    Hostile(
        name="error of other shape",
        kind="nxspe",
        spoil=_set("w1/data", error=np.zeros((3, 4))),
        words="expected two equal",
    ),
    Hostile(name="energy falls", kind="nxspe", spoil=_edit(_falling_energy), words="does not rise"),
    Hostile(
        name="energy too short",
        kind="nxspe",
        spoil=_set("w1/data", energy=np.arange(4.0)),
        words="expected 26 bin edges",
    ),
    Hostile(
        name="all angles NaN",
        kind="nxspe",
        spoil=_set("w1/data", polar=np.full(640, np.nan)),
        words="no detector has finite angles",
    ),
    Hostile(
        name="newer extension",
        kind="nxspe",
        spoil=_set("w1/beamsteer", version=np.array([99])),
        words="extension has version 99",
    ),
    Hostile(
        name="counts outside",
        kind="nxspe",
        spoil=_edit(
            lambda file: put(
                file["w1/beamsteer"],
                "count_index",
                file["w1/beamsteer/count_index"][()] + 10**6,
            )
        ),
        words="raw counts .* do not fit",
    ),
)


def odd_events(path: Path) -> dict[str, int]:
    """Write a readable event file full of oddities; returns how many events each must lose."""
    good_events(path)
    with h5py.File(path, "r+") as file:
        entry = file["entry"]
        ids = entry["bank1_events/event_id"][()]
        tof = entry["bank1_events/event_time_offset"][()]
        ids[0:5] |= np.uint32(ERROR_BIT)
        ids[5:12] = 999_999
        tof[12:15] = np.nan
        tof[15:19] = 3.0
        put(entry["bank1_events"], "event_id", ids)
        put(entry["bank1_events"], "event_time_offset", tof)
        empty = entry.create_group("bank99_events")
        empty.attrs["NX_class"] = np.bytes_("NXevent_data")
        for name, kind in (("event_id", np.uint32), ("event_time_offset", np.float32)):
            empty.create_dataset(name, data=np.zeros(1, kind))
        empty.create_dataset("total_counts", data=np.zeros(1, np.uint64))
        bare = entry.create_group("bank98_events")
        bare.attrs["NX_class"] = np.bytes_("NXevent_data")
        lost = entry.create_group("bank_unmapped_events")
        lost.attrs["NX_class"] = np.bytes_("NXevent_data")
        lost.create_dataset("event_id", data=np.array([5_000_000, 5_000_001], np.uint32))
        lost.create_dataset("event_time_offset", data=np.array([2e4, 2e4], np.float32))
        pulses = len(entry["bank2_events/event_index"])
        lost.create_dataset("event_index", data=np.zeros(pulses, np.uint64))
        lost["event_time_zero"] = entry["bank2_events/event_time_zero"]
        lost.create_dataset("total_counts", data=np.array([2], np.uint64))
        monitor = entry.create_group("monitor2")
        monitor.attrs["NX_class"] = np.bytes_("NXmonitor")
        monitor.create_dataset("event_time_offset", data=np.zeros(50, np.float32))
    return {"error bit": 5, "unknown identifier": 9, "time not finite": 3, "too early": 4}


def copy_of(path: Path, target: Path) -> Path:
    """Writable copy of a read-only file."""
    shutil.copyfile(path, target)
    return target
