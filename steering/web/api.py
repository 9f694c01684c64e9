"""Status API and live page over a :class:`~steering.run.store.RunStore`.

Reading only, but for ``POST /predict``. Nothing here computes physics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import structlog
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from sse_starlette import EventSourceResponse
from starlette.datastructures import UploadFile
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simulations.errors import InputError
from steering.report import folded_map_png, spectrum_npz
from steering.run import RunResult, RunSnapshot, RunStore
from steering.web.answers import (
    AdviceAnswer,
    EstimateAnswer,
    Health,
    HistoryAnswer,
    Problem,
    Readiness,
    RunDetails,
    RunList,
    SpectrumAnswer,
    advice_answer,
    clean,
    details,
    estimate_answer,
    spectrum_answer,
    summary,
)
from steering.web.metrics import StoreCollector
from steering.web.serving import TokenGuard

MAX_BODY_BYTES = 2_000_000
KEEP_ALIVE_SECONDS = 15
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

log = structlog.get_logger()


class Predictor(Protocol):
    """What ``POST /predict`` asks."""

    @property
    def request_model(self) -> type[BaseModel]:
        """Model that a request body must satisfy."""
        ...

    def predict(self, request: Any) -> dict[str, Any]:
        """Answer one request; ValueError says what is wrong with it."""
        ...


class LazyPredictor:
    """Predictions of this installation; their engine is imported at the first request."""

    @property
    def request_model(self) -> type[BaseModel]:
        """Model of :mod:`steering.predict.predictions`."""
        from steering.predict import PredictionRequest

        return PredictionRequest

    def predict(self, request: Any) -> dict[str, Any]:
        """Answer with :func:`steering.predict.predictions.predict`."""
        from steering.predict import predict

        return predict(request)


def create_app(
    store: RunStore, predictor: Predictor | None = None, *, token: str | None = None
) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    store : RunStore
        What is shown.
    predictor : Predictor, optional
        Without it ``POST /predict`` answers 503.
    token : str, optional
        Secret that every path but /health and /ready demands: as ``Authorization: Bearer``, or by
        opening ``/?token=...`` once, which sets a cookie. Without it the app must be bound to
        loopback (see :func:`steering.web.serving.check_binding`).
    """
    app = FastAPI(
        title="Beamsteer",
        description="A running inelastic-neutron-scattering experiment, read-only. "
        "Figures that are not finite are null.",
        version="0.1.0",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(_BodyLimit, limit=MAX_BODY_BYTES)
    if token is not None:
        app.add_middleware(TokenGuard, token=token)
    app.add_middleware(_Headers)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(store))
    app.state.registry = registry
    _add_operations(app, store, registry)
    streams = _Streams()
    app.state.close_streams = streams.close
    _add_runs(app, store, streams)
    _add_predictions(app, predictor)
    _add_page(app)
    return app


# --- what is served ----------------------------------------------------------------------------


def _add_operations(app: FastAPI, store: RunStore, registry: CollectorRegistry) -> None:
    @app.get("/health", tags=["operations"], summary="Whether the process answers")
    def health() -> Health:
        """The process answers; needs no token."""
        return Health(status="ok")

    @app.get("/ready", tags=["operations"], summary="Whether the store answers")
    def ready() -> Readiness:
        """The store answers; needs no token."""
        return Readiness(status="ready", runs=len(store.list()))

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Figures for Prometheus",
        response_class=Response,
        responses=_content(text="text/plain"),
    )
    def metrics() -> Response:
        """Figures for Prometheus; `docs/metrics.md` lists them."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _content(*, text: str | None = None, binary: tuple[str, ...] = ()) -> dict[int | str, Any]:
    """Media types of an answer that is no JSON, for the schema."""
    kinds = {} if text is None else {text: {"schema": {"type": "string"}}}
    kinds |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in binary}
    return {200: {"content": kinds}}


def _add_runs(app: FastAPI, store: RunStore, streams: _Streams) -> None:
    unknown: dict[int | str, Any] = {404: {"model": Problem}}

    def found(run_id: str) -> RunSnapshot:
        snapshot = store.get(run_id)
        if snapshot is None:
            known = ", ".join(run.run_id for run in store.list()) or "none"
            raise HTTPException(404, f"run is {run_id!r}; expected one of: {known}.")
        return snapshot

    @app.get("/runs", tags=["runs"], summary="Every run", response_model=RunList)
    def runs() -> JSONResponse:
        """Every run, last updated first."""
        return _answer(RunList(runs=[summary(run) for run in store.list()]))

    @app.get(
        "/runs/{run_id}",
        tags=["runs"],
        summary="One run",
        response_model=RunDetails,
        responses=unknown,
    )
    def run(run_id: str) -> JSONResponse:
        """One run with chunks, result and history, but without its spectrum."""
        return _answer(details(found(run_id)))

    @app.get(
        "/runs/{run_id}/spectrum",
        tags=["runs"],
        summary="Folded spectrum",
        response_model=SpectrumAnswer,
        responses=unknown | _content(binary=("image/png", "application/octet-stream")),
    )
    def spectrum(
        run_id: str,
        format: Annotated[  # noqa: A002
            Literal["json", "png", "npz"], Query(description="what the answer is")
        ] = "json",
    ) -> Response:
        """Folded spectrum: JSON (null where D = 0), a picture, or arrays."""
        snapshot = found(run_id)
        if snapshot.spectrum is None:
            raise HTTPException(404, f"run {run_id!r} has no spectrum yet; wait for a chunk.")
        if format == "png":
            picture = folded_map_png(snapshot.spectrum, title=snapshot.title)
            return Response(picture, media_type="image/png")
        if format == "npz":
            return Response(spectrum_npz(snapshot.spectrum), media_type="application/octet-stream")
        return _answer(spectrum_answer(snapshot.spectrum, version=snapshot.version))

    @app.get(
        "/runs/{run_id}/estimate",
        tags=["runs"],
        summary="Newest estimate",
        response_model=EstimateAnswer,
        responses=unknown,
    )
    def estimate(run_id: str) -> JSONResponse:
        """Parameters with errors, derived constants, trust with its reasons."""
        return _answer(estimate_answer(_result(found(run_id))))

    @app.get(
        "/runs/{run_id}/history",
        tags=["runs"],
        summary="Estimates so far",
        response_model=HistoryAnswer,
        responses=unknown,
    )
    def history(run_id: str) -> JSONResponse:
        """Estimate after every chunk."""
        return _answer(HistoryAnswer(history=list(found(run_id).history)))

    @app.get(
        "/runs/{run_id}/advice",
        tags=["runs"],
        summary="Where to measure next",
        response_model=AdviceAnswer,
        responses=unknown,
    )
    def advice(run_id: str) -> JSONResponse:
        """Next orientations, best first, and whether to stop."""
        return _answer(advice_answer(_result(found(run_id))))

    @app.get(
        "/runs/{run_id}/events",
        tags=["events"],
        summary="News of one run",
        response_class=Response,
        responses=unknown | _content(text="text/event-stream"),
    )
    async def events(run_id: str) -> EventSourceResponse:
        """Server-sent events: one per new snapshot, naming its version; readers then fetch."""
        found(run_id)
        return EventSourceResponse(_updates(store, run_id, streams), ping=KEEP_ALIVE_SECONDS)

    @app.get(
        "/events",
        tags=["events"],
        summary="News of every run",
        response_class=Response,
        responses=_content(text="text/event-stream"),
    )
    async def all_events() -> EventSourceResponse:
        """Server-sent events of every run; the data of an `update` is its summary."""
        return EventSourceResponse(_updates(store, None, streams), ping=KEEP_ALIVE_SECONDS)


def _add_predictions(app: FastAPI, predictor: Predictor | None) -> None:
    one_at_a_time = asyncio.Semaphore(1)

    faults = {415: "no content type that is known", 422: "a bad field", 503: "none are made here"}

    @app.post(
        "/predict",
        tags=["predictions"],
        summary="Expected spectra of a crystal",
        response_class=JSONResponse,
        responses={
            code: {"model": Problem, "description": text.capitalize()}
            for code, text in faults.items()
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    kind: {"schema": {"type": "object"}}
                    for kind in ("application/json", "multipart/form-data")
                },
            }
        },
    )
    async def predict(request: Request) -> Response:
        """Expected spectra of a crystal: JSON, or a form with the structure as ``file``."""
        if predictor is None:
            raise HTTPException(503, "This server makes no predictions; use `beamsteer predict`.")
        body = await _body(request)
        known = predictor  # a name that the thread below sees as not None
        model = await run_in_threadpool(lambda: known.request_model)  # imports its engine
        try:
            asked = model.model_validate(body)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_input=False)
            ]
            raise HTTPException(422, "; ".join(faults)) from error
        async with one_at_a_time:
            try:
                answer = await run_in_threadpool(predictor.predict, asked)
            except InputError as error:
                raise HTTPException(422, str(error)) from error
        return _answer(answer)


async def _body(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        try:
            # Bounded in depth whatever the interpreter's recursion limit is.
            body = from_json(await request.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(422, f"body is no JSON ({error}); expected an object.") from error
        if not isinstance(body, dict):
            raise HTTPException(422, f"body is {type(body).__name__}; expected an object.")
        return body
    if kind == "multipart/form-data":
        body = {}
        async with request.form(max_files=1, max_fields=20) as form:
            for key, value in form.multi_items():
                if isinstance(value, UploadFile):
                    body["structure"] = _decoded(await value.read())
                else:
                    body[key] = _typed(value)
        return body
    raise HTTPException(415, f"content type is {kind or 'missing'}; expected application/json.")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HTTPException(
            422, f"file is not text (byte {error.start}); expected POSCAR, CIF or YAML."
        ) from error


def _typed(text: str) -> Any:
    """Form fields are text; numbers become numbers."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _page_files() -> dict[str, Path]:
    """What the page is made of, by the name it is asked for; nothing else is served."""
    page = Path(str(resources.files("steering").joinpath("web", "page")))
    files = {
        path.relative_to(page).as_posix(): path
        for path in sorted(page.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    plotly = Path(str(resources.files("plotly").joinpath("package_data", "plotly.min.js")))
    return files | {"plotly.min.js": plotly}


def _add_page(app: FastAPI) -> None:
    served = _page_files()

    def file(name: str) -> FileResponse:
        path = served[name]
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix])

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return file("index.html")

    @app.get("/assets/{name:path}", include_in_schema=False)
    def asset(name: str) -> FileResponse:
        if name not in served or name == "index.html":
            raise HTTPException(404, f"asset is {name!r}; expected one of the page's.")
        return file(name)


# --- answers -----------------------------------------------------------------------------------


def _answer(value: Any) -> JSONResponse:
    return JSONResponse(clean(value), headers={"Cache-Control": "no-store"})


def _result(run: RunSnapshot) -> RunResult:
    if run.result is None:
        raise HTTPException(404, f"run {run.run_id!r} has no estimate yet; wait for a chunk.")
    return run.result


class _Streams:
    """Open event streams, so that a server that stops can end them at once."""

    def __init__(self) -> None:
        self.closed = False
        self._wakes: set[Callable[[], object]] = set()

    def add(self, wake: Callable[[], object]) -> None:
        self._wakes.add(wake)

    def discard(self, wake: Callable[[], object]) -> None:
        self._wakes.discard(wake)

    def close(self) -> None:
        """End all streams; safe from any thread."""
        self.closed = True
        for wake in tuple(self._wakes):
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                wake()


async def _updates(
    store: RunStore, run_id: str | None, streams: _Streams
) -> AsyncIterator[dict[str, Any]]:
    woken = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wake() -> object:
        return loop.call_soon_threadsafe(woken.set)

    subscription = store.subscribe(run_id, wake=wake)
    streams.add(wake)
    try:
        while not streams.closed:
            woken.clear()
            while (snapshot := subscription.take()) is not None:
                yield {
                    "event": "update",
                    "id": str(snapshot.version),
                    "data": json.dumps(clean(summary(snapshot))),
                }
            await woken.wait()
    finally:
        streams.discard(wake)
        subscription.close()


# --- guards ------------------------------------------------------------------------------------


class _TooLargeError(Exception):
    """The body passed the limit while it was read."""


class _BodyLimit:
    """Answer 413 to bodies beyond the limit, whatever their headers say."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._limit:
            await self._refuse(scope, receive, send)
            return
        taken = 0
        answered = False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _TooLargeError:
            if answered:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"body is too large; expected at most {self._limit} bytes. Send a smaller file."
        await JSONResponse({"detail": text}, 413)(scope, receive, send)


class _Headers:
    """Keep the page to its own scripts, and out of other pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                    (
                        b"content-security-policy",
                        b"default-src 'self'; style-src 'self' 'unsafe-inline'; "
                        b"img-src 'self' data: blob:; frame-ancestors 'none'",
                    ),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)
