"""``truth.json``: what a virtual scan was made with, beside its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulations.saved_file import write_whole

TRUTH_FILE = "truth.json"


def write_truth(folder: Path, truth: dict[str, Any]) -> None:
    """Write the truth of a scan into its folder."""
    text = json.dumps(truth, indent=2, allow_nan=False) + "\n"
    write_whole(folder / TRUTH_FILE, text)


def remove_earlier(folder: Path) -> None:
    """Remove the files that a truth.json here lists: a shorter scan must not leave old ones."""
    try:
        earlier = json.loads((folder / TRUTH_FILE).read_text(encoding="utf-8"))
        names = [name for chunk in earlier["chunks"] for name in chunk["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        if Path(name).name == name and name.endswith((".nxs.h5", ".nxspe")):
            (folder / name).unlink(missing_ok=True)
