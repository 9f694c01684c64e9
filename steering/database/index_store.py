"""The index of a database: one SQLite file that is made from the blocks, in one step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from simulations.errors import InputError
from simulations.saved_file import in_one_step
from steering.database.block_store import FORMAT, Aside
from steering.database.entry import Card

INDEX = "index.sqlite"
_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE entries (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, source TEXT, block TEXT, place INTEGER,
    formula TEXT, elements TEXT, kinds INTEGER, atoms INTEGER, supercell_atoms INTEGER,
    space_group INTEGER, space_group_symbol TEXT, volume_A3 REAL, lowest_meV REAL,
    highest_meV REAL, polar INTEGER);
CREATE INDEX by_formula ON entries (formula, volume_A3);
CREATE INDEX by_space_group ON entries (space_group);
CREATE TABLE holds (element TEXT, number INTEGER, PRIMARY KEY (element, number)) WITHOUT ROWID;
CREATE TABLE aside (number INTEGER PRIMARY KEY, id TEXT, source TEXT, reason TEXT);
"""
_CARD = (
    "id, source, formula, elements, atoms, supercell_atoms, space_group, space_group_symbol, "
    "volume_A3, lowest_meV, highest_meV, polar"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An entry's card and where it lies."""

    card: Card
    block: str  # name of the file
    place: int  # in the file


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What to look for; every part that is given must hold."""

    formula: str | None = None  # reduced
    elements: tuple[str, ...] = ()  # all of these
    only: bool = False  # and no others
    space_group: int | None = None
    stable: bool = False  # no imaginary mode below -`IMAGINARY_MEV`
    volume_A3: tuple[float, float] | None = None  # per atom


IMAGINARY_MEV = 0.05
"""Modes this far below zero are imaginary; above they are noise of the forces."""


def write_index(
    folder: Path, entries: Iterable[Placed], aside: Iterable[Aside], about: dict[str, str]
) -> tuple[int, int]:
    """Write the index of a store in one step; ids that are taken are set aside.

    Returns
    -------
    entries, aside : int

    Raises
    ------
    StorageError
        If there is no room.
    """
    set_aside = list(aside)
    taken: dict[str, str] = {}
    with in_one_step(folder / INDEX) as temporary:
        temporary.unlink(missing_ok=True)
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;" + _SCHEMA
            )
            for number, one in enumerate(entries):
                card = one.card
                if card.id in taken:
                    reason = f"its id stands in {taken[card.id]} already; expected it once"
                    set_aside.append(Aside(id=card.id, source=card.source, reason=reason))
                    continue
                taken[card.id] = card.source
                connection.execute(
                    f"INSERT INTO entries VALUES ({','.join('?' * 16)})",  # noqa: S608
                    (
                        number, card.id, card.source, one.block, one.place, card.formula,
                        " ".join(card.elements), len(card.elements), card.atoms,
                        card.supercell_atoms, card.space_group, card.space_group_symbol,
                        card.volume_A3, card.lowest_meV, card.highest_meV, int(card.polar),
                    ),
                )  # fmt: skip
                connection.executemany(
                    "INSERT INTO holds VALUES (?, ?)", [(s, number) for s in card.elements]
                )
            connection.executemany(
                "INSERT INTO aside (id, source, reason) VALUES (?, ?, ?)",
                [(one.id, one.source, one.reason) for one in set_aside],
            )
            connection.executemany(
                "INSERT INTO about VALUES (?, ?)", sorted({**about, "format": str(FORMAT)}.items())
            )
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:  # "database or disk is full" has no errno
            raise OSError(f"{error}") from error
        finally:
            connection.close()
    return len(taken), len(set_aside)


class Index:
    """Reads the index of a store.

    Parameters
    ----------
    folder : Path
        The store.

    Raises
    ------
    InputError
        If it is no finished store of this version.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / INDEX
        if not self._path.is_file():
            what = "is not finished" if (folder / "store.json").is_file() else "is no store"
            raise InputError(
                f"database: {folder} {what}; expected a folder that `beamsteer database build "
                "SOURCE -o STORE` wrote to its end. Run it (again)"
            )
        found = self.about().get("format")
        if found != str(FORMAT):
            raise InputError(
                f"database: {folder} has format {found}; expected {FORMAT}. Build it anew with "
                "this version, into another folder"
            )

    @contextmanager
    def _rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Iterator[Any]]:
        try:
            connection = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
            try:
                yield iter(connection.execute(sql, values))
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"database: {self._path} cannot be read ({error}); expected the index of a store. "
                "Remove it and run `beamsteer database build` again"
            ) from error

    def about(self) -> dict[str, str]:
        """Format, sources and what else holds for all."""
        with self._rows("SELECT key, value FROM about") as rows:
            return dict(rows)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        with self._path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def find(self, query: Query) -> tuple[Placed, ...]:
        """All that match, in the order of the store."""
        wheres: list[str] = []
        values: list[Any] = []
        if query.formula is not None:
            wheres.append("formula = ?")
            values.append(query.formula)
        for element in query.elements:
            wheres.append("number IN (SELECT number FROM holds WHERE element = ?)")
            values.append(element)
        if query.only:
            wheres.append("kinds = ?")
            values.append(len(set(query.elements)))
        if query.space_group is not None:
            wheres.append("space_group = ?")
            values.append(query.space_group)
        if query.stable:
            wheres.append("lowest_meV > ?")
            values.append(-IMAGINARY_MEV)
        if query.volume_A3 is not None:
            wheres.append("volume_A3 BETWEEN ? AND ?")
            values += query.volume_A3
        return self._placed(wheres, values)

    def named(self, entry_id: str) -> Placed | None:
        """The entry of an id."""
        found = self._placed(["id = ?"], [entry_id])
        return found[0] if found else None

    def reason_aside(self, entry_id: str) -> str | None:
        """Why an entry was set aside; None if it was not."""
        with self._rows("SELECT reason FROM aside WHERE id = ?", [entry_id]) as rows:
            return next((str(reason) for (reason,) in rows), None)

    def aside(self) -> tuple[Aside, ...]:
        """All that were set aside."""
        with self._rows("SELECT id, source, reason FROM aside ORDER BY number") as rows:
            return tuple(Aside(id=a, source=b, reason=c) for a, b, c in rows)

    def _placed(self, wheres: list[str], values: list[Any]) -> tuple[Placed, ...]:
        where = f"WHERE {' AND '.join(wheres)}" if wheres else ""
        sql = f"SELECT block, place, {_CARD} FROM entries {where} ORDER BY number"  # noqa: S608
        with self._rows(sql, values) as rows:
            return tuple(_placed(row) for row in rows)


def _placed(row: tuple[Any, ...]) -> Placed:
    block, place, *card = row
    names = [name.strip() for name in _CARD.split(",")]
    fields: dict[str, Any] = dict(zip(names, card, strict=True))
    fields |= {"elements": tuple(fields["elements"].split()), "polar": bool(fields["polar"])}
    return Placed(card=Card(**fields), block=block, place=place)
