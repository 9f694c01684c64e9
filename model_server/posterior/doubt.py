"""Whether a set-up may be believed: an answer that does against one that fits the set-up, too.

A search that believes the set-up, while that is off, ends anywhere; nothing that is carried to
first order from there tells. So a first search looks for the set-up with all else, and the set-up
is believed where an answer that does explains as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from model_server.posterior.observation import Observation
from model_server.posterior.posterior import Posterior
from model_server.posterior.refinement import Refinement
from simulations.arrays import FloatArray

CLEARLY = 2.0  # of minus log posterior: less may be what carrying to first order costs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Search:
    """Where a search with the set-up may begin, see ``Refinement.fit``."""

    pooled: Observation
    starts: Sequence[FloatArray]
    guesses: Sequence[FloatArray]
    kicks: int
    explains: Callable[[Posterior], bool]  # whether an answer does


def first_answer(
    doubting: Refinement,
    believing: Refinement,
    observations: Sequence[Observation],
    *,
    pooled: Observation,
    search: Search,
) -> Posterior:
    """The answer of a search with the set-up, or one that believes it and explains as much.

    Parameters
    ----------
    doubting, believing : Refinement
        That whose layout the answer has keeps its exact rates.
    observations : sequence of Observation
    pooled : Observation
        All of them as one, with the set-up as it is believed.
    search : Search
    """
    size = believing.layout.size

    def better(fitted: Posterior) -> Posterior:
        """Of an answer that fits the set-up and the one that believing it leads to from there."""
        found = fitted.believing or fitted
        believing.recall({})
        believed = believing.led_from(
            observations, found.theta[:size], found.theta_sigma[:size], pooled=pooled
        )
        far = believed.aside is not None and believed.aside.far
        if far or believed.explained > fitted.explained + CLEARLY:
            return fitted
        return believed.beside([fitted, *fitted.others])

    more: dict[str, Any] = {"starts": search.starts, "kicks": search.kicks}
    doubting.recall({})
    fitted = doubting.fit(observations, guesses=search.guesses, pooled=search.pooled, **more)
    found, rates = better(fitted), (believing.remembered(), doubting.remembered())
    if not search.explains(found):
        believing.recall({})
        guesses = [*search.guesses, fitted.values]
        believed = believing.fit(observations, guesses=guesses, pooled=pooled, **more)
        if believed.explained < found.explained or (believed.aside and believed.aside.far):
            fitted = doubting.doubt(observations, believing, believed, pooled)
            other = better(fitted)
            if other.explained < found.explained:
                found = other.beside([*other.others, found, *found.others])
                rates = (believing.remembered(), doubting.remembered())
    kept = found.layout.size == size
    believing.recall(rates[0] if kept else {})
    doubting.recall({} if kept else rates[1])
    return found
