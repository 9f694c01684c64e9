"""Logs of a program that said nothing of them: warnings alone, on stderr."""

from __future__ import annotations

import logging
import sys

import structlog


def quiet() -> None:
    """Keep stdout to the caller; one that configured structlog itself is left alone."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )
