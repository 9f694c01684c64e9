"""``/v1/estimate``: frozen networks read folded spectra, many at once.

A reading takes milliseconds, so it is answered at once and not as a job. What keeps the server
whole is the door: so many requests and bytes at a time, each file held to limits before it is read,
two threads that work, and 503 with a time to come again for whoever finds no place.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from simulations.errors import InputError
from steering.web.answers import Problem, clean
from steering.web.estimate_answers import (
    MOST_SPECTRA,
    EstimateAsked,
    LearnedAnswer,
    SumsAsked,
)
from steering.web.guards import LARGER_BODIES
from steering.web.metrics import PREFIX, MetricName
from steering.web.model_routes import Models, refusals
from steering.web.prediction_requests import bounded_body, storage_fault

if TYPE_CHECKING:
    from model_server.networks import FoldedSpectrum

PATH = "/v1/estimate"
JSON_BYTES = 8 * 2**20
REQUESTS = 128  # that are read, wait or are worked on
BYTES = 2**30  # of their bodies; they lie on disk beyond a megabyte
WORKERS = 2
RETRY_SECONDS = 2
IN_MEMORY = 2**20
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
ESTIMATE_METRICS = (
    MetricName(
        name="learned_requests",
        kind="counter",
        text="Requests to learned estimators, by what became of them",
        labels=("outcome",),
    ),
    MetricName(name="learned_spectra", kind="counter", text="Spectra that networks have read"),
    MetricName(
        name="learned_estimate_seconds",
        kind="histogram",
        text="Time from a request's whole body to its estimates",
    ),
)
_OUTCOMES = ("estimated", "refused", "busy", "failed")
_FAULTS = {
    404: "no model of that name",
    408: "the body came too slowly",
    413: "the body is too large",
    415: "no content type that is known",
    422: "a bad field or file, or a spectrum of another experiment than the model's",
    503: "too many ask at once, or the model is damaged; Retry-After says when to ask again",
    507: "the disk of the server is full",
}
_NPZ = ("application/octet-stream", "application/zip", "application/x-npz")
Model = Annotated[str | None, Query(max_length=200, description="one of /v1/models")]
Experiment = Annotated[
    str | None,
    Query(max_length=100, description="hash of the experiment, held against the model's"),
]


class _Places:
    """How many requests, and how many bytes of theirs, are in the house."""

    def __init__(self) -> None:
        self.requests, self.bytes = 0, 0

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        if self.requests >= REQUESTS or (self.requests and self.bytes + size > BYTES):
            raise HTTPException(
                503,
                f"{self.requests} requests with {self.bytes:,} bytes are here already; expected at "
                f"most {REQUESTS} with {BYTES:,}. Ask again later.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size


class _Figures:
    """Counters of one app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests, spectra, seconds = ESTIMATE_METRICS
        self._requests = Counter(
            PREFIX + requests.name, requests.text, requests.labels, registry=registry
        )
        for outcome in _OUTCOMES:  # so that they are there before the first
            self._requests.labels(outcome)
        self.spectra = Counter(PREFIX + spectra.name, spectra.text, registry=registry)
        self.seconds = Histogram(
            PREFIX + seconds.name, seconds.text, buckets=SECONDS, registry=registry
        )

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Count a request by how it ends."""
        outcome = "failed"
        try:
            yield
            outcome = "estimated"
        except HTTPException as refused:
            busy = refused.status_code == 503
            outcome = "busy" if busy else "refused" if refused.status_code < 500 else "failed"
            raise
        except asyncio.CancelledError:
            outcome = "refused"  # who asked has left
            raise
        finally:
            self._requests.labels(outcome).inc()


def add_estimate_routes(app: FastAPI, models: Models, figures: CollectorRegistry) -> None:
    """Add ``/v1/estimate`` to an app.

    Parameters
    ----------
    app : FastAPI
    models : Models
    figures : CollectorRegistry
        Where the counts are registered.
    """
    router = APIRouter(generate_unique_id_function=lambda route: f"v1_{route.name}")
    _add_estimate(router, models, _Figures(figures))
    app.include_router(router)


def _add_estimate(router: APIRouter, models: Models, figures: _Figures) -> None:
    places, turns = _Places(), asyncio.Semaphore(WORKERS)

    @router.post(
        PATH,
        tags=["models"],
        summary="Force constants by a frozen network, in milliseconds",
        response_model=LearnedAnswer,
        responses={
            code: {"model": Problem, "description": text.capitalize()}
            for code, text in _FAULTS.items()
        },
        openapi_extra={"requestBody": _body_schema()},
    )
    async def estimate(
        request: Request, model: Model = None, experiment: Experiment = None
    ) -> JSONResponse:
        """Sums as JSON, one NPZ as the body, or a form with one or more files of `folded.npz`."""
        with figures.told(), places.taken(_declared(request)):
            async with _spectra(request, model, experiment) as (name, own, made):
                async with turns:
                    began = time.perf_counter()
                    told, number = await run_in_threadpool(_estimated, models, name, own, made)
                    figures.seconds.observe(time.perf_counter() - began)
                    figures.spectra.inc(number)
        return JSONResponse(told, headers={"Cache-Control": "no-store"})


Made = Callable[[], "list[FoldedSpectrum]"]


def _estimated(
    models: Models, name: str, experiment: str | None, made: Made
) -> tuple[dict[str, Any], int]:
    """Answer of a request, and how many spectra it had; called from threads."""
    from model_server.networks import read_spectra, reading_document

    with refusals():
        bundle = models.registry.get(name)
        spectra = made()
        readings = read_spectra(bundle, spectra, experiment=experiment)
        return clean(reading_document(bundle, readings)), len(spectra)


# --- requests ----------------------------------------------------------------------------------


def _declared(request: Request) -> int:
    """Bytes that a body will have, or may have where its head does not say."""
    told = request.headers.get("content-length", "")
    return int(told) if told.isdigit() and len(told) < 18 else LARGER_BODIES[PATH]


@contextlib.asynccontextmanager
async def _spectra(
    request: Request, model: str | None, experiment: str | None
) -> AsyncIterator[tuple[str, str | None, Made]]:
    """Model, experiment and what makes the spectra of a body that has come whole."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        asked = await _json(request)
        if model is not None and model != asked.model:
            raise HTTPException(422, "model is given twice and differs; expected it once.")
        spectra = asked.spectra
        yield asked.model, asked.experiment or experiment, lambda: _of_sums(spectra)
    elif kind == "multipart/form-data":
        try:
            form = await request.form(max_files=MOST_SPECTRA, max_fields=10)
        except OSError as error:
            raise storage_fault(error) from error
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(form.close)
            fields: dict[str, str] = {}
            files: list[tuple[BinaryIO, str]] = []
            for label, value in form.multi_items():
                if isinstance(value, UploadFile):
                    files.append((value.file, (value.filename or label)[:200]))
                elif label not in ("model", "experiment") or label in fields:
                    raise HTTPException(
                        422,
                        f"field is {label[:80]!r}; expected model, experiment, each once, and "
                        "files.",
                    )
                else:
                    fields[label] = value
            if not files:
                raise HTTPException(422, "no file came; expected one or more of folded.npz.")
            name = _named(fields.get("model") or model)
            yield name, fields.get("experiment") or experiment, lambda: _of_files(files)
    elif kind in _NPZ:
        name = _named(model)
        with SpooledTemporaryFile(max_size=IN_MEMORY) as file:
            try:
                async for piece in request.stream():
                    if file.tell() + len(piece) > IN_MEMORY:
                        await run_in_threadpool(file.write, piece)
                    else:
                        file.write(piece)
            except OSError as error:
                raise storage_fault(error) from error
            if not file.tell():
                raise HTTPException(422, "body is empty; expected a folded.npz.")
            body = cast(BinaryIO, file)
            yield name, experiment, lambda: _of_files([(body, "body")])
    else:
        raise HTTPException(
            415,
            f"content type is {kind[:80] or 'missing'}; expected application/json, "
            "multipart/form-data or application/octet-stream.",
        )


def _named(model: str | None) -> str:
    if not model:
        raise HTTPException(422, "model is missing; expected one of /v1/models.")
    return model


async def _json(request: Request) -> EstimateAsked:
    content = await bounded_body(request, JSON_BYTES)
    try:
        return await run_in_threadpool(EstimateAsked.model_validate_json, content)
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, one['loc'])) or 'body'} is {one.get('input')!r:.60}; expected "
            f"otherwise: {one['msg']}"
            for one in error.errors(include_url=False, include_context=False)[:3]
        ]
        raise HTTPException(422, ". ".join(told) + ".") from error


def _of_sums(asked: Sequence[SumsAsked]) -> list[FoldedSpectrum]:
    from model_server.networks import FoldedSpectrum

    found = []
    for k, one in enumerate(asked):
        name = one.name or f"spectra.{k}"
        unknown = _unknown(one.exposure)
        found.append(
            FoldedSpectrum.of_sums(
                name=name,
                signal=_filled(one.signal, unknown, f"{name}: signal"),
                exposure=[[0.0 if v is None else v for v in row] for row in one.exposure],
                counts=None
                if one.counts is None
                else _filled(one.counts, unknown, f"{name}: counts"),
                path_hkl=one.path_hkl_rlu,
                energy_edges_meV=one.energy_edges_meV,
                parameter_names=one.parameter_names,
                isotopes=one.isotopes,
            )
        )
    return found


def _unknown(exposure: list[list[float | None]]) -> list[list[bool]]:
    return [[not value for value in row] for row in exposure]


def _filled(
    cells: list[list[float | None]], unknown: list[list[bool]], what: str
) -> list[list[float]]:
    """Numbers for nulls, which may stand only where nothing is known."""
    for row, hidden in zip(cells, unknown, strict=False):
        for value, free in zip(row, hidden, strict=False):
            if value is None and not free:
                raise InputError(f"{what} is null where exposure is not; expected a number.")
    return [[0.0 if value is None else value for value in row] for row in cells]


def _of_files(files: Sequence[tuple[BinaryIO, str]]) -> list[FoldedSpectrum]:
    from model_server.networks import read_folded_spectrum

    return [read_folded_spectrum(file, name) for file, name in files]


def _body_schema() -> dict[str, Any]:
    asked = EstimateAsked.model_json_schema()
    asked["properties"]["spectra"]["items"] = asked.pop("$defs")["SumsAsked"]
    binary = {"type": "string", "format": "binary"}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": asked},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "model": {"type": "string"},
                        "experiment": {"type": "string"},
                        "files": {"type": "array", "items": binary},
                    },
                    "required": ["files"],
                }
            },
            "application/octet-stream": {"schema": binary},
        },
    }
