"""Streams as a bad network delivers them: messages twice, messages out of order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def disturb(
    messages: Iterable[T],
    *,
    duplicates: float = 0.1,
    displaced: float = 0.1,
    seed: int,
    reach: int = 200,
) -> list[T]:
    """Send a share of messages twice and a share too early or too late; none is lost.

    The second copy comes up to ``reach`` messages after the first; a displaced message moves by up
    to ``reach`` places. Equal seeds give equal streams.
    """
    chance = np.random.default_rng(seed)
    placed: list[tuple[float, int, T]] = []
    for i, message in enumerate(messages):
        place = float(i)
        if chance.random() < displaced:
            place += chance.uniform(-reach, reach)
        placed.append((place, len(placed), message))
        if chance.random() < duplicates:
            placed.append((place + chance.uniform(0, reach), len(placed), message))
    return [message for _, _, message in sorted(placed, key=lambda one: one[:2])]
