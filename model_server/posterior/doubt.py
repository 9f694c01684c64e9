"""Whether a set-up may be believed: an answer that does against one that fits the set-up, too.

A search that believes the set-up, while that is off, ends anywhere; nothing that is carried to
first order from there tells. So a first search looks for the set-up with all else, and the set-up
is believed where an answer that does explains as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_server.posterior.observation import Observation
from model_server.posterior.posterior import Posterior
from model_server.posterior.refinement import Refinement
from simulations.arrays import FloatArray

CLEARLY = 3.0  # of minus log posterior, 1 to 20: less is chance, or what carrying costs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Search:
    """Where a first search may begin, see ``Refinement.fit``."""

    pooled: Observation  # all orientations as one, with how a set-up that is off moves them
    starts: Sequence[FloatArray]
    guesses: Sequence[FloatArray]
    kicks: int  # a third of them where the set-up is looked for, too


def first_answer(
    doubting: Refinement,
    believing: Refinement,
    observations: Sequence[Observation],
    *,
    pooled: Observation,
    search: Search,
) -> Posterior:
    """The best answer of a search with the set-up, and of one that believes it.

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
    doubting.recall({})
    fitted = doubting.fit(
        observations,
        starts=search.starts,
        guesses=search.guesses,
        pooled=search.pooled,
        kicks=search.kicks // 3,
    )
    rates = doubting.remembered()
    told, found = [fitted], fitted.believing or fitted
    theta, wide = found.theta[:size], found.theta_covariance[:size, :size]
    believed: list[tuple[Posterior, Mapping[str, Any]]] = []
    believing.recall({})
    near = believing.led_from(observations, theta, wide, pooled=pooled)
    if not _is_far(near):  # else it is the fitted answer with a set-up that nothing speaks for
        believed.append((near, believing.remembered()))
        told.append(near)
    believing.recall({})
    one = believing.fit(
        observations,
        starts=search.starts,
        guesses=[*search.guesses, fitted.values],
        pooled=pooled,
        kicks=search.kicks,
    )
    if _is_far(one):
        one = doubting.doubt(observations, believing, one, pooled)
        if one.explained < fitted.explained:
            fitted, rates = one, doubting.remembered()
    else:
        believed.append((one, believing.remembered()))
    told.append(one)
    best = min(believed, key=lambda pair: pair[0].explained, default=None)
    keeps = best is not None and best[0].explained < fitted.explained + CLEARLY
    answer = best[0] if best is not None and keeps else fitted
    believing.recall(best[1] if best is not None and keeps else {})
    doubting.recall({} if keeps else rates)
    return answer.beside([other for one in told for other in (one, *one.others)])


def _is_far(answer: Posterior) -> bool:
    """Whether the set-up is off by more than can be carried."""
    return answer.aside is not None and answer.aside.far
