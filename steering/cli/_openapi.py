"""The API's schema as it is committed: ``python -m steering.cli._openapi > docs/openapi.json``."""

from __future__ import annotations

import json
import sys

from steering.cli._served_app import served_app
from steering.run import RunStore


def openapi_text() -> str:
    """Text of ``docs/openapi.json``: sorted, so that a change shows as what it is."""
    return json.dumps(served_app(RunStore(), folders=()).openapi(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
