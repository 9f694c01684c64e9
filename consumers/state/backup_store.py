"""Backups of a state folder: one tar file, made while its workers go on, checked when restored.

Files that a manifest names never change, so that a manifest and what it names are one state,
whatever was committed meanwhile. What grows beside them (tape, logs of people) is copied after the
manifests: it then holds at least what they refer to. The last member is an index with the SHA-256
of every file, so that a backup that was cut short is known as such.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from consumers.state.manifest_store import MANIFEST, manifest_of, partition_folders
from consumers.state.state_store import read_state
from simulations.errors import InputError, storing
from simulations.progress import Progress, silent
from simulations.saved_file import in_one_step, sync_folder

INDEX = "backup.json"
INSIDE = "state/"
SCHEMA_VERSION = 1
ATTEMPTS = 8  # at a folder whose files go while they are copied
BLOCK_BYTES = 2**20
LARGEST_INDEX_BYTES = 200_000_000
NAME = re.compile(r"beamsteer-(?P<state>[0-9a-f]+)-(?P<made>\d{8}T\d{6}Z)\.tar")
_IMMUTABLE = re.compile(r"partition-\d+/[^/]+/(chunks|recorded)/[^/]+")
_PASSING = {"heartbeats", "members", "open-dwells"}  # of processes, not of the state


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """A file of a backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """What a backup holds."""

    state_id: str
    made: str  # time in UTC, ISO 8601
    partitions: dict[str, int]  # generation of the manifest, by number of the partition
    files: dict[str, Copied] = field(default_factory=dict[str, Copied])  # by path in the folder

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(one.bytes for one in self.files.values())


class _Hashed(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.digest.update(block)
        return block


def backup_name(state_id: str, now: datetime) -> str:
    """Name of a backup in a folder of them; in the order of time, by state."""
    return f"beamsteer-{state_id}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.tar"


def back_up(
    state: Path,
    file: Path,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Progress = silent,
) -> Backup:
    """Copy a state folder into a new tar file, while workers may go on.

    Parameters
    ----------
    state : Path
        Folder that `beamsteer consume` writes.
    file : Path
        Written in one step; must not be there.

    Raises
    ------
    InputError
        If the folder is no whole state, or the file is there or inside the folder.
    BlockingIOError
        If files kept vanishing while they were copied.
    StorageError
        If the file cannot be written.
    """
    identity = read_state(state) if state.is_dir() else None
    if identity is None:
        raise InputError(
            f"{state}: is no state folder (it has no state.json); expected one that `beamsteer "
            "consume` writes. Correct the path; folders of replays are copied as they are."
        )
    if file.exists() or file.is_symlink():
        raise InputError(f"{file}: is there already; expected a new file. Name another one.")
    if file.parent.resolve().is_relative_to(state.resolve()):
        raise InputError(
            f"{file}: is inside the state folder; expected a place outside, better on another "
            "disk. Name one."
        )
    if not file.parent.is_dir():
        raise InputError(
            f"{file.parent}: is not there; expected a folder for the backup. Make it, or correct "
            "the path."
        )
    with in_one_step(file) as temporary, tarfile.open(temporary, "w") as tar:
        partitions, files = _copied(state, _Writer(tar), progress)
        made = Backup(
            state_id=identity.state_id,
            made=now().astimezone(UTC).isoformat(timespec="seconds"),
            partitions=partitions,
            files=files,
        )
        text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(made)}, indent=1).encode()
        info = tarfile.TarInfo(INDEX)
        info.size, info.mode = len(text), 0o644
        tar.addfile(info, io.BytesIO(text))
    return made


class _Writer:
    """Adds files to a tar file; one that is added again replaces the one before."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files: dict[str, Copied] = {}

    def add(self, path: Path, name: str) -> None:
        """Add a file as long as it is now, lines only where it grows by lines.

        Raises
        ------
        FileNotFoundError
            If it is gone, or became shorter.
        """
        with path.open("rb") as file:
            told = os.fstat(file.fileno())
            if path.suffix == ".jsonl":  # its last line may be in the making
                text = file.read()
                self.add_bytes(text[: text.rfind(b"\n") + 1], name, told.st_mtime)
                return
            hashed = _Hashed(file)
            try:
                self._tar.addfile(_info(name, told.st_size, told.st_mtime), hashed)  # pyright: ignore
            except OSError as error:
                if "unexpected end of data" in str(error):
                    raise FileNotFoundError(path) from error
                raise
        self.files[name] = Copied(bytes=told.st_size, sha256=hashed.digest.hexdigest())

    def add_bytes(self, content: bytes, name: str, mtime: float) -> None:
        """Add a file of given content."""
        self._tar.addfile(_info(name, len(content), mtime), io.BytesIO(content))
        self.files[name] = Copied(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _info(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(INSIDE + name)
    info.size, info.mode, info.mtime = size, 0o640, int(mtime)
    return info


def _copied(
    state: Path, writer: _Writer, progress: Progress
) -> tuple[dict[str, int], dict[str, Copied]]:
    """Generations of the manifests, and all files that belong to them; tried until it is whole."""
    failed: set[tuple[str, tuple[bytes, ...]]] = set()
    gone = ""
    for _ in range(ATTEMPTS):
        seen = {name for name in _others(state) if name.startswith("tape/")}
        try:
            generations: dict[str, int] = {}
            kept: set[str] = set()
            for folder in partition_folders(state):
                number, generation, names = _partition(state, folder, writer, progress)
                generations[number] = generation
                kept |= names
            for name in sorted({*_others(state), *seen}):
                # a segment of the tape that went meanwhile may hold what a manifest still needs
                writer.add(state / name, name)
                kept.add(name)
            progress("other files", 1.0)
            return generations, {name: writer.files[name] for name in sorted(kept)}
        except FileNotFoundError as error:
            gone = str(error.filename or error)
        mark = gone, tuple((f / MANIFEST).read_bytes() for f in partition_folders(state))
        if mark in failed:
            raise InputError(
                f"{gone}: is not there, though the manifest names it; expected a whole state. "
                "Restore the folder from a backup, or start in an empty one: the source is read "
                "again."
            )
        failed.add(mark)
    raise BlockingIOError(
        f"{state}: files went while they were copied, {ATTEMPTS} times over (last {gone}); "
        "expected a moment without retention. Try again."
    )


def _partition(
    state: Path, folder: Path, writer: _Writer, progress: Progress
) -> tuple[str, int, set[str]]:
    """Copy a manifest and what it names; returns partition, generation and names."""
    path = folder / MANIFEST
    text = path.read_text(encoding="utf-8")
    manifest = manifest_of(text, path)
    inside = folder.relative_to(state).as_posix()
    names = {f"{inside}/{name}" for name in manifest.files()}
    fresh = sorted(names - writer.files.keys())  # what is copied already has not changed
    for i, name in enumerate(fresh):
        writer.add(state / name, name)
        progress(inside, i / len(fresh))
    writer.add_bytes(text.encode(), f"{inside}/{MANIFEST}", path.stat().st_mtime)
    return str(manifest.partition), manifest.generation, {*names, f"{inside}/{MANIFEST}"}


def _others(state: Path) -> Iterator[str]:
    """Names of what no manifest names, less what belongs to processes and not to the state."""
    been: set[str] = set()
    for place, folders, files in os.walk(state, followlinks=True):
        real = os.path.realpath(place)
        if real in been:  # a link that leads back
            folders.clear()
            continue
        been.add(real)
        inside = Path(place).relative_to(state)
        if place == str(state):
            folders[:] = [one for one in folders if one not in _PASSING]
        for one in files:
            name = (inside / one).as_posix()
            passing = one == "lock" or one.endswith(".lock") or ".partial" in one
            named = _IMMUTABLE.fullmatch(name) or re.fullmatch(rf"partition-\d+/{MANIFEST}", name)
            if not passing and not named and (state / name).is_file():
                yield name


def read_backup(file: Path) -> Backup:
    """Check every byte of a backup; returns what it holds.

    Raises
    ------
    InputError
        If it is no backup, cut short or damaged.
    """
    return _read(file, None, silent)


def restore(file: Path, state: Path, *, progress: Progress = silent) -> Backup:
    """Lay out a backup as a new state folder, in one step and after every byte was checked.

    Parameters
    ----------
    file : Path
        Of :func:`back_up`.
    state : Path
        Must not be there, or be empty.

    Raises
    ------
    InputError
        If the backup is none, cut short or damaged, or something is in the folder.
    StorageError
        If the folder cannot be written.
    """
    if state.is_symlink() or (state.exists() and not (state.is_dir() and not any(state.iterdir()))):
        raise InputError(
            f"{state}: is there already; expected a new or an empty folder, since nothing is ever "
            "restored over something. Name another one, or move it away."
        )
    aside = state.with_name(f".{state.name}.restoring-{os.getpid()}")
    try:
        with storing(aside):
            aside.mkdir(parents=True)
        found = _read(file, aside, progress)
        with storing(state):
            sync_folder(aside)
            aside.replace(state)  # an empty folder gives way
            sync_folder(state.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return found


def _read(file: Path, folder: Path | None, progress: Progress) -> Backup:
    """Read a backup to its end, into a folder if there is one."""
    copied: dict[str, Copied] = {}
    index = None
    with _reading(file) as tar:
        size = max(file.stat().st_size, 1)
        for member in tar:
            if index is not None:
                raise _damaged(file, "goes on after its index")
            source = tar.extractfile(member) if member.isreg() else None
            if source is None:
                raise _damaged(file, f"holds {member.name[:80]!r}, which is no plain file")
            if member.name == INDEX:
                if member.size > LARGEST_INDEX_BYTES:
                    raise _damaged(file, "has an index that is too long")
                index = _index(source.read(), file)
                continue
            name = _safe(member.name, file)
            target = None if folder is None else folder / name
            copied[name] = _taken(source, target, member.mtime)
            progress("files", min(member.offset_data / size, 1.0))
    if index is None:
        raise _damaged(file, "has no index at its end: it was cut short")
    for name, wanted in index.files.items():
        if copied.get(name) != wanted:
            raise _damaged(file, f"{name} is not what was backed up")
    for name in copied.keys() - index.files.keys():  # of an attempt that was overtaken
        if folder is not None:
            (folder / name).unlink()
    return index


@contextmanager
def _reading(file: Path) -> Generator[tarfile.TarFile]:
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise InputError(
            f"{file}: is no plain file; expected one that `beamsteer backup` wrote. Correct the "
            "path."
        )
    try:
        with tarfile.open(file, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(file, f"cannot be read as a tar file ({error})") from error
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if error.filename not in (str(file), file):
            raise
        raise InputError(
            f"{file}: {error.strerror}; expected a file that `beamsteer backup` wrote. Correct the "
            "path."
        ) from error


def _taken(source: IO[bytes], target: Path | None, mtime: float) -> Copied:
    digest, size = hashlib.sha256(), 0
    with io.BytesIO() if target is None else _written(target) as out:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            if target is not None:
                out.write(block)
    if target is not None:
        os.utime(target, (mtime, mtime))
    return Copied(bytes=size, sha256=digest.hexdigest())


@contextmanager
def _written(path: Path) -> Generator[IO[bytes]]:
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


def _safe(name: str, file: Path) -> str:
    """Path inside the state folder; nothing that leads out of it."""
    inner = name.removeprefix(INSIDE)
    parts = PurePosixPath(inner).parts
    if not name.startswith(INSIDE) or not parts or parts[0] == "/" or ".." in parts:
        raise _damaged(file, f"holds {name[:80]!r}, which is no file of a state folder")
    return "/".join(parts)


def _index(text: bytes, file: Path) -> Backup:
    try:
        told: dict[str, Any] = json.loads(text)
        version = told["schema_version"]
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{file}: is a backup of version {version}; expected {SCHEMA_VERSION}. Restore it "
                "with the Beamsteer that made it; docs/upgrade.md tells what follows."
            )
        return Backup(
            state_id=str(told["state_id"]),
            made=str(told["made"]),
            partitions={str(k): int(v) for k, v in told["partitions"].items()},
            files={
                str(name): Copied(bytes=int(one["bytes"]), sha256=str(one["sha256"]))
                for name, one in told["files"].items()
            },
        )
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"has an index that cannot be read ({error})") from error


def _damaged(file: Path, why: str) -> InputError:
    return InputError(
        f"{file}: {why}; expected a whole backup that `beamsteer backup` wrote. Take an older one."
    )


def remove_old_backups(folder: Path, state_id: str, keep: int) -> tuple[Path, ...]:
    """Delete the oldest backups of a state beyond ``keep``; returns which. Others stay.

    Raises
    ------
    StorageError
        If one cannot be deleted.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if (match := NAME.fullmatch(path.name)) and match["state"] == state_id
    )
    old = tuple(found[:-keep]) if keep else ()
    for path in old:
        with storing(path):
            path.unlink()
    return old
