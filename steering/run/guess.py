"""A first answer from ``folded.npz`` alone, by a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def guess_folded(
    paths: Sequence[Path], *, model: str = "germanium", models: Sequence[Path] = ()
) -> dict[str, Any]:
    """Read force constants off folds.

    Parameters
    ----------
    paths : sequence of Path
        ``folded.npz`` of ``beamsteer fold`` or ``replay``.
    model : str
        Name of a bundle.
    models : sequence of Path
        Bundles, or folders of some, beside those that are shipped.

    Returns
    -------
    dict
        As ``POST /v1/estimate`` answers it.

    Raises
    ------
    InputError
        If a file cannot be read, holds no counts, or is of another experiment than the model's.
    """
    from model_server.networks import (  # torch, which folding does without
        BundleRegistry,
        read_folded_spectrum,
        read_spectra,
        reading_document,
    )

    bundle = BundleRegistry(models).get(model)
    spectra = [read_folded_spectrum(path, str(path)) for path in paths]
    return reading_document(bundle, read_spectra(bundle, spectra))
