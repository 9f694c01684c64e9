"""A database that was built: its entries by id, by what they are, and by structures that match."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from simulations.dynamics import PairForceConstants
from simulations.errors import InputError
from steering.database.block_store import Aside, read_entry
from steering.database.entry import Card, Entry, constants_of, element_named, read_formula
from steering.database.index_store import Index, Placed, Query
from steering.database.plan_store import BLOCKS


class Database:
    """Reads a store; made by `open_database`.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    InputError
        If it is no finished store of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = Index(folder)

    @property
    def sources(self) -> tuple[str, ...]:
        """Name, size and note of every source."""
        about = self._index.about()
        return tuple(about[key] for key in sorted(about) if key.startswith("source "))

    @property
    def fingerprint(self) -> str:
        """Digest of the index: another one is another database."""
        return self._index.fingerprint

    def search(
        self,
        *,
        formula: str | None = None,
        elements: tuple[str, ...] = (),
        only: bool = False,
        space_group: int | None = None,
        stable: bool = False,
        volume_A3: tuple[float, float] | None = None,
    ) -> tuple[Placed, ...]:
        """Entries of which everything that is given holds, in the order of the store.

        Parameters
        ----------
        formula : str or None
            ``TiO2`` finds ``Ti4O8`` as well.
        elements : tuple of str
            All of these are in it; with ``only``, no others.
        only : bool
        space_group : int or None
            International number.
        stable : bool
            Leave out entries with imaginary modes at the supercell's own wave vectors.
        volume_A3 : (float, float) or None
            Per atom.

        Raises
        ------
        InputError
            For what is no formula, element or space group.
        """
        if space_group is not None and not 1 <= space_group <= 230:
            raise InputError(f"space_group is {space_group}; expected 1 to 230")
        if only and not elements:
            raise InputError("only is asked for without elements; expected some, e.g. Ba,Ti,O")
        return self._index.find(
            Query(
                formula=None if formula is None else read_formula(formula),
                elements=tuple(dict.fromkeys(element_named(one) for one in elements)),
                only=only,
                space_group=space_group,
                stable=stable,
                volume_A3=volume_A3,
            )
        )

    def has(self, entry_id: str) -> bool:
        """Whether an id is in it."""
        return self._index.named(entry_id) is not None

    def card(self, entry_id: str) -> Card:
        """Card of an id.

        Raises
        ------
        InputError
            If there is none; says why if it was set aside.
        """
        return self._named(entry_id).card

    def entry(self, entry_id: str) -> Entry:
        """Entry of an id, as `card`."""
        return self.read(self._named(entry_id))

    def read(self, placed: Placed) -> Entry:
        """Entry that was found.

        Raises
        ------
        InputError
            If its block is gone or damaged.
        """
        return read_entry(self.folder / BLOCKS / placed.block, placed.place)

    def force_constants(self, entry_id: str) -> PairForceConstants:
        """Force constants of an id with their crystal, as `card`."""
        placed = self._named(entry_id)
        return constants_of(self.read(placed), f"{entry_id} of {placed.card.source}")

    def aside(self) -> tuple[Aside, ...]:
        """Entries that were set aside, with reasons."""
        return self._index.aside()

    def source_words(self, card: Card) -> str:
        """What is known of where an entry comes from."""
        return next((s for s in self.sources if s.startswith(f"{card.source}, ")), card.source)

    def _named(self, entry_id: str) -> Placed:
        found = self._index.named(entry_id)
        if found is not None:
            return found
        reason = self._index.reason_aside(entry_id)
        if reason is not None:
            raise InputError(f"id: {entry_id} was set aside when the store was built: {reason}")
        raise InputError(
            f"id is {entry_id!r}; expected one of the store {self.folder}. Look for it with "
            "`beamsteer database search`"
        )


@lru_cache(maxsize=4)
def open_database(folder: Path) -> Database:
    """Open a store; see `Database`."""
    return Database(folder)
