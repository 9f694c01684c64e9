"""Databases of force constants: built from files of phonons, searched, read back."""

from steering.database.build import build_store
from steering.database.database import Database, open_database
from steering.database.entry import Card, Entry, constants_of, phonopy_object
from steering.database.matching import Match, matches
from steering.database.plan_store import owned, remove_partial
from steering.database.source_file import open_source
from steering.database.workers import run_tasks

__all__ = [
    "Card",
    "Database",
    "Entry",
    "Match",
    "build_store",
    "constants_of",
    "matches",
    "open_database",
    "open_source",
    "owned",
    "phonopy_object",
    "remove_partial",
    "run_tasks",
]
