"""What people take away of a run: its map as arrays, table and pictures, and force constants.

What is given is published by the run; here it is only written in the asked format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, get_args

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response
from pydantic import Field

from steering.report import folded_map_csv, folded_map_picture, spectrum_npz
from steering.run import RunSnapshot, phonopy_zip, wall_time
from steering.web.answers import Answer, Problem

DownloadName = Literal[
    "map.npz", "map.csv", "map.png", "map.pdf", "map.svg", "map.nxspe", "force-constants.zip"
]
KINDS: dict[DownloadName, tuple[str, str]] = {
    "map.npz": ("application/octet-stream", "arrays of the folded map"),
    "map.csv": ("text/csv; charset=utf-8", "table of its cells"),
    "map.png": ("image/png", "picture"),
    "map.pdf": ("application/pdf", "picture for print"),
    "map.svg": ("image/svg+xml", "picture to edit"),
    "map.nxspe": ("application/octet-stream", "for Horace and Mantid"),
    "force-constants.zip": ("application/zip", "posterior mean for phonopy"),
}
NO_NXSPE = (
    "An NXSPE file holds one orientation, by detector angle; a cell of the folded map is a sum "
    "over many detectors, orientations and zones, so it has neither. Take map.npz or map.csv, or "
    "the recorded files of the chunks."
)


class Download(Answer):
    """Something to take away."""

    name: DownloadName
    about: str
    why_not: str | None = Field(description="why there is none; null: there is")


class DownloadList(Answer):
    """What of a run can be taken away now."""

    downloads: list[Download]


def download_router(found: Callable[[str], RunSnapshot]) -> APIRouter:
    """Routes of what people take away.

    Parameters
    ----------
    found : callable
        The newest snapshot of a run; raises an HTTPException with 404 where there is no such run.
    """
    router = APIRouter(tags=["downloads"])
    unknown = {404: {"model": Problem, "description": "There is no such run, or not this of it"}}

    @router.get(
        "/runs/{run_id}/downloads",
        name="downloads",
        summary="What can be taken away",
        responses=unknown,  # pyright: ignore[reportArgumentType]
    )
    def downloads(run_id: str) -> DownloadList:
        """Every file there may be, and why where there is none."""
        snapshot = found(run_id)
        return DownloadList(
            downloads=[
                Download(name=name, about=KINDS[name][1], why_not=why_not(snapshot, name))
                for name in get_args(DownloadName)
            ]
        )

    @router.get(
        "/runs/{run_id}/downloads/{name}",
        name="download",
        summary="One of them",
        response_class=Response,
        responses=unknown  # pyright: ignore[reportArgumentType]
        | {
            200: {
                "content": {
                    kind: {"schema": {"type": "string", "format": "binary"}}
                    for kind in sorted({kind.partition(";")[0] for kind, _ in KINDS.values()})
                }
            }
        },
    )
    def download(run_id: str, name: DownloadName) -> Response:
        """The file, of the newest snapshot."""
        snapshot = found(run_id)
        reason = why_not(snapshot, name)
        if reason is not None:
            raise HTTPException(404, f"{name}: {reason}")
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", run_id)[:80]
        return Response(
            content_of(snapshot, name),
            media_type=KINDS[name][0],
            headers={
                "Content-Disposition": f'attachment; filename="{plain}-{name}"',
                "Cache-Control": "no-store",
            },
        )

    return router


def why_not(run: RunSnapshot, name: DownloadName) -> str | None:
    """Why a run has no such file; None: it has."""
    if name == "map.nxspe":
        return NO_NXSPE
    if name == "force-constants.zip":
        if run.result is None or not run.result.parameters:
            return "there is no estimate yet; wait for a chunk."
        if run.force_constants is None:
            return (
                "the run published none: it was estimated by an older version, or no supercell "
                "holds its force constants. `beamsteer phonons result.json` says more."
            )
        return None
    return None if run.spectrum is not None else "there is no spectrum yet; wait for a chunk."


def about(run: RunSnapshot) -> list[str]:
    """What a file must say of where it comes from."""
    lines = [f"{run.title}, run {run.run_id}", f"as of {wall_time(run.updated_ns)}"]
    if run.result is not None:
        lines.append(
            f"model: {run.result.trust or ('trusted' if run.result.trusted else 'not trusted')}"
            + ("" if run.result.trusted else "; figures of the model claim nothing")
        )
        lines += run.result.reasons
    return lines


def content_of(run: RunSnapshot, name: DownloadName) -> bytes:
    """Bytes of a file that there is."""
    if name == "force-constants.zip":
        told = [
            *about(run),
            "Force constants of the posterior mean, eV/angstrom^2; their errors and draws:",
            "beamsteer phonons result.json -o FOLDER",
        ]
        return phonopy_zip(run.force_constants or {}, told)
    view = run.spectrum
    if view is None:
        raise ValueError(f"run {run.run_id!r} has no spectrum; expected one")
    match name:
        case "map.npz":
            return spectrum_npz(view)
        case "map.csv":
            return folded_map_csv(view, notes=about(run))
        case "map.png":
            return folded_map_picture(view, "png", title=run.title)
        case "map.pdf":
            return folded_map_picture(view, "pdf", title=run.title)
        case _:
            return folded_map_picture(view, "svg", title=run.title)
