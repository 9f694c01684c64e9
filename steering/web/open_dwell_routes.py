"""What has come of a dwell that is still open, as its fold worker saw it last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import Field

from consumers.state import read_manifest
from steering.run import (
    OpenDwellView,
    RunSnapshot,
    live_runs,
    open_dwell_path,
    open_dwell_words,
    read_open_dwell,
)
from steering.web.answers import Answer, Problem


class OpenDwellAnswer(Answer):
    """A dwell that is open; what is late, vetoed or cut off at its end is known when it closes."""

    job: str
    chunk: str
    psi_deg: float | None = Field(description="mean of its log so far; null: not known yet")
    start_ns: int = Field(description="since the Unix epoch, by the clock of the stream")
    newest_ns: int = Field(description="of what had come when it was looked at, by that clock")
    looked_ns: int = Field(description="when it was looked at, by the clock of the worker")
    read: int = Field(description="neutrons that came")
    folded: int = Field(description="of those, in cells of the path")
    waiting: int = Field(description="neutrons that came and are not in the counts yet")
    rate_per_s: float | None = Field(description="neutrons per second, of the last seconds")
    charge_coulomb: float | None = Field(description="proton charge so far; null: not logged")
    beam_current_microampere: float | None = Field(description="of the last seconds")
    temperature_K: float | None = Field(description="newest sample")
    note: str | None = Field(description="why nothing is folded; null: it is")
    counts: list[list[int]] | None = Field(
        description="neutrons by path bin and energy bin of the spectrum; null: not asked for"
    )


def open_dwell_router(found: Callable[[str], RunSnapshot], folders: Sequence[Path]) -> APIRouter:
    """Route of open dwells.

    Parameters
    ----------
    found : callable
        The newest snapshot of a run; raises an HTTPException with 404 where there is no such run.
    folders : sequence of Path
        State folders, or folders that hold some.
    """
    router = APIRouter(tags=["runs"])

    @router.get(
        "/runs/{run_id}/open-dwell",
        name="open_dwell",
        summary="What has come of the dwell that is open",
        responses={404: {"model": Problem}},
    )
    def open_dwell(
        run_id: str,
        counts: Annotated[bool, Query(description="whether the counts are wanted")] = True,
    ) -> OpenDwellAnswer:
        """Neutrons so far, rate, beam current and temperature; 404 while no dwell is open."""
        found(run_id)
        view = _open_dwell(folders, run_id)
        if view is None:
            raise HTTPException(404, f"run {run_id!r} has no open dwell that a worker tells of.")
        shown = view.counts.tolist() if counts else None
        return OpenDwellAnswer(**open_dwell_words(view), counts=shown)

    return router


def _open_dwell(folders: Sequence[Path], run_id: str) -> OpenDwellView | None:
    """That of a live run, unless its dwell closed meanwhile; its worker may have died since."""
    for run in live_runs(folders):
        if run.run_id != run_id:
            continue
        manifest = read_manifest(run.partition)
        if manifest is None:
            continue
        path = open_dwell_path(run.partition.parent, manifest.partition, run.name)
        view = read_open_dwell(path)
        record = manifest.runs.get(run.name)
        closed = () if record is None else record.chunks
        if view is not None and all(one.job != view.job for one in closed):
            return view
    return None
