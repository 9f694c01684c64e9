"""Requests of ``/v1/predict`` as they come: JSON, or a form with files; within limits."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any, Literal, get_args

import structlog
from fastapi import HTTPException, Request
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile

from simulations.errors import InputError
from steering.predict import PredictionRequest, isotopes_of_text, refuse_names
from steering.web.prediction_process import faults_of

log = structlog.get_logger()

Format = Literal["json", "npz", "csv", "png"]
JSON_BYTES = 2_000_000
WAIT_SECONDS = 2.0
MOST_WAIT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request as it came."""

    fields: dict[str, Any]
    files: tuple[tuple[str, bytes], ...] = ()
    wait_s: float = WAIT_SECONDS
    time_limit_s: float | None = None
    format: Format = "json"
    part: str | None = None


async def bounded_body(request: Request, most_bytes: int) -> bytes:
    """A body of JSON that is no larger than that; 413 otherwise."""
    pieces: list[bytes] = []
    taken = 0
    async for piece in request.stream():
        taken += len(piece)
        if taken > most_bytes:
            raise HTTPException(
                413,
                f"body is too large; expected at most {most_bytes:,} bytes of JSON. Send files "
                "as a form (multipart/form-data).",
            )
        pieces.append(piece)
    return b"".join(pieces)


async def json_body(request: Request) -> dict[str, Any]:
    """The object that a body is.

    Raises
    ------
    HTTPException
        If it is too large or no object.
    """
    content = await bounded_body(request, JSON_BYTES)
    try:
        body = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(422, f"body is no JSON ({error}); expected an object.") from error
    if not isinstance(body, dict):
        raise HTTPException(422, f"body is {type(body).__name__}; expected an object.")
    return body


async def asked_by_form(form: FormData) -> Asked:
    """Fields and files of a form."""
    fields: dict[str, Any] = {}
    uploads: list[UploadFile] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            uploads.append(value)
        elif name in fields:
            raise HTTPException(422, f"{name[:80]} is given twice; expected once.")
        elif value != "":
            fields[name] = value
    if uploads:
        try:
            refuse_names([one.filename or "" for one in uploads])
        except InputError as error:
            raise HTTPException(422, str(error)) from error
    files = tuple([(one.filename or "", await one.read()) for one in uploads])
    return asked_of(_from_text(fields), files)


def _from_text(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a form, whose values are text, as JSON would have them.

    Raises
    ------
    HTTPException
        For isotopes that cannot be read.
    """
    found = dict(fields)
    if found.get("can") == "none":
        found["can"] = None
    if "supercell" in found:
        parts = str(found["supercell"]).replace("x", ",").split(",")
        found["supercell"] = [part.strip() for part in parts]
    for name in ("line_hkl", "plane_hkl", "band_meV"):
        if name in found:
            numbers = str(found[name]).replace(";", ",").split(",")
            found[name] = numbers if name == "band_meV" else [numbers[:3], numbers[3:]]
    if "isotopes" in found:
        text = str(found["isotopes"]).strip()
        try:
            found["isotopes"] = (
                from_json(text, allow_inf_nan=False)
                if text.startswith("{")
                else isotopes_of_text(text, "isotopes")
            )
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        except ValueError as error:
            raise HTTPException(
                422, f"isotopes is {text[:80]!r}; expected such as H=D,Li=7Li, or JSON."
            ) from error
    return found


def asked_of(body: dict[str, Any], files: tuple[tuple[str, bytes], ...]) -> Asked:
    """A request, apart from the fields of the prediction itself."""
    fields = dict(body)
    wait_s = _number(fields.pop("wait_s", None), "wait_s", 0.0, MOST_WAIT_SECONDS)
    limit = _number(fields.pop("time_limit_s", None), "time_limit_s", 0.1, 1e6)
    wanted, part = fields.pop("format", None) or "json", fields.pop("part", None)
    if wanted not in get_args(Format):
        formats = ", ".join(get_args(Format))
        raise HTTPException(422, f"format is {str(wanted)[:80]!r}; expected one of {formats}.")
    if files and "structure" in fields:
        raise HTTPException(422, "both structure and files are given; expected one. Drop one.")
    return Asked(
        fields=fields,
        files=files,
        wait_s=WAIT_SECONDS if wait_s is None else wait_s,
        time_limit_s=limit,
        format=wanted,
        part=None if part is None else str(part),
    )


def _number(value: Any, name: str, low: float, high: float) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high:
        raise HTTPException(
            422, f"{name} is {str(value)[:80]!r}; expected {low:g} to {high:g} seconds."
        )
    return number


def validated(asked: Asked) -> dict[str, Any]:
    """Every field of the prediction, defaults included.

    Raises
    ------
    HTTPException
        Naming the fields that are wrong.
    """
    fields = {"structure": asked.files[0][0]} | asked.fields if asked.files else asked.fields
    try:
        return PredictionRequest.model_validate(fields).model_dump(mode="json")
    except ValidationError as error:
        raise HTTPException(422, faults_of(error)) from error


def storage_fault(error: OSError) -> HTTPException:
    """What to answer where an upload cannot be put aside."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    log.error("upload_not_stored", reason=error.strerror or str(error))
    why = "is full" if full else f"cannot be written ({error.strerror or error})"
    return HTTPException(
        507, f"the disk of this server {why}; ask again later, or tell who keeps it."
    )
