"""The whole API as ``beamsteer serve`` serves it: runs, people, predictions, page and alarms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from steering.alarms import alarm_router
from steering.run import RunStore
from steering.web import create_app, mount


def served_app(
    store: RunStore, *arguments: Any, folders: Sequence[Path], **options: Any
) -> FastAPI:
    """The app of `create_app`, which takes all arguments, with the alarms of its folders.

    Parameters
    ----------
    store : RunStore
    folders : sequence of Path
        State folders, or folders that hold some.
    """
    app = create_app(store, *arguments, folders=folders, **options)
    mount(app, alarm_router(folders))
    return app
