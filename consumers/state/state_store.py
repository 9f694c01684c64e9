"""Whose state a folder holds: a random name, and what its folds depend on.

One state is of one experiment. Whoever writes into the folder claims it first, under a lock; a
change of anything that a fold depends on is refused with the keys that differ.
"""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consumers.state.manifest_store import partition_folders, read_manifest
from simulations.errors import InputError, storing
from simulations.saved_file import in_one_step

NAME = "state.json"
SCHEMA_VERSION = 1
ID_BITS = 60  # fits a signed integer of 64 bits
LONGEST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class StateIdentity:
    """Which state a folder holds."""

    state_id: str  # random, hexadecimal
    fingerprint: Mapping[str, str]  # what its folds depend on


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """What differs, a phrase for each key that both have, or that only one of them has."""
    keys = sorted({*before, *now})
    return tuple(
        f"{key} was {_shown(before.get(key))} and is {_shown(now.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    )


def check_fingerprint(where: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse what was folded with something else; an empty fingerprint is not known.

    Raises
    ------
    InputError
        With every key that differs and both values.
    """
    found = differences(before, now) if before and now else ()
    if found:
        raise InputError(
            f"{where}: {'; '.join(found)}. Expected the experiment that it was folded with. Give "
            "that back, or give an empty state folder: the source is read again."
        )


def read_state(state: Path) -> StateIdentity | None:
    """Identity of a state folder; None while nobody has claimed it.

    Raises
    ------
    InputError
        If it is damaged.
    """
    path = state / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema_version"] != SCHEMA_VERSION:
            raise InputError(f"schema_version is {found['schema_version']}")
        return StateIdentity(
            state_id=str(found["state_id"]), fingerprint=dict(found["fingerprint"])
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is damaged or of another version ({error}); expected what `beamsteer "
            "consume` wrote. Remove it where the manifests are whole: it is made from them."
        ) from error


def claim_state(state: Path, fingerprint: Mapping[str, str]) -> StateIdentity:
    """Make a folder the state of what has this fingerprint, or see that it is.

    Raises
    ------
    InputError
        If the folder is the state of something else; nothing is written then.
    StorageError
        If it cannot be written.
    """
    with storing(state / "lock"):
        state.mkdir(parents=True, exist_ok=True)
        handle = (state / "lock").open("w", encoding="utf-8")
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # held for milliseconds, whoever has it
        found = read_state(state)
        if found is None:
            known = _of_manifests(state)
            found = StateIdentity(
                state_id=known or f"{secrets.randbits(ID_BITS):015x}", fingerprint=fingerprint
            )
            document = {
                "schema_version": SCHEMA_VERSION,
                "state_id": found.state_id,
                "fingerprint": dict(fingerprint),
            }
            with in_one_step(state / NAME) as temporary:
                temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        check_fingerprint(str(state / NAME), found.fingerprint, fingerprint)
    return found


def _of_manifests(state: Path) -> str | None:
    """State id that the manifests of a folder carry."""
    for folder in partition_folders(state):
        manifest = read_manifest(folder)
        if manifest is not None and manifest.state_id:
            return manifest.state_id
    return None


@contextmanager
def only_model_server(state: Path) -> Generator[bool]:
    """Whether this process alone may write estimates until the block ends.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    with storing(state / "model-server.lock"):
        handle = (state / "model-server.lock").open("w", encoding="utf-8")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _shown(value: str | None) -> str:
    if value is None:
        return "not there"
    return value if len(value) <= LONGEST_SHOWN else f"{value[: LONGEST_SHOWN - 3]}..."
