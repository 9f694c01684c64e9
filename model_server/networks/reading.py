"""Force constants read off folded spectra by a frozen network, and how far to believe them.

What ``beamsteer guess``, ``beamsteer.guess`` and ``POST /v1/estimate`` all call. A reading is no
posterior: beside its values stand the error that the network made on simulated spectra of as many
counts, and where the spectrum lies among those it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_server.networks.architectures import Network
from model_server.networks.bundle import Bundle, distances
from model_server.networks.density import ConditionalDensity
from model_server.networks.folded_spectrum_file import FoldedSpectrum
from model_server.networks.latent_space import PrincipalMap
from simulations.arrays import FloatArray
from simulations.errors import InputError

AT_ONCE = 256  # spectra that the network sees in one pass
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""Of simulated spectra that are nearer, at the distances that a card keeps."""
FAR = 0.99  # a spectrum farther out than this share of the simulated ones is not one of theirs
NOTE = (
    "read by a frozen network: typical_error is the error it made on simulated spectra of as many "
    "counts, spread is no error bar. Error bars come from the refinement"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """What a network reads off one spectrum; arrays are (parameters,), eV/angstrom^2."""

    name: str  # of the spectrum
    values: FloatArray
    spread: FloatArray  # over latent samples; no error bar unless there is an interval
    interval: tuple[FloatArray, FloatArray] | None  # of 90 % of a flow's posterior; None: no flow
    typical_error: FloatArray | None  # root mean square on simulated spectra; None: counts unknown
    counts: float | None  # in the cells that the network sees
    known: float  # share of these cells that were measured
    latent_distance: float  # about 1 inside
    latent_share: float | None  # of simulated spectra that are nearer; None: the card tells none
    latent_place: FloatArray | None  # (2,) in the map of simulated ones; None likewise
    checked: tuple[str, ...]  # parts of the experiment that were compared


def read_spectra(
    bundle: Bundle, spectra: Sequence[FoldedSpectrum], *, experiment: str | None = None
) -> list[Reading]:
    """Read force constants off folded spectra.

    Parameters
    ----------
    bundle : Bundle
    spectra : sequence of FoldedSpectrum
    experiment : str, optional
        Hash of the experiment that they are of, as cards give it.

    Returns
    -------
    list of Reading
        In the order of ``spectra``.

    Raises
    ------
    BundleMismatchError
        If one is of another experiment than the bundle was trained for.
    InputError
        If one has nothing in the cells that the network sees, or ``experiment`` is another.
    """
    own = bundle.card["experiment"]["hash"]
    if experiment is not None and experiment != own:
        raise InputError(
            f"experiment is {experiment[:80]!r}; expected {own!r}, that of model {bundle.name!r}. "
            "Name another model, or train one with `beamsteer train`."
        )
    seen = []
    for one in spectra:
        parts = one.parts()
        bundle.check_parts(parts, one.name)
        inputs, known = bundle.inputs_of(one.intensity, None, one.exposure, one.counts)
        if not known.any() or not inputs[: inputs.size // 2].any():
            raise InputError(
                f"{one.name}: nothing was counted in the cells that the network sees; expected "
                "some counts above the elastic line. Fold more data."
            )
        seen.append((one, tuple(parts), inputs, known))
    return [
        reading
        for first in range(0, len(seen), AT_ONCE)
        for reading in _read(bundle, seen[first : first + AT_ONCE])
    ]


def _read(bundle: Bundle, seen: Sequence[tuple[Any, ...]]) -> list[Reading]:
    inputs = np.stack([one[2] for one in seen])
    centre, spread = bundle.network.read(inputs)
    ends = None
    if isinstance(bundle.network, ConditionalDensity):
        ends = bundle.prior_mean + bundle.prior_sigma * np.stack(bundle.network.intervals(inputs))
    codes = bundle.network.codes(inputs)[0]
    far = distances(codes, bundle.network)
    map_ = PrincipalMap.of_card(bundle.card)
    fine = bundle.grid.path_group * bundle.grid.energy_group
    found = []
    for k, (spectrum, checked, _, known) in enumerate(seen):
        counts = None
        if spectrum.counts is not None:
            measured = np.where(spectrum.exposure > 0, spectrum.counts, 0.0)
            counts = float(bundle.grid.sums(measured).sum())
        found.append(
            Reading(
                name=spectrum.name,
                values=bundle.prior_mean + bundle.prior_sigma * centre[k],
                spread=bundle.prior_sigma * spread[k],
                interval=None if ends is None else (ends[0, k], ends[1, k]),
                typical_error=typical_error(bundle, counts),
                counts=counts,
                known=float(known.mean()) / fine,
                latent_distance=float(far[k]),
                latent_share=latent_share(bundle.card, float(far[k]), counts),
                latent_place=None if map_ is None else map_.place(codes[k]),
                checked=checked,
            )
        )
    return found


def typical_error(bundle: Bundle, counts: float | None) -> FloatArray | None:
    """Root mean square error on simulated spectra of so many counts, (parameters,), eV/angstrom^2.

    Between the levels of the card by the logarithm of counts, at its ends that of the level there.
    At a level half of the counts are background.
    """
    levels = bundle.card["accuracy"]
    if counts is None:
        return None
    r2 = np.array([level["r2"] for level in levels], dtype=float)
    at = np.log([_phonon_counts(level) for level in levels])
    here = np.log(max(counts / 2, 1.0))
    share = np.array([np.interp(here, at, 1 - row) for row in r2.T])
    return bundle.prior_sigma * np.sqrt(np.clip(share, 0.0, None))


def latent_share(
    card: Mapping[str, Any], distance: float, counts: float | None = None
) -> float | None:
    """Share of simulated spectra of so many counts that lie nearer than ``distance``.

    None where the card keeps no distances. Where counts are unknown: the largest share that any
    level gives.
    """
    levels = card.get("latent distance", {}).get("levels", [])
    if not levels:
        return None
    shares = np.array([np.interp(distance, one["distance"], SHARES) for one in levels])
    if counts is None:
        return float(shares.max())
    at = np.log([one["counts"] for one in levels])
    return float(np.interp(np.log(max(counts / 2, 1.0)), at, shares))


def distance_table(codes: Mapping[float, FloatArray], network: Network) -> dict[str, Any]:
    """What a card keeps of the distances of simulated spectra.

    Parameters
    ----------
    codes : mapping
        Codes (spectra, latent) by phonon counts of each spectrum.
    network : Network
    """
    return {
        "shares of simulated spectra that are nearer": list(SHARES),
        "levels": [
            {
                "counts": counts,
                "spectra": len(some),
                "distance": np.round(np.quantile(distances(some, network), SHARES), 4).tolist(),
            }
            for counts, some in codes.items()
        ],
    }


def _phonon_counts(level: Mapping[str, Any]) -> float:
    """Of ``1,000 counts``, as labels of cards are."""
    return float(str(level["label"]).split()[0].replace(",", ""))


def reading_document(bundle: Bundle, readings: Sequence[Reading]) -> dict[str, Any]:
    """Readings as they are answered and printed: names, units, values and what backs them."""
    return {
        "model": bundle.name,
        "architecture": bundle.card["architecture"],
        "experiment": bundle.card["experiment"]["hash"],
        "estimates": [_document(bundle, one) for one in readings],
        "notes": _notes(bundle.card),
    }


def _notes(card: Mapping[str, Any]) -> list[str]:
    """What backs a reading: errors on simulated spectra, or the calibration of a posterior."""
    table = card.get("calibration")
    if table is None:
        return [NOTE]
    held = ", ".join(f"{np.mean(row['coverage']):.0%} at {row['bin']}" for row in table["bins"])
    return [
        f"low and high are {table['level']:.0%} intervals of a learned posterior; on simulated "
        f"runs that it was not trained on they held the truth in {held}. They know of no can, no "
        "expected parts and no other structure. The last word is the refinement's"
    ]


def _document(bundle: Bundle, reading: Reading) -> dict[str, Any]:
    error = reading.typical_error
    share = reading.latent_share
    return {
        "name": reading.name,
        "parameters": [
            {
                "name": name,
                "unit": bundle.card["parameters"].get("unit", "eV/angstrom^2"),
                "value": float(reading.values[k]),
                "typical_error": None if error is None else float(error[k]),
                "spread": float(reading.spread[k]),
                "low": None if reading.interval is None else float(reading.interval[0][k]),
                "high": None if reading.interval is None else float(reading.interval[1][k]),
                "prior_mean": float(bundle.prior_mean[k]),
                "prior_sigma": float(bundle.prior_sigma[k]),
            }
            for k, name in enumerate(bundle.parameter_names)
        ],
        "counts": reading.counts,
        "known": reading.known,
        "latent_distance": reading.latent_distance,
        "latent_share": share,
        "latent_place": None
        if reading.latent_place is None
        else [round(float(x), 4) for x in reading.latent_place],
        "inside": None if share is None else share <= FAR,
        "checked": list(reading.checked),
    }
