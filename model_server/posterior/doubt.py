"""Whether a set-up may be believed: an answer against those of a set-up that is fitted, too.

A search that believes the set-up, while that is off, ends anywhere; nothing that is carried to
first order from there tells. So it is searched once more with the set-up among what is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def doubted(
    doubting: Refinement,
    believing: Refinement,
    observations: Sequence[Observation],
    found: Posterior,
    *,
    pooled: Observation,
    search: Search | None,
) -> Posterior:
    """The better answer of a set-up that is fitted; ``found`` where it may be believed.

    Either one tells the other beside it where the counts do not rule that out.

    Parameters
    ----------
    doubting : Refinement
        It keeps the exact rates of what it answers.
    believing : Refinement
        What ``found`` is of.
    observations : sequence of Observation
    found : Posterior
    pooled : Observation
        All of them as one.
    search : Search, optional
        None: only an answer that is too far off to be carried is followed.
    """
    if found.aside is None or found.believing is None:
        return found
    answers: list[tuple[Posterior, dict[str, Any]]] = []
    if found.aside.far:
        answer = doubting.doubt(observations, believing, found, pooled)
        answers.append((answer, doubting.remembered()))
    if search is not None:
        doubting.recall({})
        answer = doubting.fit(
            observations,
            starts=search.starts,
            guesses=[*search.guesses, found.believing.values],
            pooled=search.pooled,
            kicks=search.kicks,
        )
        answers.append((answer, doubting.remembered()))
    if not answers:
        return found
    best, rates = min(answers, key=lambda one: one[0].explained)
    others = [other for one, _ in answers for other in (one, *one.others)]
    if not found.aside.far and best.explained > found.explained - CLEARLY:
        return found.beside([*found.others, *others])
    doubting.recall(rates)
    return best.beside([*others, found, *found.others])
