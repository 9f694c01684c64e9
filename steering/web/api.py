"""Status API and live page over a :class:`~steering.run.store.RunStore`.

Reading, but for actions of people (``acting``), which are written into the log of a run, and ``POST
/predict``. Nothing here computes physics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import structlog
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import from_json
from sse_starlette import EventSourceResponse
from starlette.datastructures import UploadFile
from starlette.middleware.gzip import GZipMiddleware

from steering.report import folded_map_png, spectrum_npz
from steering.run import RunResult, RunSnapshot, RunStore, Verdict, judge, now_ns
from steering.web.acting import acting_router
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
    WorkerAnswer,
    WorkerList,
    advice_answer,
    clean,
    details,
    estimate_answer,
    spectrum_answer,
    summary,
)
from steering.web.conditional import ConditionalReads, is_known, tag_of
from steering.web.download_routes import download_router
from steering.web.estimate_routes import add_estimate_routes
from steering.web.guards import add_guards
from steering.web.metrics import StoreCollector
from steering.web.model_routes import Models, model_router
from steering.web.open_dwell_routes import open_dwell_router
from steering.web.paging import Limit, Offset, paged
from steering.web.people_file import People
from steering.web.predict_routes import add_predict_routes
from steering.web.prediction_jobs import prediction_turns
from steering.web.prediction_process import Prediction
from steering.web.problems import add_problems, problem
from steering.web.reach_routes import reach_router
from steering.web.schema import TAGS, add_schema
from steering.web.turns import QueueFullError, Turns, UserGoneError
from steering.web.versions import OldPaths, mount

MAX_BODY_BYTES = 2_000_000
KEEP_ALIVE_SECONDS = 15
MAX_STREAMS = 100
CACHING = "private, no-cache"  # who keeps an answer asks whether it is still true
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

log = structlog.get_logger()


class Predictor(Protocol):
    """What ``POST /predict`` asks."""

    def predict(self, asked: Mapping[str, Any]) -> Prediction:
        """Answer one request, whatever is wrong with it; called from threads."""
        ...

    def close(self) -> None:
        """End, also while an answer is computed."""
        ...


def create_app(
    store: RunStore,
    predictor: Predictor | None = None,
    *,
    token: str | None = None,
    people: People | None = None,
    names: Sequence[str] = (),
    folders: Sequence[Path] = (),
    workers: Callable[[], list[WorkerAnswer]] = list,
    models: Models | None = None,
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
        logging in once, which sets a cookie. Whoever has it is an admin.
    people : People, optional
        In its place: who there is, each with a token and a role. Without either the app must be
        bound to loopback (see :func:`steering.web.serving.check_binding`), and answers to names of
        this machine alone.
    names : sequence of str
        That the app answers to beside those of this machine; none: any, if a token is asked for.
    folders : sequence of Path
        Folders of live runs, which take actions.
    workers : callable, optional
        Who works on the live streams that are shown; see
        :func:`steering.web.heartbeat_file.read_heartbeats`.
    models : Models, optional
        Frozen networks that may be asked; those that are shipped, if none are given.
    """

    @contextlib.asynccontextmanager
    async def until_the_end(_: FastAPI) -> AsyncIterator[None]:
        yield
        if predictor is not None:
            predictor.close()

    app = FastAPI(
        title="Beamsteer",
        description="A running inelastic-neutron-scattering experiment: what is known of it, and "
        "what people ask of it. Figures that are not finite are null.",
        version="0.1.0",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=until_the_end,
        openapi_tags=TAGS,
    )
    door = people or People(token=token)
    add_problems(app)
    app.add_middleware(OldPaths)
    app.add_middleware(ConditionalReads)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    add_guards(app, people=door, max_body_bytes=MAX_BODY_BYTES, names=names)
    add_schema(app)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(store, workers))
    app.state.registry = registry
    streams = _Streams()
    app.state.close_streams = streams.close
    _add_operations(app, store, registry, workers)
    mount(
        app,
        _runs_router(store, streams, workers, folders),
        acting_router(
            folders, login=door.guards, known=lambda run_id: store.get(run_id) is not None
        ),
    )
    turns = prediction_turns()
    superseded = _predictions_router(predictor, turns)
    app.include_router(superseded, include_in_schema=False)
    add_predict_routes(app, predictor, turns=turns)
    asked = models or Models()
    add_estimate_routes(app, asked, registry)
    app.include_router(model_router(asked, _finder(store)))
    _add_page(app)
    return app


# --- what is served ----------------------------------------------------------------------------


def _add_operations(
    app: FastAPI,
    store: RunStore,
    registry: CollectorRegistry,
    workers: Callable[[], list[WorkerAnswer]],
) -> None:
    @app.get("/health", tags=["operations"], summary="Whether the process answers")
    def health() -> Health:
        """The process answers; needs no token."""
        return Health(status="ok")

    @app.get(
        "/ready",
        tags=["operations"],
        summary="Whether what is shown is being measured",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "A worker is dead"}},
    )
    def ready() -> JSONResponse:
        """The store answers, and no worker of a live stream is dead; needs no token."""
        dead = [reason for one in workers() if one.state == "dead" for reason in one.reasons]
        status = "not ready" if dead else "ready"
        answer = _answer(Readiness(status=status, runs=len(store.list()), reasons=dead))
        answer.status_code = 503 if dead else 200
        return answer

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


def _finder(store: RunStore) -> Callable[[str], RunSnapshot]:
    """The newest snapshot of a run by its name; 404 where there is none."""

    def found(run_id: str) -> RunSnapshot:
        snapshot = store.get(run_id)
        if snapshot is None:
            known = ", ".join(run.run_id for run in store.list()) or "none"
            raise HTTPException(404, f"run is {run_id!r}; expected one of: {known}.")
        return snapshot

    return found


def _runs_router(
    store: RunStore,
    streams: _Streams,
    workers: Callable[[], list[WorkerAnswer]],
    folders: Sequence[Path],
) -> APIRouter:
    router = APIRouter()
    made_at = now_ns()  # versions of a store begin anew with it
    unknown: dict[int | str, Any] = {404: {"model": Problem}}
    found = _finder(store)

    @router.get("/runs", tags=["runs"], summary="Every run", response_model=RunList)
    def runs(request: Request, limit: Limit = None, offset: Offset = 0) -> JSONResponse:
        """Every run, last updated first."""
        page = paged(request, store.list(), limit, offset)
        shown = [summary(run) for run in page.entries]
        return _answer(RunList(runs=shown, total=page.total, next=page.next), page.headers)

    @router.get(
        "/workers",
        tags=["runs"],
        summary="Who works on the live streams",
        response_model=WorkerList,
    )
    def all_workers() -> JSONResponse:
        """Workers of the live streams that are shown, dead ones included."""
        return _answer(WorkerList(workers=workers()))

    @router.get(
        "/runs/{run_id}",
        tags=["runs"],
        summary="One run",
        response_model=RunDetails,
        responses=unknown,
    )
    def run(run_id: str) -> JSONResponse:
        """One run with chunks, result and history, but without its spectrum."""
        return _answer(details(found(run_id)))

    @router.get(
        "/runs/{run_id}/verdict",
        tags=["runs"],
        summary="What is said of a run now, and how old that is",
        response_model=Verdict,
        responses=unknown,
    )
    def verdict(run_id: str) -> JSONResponse:
        """Words for trust, stop, advice and coverage with their evidence; ask every few seconds."""
        return _answer(judge(found(run_id), workers(), now_ns=now_ns()))

    @router.get(
        "/runs/{run_id}/spectrum",
        tags=["runs"],
        summary="Folded spectrum",
        response_model=SpectrumAnswer,
        responses=unknown | _content(binary=("image/png", "application/octet-stream")),
    )
    def spectrum(
        run_id: str,
        request: Request,
        format: Annotated[  # noqa: A002
            Literal["json", "png", "npz"], Query(description="what the answer is")
        ] = "json",
    ) -> Response:
        """Folded spectrum: JSON (null where D = 0), a picture, or arrays."""
        snapshot = found(run_id)
        if snapshot.spectrum is None:
            raise HTTPException(404, f"run {run_id!r} has no spectrum yet; wait for a chunk.")
        tag = tag_of(f"{made_at} {run_id} {snapshot.version} {format}".encode())
        headers = {"ETag": tag, "Cache-Control": CACHING}
        if is_known(request.headers.get("if-none-match"), tag):  # before it is made
            return Response(status_code=304, headers=headers)
        if format == "png":
            picture = folded_map_png(snapshot.spectrum, title=snapshot.title)
            return Response(picture, headers=headers, media_type="image/png")
        if format == "npz":
            arrays = spectrum_npz(snapshot.spectrum)
            return Response(arrays, headers=headers, media_type="application/octet-stream")
        return _answer(spectrum_answer(snapshot.spectrum, version=snapshot.version), headers)

    @router.get(
        "/runs/{run_id}/estimate",
        tags=["runs"],
        summary="Newest estimate",
        response_model=EstimateAnswer,
        responses=unknown,
    )
    def estimate(run_id: str) -> JSONResponse:
        """Parameters with errors, derived constants, trust with its reasons."""
        return _answer(estimate_answer(_result(found(run_id))))

    @router.get(
        "/runs/{run_id}/history",
        tags=["runs"],
        summary="Estimates so far",
        response_model=HistoryAnswer,
        responses=unknown,
    )
    def history(
        run_id: str, request: Request, limit: Limit = None, offset: Offset = 0
    ) -> JSONResponse:
        """Estimate after every chunk."""
        page = paged(request, found(run_id).history, limit, offset)
        told = HistoryAnswer(history=list(page.entries), total=page.total, next=page.next)
        return _answer(told, page.headers)

    @router.get(
        "/runs/{run_id}/advice",
        tags=["runs"],
        summary="Where to measure next",
        response_model=AdviceAnswer,
        responses=unknown,
    )
    def advice(run_id: str) -> JSONResponse:
        """Next orientations, best first, and whether to stop, as the verdict says it."""
        snapshot = found(run_id)
        result, said = _result(snapshot), judge(snapshot, workers(), now_ns=now_ns())
        return _answer(advice_answer(result, said))

    router.include_router(download_router(found))
    router.include_router(reach_router(found))
    router.include_router(open_dwell_router(found, folders))

    @router.get(
        "/runs/{run_id}/events",
        tags=["events"],
        summary="News of one run",
        response_class=Response,
        responses=unknown | _content(text="text/event-stream"),
    )
    async def events(run_id: str) -> EventSourceResponse:
        """Server-sent events: one per new snapshot, naming its version; readers then fetch."""
        found(run_id)
        streams.refuse_too_many()
        return EventSourceResponse(_updates(store, run_id, streams), ping=KEEP_ALIVE_SECONDS)

    @router.get(
        "/events",
        tags=["events"],
        summary="News of every run",
        response_class=Response,
        responses=_content(text="text/event-stream"),
    )
    async def all_events() -> EventSourceResponse:
        """Server-sent events of every run; the data of an `update` is its summary."""
        streams.refuse_too_many()
        return EventSourceResponse(_updates(store, None, streams), ping=KEEP_ALIVE_SECONDS)

    return router


def _predictions_router(predictor: Predictor | None, turns: Turns) -> APIRouter:
    router = APIRouter()
    faults = {
        403: "a page of another site asks",
        408: "the body came too slowly",
        413: "the body is too large",
        415: "no content type that is known",
        421: "asked for by a foreign name",
        422: "a bad field, or more time or memory needed than one prediction gets",
        429: "too many wait already; Retry-After says when to ask again",
        503: "none are made here, or not now",
    }

    @router.post(
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
        user = request.client.host if request.client is not None else "unknown"
        try:
            async with turns.turn(user, request.is_disconnected):
                told = await run_in_threadpool(predictor.predict, body)
        except QueueFullError as full:
            retry = {"Retry-After": str(full.retry_after_s)}
            raise HTTPException(429, str(full), headers=retry) from full
        except UserGoneError:
            return Response(status_code=499)  # to nobody
        if told.status >= 400:
            detail = json.loads(told.content).get("detail", "it cannot be predicted.")
            return problem(told.status, detail, headers={"Cache-Control": "no-store"})
        return Response(
            told.content, told.status, {"Cache-Control": "no-store"}, "application/json"
        )

    return router


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
        if path.suffix in MEDIA_TYPES and path.name != "login.html"  # which the door shows
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


def _answer(value: Any, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(clean(value), headers={"Cache-Control": CACHING, **(headers or {})})


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

    def refuse_too_many(self) -> None:
        """Keep places for readers who ask once."""
        if len(self._wakes) >= MAX_STREAMS:
            raise HTTPException(
                503,
                f"{len(self._wakes)} readers follow already; expected fewer. Close a page.",
                headers={"Retry-After": "30"},
            )

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
