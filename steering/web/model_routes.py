"""``/v1/models``: which frozen networks there are, what is known of them, what they read off runs.

And ``/models``, the page that shows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import FileResponse, JSONResponse, Response

from simulations.errors import InputError
from steering.run import RunSnapshot
from steering.web.answers import Problem, clean
from steering.web.estimate_answers import (
    LatentAnswer,
    LearnedAnswer,
    ModelCard,
    ModelEntry,
    ModelList,
)

if TYPE_CHECKING:
    from model_server.networks import BundleRegistry

_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem},
    503: {"model": Problem, "description": "The model is damaged"},
}


class Models:
    """Bundles that this server may ask, found and imported when they are asked for first.

    Parameters
    ----------
    places : sequence of Path or str
        Bundles, folders of some, or web addresses of some, beside those that are shipped.
    """

    def __init__(self, places: Sequence[Path | str] = ()) -> None:
        self._places = tuple(places)
        self._registry: BundleRegistry | None = None

    @property
    def registry(self) -> BundleRegistry:
        """The bundles; the first who asks waits for torch."""
        if self._registry is None:
            from model_server.networks import BundleRegistry

            self._registry = BundleRegistry(self._places)
        return self._registry

    def warm(self) -> tuple[str, ...]:
        """Load what may be asked for, as far as it is kept; names of what is loaded.

        Raises
        ------
        InputError
            If a folder is not there or a bundle cannot be loaded.
        """
        return self.registry.warm()


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Let what is wrong with a name, a bundle or a spectrum be refused by its status."""
    from model_server.networks import (
        BundleError,
        BundleMismatchError,
        UnknownModelError,
    )

    try:
        yield
    except UnknownModelError as error:
        raise HTTPException(404, str(error)) from error
    except BundleMismatchError as error:
        raise HTTPException(422, str(error)) from error
    except BundleError as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "60"}) from error
    except InputError as error:
        raise HTTPException(422, str(error)) from error


def model_router(models: Models, found: Callable[[str], RunSnapshot]) -> APIRouter:
    """Routes of what is known of models, and their page.

    Parameters
    ----------
    models : Models
    found : callable
        The newest snapshot of a run; raises an HTTPException with 404 where there is no such run.
    """
    router = APIRouter(generate_unique_id_function=lambda route: f"v1_{route.name}")
    _add_cards(router, models)
    _add_latent(router, models, found)

    @router.get("/models", include_in_schema=False)
    def models_page() -> FileResponse:
        page = Path(str(resources.files("steering").joinpath("web", "page", "models.html")))
        return FileResponse(page, media_type="text/html; charset=utf-8")

    return router


def _add_cards(router: APIRouter, models: Models) -> None:
    @router.get(
        "/v1/models",
        tags=["models"],
        summary="Frozen networks that may be asked",
        response_model=ModelList,
    )
    def all_models() -> JSONResponse:
        """Those shipped and those of the server's folders, damaged ones with their fault."""
        registry = models.registry
        loaded = registry.loaded()
        shown = []
        for entry in registry.entries():
            known: dict[str, Any] = {"name": entry.name, "shipped": entry.shipped}
            try:
                card = registry.card(entry.name)
                known |= {
                    "title": str(card["title"]),
                    "architecture": str(card.get("architecture")),
                    "experiment": str(card["experiment"]["hash"]),
                    "parameters": [str(one) for one in card["parameters"]["names"]],
                }
            except InputError as error:
                known["fault"] = str(error)
            except (KeyError, TypeError) as error:
                known["fault"] = f"its card lacks {error}; train it again."
            shown.append(ModelEntry(**known, loaded=entry.name in loaded))
        return JSONResponse(clean(ModelList(models=shown)))

    @router.get(
        "/v1/models/{name}/card",
        tags=["models"],
        summary="What a model is, and how well it reads",
        response_model=ModelCard,
        responses={200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}, **_UNKNOWN},
    )
    def card(
        name: str,
        format: Annotated[  # noqa: A002
            Literal["json", "markdown"], Query(description="what the answer is")
        ] = "json",
    ) -> Response:
        """Experiment, parameters, training and accuracy: as it is kept, or for people."""
        from model_server.networks import model_card

        with refusals():
            kept = models.registry.card(name)
            if format == "json":
                return JSONResponse(clean(dict(kept)))
            try:
                return Response(model_card(kept), media_type="text/markdown; charset=utf-8")
            except (KeyError, TypeError) as error:
                raise HTTPException(503, f"model {name!r}: its card lacks {error}.") from error


def _add_latent(router: APIRouter, models: Models, found: Callable[[str], RunSnapshot]) -> None:
    @router.get(
        "/v1/models/{name}/latent",
        tags=["models"],
        summary="What the latent of a model holds",
        response_model=LatentAnswer,
        responses=_UNKNOWN,
    )
    def latent(name: str) -> JSONResponse:
        """Simulated spectra as the network sees them, as `beamsteer latent --calibrate` kept it."""
        with refusals():
            return JSONResponse(clean(dict(models.registry.latent(name))))

    @router.get(
        "/v1/models/{name}/reading",
        tags=["models"],
        summary="What a model reads off the newest fold of a run",
        response_model=LearnedAnswer,
        responses={**_UNKNOWN, 422: {"model": Problem, "description": "Of another experiment"}},
    )
    def reading(
        name: str, run: Annotated[str, Query(max_length=200, description="one of /v1/runs")]
    ) -> JSONResponse:
        """Force constants and where the spectrum lies among those trained on; no error bar."""
        from model_server.networks import FoldedSpectrum, read_spectra, reading_document

        snapshot = found(run)
        view = snapshot.spectrum
        if view is None or view.exposure is None or view.hkl is None:
            raise HTTPException(
                404,
                f"run {run!r} has no fold that a network can read: no chunk yet, or one of an "
                "older version.",
            )
        with refusals():
            bundle = models.registry.get(name)
            scale = 1.0 if view.scale is None else float(view.scale)
            spectrum = FoldedSpectrum.of_sums(
                name=f"run {run}",
                signal=np.nan_to_num(view.intensity * view.exposure) * scale,
                exposure=np.nan_to_num(view.exposure),
                counts=view.counts,
                path_hkl=view.hkl,
                energy_edges_meV=view.energy_edges_meV,
            )
            told = reading_document(bundle, read_spectra(bundle, [spectrum]))
        return JSONResponse(clean(told), headers={"Cache-Control": "no-store"})
