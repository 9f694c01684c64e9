"""Bundles by name: those that are shipped and those of folders, loaded once and kept.

A name never becomes a path: it is looked up among the names that there are.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_server.networks.bundle import (
    CARD,
    LATENT,
    WEIGHTS,
    Bundle,
    BundleError,
    bundles_folder,
    fetched_bundle,
    shipped_bundles,
)
from model_server.networks.fetched_bundle_store import is_address
from simulations.errors import InputError

KEPT = 8  # bundles in memory
MOST_CARD_BYTES, MOST_LATENT_BYTES = 2**20, 2**23


class UnknownModelError(InputError):
    """No bundle has that name; the message lists those that there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A bundle that may be asked for."""

    name: str
    folder: Path
    shipped: bool


class BundleRegistry:
    """Frozen bundles by name.

    Parameters
    ----------
    places : sequence of Path or str
        Bundles, or folders that hold some, or web addresses of bundles, see ``fetched_bundle``; of
        one name the first counts, and before those shipped.
    keep : int
        Bundles that stay loaded; the one asked for longest ago gives way.

    Raises
    ------
    InputError
        If a folder is not there, or an address holds no bundle.
    """

    def __init__(self, places: Sequence[Path | str] = (), *, keep: int = KEPT) -> None:
        folders = [
            fetched_bundle(str(one)) if is_address(one) else Path(one).expanduser()
            for one in places
        ]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(
                    f"{folder} is no folder; expected a bundle of `beamsteer train`, or a folder "
                    "that holds some. Correct the path."
                )
        self._folders, self._keep = tuple(folders), keep
        self._loaded: OrderedDict[str, tuple[tuple[int, ...], Bundle]] = OrderedDict()
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """Every bundle by name, those of folders first; what was added meanwhile is among them."""
        found: dict[str, Entry] = {}
        for folder in self._folders:
            inside = [folder] if (folder / CARD).is_file() else sorted(folder.iterdir())
            for one in inside:
                if (one / CARD).is_file():
                    name = one.resolve().name
                    found.setdefault(name, Entry(name=name, folder=one, shipped=False))
        for name in shipped_bundles():
            found.setdefault(name, Entry(name=name, folder=bundles_folder() / name, shipped=True))
        return list(found.values())

    def entry(self, name: str) -> Entry:
        """The bundle of a name.

        Raises
        ------
        UnknownModelError
            If there is none.
        """
        entries = {one.name: one for one in self.entries()}
        if name not in entries:
            known = ", ".join(entries) or "none"
            raise UnknownModelError(f"model is {name[:80]!r}; expected one of: {known}.")
        return entries[name]

    def card(self, name: str) -> Mapping[str, Any]:
        """Card of a bundle, without its weights.

        Raises
        ------
        UnknownModelError
            If there is none of that name.
        BundleError
            If its card cannot be read.
        """
        return _object(name, "card", self.entry(name).folder / CARD, MOST_CARD_BYTES)

    def latent(self, name: str) -> Mapping[str, Any]:
        """Analysis of a bundle's latent, as ``beamsteer latent --calibrate`` keeps it.

        Raises
        ------
        UnknownModelError
            If there is no bundle of that name, or none was made of it.
        BundleError
            If it cannot be read.
        """
        path = self.entry(name).folder / LATENT
        if not path.is_file():
            raise UnknownModelError(
                f"model {name!r} has no analysis of its latent; expected {LATENT} beside its "
                "weights. Make it with `beamsteer latent FOLDER -e EXPERIMENT --calibrate`."
            )
        return _object(name, "analysis", path, MOST_LATENT_BYTES)

    def get(self, name: str) -> Bundle:
        """A bundle, from memory unless its files have changed.

        Raises
        ------
        UnknownModelError
            If there is none of that name.
        BundleError
            If it is damaged or of another version.
        """
        entry = self.entry(name)
        stamp = _stamp(entry.folder)
        with self._lock:  # who asks meanwhile waits for the same bundle
            kept = self._loaded.get(name)
            if kept is None or kept[0] != stamp:
                kept = (stamp, Bundle.load(entry.folder))
                self._loaded[name] = kept
            self._loaded.move_to_end(name)
            while len(self._loaded) > self._keep:
                self._loaded.popitem(last=False)
        return kept[1]

    def warm(self) -> tuple[str, ...]:
        """Load what there is, as far as it is kept; names of what is in memory then.

        Raises
        ------
        BundleError
            If one is damaged or of another version.
        """
        for entry in self.entries()[: self._keep]:
            self.get(entry.name)
        return self.loaded()

    def loaded(self) -> tuple[str, ...]:
        """Names of the bundles in memory."""
        return tuple(self._loaded)


def _object(name: str, what: str, path: Path, most: int) -> Mapping[str, Any]:
    """The JSON object of a file beside a bundle."""
    try:
        if path.stat().st_size > most:
            raise ValueError(f"more than {most:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise BundleError(
            f"model {name!r}: its {what} cannot be read ({type(error).__name__}: {error}). Copy "
            "the bundle there again, whole."
        ) from error
    return found


def _stamp(folder: Path) -> tuple[int, ...]:
    """What changes when a bundle is replaced."""
    found: list[int] = []
    for name in (CARD, WEIGHTS):
        try:
            told = (folder / name).stat()
        except OSError:  # loading it says what is wrong
            continue
        found += [told.st_mtime_ns, told.st_size, told.st_ino]
    return tuple(found)
