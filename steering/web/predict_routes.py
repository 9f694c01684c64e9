"""``/v1/predict``: expected spectra of a crystal, long ones as jobs; and the planner's page."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from sse_starlette import EventSourceResponse
from starlette.datastructures import UploadFile

from simulations.crystal import builtin_crystals
from simulations.errors import InputError
from steering.database import Card, Database, open_database
from steering.predict import GENERIC_FWHM, ROUTES, Quantity
from steering.report import prediction_csv, prediction_npz, prediction_png
from steering.web.answers import Answer, Problem, clean
from steering.web.people_file import Somebody
from steering.web.prediction_answers import (
    DatabaseAnswer,
    FoundEntries,
    FoundEntry,
    JobAnswer,
    PredictOptions,
    Preset,
    job_content,
    presets,
)
from steering.web.prediction_cache_store import PredictionCache, prediction_key
from steering.web.prediction_jobs import Fault, Job, PredictionJobs, job_events
from steering.web.prediction_process import BoundedPredictor
from steering.web.prediction_requests import (
    Asked,
    Format,
    asked_by_form,
    asked_of,
    json_body,
    storage_fault,
    validated,
)
from steering.web.turns import Turns

MEDIA_TYPES: dict[str, str] = {
    "json": "application/json",
    "npz": "application/octet-stream",
    "csv": "text/csv; charset=utf-8",
    "png": "image/png",
}
MOST_FOUND = 50
MAX_STREAMS = 100
KEEP_ALIVE_SECONDS = 15
_FAULTS = {
    403: "a page of another site asks",
    408: "the body came too slowly",
    413: "the body is too large",
    415: "no content type that is known",
    421: "asked for by a foreign name",
    422: "a bad field or file, or more time or memory needed than one prediction gets",
    429: "too many wait already; Retry-After says when to ask again",
    503: "none are made here, or not now",
    507: "the disk of the server is full",
}


@dataclass(kw_only=True, slots=True)
class _Streams:
    """Open event streams, and whether the server ends."""

    closed: asyncio.Event = field(default_factory=asyncio.Event)
    open: int = 0


def add_predict_routes(
    app: FastAPI,
    predictor: object | None,
    *,
    cache: PredictionCache | None = None,
    turns: Turns | None = None,
) -> None:
    """Add ``/v1/predict``, ``/v1/jobs`` and the planner's page ``/predict`` to an app.

    Parameters
    ----------
    app : FastAPI
    predictor : BoundedPredictor, optional
        With another one, or without, predictions answer 503.
    cache : PredictionCache, optional
        Where answers are kept; in memory, if none is given.
    turns : Turns, optional
        The queue, where other paths of the app take turns in it, too.
    """
    bounded = predictor if isinstance(predictor, BoundedPredictor) else None
    found = cache or PredictionCache(None if bounded is None else bounded.cache_folder)
    jobs = None if bounded is None else PredictionJobs(bounded, found, turns=turns)
    streams = _Streams()
    app.include_router(_router(bounded, jobs, streams))
    _end_streams_with(app, streams)


def _end_streams_with(app: FastAPI, streams: _Streams) -> None:
    """End event streams when those of the app end; the call comes from another thread."""
    others = getattr(app.state, "close_streams", None)
    loops: list[asyncio.AbstractEventLoop] = []

    def close() -> None:
        if others is not None:
            others()
        for loop in loops:
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(streams.closed.set)

    app.state.close_streams = close
    app.state.prediction_loops = loops


def _router(
    predictor: BoundedPredictor | None, jobs: PredictionJobs | None, streams: _Streams
) -> APIRouter:
    router = APIRouter(generate_unique_id_function=lambda route: f"v1_{route.name}")
    _add_options(router, predictor)
    _add_predict(router, predictor, jobs)
    _add_jobs(router, jobs, streams)

    @router.get("/predict", include_in_schema=False)
    def planner_page() -> FileResponse:
        page = Path(str(resources.files("steering").joinpath("web", "page", "predict.html")))
        return FileResponse(page, media_type="text/html; charset=utf-8")

    return router


def _add_options(router: APIRouter, predictor: BoundedPredictor | None) -> None:
    known: list[Preset] = []  # made when they are asked for first

    @router.get(
        "/v1/predict/options",
        tags=["predictions"],
        summary="What may be predicted here",
        response_model=PredictOptions,
    )
    def options() -> JSONResponse:
        """Presets of instruments, routes, quantities and formats."""
        if not known:
            known.extend(presets())
        database = _database(predictor)
        answer = PredictOptions(
            presets=known,
            routes=list(ROUTES),
            quantities=list(get_args(Quantity)),
            formats=list(get_args(Format)),
            builtin_structures=list(builtin_crystals()),
            can=["aluminium", "vanadium", "stainless steel"],
            time_limit_s=600.0 if predictor is None else predictor.limits.wall_s,
            generic_fwhm_of_ei=GENERIC_FWHM,
            database=None if database is None else DatabaseAnswer(sources=list(database.sources)),
            predicts=predictor is not None,
        )
        return _plain(answer)

    @router.get(
        "/v1/predict/search",
        tags=["predictions"],
        summary="Structures of the database",
        response_model=FoundEntries,
        responses={code: {"model": Problem} for code in (404, 422)},
    )
    def search(
        text: Annotated[
            str,
            Query(
                min_length=1,
                max_length=200,
                description="an id, a formula such as TiO2, or elements such as Ti,O",
            ),
        ] = "Si",
    ) -> JSONResponse:
        """Entries by id, formula or elements."""
        database = _database(predictor)
        if database is None:
            raise HTTPException(404, "This server has no database; give `serve --database STORE`.")
        try:
            cards = _found(database, text.strip())
        except InputError as error:
            raise HTTPException(422, f"text: {error}") from error
        entries = [
            FoundEntry(
                id=card.id,
                formula=card.formula,
                space_group=f"{card.space_group_symbol} ({card.space_group})",
                atoms=card.atoms,
                words=card.words,
            )
            for card in cards[:MOST_FOUND]
        ]
        return _plain(FoundEntries(entries=entries, more=max(len(cards) - MOST_FOUND, 0)))


def _add_predict(
    router: APIRouter, predictor: BoundedPredictor | None, jobs: PredictionJobs | None
) -> None:
    binary = {"schema": {"type": "string", "format": "binary"}}
    results = {
        "application/json": {"schema": {"type": "object"}},
        "application/octet-stream": binary,
        "image/png": binary,
        "text/csv": {"schema": {"type": "string"}},
    }

    @router.post(
        "/v1/predict",
        tags=["predictions"],
        summary="Expected spectra of a crystal",
        response_class=JSONResponse,
        responses={
            200: {"description": "The prediction, which ended soon", "content": results},
            202: {"model": JobAnswer, "description": "It takes longer: a job, in Location too"},
            **{
                code: {"model": Problem, "description": text.capitalize()}
                for code, text in _FAULTS.items()
            },
        },
        openapi_extra={"requestBody": _body_schema()},
    )
    async def predict(request: Request) -> Response:
        """Expected spectra: fields as JSON, or a form with one or more files of a structure."""
        if jobs is None or predictor is None:
            raise HTTPException(503, "This server makes no predictions; use `beamsteer predict`.")
        job, asked = await _begun(request, jobs, predictor)
        await jobs.wait(job, asked.wait_s)
        where = {"Location": f"/v1/jobs/{job.id}", "Cache-Control": "no-store"}
        if not job.ended:
            return JSONResponse(job_content(job), 202, where)
        return await _result(jobs, job, asked.format, asked.part, where)


async def _begun(
    request: Request, jobs: PredictionJobs, predictor: BoundedPredictor
) -> tuple[Job, Asked]:
    """The job of a request, and how its answer is wanted."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    loops: list[asyncio.AbstractEventLoop] = request.app.state.prediction_loops
    if asyncio.get_running_loop() not in loops:
        loops.append(asyncio.get_running_loop())
    async with contextlib.AsyncExitStack() as stack:
        if kind == "application/json":
            asked = asked_of(await json_body(request), ())
            size = len(json.dumps(asked.fields))
            _refuse(stack.enter_context(jobs.reading(size)))
        elif kind == "multipart/form-data":
            try:
                form = await stack.enter_async_context(request.form(max_files=20, max_fields=40))
            except OSError as error:
                raise storage_fault(error) from error
            size = sum(one.size or 0 for one in form.values() if isinstance(one, UploadFile))
            _refuse(stack.enter_context(jobs.reading(size)))
            asked = await asked_by_form(form)
        else:
            raise HTTPException(
                415, f"content type is {kind or 'missing'}; expected a form or application/json."
            )
        limit = asked.time_limit_s
        if limit is not None and limit > predictor.limits.wall_s:
            most = predictor.limits.wall_s
            raise HTTPException(422, f"time_limit_s is {limit:g}; expected at most {most:g} here.")
        fields = validated(asked)
        if fields["route"] == "auto" or fields["compare"]:  # what is chosen hangs on the time
            fields["time_limit_s"] = limit or predictor.limits.wall_s
        database = _database(predictor)
        fingerprint = "" if database is None else await run_in_threadpool(_fingerprint, database)
        key = await run_in_threadpool(prediction_key, fields, asked.files, fingerprint)
        sent = dict(fields)
        if asked.files:
            del sent["structure"]
            sent["uploaded"] = [
                (name, base64.b64encode(content).decode()) for name, content in asked.files
            ]
        job = await jobs.submit(
            _user(request), key, sent, size=size, time_limit_s=asked.time_limit_s
        )
    return job, asked


def _add_jobs(router: APIRouter, jobs: PredictionJobs | None, streams: _Streams) -> None:
    unknown: dict[int | str, Any] = {404: {"model": Problem}}

    def found(job_id: str) -> tuple[PredictionJobs, Job]:
        job = None if jobs is None else jobs.find(job_id)
        if jobs is None or job is None:
            raise HTTPException(404, f"job is {job_id[:80]!r}; it is not known, or no longer.")
        return jobs, job

    @router.get(
        "/v1/jobs/{job_id}",
        tags=["predictions"],
        summary="How far a prediction is",
        response_model=JobAnswer,
        responses=unknown,
    )
    async def job(job_id: str) -> JSONResponse:
        """State, progress and, when it is done, where the result is."""
        _, one = found(job_id)
        return JSONResponse(job_content(one), headers={"Cache-Control": "no-store"})

    @router.delete(
        "/v1/jobs/{job_id}",
        tags=["predictions"],
        summary="Cancel a prediction",
        response_model=JobAnswer,
        responses=unknown,
    )
    async def cancel(job_id: str) -> JSONResponse:
        """End it; what computes it is killed, unless others wait for the same."""
        all_jobs, one = found(job_id)
        all_jobs.cancel(one)
        return JSONResponse(job_content(one), headers={"Cache-Control": "no-store"})

    @router.get(
        "/v1/jobs/{job_id}/events",
        tags=["predictions"],
        summary="Progress of a prediction",
        response_class=Response,
        responses=unknown
        | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def events(job_id: str) -> EventSourceResponse:
        """Server-sent events: `state` now and at every change; the stream ends with the job."""
        _, one = found(job_id)
        if streams.open >= MAX_STREAMS:
            raise HTTPException(
                503,
                f"{streams.open} readers follow already; expected fewer. Close a page.",
                headers={"Retry-After": "30"},
            )
        return EventSourceResponse(_told(one, streams), ping=KEEP_ALIVE_SECONDS)

    @router.get(
        "/v1/jobs/{job_id}/result",
        tags=["predictions"],
        summary="Result of a prediction",
        response_class=Response,
        responses=unknown
        | {
            200: {
                "content": {
                    "image/png": {"schema": {"type": "string", "format": "binary"}},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    "text/csv": {"schema": {"type": "string"}},
                }
            },
            409: {"model": Problem, "description": "It has not ended"},
            410: {"model": Problem, "description": "It is kept no longer, or was cancelled"},
        },
    )
    async def result(
        job_id: str,
        format: Annotated[Format, Query(description="what the answer is")] = "json",  # noqa: A002
        part: Annotated[
            str | None, Query(max_length=40, description="of a CSV: dos, powder, ...")
        ] = None,
    ) -> Response:
        """The result as JSON, arrays, a table or a picture; a failed job's fault."""
        all_jobs, one = found(job_id)
        if not one.ended:
            raise HTTPException(409, f"job is {one.state}; expected its end. Follow its events.")
        return await _result(all_jobs, one, format, part, {"Cache-Control": "no-store"})


async def _told(job: Job, streams: _Streams) -> AsyncIterator[dict[str, Any]]:
    streams.open += 1
    try:
        async for one in job_events(job, streams.closed):
            yield {
                "event": "state",
                "id": str(one.version),
                "data": json.dumps(job_content(one)),
            }
    finally:
        streams.open -= 1


async def _result(
    jobs: PredictionJobs,
    job: Job,
    wanted: Format,
    part: str | None,
    headers: Mapping[str, str],
) -> Response:
    """The end of a job as it is wanted.

    Raises
    ------
    HTTPException
        Its fault, if it has one.
    """
    _refuse(job.fault)
    if job.state == "cancelled":
        raise HTTPException(410, "job was cancelled; ask again for its result.")
    content = await run_in_threadpool(jobs.cache.get, job.key)
    if content is None:
        raise HTTPException(410, "result is kept no longer; ask for the prediction again.")
    try:
        made = await run_in_threadpool(_rendered, content, wanted, part)
    except InputError as error:
        raise HTTPException(422, str(error)) from error
    more = dict(headers) | {"X-Beamsteer-Known": "yes" if job.cached else "no"}
    if wanted != "json":
        name = f"prediction-{part}.csv" if wanted == "csv" and part else f"prediction.{wanted}"
        more["Content-Disposition"] = f'attachment; filename="{name}"'
    return Response(made, 200, more, MEDIA_TYPES[wanted])


def _rendered(content: bytes, wanted: Format, part: str | None) -> bytes:
    """A prediction in another format."""
    if wanted == "json":
        return content
    found = json.loads(content)
    if wanted == "npz":
        return prediction_npz(found)
    return prediction_png(found) if wanted == "png" else prediction_csv(found, part)


def _refuse(fault: Fault | None) -> None:
    if fault is None:
        return
    headers = None if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
    raise HTTPException(fault.status, fault.detail, headers=headers)


def _user(request: Request) -> str:
    """Whose turn a request takes: who is named, else where it comes from."""
    somebody = getattr(request.state, "somebody", None)
    if isinstance(somebody, Somebody) and somebody.named:
        return f"name {somebody.name}"
    return request.client.host if request.client is not None else "unknown"


# --- small things ------------------------------------------------------------------------------


def _plain(value: Answer) -> JSONResponse:
    return JSONResponse(clean(value))


def _database(predictor: BoundedPredictor | None) -> Database | None:
    if predictor is None or predictor.database is None:
        return None
    return open_database(predictor.database)


def _fingerprint(database: Database) -> str:
    return database.fingerprint


def _found(database: Database, text: str) -> list[Card]:
    if database.has(text):
        return [database.card(text)]
    if "," in text or " " in text:
        elements = tuple(part for part in text.replace(",", " ").split() if part)
        return [placed.card for placed in database.search(elements=elements)]
    return [placed.card for placed in database.search(formula=text)]


def _body_schema() -> dict[str, Any]:
    return {
        "required": True,
        "content": {
            kind: {"schema": {"type": "object"}}
            for kind in ("application/json", "multipart/form-data")
        },
    }
