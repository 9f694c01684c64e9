"""The API's schema as it is committed: ``python -m steering.web.openapi > docs/openapi.json``."""

from __future__ import annotations

import json
import sys

from steering.run import RunStore
from steering.web.api import create_app


def openapi_text() -> str:
    """Text of ``docs/openapi.json``: sorted, so that a change shows as what it is."""
    return json.dumps(create_app(RunStore()).openapi(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
