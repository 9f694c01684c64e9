"""When a fit looks for another answer than the one before."""

from __future__ import annotations

from model_server.posterior.posterior import Posterior

SEARCHED_AT = (1, 2, 3, 4, 6, 9, 13, 19, 28)  # orientations


def searches(before: Posterior, now: int) -> bool:
    """Whether a fit of ``now`` orientations looks for another answer than the one before.

    At ever fewer numbers of them, or when those are passed, so that a wrong answer is left after a
    third of a run at most; where orientations were withdrawn; and where the answer before is none,
    or was not yet at its end when others should have been looked for.
    """
    known = len(before.totals)
    lost = before.owed or not (before.converged or before.halted)
    return now < known or lost or any(known < n <= now for n in SEARCHED_AT)
