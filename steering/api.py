"""Status API and live page over a :class:`~steering.run_store.RunStore`.

Reading only, but for ``POST /predict``. Nothing here computes physics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import structlog
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from sse_starlette import EventSourceResponse
from starlette.datastructures import UploadFile
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steering.plots_file import folded_map_png, spectrum_npz
from steering.run_store import RunSnapshot, RunStore, SpectrumView, now_ns
from steering.serving import TokenGuard

MAX_BODY_BYTES = 2_000_000
KEEP_ALIVE_SECONDS = 15
EVENT_KINDS = ("read", "folded", "outside_path", "outside_energy", "masked", "filtered")

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
        """Model of :mod:`steering.predictions`."""
        from steering.predictions import PredictionRequest

        return PredictionRequest

    def predict(self, request: Any) -> dict[str, Any]:
        """Answer with :func:`steering.predictions.predict`."""
        from steering.predictions import predict

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
        loopback (see :func:`steering.serving.check_binding`).
    """
    app = FastAPI(
        title="Beamsteer",
        description="A running inelastic-neutron-scattering experiment, read-only.",
        version="0.1.0",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
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
    @app.get("/health")
    def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> dict[str, Any]:
        """The store answers."""
        return {"status": "ready", "runs": len(store.list())}

    @app.get("/metrics")
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _add_runs(app: FastAPI, store: RunStore, streams: _Streams) -> None:
    def found(run_id: str) -> RunSnapshot:
        snapshot = store.get(run_id)
        if snapshot is None:
            known = ", ".join(run.run_id for run in store.list()) or "none"
            raise HTTPException(404, f"run is {run_id!r}; expected one of: {known}.")
        return snapshot

    @app.get("/runs")
    def runs() -> JSONResponse:
        """Every run, last updated first."""
        return _answer({"runs": [summary(run) for run in store.list()]})

    @app.get("/runs/{run_id}")
    def run(run_id: str) -> JSONResponse:
        """One run with chunks, result and history, but without its spectrum."""
        return _answer(details(found(run_id)))

    @app.get("/runs/{run_id}/spectrum")
    def spectrum(
        run_id: str,
        format: Annotated[Literal["json", "png", "npz"], Query()] = "json",  # noqa: A002
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
        return _answer({"version": snapshot.version} | spectrum_json(snapshot.spectrum))

    @app.get("/runs/{run_id}/estimate")
    def estimate(run_id: str) -> JSONResponse:
        """Parameters with errors, derived constants, trust with its reasons."""
        result = _result(found(run_id))
        names = ("parameters", "derived", "covariance", "trusted", "reasons", "minutes_used")
        return _answer({name: result[name] for name in names if name in result})

    @app.get("/runs/{run_id}/history")
    def history(run_id: str) -> JSONResponse:
        """Estimate after every chunk."""
        return _answer({"history": found(run_id).history})

    @app.get("/runs/{run_id}/advice")
    def advice(run_id: str) -> JSONResponse:
        """Next orientations, best first, and whether to stop."""
        result = _result(found(run_id))
        return _answer(
            {
                "advice": result.get("advice", []),
                "stop": result.get("stop"),
                "trusted": result.get("trusted"),
            }
        )

    @app.get("/runs/{run_id}/events")
    async def events(run_id: str) -> EventSourceResponse:
        """Server-sent events: one per new snapshot, naming its version; readers then fetch."""
        found(run_id)
        return EventSourceResponse(_updates(store, run_id, streams), ping=KEEP_ALIVE_SECONDS)

    @app.get("/events")
    async def all_events() -> EventSourceResponse:
        """Server-sent events of every run."""
        return EventSourceResponse(_updates(store, None, streams), ping=KEEP_ALIVE_SECONDS)


def _add_predictions(app: FastAPI, predictor: Predictor | None) -> None:
    one_at_a_time = asyncio.Semaphore(1)

    @app.post("/predict")
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
            except ValueError as error:
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


def _add_page(app: FastAPI) -> None:
    page = Path(str(resources.files("steering").joinpath("page")))
    plotly = Path(str(resources.files("plotly").joinpath("package_data", "plotly.min.js")))
    served = {
        "": (page / "index.html", "text/html; charset=utf-8"),
        "page.css": (page / "page.css", "text/css; charset=utf-8"),
        "page.js": (page / "page.js", "text/javascript; charset=utf-8"),
        "favicon.svg": (page / "favicon.svg", "image/svg+xml"),
        "plotly.min.js": (plotly, "text/javascript; charset=utf-8"),
    }

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return FileResponse(served[""][0], media_type=served[""][1])

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> FileResponse:
        if not name or name not in served:
            raise HTTPException(404, f"asset is {name!r}; expected one of the page's.")
        path, kind = served[name]
        return FileResponse(path, media_type=kind)


# --- values as JSON ----------------------------------------------------------------------------


def summary(run: RunSnapshot) -> dict[str, Any]:
    """A run in a line."""
    result = run.result or {}
    return {
        "run_id": run.run_id,
        "title": run.title,
        "status": run.status,
        "error": run.error,
        "updated_ns": run.updated_ns,
        "version": run.version,
        "chunks": len(run.chunks),
        "trusted": result.get("trusted"),
        "minutes_used": result.get("minutes_used"),
    }


def details(run: RunSnapshot) -> dict[str, Any]:
    """A run without its spectrum."""
    return summary(run) | {
        "experiment": run.experiment,
        "chunks": run.chunks,
        "result": run.result,
        "history": run.history,
        "has_spectrum": run.spectrum is not None,
        "estimate_seconds": run.estimate_seconds,
        "lag_seconds": run.lag_seconds,
    }


def spectrum_json(view: SpectrumView) -> dict[str, Any]:
    """A spectrum as lists, rows by path bin, five significant digits, None where unknown."""
    return {
        "path_position": rounded(view.path_position),
        "segment_breaks": list(view.segment_breaks),
        "tick_positions": list(view.tick_positions),
        "tick_labels": list(view.tick_labels),
        "energy_edges_meV": rounded(view.energy_edges_meV),
        "intensity": rounded(view.intensity),
        "sigma": rounded(view.sigma),
        "model_intensity": rounded(view.model_intensity),
        "residual_sigma": rounded(view.residual_sigma),
        "branches": rounded(view.branches),
        "unit": "barn/meV/sr per primitive cell",
    }


def rounded(array: np.ndarray, digits: int = 5) -> list[Any]:
    """Nested lists in ``digits`` significant digits; NaN and infinity become None."""
    known = np.isfinite(array)
    values = np.where(known, array, 0.0).astype(float)
    with np.errstate(divide="ignore"):
        size = np.where(values == 0, 0, np.floor(np.log10(np.abs(values))))
    scale = 10.0 ** (digits - 1 - np.clip(size, -290, 290))
    plain = (np.round(values * scale) / scale).astype(object)
    plain[~known] = None
    return plain.tolist()


def clean(value: Any) -> Any:
    """Return dicts, lists, text and finite numbers; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return clean(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def _answer(value: Any) -> JSONResponse:
    return JSONResponse(clean(value), headers={"Cache-Control": "no-store"})


def _result(run: RunSnapshot) -> dict[str, Any]:
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


# --- figures for Prometheus --------------------------------------------------------------------


class StoreCollector:
    """Reads the store at every scrape, so that figures never lag behind what the page shows."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; labels are bounded by the runs that the store keeps."""
        runs = self._store.list()
        by_status = GaugeMetricFamily("beamsteer_runs", "Runs known, by status", labels=["status"])
        for status in ("running", "finished", "failed"):
            by_status.add_metric([status], sum(run.status == status for run in runs))
        yield by_status
        chunks = GaugeMetricFamily(
            "beamsteer_chunks", "Chunks of a run, by status", labels=["run", "status"]
        )
        events = GaugeMetricFamily(
            "beamsteer_events", "Events of a run, by what became of them", labels=["run", "kind"]
        )
        single = {
            name: GaugeMetricFamily(f"beamsteer_{name}", text, labels=["run"])
            for name, text in (
                ("estimate_seconds", "Computing time of the newest estimate"),
                ("lag_seconds", "Age of the newest chunk when its estimate was ready"),
                ("updated_seconds_ago", "Time since the run's last update"),
                ("minutes_used", "Wall minutes used, motion included"),
                ("minutes_to_target", "Forecast minutes until every target is met"),
                ("coverage_fraction", "Share of path cells with exposure"),
                ("trusted", "1 if the model explains the data"),
                ("stop", "1 if the advice is to stop"),
            )
        }
        sigma = GaugeMetricFamily(
            "beamsteer_parameter_relative_sigma",
            "Standard deviation over size of a parameter",
            labels=["run", "parameter"],
        )
        for run in runs:
            result = run.result or {}
            for status in ("folded", "set aside", "withdrawn"):
                number = sum(chunk.get("status") == status for chunk in run.chunks)
                chunks.add_metric([run.run_id, status.replace(" ", "_")], number)
            for kind in EVENT_KINDS:
                if kind in (result.get("events") or {}):
                    events.add_metric([run.run_id, kind], float(result["events"][kind]))
            stop = result.get("stop") or {}
            figures = {
                "estimate_seconds": run.estimate_seconds,
                "lag_seconds": run.lag_seconds,
                "updated_seconds_ago": (now_ns() - run.updated_ns) / 1e9,
                "minutes_used": result.get("minutes_used"),
                "minutes_to_target": stop.get("minutes_to_target"),
                "coverage_fraction": result.get("coverage_fraction"),
                "trusted": result.get("trusted"),
                "stop": stop.get("stop"),
            }
            for name, figure in figures.items():
                if figure is not None and math.isfinite(figure):
                    single[name].add_metric([run.run_id], float(figure))
            for parameter in result.get("parameters") or ():
                value, error = parameter.get("value"), parameter.get("sigma")
                if value and error is not None and math.isfinite(error / value):
                    sigma.add_metric([run.run_id, parameter["name"]], abs(error / value))
        yield from (chunks, events, *single.values(), sigma)


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
