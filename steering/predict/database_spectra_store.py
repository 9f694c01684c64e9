"""A folder with the spectra of a database: blocks of a few entries, and one file that joins them.

A block appears when it is whole and holds nothing of who made it or when, so that a run that was
killed goes on behind the last one, and any number of workers leaves the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simulations.errors import InputError
from simulations.progress import Progress, silent
from simulations.saved_file import in_one_step
from steering.database import Database, open_database, owned, remove_partial, run_tasks
from steering.predict.database_spectra import SpectraSetting, check_setting, entry_spectrum

FORMAT = 1
BLOCK_ENTRIES = 8
SETTING, JOINED, BLOCKS = "setting.json", "spectra.h5", "blocks"


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenSpectra:
    """What came of it."""

    file: Path
    spectra: int
    aside: tuple[tuple[str, str], ...]  # id and reason
    blocks_made: int
    blocks_kept: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _BlockTask:
    store: Path
    setting: SpectraSetting
    ids: tuple[str, ...]
    file: Path


def write_spectra(
    database: Database,
    setting: SpectraSetting,
    folder: Path,
    *,
    ids: Sequence[str] | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> WrittenSpectra:
    """Compute spectra of a database's entries into a folder, or go on where that was interrupted.

    Parameters
    ----------
    database : Database
    setting : SpectraSetting
    folder : Path
        Made if it is not there. ``spectra.h5`` in it joins the blocks: ``id``, ``intensity``
        (entries, |Q| or banks, E) float32, axes, and ``aside``.
    ids : sequence of str or None
        Entries; None: all.
    workers : int
        Processes.
    progress : callable

    Raises
    ------
    InputError
        If the setting cannot be, or the folder holds spectra of another setting or database.
    StorageError
        If there is no room.
    """
    check_setting(setting)
    chosen = [one.card.id for one in database.search()] if ids is None else list(ids)
    if not chosen:
        raise InputError("no entry is chosen; expected at least one")
    with owned(folder):
        _claim(folder, setting, chosen, database)
        (folder / BLOCKS).mkdir(exist_ok=True)
        remove_partial(folder)
        remove_partial(folder / BLOCKS)
        blocks = [
            _BlockTask(
                store=database.folder.resolve(),
                setting=setting,
                ids=tuple(chosen[start : start + BLOCK_ENTRIES]),
                file=folder / BLOCKS / f"spectra-{start:06d}.h5",
            )
            for start in range(0, len(chosen), BLOCK_ENTRIES)
        ]
        missing = [one for one in blocks if not one.file.is_file()]
        kept = len(blocks) - len(missing)

        def done(count: int) -> None:
            share = (kept + count) / len(blocks)
            progress(f"spectra, {int(10 * share)} tenths", 0.99 * share)

        done(0)
        run_tasks(make_block, missing, workers, done)
        progress("joining", 0.99)
        spectra, aside = _join(folder, setting, [one.file for one in blocks])
    return WrittenSpectra(
        file=folder / JOINED,
        spectra=spectra,
        aside=aside,
        blocks_made=len(missing),
        blocks_kept=kept,
    )


def _claim(folder: Path, setting: SpectraSetting, ids: Sequence[str], database: Database) -> None:
    """Write what the folder is for, or hold it against what it was for."""
    now: dict[str, Any] = json.loads(
        json.dumps(
            {
                "format": FORMAT,
                "block_entries": BLOCK_ENTRIES,
                "database": database.fingerprint,
                "ids": sha256("\n".join(ids).encode()).hexdigest(),
                **asdict(setting),
            }
        )
    )
    path = folder / SETTING
    if not path.is_file():
        others = [one.name for one in folder.iterdir() if one.name != "lock"]
        if others:
            raise InputError(
                f"output: {folder} holds other files, such as {sorted(others)[0]!r}; expected a "
                "new or empty folder"
            )
        with in_one_step(path) as temporary:
            temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"output: {path} cannot be read ({error}); name a new folder") from error
    other = [key for key in now if before.get(key) != now[key]]
    if other:
        key = other[0]
        raise InputError(
            f"output: {folder} holds spectra of another {key}, {str(before.get(key)):.60}, not "
            f"{str(now[key]):.60}; expected the same setting and database. Name a new folder"
        )


def make_block(task: _BlockTask) -> None:
    """Compute the spectra of a block and write it."""
    database = open_database(task.store)
    spectra, ids, aside = [], [], []
    for entry_id in task.ids:
        try:
            spectra.append(entry_spectrum(database, entry_id, task.setting))
            ids.append(entry_id)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # one entry must not end all
            reason = " ".join(str(error).split())
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            aside.append([entry_id, kind + reason])
    buffer = io.BytesIO()  # HDF5 on a full disk may end the process
    with h5py.File(buffer, "w", libver="v110") as file:
        _put_text(file, "header", json.dumps({"format": FORMAT, "ids": ids, "aside": aside}))
        if spectra:
            file.create_dataset(
                "intensity", data=np.stack(spectra), compression="gzip", compression_opts=1,
                shuffle=True, chunks=(1, *spectra[0].shape),
            )  # fmt: skip
    with in_one_step(task.file) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _join(
    folder: Path, setting: SpectraSetting, files: Sequence[Path]
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Write the file that joins the blocks; return how many spectra, and who was set aside."""
    ids: list[str] = []
    aside: list[tuple[str, str]] = []
    parts: list[tuple[Path, tuple[int, ...]]] = []
    for path in files:
        try:
            with h5py.File(path) as block:
                data: Any = block["header"]
                header = json.loads(np.asarray(data).tobytes().decode())
                if header["ids"]:
                    intensity: Any = block["intensity"]
                    parts.append((path, intensity.shape))
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read ({' '.join(str(error).split()):.120}); remove it and run "
                "the same command again"
            ) from error
        ids += header["ids"]
        aside += [(one, reason) for one, reason in header["aside"]]
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="v110") as file:
        if parts:
            layout = h5py.VirtualLayout((len(ids), *parts[0][1][1:]), dtype=np.float32)
            layout.dcpl.set_obj_track_times(False)  # the same bytes at any time
            start = 0
            for path, shape in parts:
                layout[start : start + shape[0]] = h5py.VirtualSource(
                    f"{BLOCKS}/{path.name}", "intensity", shape=shape
                )
                start += shape[0]
            file.create_virtual_dataset("intensity", layout, fillvalue=np.nan)
        file["id"] = np.array([one.encode() for one in ids] or [b""])
        file["energy_meV_edges"] = np.array(setting.energy_edges_meV)
        if setting.momentum_edges and not setting.indirect:
            file["q_inverse_A_edges"] = np.array(setting.momentum_edges)
        _put_text(file, "aside", json.dumps([list(one) for one in aside]))
        file.attrs["words"] = np.bytes_(setting.words.encode())
        file.attrs["instrument"] = np.bytes_(setting.instrument.encode())
    with in_one_step(folder / JOINED) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return len(ids), tuple(aside)


def _put_text(file: h5py.File, name: str, text: str) -> None:
    file[name] = np.frombuffer(text.encode(), dtype=np.uint8)
