"""A task that does not end by itself, for the test of what ends it."""

from __future__ import annotations

import os
import time
from pathlib import Path


def sleep_long(folder: str) -> None:
    """Say by a file who sleeps, and sleep."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)
