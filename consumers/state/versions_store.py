"""Which versions the files of a state folder have, and what follows: nothing is opened or changed.

The table of versions is in docs/upgrade.md, and a test holds it to what is here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from consumers.fold import FOLD_VERSION
from consumers.recorded import open_hdf5
from consumers.state import chunk_recording_file, chunk_store, manifest_store, state_store
from simulations.errors import InputError

AFRESH = (
    "Start `beamsteer consume` in an empty folder: the source is read again; or fold the "
    "recordings there anew: beamsteer replay FOLDER/partition-*/RUN/recorded/* -e EXPERIMENT"
)
ELSEWHERE = "Go on with the Beamsteer that wrote it, or upgrade this one"
MEND = "Restore the folder from a backup (`beamsteer restore`)"
_safe_open: Any = safe_open  # says nothing of its types


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundVersion:
    """A kind of file in a state folder, and whether this program goes on with it."""

    kind: str
    files: int
    version: str  # as found; several are joined by commas, what cannot be read is "unreadable"
    known: str  # what this program reads and writes
    verdict: Literal["opens", "older", "newer", "damaged"]
    remedy: str = ""


def versions_of(state: Path) -> tuple[FoundVersion, ...]:
    """Versions of all kinds of files in a state folder that workers go on from.

    Raises
    ------
    InputError
        If the folder is no state folder.
    """
    manifests = sorted(state.glob(f"partition-*/{manifest_store.MANIFEST}"))
    identity = state / state_store.NAME
    if not manifests and not identity.is_file():
        raise InputError(
            f"{state}: is no state folder (no {state_store.NAME}, no manifest); expected one that "
            "`beamsteer consume` writes. Correct the path."
        )
    looked: tuple[tuple[str, list[Path], int, Callable[[Path], Any], str], ...] = (
        (
            "state.json",
            [identity] if identity.exists() else [],
            state_store.SCHEMA_VERSION,
            lambda path: _json(path)["schema_version"],
            AFRESH,
        ),
        (
            "manifest.json",
            manifests,
            manifest_store.SCHEMA_VERSION,
            lambda path: _json(path)["schema_version"],
            AFRESH,
        ),
        (
            "fold (program.fold)",
            [identity] if identity.exists() else [],
            FOLD_VERSION,
            lambda path: int(_json(path)["fingerprint"].get("program.fold", 0)),
            AFRESH,
        ),
        (
            "closed chunks",
            sorted(state.glob("partition-*/*/chunks/*.safetensors")),
            chunk_store.SCHEMA_VERSION,
            _of_chunk,
            AFRESH,
        ),
        (
            "recordings",
            sorted(state.glob("partition-*/*/recorded/*.h5")),
            chunk_recording_file.VERSION,
            _of_recording,
            AFRESH.partition(";")[0],
        ),
        (
            "results",
            sorted(state.glob("partition-*/*/estimate/result.json")),
            1,
            lambda path: _json(path)["schema_version"],
            "Remove the folder `estimate`: `beamsteer model-server` writes it anew",
        ),
        (
            "book of alarms",
            [p for p in (state / "alarms" / "book.json",) if p.exists()],
            1,
            lambda path: _json(path)["schema_version"],
            "Move alarms/book.json away: what holds is told anew",
        ),
    )
    return tuple(_judged(*one) for one in looked)


def _judged(
    kind: str, paths: list[Path], known: int, version: Callable[[Path], Any], remedy: str
) -> FoundVersion:
    found: set[int] = set()
    broken: list[Path] = []
    for path in paths:
        try:
            found.add(int(version(path)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            broken.append(path)
    told = [str(one) for one in sorted(found)] + ["unreadable"] * bool(broken)
    verdict: Literal["opens", "older", "newer", "damaged"] = "opens"
    if broken:
        verdict, remedy = "damaged", f"{MEND}; {broken[0].name} cannot be read"
    elif any(one > known for one in found):
        verdict, remedy = "newer", ELSEWHERE
    elif any(one < known for one in found):
        verdict = "older"
    else:
        remedy = ""
    return FoundVersion(
        kind=kind,
        files=len(paths),
        version=", ".join(told) or "none",
        known=str(known),
        verdict=verdict,
        remedy=f"{remedy}." if remedy else "",
    )


def _json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _of_chunk(path: Path) -> int:
    with _safe_open(str(path), framework="numpy") as file:
        return int(json.loads(file.metadata()["beamsteer"])["schema_version"])


def _of_recording(path: Path) -> int:
    with open_hdf5(path) as opened:
        file: Any = opened
        return int(file[chunk_recording_file.GROUP].attrs["version"])
