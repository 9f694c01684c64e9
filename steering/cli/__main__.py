"""``python -m steering.cli`` is ``beamsteer``."""

from steering.cli import main

main()
