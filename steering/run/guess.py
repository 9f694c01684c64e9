"""A first answer from ``folded.npz`` alone, by a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def guess_folded(
    paths: Sequence[Path], *, model: str = "germanium", models: Sequence[Path | str] = ()
) -> dict[str, Any]:
    """Read force constants off folds.

    Parameters
    ----------
    paths : sequence of Path
        ``folded.npz`` of ``beamsteer fold`` or ``replay``.
    model : str
        Name of a bundle, or web address of one.
    models : sequence of Path or str
        Bundles, folders of some, or web addresses of some, beside those that are shipped.

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
        Bundle,
        BundleRegistry,
        is_address,
        read_folded_spectrum,
        read_spectra,
        reading_document,
    )

    bundle = Bundle.load(model) if is_address(model) else BundleRegistry(models).get(model)
    spectra = [read_folded_spectrum(path, str(path)) for path in paths]
    return reading_document(bundle, read_spectra(bundle, spectra))
