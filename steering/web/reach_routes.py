"""Which parts of the path every orientation reaches, as the run published it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fastapi import APIRouter, HTTPException
from pydantic import Field

from steering.run import RunSnapshot
from steering.web.answers import Answer, Problem


class OrientationReach(Answer):
    """What one orientation sees of the path."""

    psi_deg: float
    rank: int = Field(description="0: it was measured; 1: it is advised first, and so on")
    covered: float = Field(description="share of the path's cells within reach of Ei, 0 to 1")
    share: list[float] = Field(description="the same of every path bin")


class ReachAnswer(Answer):
    """Orientations with what they reach: measured ones by psi, then advised ones, best first."""

    version: int = Field(description="of the run's snapshot")
    measured: int = Field(description="different psi; of many only some are listed")
    orientations: list[OrientationReach]


def reach_router(found: Callable[[str], RunSnapshot]) -> APIRouter:
    """Route of what orientations reach.

    Parameters
    ----------
    found : callable
        The newest snapshot of a run; raises an HTTPException with 404 where there is no such run.
    """
    router = APIRouter(tags=["runs"])

    @router.get(
        "/runs/{run_id}/reach",
        name="reach",
        summary="What every orientation reaches",
        responses={404: {"model": Problem}},
    )
    def reach(run_id: str) -> ReachAnswer:
        """Share of the path that done and advised orientations see; 404 before the first chunk."""
        snapshot = found(run_id)
        seen = snapshot.reach
        if seen is None:
            raise HTTPException(
                404,
                f"run {run_id!r} tells of no reach: it has no chunk yet, or was folded by an older "
                "version.",
            )
        return ReachAnswer(
            version=snapshot.version,
            measured=seen.measured,
            orientations=[
                OrientationReach(
                    psi_deg=float(psi),
                    rank=int(rank),
                    covered=round(float(np.mean(share)), 4),
                    share=[round(float(one), 2) for one in share],
                )
                for psi, rank, share in zip(seen.psi_deg, seen.rank, seen.share, strict=True)
            ],
        )

    return router
