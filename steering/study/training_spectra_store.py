"""Simulated spectra of a training, kept so that one that was killed need not make them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from model_server.training import TrainingSpectra
from simulations.errors import InputError
from simulations.saved_file import in_one_step

NAME = "spectra.safetensors"
_safe_open: Any = safe_open  # says nothing of its types


def kept_spectra(
    folder: Path | None, key: str, make: Callable[[], TrainingSpectra]
) -> TrainingSpectra:
    """The spectra of a folder, or new ones, which are kept there.

    Parameters
    ----------
    folder : Path or None
        None: they are kept nowhere.
    key : str
        Of all that goes into them.
    make : callable

    Raises
    ------
    InputError
        If the folder has others, or damaged ones.
    StorageError
        If there is no room.
    """
    if folder is None:
        return make()
    path = folder / NAME
    if path.is_file():
        return _read(path, key)
    spectra = make()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f.name: getattr(spectra, f.name) for f in fields(spectra)}
    with in_one_step(path) as partial:
        save_file(tensors, partial, metadata={"key": key})
    return spectra


def _read(path: Path, key: str) -> TrainingSpectra:
    try:
        with _safe_open(path, framework="numpy") as file:
            known = file.metadata()["key"]
            found = {f.name: file.get_tensor(f.name) for f in fields(TrainingSpectra)}
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); expected the spectra of an "
            "earlier call. Remove it: they are simulated again."
        ) from error
    if known != key:
        raise InputError(
            f"{path.parent}: has spectra of another experiment or other options; expected the "
            "same experiment, --spectra, --around and --seed. Name another folder with --work, or "
            "remove this one."
        )
    return TrainingSpectra(**found)
