"""Bundles of a web address, fetched once and kept.

An address is that of a folder with ``card.json``, ``weights.safetensors`` and ``MODEL_CARD.md``, as
any web server hands out. What was fetched once is used from then on, so that a run which starts
anew needs no network and has the same network: another version belongs at another address.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import httpx

from simulations.errors import InputError

PATIENCE_S = 30.0  # with a server that says nothing
LONGEST_S = 600.0  # for one file
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PINNED = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)


def is_address(place: object) -> bool:
    """Whether a place names a web address, not a folder."""
    return isinstance(place, str) and place.lower().startswith(("http://", "https://"))


def fetched(
    address: str,
    files: Mapping[str, int],
    *,
    pinned: str,
    check: Callable[[Path], object],
    kept: Path | None = None,
) -> Path:
    """Folder of the bundle of an address, which is fetched if it is not there yet.

    Parameters
    ----------
    address : str
        ``https://host/path/name``, or ``http`` of this machine; behind it ``#sha256=`` and the hash
        of the pinned file, 64 hexadecimal digits, where nothing else will do.
    files : mapping of str to int
        Names of its files, and most bytes of each.
    pinned : str
        The file that an address may tell the hash of.
    check : callable
        Raises an ``InputError`` if the folder that it gets holds no bundle.
    kept : Path, optional
        Folder of what was fetched; default ``beamsteer/bundles`` of the user's cache.

    Raises
    ------
    InputError
        If the address is none, cannot be read, holds something else, or there is no room.
    """
    parts, hashed = _understood(address)
    name = parts.path.rstrip("/").rpartition("/")[2]
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    root = _cache() if kept is None else kept
    folder = root / hashlib.sha256(base.encode()).hexdigest()[:16] / name
    if all((folder / file).is_file() for file in files):
        _hold(folder / pinned, hashed, f"{address}: the bundle kept in {folder}")
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as room:
            arriving = Path(room) / name
            arriving.mkdir()
            for file, most in files.items():
                _download(f"{base}/{file}", arriving / file, most)
            _hold(arriving / pinned, hashed, address)
            check(arriving)
            folder.parent.mkdir(exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)  # half of one, left by who knows what
            arriving.replace(folder)
    except OSError as error:
        if all((folder / file).is_file() for file in files):  # another process was quicker
            return folder
        raise InputError(
            f"{address}: cannot be kept in {root} ({error.strerror or error}). Make room there, or "
            "name another folder by XDG_CACHE_HOME."
        ) from error
    return folder


def _cache() -> Path:
    told = os.environ.get("XDG_CACHE_HOME")
    return (Path(told) if told else Path.home() / ".cache") / "beamsteer" / "bundles"


def _understood(address: str) -> tuple[SplitResult, str | None]:
    """Parts of an address, and the hash that it tells."""
    expected = "https://host/path/name, behind it #sha256=... if wanted"
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        raise InputError(f"{address}: is no web address ({error}); expected {expected}.") from error
    name = parts.path.rstrip("/").rpartition("/")[2]
    if not host or not re.fullmatch(r"[\w.-]+", name) or name.startswith(".") or parts.query:
        raise InputError(f"{address}: is no address of a bundle; expected {expected}.")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"a model's address at {host} holds a user or password; expected none, as experiment "
            "files are shared. Name a folder that the bundle was copied to."
        )
    if parts.scheme.lower() == "http" and host not in LOOPBACK:
        raise InputError(
            f"{address}: is not encrypted, so anybody on the way may change the network; expected "
            f"https://{parts.netloc}... Only addresses of this machine may begin with http."
        )
    found = PINNED.fullmatch(parts.fragment)
    if parts.fragment and found is None:
        raise InputError(
            f"{address}: what follows # is {parts.fragment[:80]!r}; expected sha256= and 64 "
            "hexadecimal digits, or nothing."
        )
    return parts, None if found is None else found[1].lower()


def _hold(file: Path, hashed: str | None, whose: str) -> None:
    """Refuse a file of another hash than the address tells."""
    if hashed is None:
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != hashed:
        raise InputError(
            f"{whose}: {file.name} has sha256 {found}; expected {hashed}, as the address says. It "
            "is another version: correct the address, or remove the folder."
        )


def _download(url: str, to: Path, most: int) -> None:
    """One file of at most so many bytes."""
    begun, size = time.monotonic(), 0
    try:
        with (
            to.open("wb") as sink,
            httpx.Client(timeout=PATIENCE_S, follow_redirects=False) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.is_redirect:
                raise InputError(
                    f"{url}: leads on to {answer.headers.get('location', 'nowhere')[:200]}; "
                    "expected the file itself. Give the address that it leads to."
                )
            if answer.status_code != httpx.codes.OK:
                raise InputError(
                    f"{url}: the server answers {answer.status_code}; expected the file of a "
                    "bundle. Correct the address."
                )
            for piece in answer.iter_bytes():
                size += len(piece)
                if size > most or time.monotonic() > begun + LONGEST_S:
                    raise InputError(
                        f"{url}: more than {most:,} bytes, or {LONGEST_S:.0f} s; expected a bundle "
                        "of `beamsteer train`."
                    )
                sink.write(piece)
    except httpx.HTTPError as error:
        raise InputError(
            f"{url}: cannot be fetched ({type(error).__name__}: {error}). Check address and "
            "network, or name a folder that the bundle was copied to."
        ) from error
