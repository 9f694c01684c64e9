"""Predictions that were made, by a digest of all that went into them; bounded wherever they are.

A disk that is full, or a file that was damaged, costs a prediction its place here and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

MEMORY_BYTES = 64 * 2**20
DISK_BYTES = 2**30
_SUFFIX = ".prediction"
_SOURCES = ("simulations", "model_server", "steering/database", "steering/predict")
_READ = (".py", ".yaml", ".json", ".npz", ".safetensors", ".pt")
_LIBRARIES = ("numpy", "scipy", "phonopy", "pymatgen", "spglib", "torch", "chgnet", "sevenn")


@cache
def code_version() -> str:
    """Digest of the code, data and libraries that predictions are made with."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for source in _SOURCES:
        for path in sorted((root / source).rglob("*")):
            if path.suffix in _READ and path.is_file():
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(path.read_bytes())
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(f"{name} {metadata.version(name)}".encode())
    return digest.hexdigest()


def prediction_key(
    fields: Mapping[str, Any], files: Sequence[tuple[str, bytes]], database: str = ""
) -> str:
    """Digest of a request with every field, of files and their names, and of code and database.

    Parameters
    ----------
    fields : mapping
        JSON-ready.
    files : sequence of (str, bytes)
    database : str
        Fingerprint of the store that is looked in.
    """
    digest = hashlib.sha256(f"{code_version()} {database}\n".encode())
    digest.update(json.dumps(fields, sort_keys=True).encode())
    for name, content in sorted(files):
        digest.update(f"\n{json.dumps(name)} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.hexdigest()


class PredictionCache:
    """Answers by key; those used least lately give way.

    Parameters
    ----------
    folder : Path, optional
        Where they outlive this process; without one they are in memory alone.
    memory_bytes, disk_bytes : int
        Most that answers take; one that is larger than all of it is kept in memory until the next.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        memory_bytes: int = MEMORY_BYTES,
        disk_bytes: int = DISK_BYTES,
    ) -> None:
        self._folder = folder
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes_in_memory(self) -> int:
        """What answers take now."""
        with self._lock:
            return sum(map(len, self._kept.values()))

    def get(self, key: str) -> bytes | None:
        """An answer, if it is still known."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = self._read(key)
        if found is not None:
            self._keep(key, found)
        return found

    def put(self, key: str, content: bytes) -> None:
        """Keep an answer."""
        self._keep(key, content)
        if self._folder is None or len(content) > self._disk_bytes:
            return
        try:
            self._write(self._folder, key, content)
        except OSError as error:
            log.warning("prediction_not_stored", reason=error.strerror or str(error))

    def _keep(self, key: str, content: bytes) -> None:
        with self._lock:
            self._kept[key] = content
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._memory_bytes:
                self._kept.popitem(last=False)

    def _write(self, folder: Path, key: str, content: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._make_room(folder, len(content))
        handle, name = tempfile.mkstemp(suffix=".partial", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
                file.write(content)
            Path(name).replace(folder / f"{key}{_SUFFIX}")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _read(self, key: str) -> bytes | None:
        if self._folder is None:
            return None
        path = self._folder / f"{key}{_SUFFIX}"
        try:
            digest, _, content = path.read_bytes().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                log.warning("stored_prediction_damaged", name=path.name)
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("stored_prediction_not_read", reason=error.strerror or str(error))
            return None
        return content

    def _make_room(self, folder: Path, wanted: int) -> None:
        """Remove those used least lately until so much more fits."""
        found = []
        for path in folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
        taken = sum(size for _, size, _ in found)
        for _, size, path in sorted(found, key=lambda one: one[0]):
            if taken + wanted <= self._disk_bytes:
                return
            path.unlink(missing_ok=True)
            taken -= size
