"""A model bundle: a frozen network with a card that says what it is and what it is for.

A bundle is a folder of ``weights.safetensors``, ``card.json`` (what the program reads) and
``MODEL_CARD.md`` (what a person reads). Nothing in it is executed. It carries a hash of the
experiment it was trained for and refuses any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from model_server.networks.architectures import ARCHITECTURES, OURS, Network, architecture_of
from model_server.networks.autoencoders import CoarseGrid
from model_server.networks.density import DRAWS, ConditionalDensity, halves
from model_server.networks.fetched_bundle_store import fetched, is_address
from simulations.arrays import FloatArray, SingleArray
from simulations.errors import InputError
from simulations.fold import CellSums
from simulations.saved_file import write_whole

FORMAT = 1
WEIGHTS, CARD, MODEL_CARD = "weights.safetensors", "card.json", "MODEL_CARD.md"
LATENT = "latent.json"  # what `beamsteer latent --calibrate` found, where it was run
FETCHED = {CARD: 2**20, MODEL_CARD: 2**20, WEIGHTS: 2**28}  # files of an address, most bytes


class BundleError(InputError):
    """A bundle is missing, damaged or of another version; the message says what."""


class BundleMismatchError(BundleError):
    """A bundle was trained for another experiment."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Domain:
    """What must agree between training and use."""

    parameter_names: tuple[str, ...]
    path_hkl: FloatArray  # (path bins, 3) centres of the path bins, r.l.u.
    energy_edges_meV: FloatArray  # (energy bins + 1,)
    isotopes: tuple[str, ...] = ()  # what species are other than natural, in words

    def parts(self) -> dict[str, str]:
        """One hash per part, so that a mismatch can be named."""
        found = axis_parts(
            parameter_names=self.parameter_names,
            path_hkl=self.path_hkl,
            energy_edges_meV=self.energy_edges_meV,
            isotopes=self.isotopes,
        )
        return {part: told for part, told in found.items() if told}

    @property
    def hash(self) -> str:
        """Hash of everything that must agree."""
        return hashlib.sha256("".join(self.parts().values()).encode()).hexdigest()[:16]


def axis_parts(
    *,
    path_hkl: FloatArray,
    energy_edges_meV: FloatArray,
    parameter_names: Sequence[str] | None,
    isotopes: Sequence[str] | None,
) -> dict[str, str]:
    """Hash of every part of an experiment that is known; empty for natural elements alone.

    Parameters
    ----------
    path_hkl : (path bins, 3) float64
    energy_edges_meV : (energy bins + 1,) float64
    parameter_names, isotopes : sequence of str, optional
        None: nobody said, and the part is left out.
    """

    def digest(value: Any) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

    def numbers(array: FloatArray) -> list[Any]:
        return (np.round(np.asarray(array, dtype=float), 6) + 0.0).tolist()

    found: dict[str, str] = {}
    if parameter_names is not None:
        found["parameter names"] = digest(list(parameter_names))
    found["path"] = digest(numbers(path_hkl))
    found["energy axis"] = digest(numbers(energy_edges_meV))
    if isotopes is not None:
        found["isotopes"] = digest(list(isotopes)) if isotopes else ""
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A frozen network and what it is for; ``estimate`` takes milliseconds.

    The spread that it returns is not an error bar: parameters to which the spectrum does not
    respond come out narrow and wrong; but for a flow, whose posterior is calibrated. It serves as a
    ``FirstGuess`` for the refinement.
    """

    name: str
    parameter_names: tuple[str, ...]
    prior_mean: FloatArray  # (parameters,) eV/angstrom^2
    prior_sigma: FloatArray  # (parameters,)
    grid: CoarseGrid
    network: Network
    card: Mapping[str, Any]  # architecture, experiment hash, training, measured accuracy

    @classmethod
    def load(cls, name_or_folder: str | Path) -> Bundle:
        """Load a shipped bundle by name, a folder, or a web address, see ``fetched_bundle``.

        Raises
        ------
        BundleError
            If it is missing, damaged, of another version or of an unknown architecture.
        """
        if isinstance(name_or_folder, str) and is_address(name_or_folder):
            name_or_folder = fetched_bundle(name_or_folder)
        name = str(name_or_folder)
        is_shipped = isinstance(name_or_folder, str) and name in shipped_bundles()
        folder = bundles_folder() / name if is_shipped else Path(name)
        try:
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            tensors = load_tensors((folder / WEIGHTS).read_bytes())
        except (OSError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BundleError(
                f"model {name!r} cannot be loaded ({type(error).__name__}: {error}); expected one "
                f"of {', '.join(shipped_bundles()) or 'no shipped bundle'}, or a folder with "
                f"{WEIGHTS} and {CARD}. Make one with `beamsteer train`."
            ) from error
        try:
            return cls._from_parts(Path(name).name, card, tensors)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(
                f"model {name!r} is damaged or of another version ({type(error).__name__}: {error})"
            ) from error

    @classmethod
    def _from_parts(cls, name: str, card: dict[str, Any], tensors: dict[str, Tensor]) -> Bundle:
        if card["format"] != FORMAT:
            raise BundleError(
                f"model {name!r}: format is {card['format']}; this version reads {FORMAT}. "
                "Train it again."
            )
        # Bundles trained before cards named it are of the only architecture there was.
        architecture = card.get("architecture", OURS)
        if architecture not in ARCHITECTURES:
            raise BundleError(
                f"model {name!r}: architecture is {architecture!r}; this version knows "
                f"{', '.join(ARCHITECTURES)}. Train it again, or use the version that wrote it."
            )
        grid = CoarseGrid(**card["grid"])
        names = tuple(card["parameters"]["names"])
        return cls(
            name=name,
            parameter_names=names,
            prior_mean=np.array(card["parameters"]["prior_mean"], dtype=float),
            prior_sigma=np.array(card["parameters"]["prior_sigma"], dtype=float),
            grid=grid,
            network=ARCHITECTURES[architecture].load(
                card["network"], tensors, shape=grid.shape, parameters=len(names)
            ),
            card={**card, "architecture": architecture},
        )

    def with_card(self, more: Mapping[str, Any]) -> Bundle:
        """The same with more on its card."""
        return replace(self, card={**self.card, **more})

    def save(self, folder: Path) -> None:
        """Write the bundle into a folder, which is made; existing files are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in self.network.tensors().items()}
        # The largest first: where a disk lacks room for it, the bundle before stays.
        write_whole(folder / WEIGHTS, save_tensors(tensors))
        write_whole(folder / CARD, json.dumps(self.card, indent=1) + "\n")
        write_whole(folder / MODEL_CARD, model_card(self.card))

    @staticmethod
    def keep_latent(folder: Path, found: Mapping[str, Any]) -> None:
        """Put an analysis of the latent, plain values, beside the bundle of a folder."""
        write_whole(folder / LATENT, json.dumps(found, separators=(",", ":")) + "\n")

    def check(self, domain: Domain) -> None:
        """Refuse an experiment that the bundle was not trained for.

        Raises
        ------
        BundleMismatchError
            Naming what differs.
        """
        wrong = self.differing({"isotopes": "", **domain.parts()})
        if wrong:
            raise BundleMismatchError(
                f"{self._trained_otherwise(wrong)} Set `model: null` to go on without an encoder, "
                "or train a bundle for this experiment with `beamsteer train`."
            )

    def differing(self, parts: Mapping[str, str]) -> list[str]:
        """Which of the parts that are known of an experiment are not those trained for."""
        trained: dict[str, str] = self.card["experiment"]["parts"]
        return [part for part, told in parts.items() if trained.get(part, "") != told]

    def check_parts(self, parts: Mapping[str, str], whose: str) -> None:
        """Refuse a spectrum whose experiment, as far as it is known, is another one.

        Parameters
        ----------
        parts : mapping
            Of ``axis_parts``; what is not known is not compared.
        whose : str
            Name of the spectrum.

        Raises
        ------
        BundleMismatchError
            Naming what differs.
        """
        wrong = self.differing(parts)
        if wrong:
            raise BundleMismatchError(
                f"{whose}: {self._trained_otherwise(wrong)} Name another model, or train one for "
                "this experiment with `beamsteer train`."
            )

    def _trained_otherwise(self, wrong: Sequence[str]) -> str:
        names = ", ".join(self.parameter_names)
        return (
            f"model {self.name!r} was trained for another experiment: {' and '.join(wrong)} "
            f"differ (its parameters: {names})."
        )

    def inputs_of(
        self,
        intensity: ArrayLike,
        sigma: ArrayLike | None,
        exposure: ArrayLike | None,
        counts: ArrayLike | None = None,
    ) -> tuple[SingleArray, FloatArray]:
        """What the network sees of a spectrum, and how many cells of it are known.

        Parameters as of ``estimate``; ``counts`` (path bins, energy bins) are raw events, which a
        network that must know them takes from ``sigma`` where they are not given.

        Returns
        -------
        inputs : (inputs,) float32
        known : (rows, columns) float64
            Known fine cells of every coarse one.
        """
        x = np.asarray(intensity, dtype=float)
        known = np.isfinite(x)
        if exposure is not None:
            D = np.asarray(exposure, dtype=float)
        elif sigma is not None and np.shape(sigma) == x.shape:
            D = self._exposure(x, np.asarray(sigma, dtype=float), known)
        else:
            D = np.ones_like(x)
        if x.ndim != 2 or D.shape != x.shape:
            raise ValueError(
                f"intensity has shape {x.shape} and exposure {D.shape}; expected (path bins, "
                "energy bins) for both"
            )
        known &= D > 0
        D = np.where(known, D, 0.0)
        signal = np.where(known, x, 0.0) * D
        sees = architecture_of(self.network.architecture)
        if sees.counted:
            signal = signal * self._counts_per_signal(signal, known, D, sigma, counts)
        coarse = sees.see(
            self.grid.sums(signal),
            self.grid.sums(D),
            self.grid.sums(known) / (self.grid.path_group * self.grid.energy_group),
        )
        return coarse, self.grid.sums(known)

    def _counts_per_signal(
        self,
        signal: FloatArray,
        known: NDArray[np.bool_],
        D: FloatArray,
        sigma: ArrayLike | None,
        counts: ArrayLike | None,
    ) -> float:
        """Independent events behind one unit of the signal.

        Raises
        ------
        InputError
            If neither counts nor errors are known.
        """
        total = float(self.grid.sums(signal).sum())
        if counts is not None:
            N = np.where(known, np.asarray(counts, dtype=float), 0.0)
            return float(self.grid.sums(N).sum()) / total if total > 0 else 1.0
        if sigma is not None:
            error = np.where(known, np.nan_to_num(np.asarray(sigma, dtype=float)), 0.0) * D
            variance = float(self.grid.sums(error**2).sum())
            return total / variance if total > 0 and variance > 0 else 1.0
        raise InputError(
            f"model {self.name!r} gives a posterior, whose width depends on how much was counted; "
            "expected counts (N) or errors beside the intensity. Give them, or name another model."
        )

    @staticmethod
    def _exposure(x: FloatArray, sigma: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
        """Exposure of counts: I / sigma^2; where nothing was counted, the median of its row."""
        counted = known & (x > 0) & (sigma > 0)
        D = np.where(counted, x / np.where(counted, sigma, 1.0) ** 2, np.nan)
        overall = float(np.median(D[counted])) if counted.any() else 1.0
        for row in range(len(D)):
            here = counted[row]
            fill = float(np.median(D[row, here])) if here.any() else overall
            D[row, known[row] & ~here] = fill
        return np.nan_to_num(D)

    def estimate(
        self,
        intensity: ArrayLike,
        sigma: ArrayLike | None = None,
        exposure: ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Force constants of a folded spectrum.

        Parameters
        ----------
        intensity : (path bins, energy bins) array_like
            I = S / D; NaN where D = 0. Any scale.
        sigma : (path bins, energy bins) array_like, optional
            sqrt(V) / D. Gives the weights of cells when ``exposure`` is not given.
        exposure : (path bins, energy bins) array_like, optional
            D. With it cells are joined with their proper weight, as in training.

        Returns
        -------
        values : (parameters,) float64
            eV/angstrom^2, in the order of ``parameter_names``.
        spread : (parameters,) float64
            Standard deviation over latent samples. Not an error bar.

        Raises
        ------
        ValueError
            If the shape is not the one trained for, or no cell is known.
        """
        inputs, known = self.inputs_of(intensity, sigma, exposure)
        if not known.any():
            raise InputError(
                "no cell of the spectrum that the encoder sees is known; fold more data"
            )
        centre, spread = self.network.read(inputs)
        return self.prior_mean + self.prior_sigma * centre, self.prior_sigma * spread

    def guess(self, sums: CellSums) -> FloatArray:
        """Places to begin a fit at, (guesses, parameters), eV/angstrom^2.

        One; of a flow three: the mean of its posterior, and those of its halves across the
        direction in which it is widest, where two modes would lie.

        Raises
        ------
        ValueError
            As ``estimate``.
        """
        values, _ = self.estimate(sums.intensity, sums.sigma, sums.exposure)
        if not isinstance(self.network, ConditionalDensity):
            return values[None]
        inputs, _ = self.inputs_of(sums.intensity, sums.sigma, sums.exposure)
        return self.prior_mean + self.prior_sigma * halves(self.network.draws(inputs, DRAWS))

    def latent_distance(
        self,
        intensity: ArrayLike,
        sigma: ArrayLike | None = None,
        exposure: ArrayLike | None = None,
    ) -> float:
        """How far a spectrum lies from the training spectra: about 1 inside, large outside."""
        inputs, _ = self.inputs_of(intensity, sigma, exposure)
        return self.network.distance(inputs)


def distances(codes: FloatArray, network: Network) -> FloatArray:
    """Mahalanobis distances (...,) of codes (..., latent), over the root of its dimension."""
    step = codes - network.latent_mean
    square = np.einsum("...i,ij,...j->...", step, network.latent_precision, step)
    return np.sqrt(np.maximum(square, 0.0) / codes.shape[-1])


def fetched_bundle(address: str) -> Path:
    """Folder of the bundle of a web address, fetched if it was not before.

    ``https://host/path/name``, where a web server hands out the three files of a bundle; behind it
    ``#sha256=`` and the hash of its weights, where no other version will do.

    Raises
    ------
    BundleError
        If there is none, or none that this version reads.
    """
    try:
        return fetched(address, FETCHED, pinned=WEIGHTS, check=Bundle.load)
    except InputError as error:
        raise BundleError(str(error)) from error


def bundles_folder() -> Path:
    """Where the bundles are that come with the package."""
    return Path(str(resources.files("model_server") / "bundles"))


def shipped_bundles() -> tuple[str, ...]:
    """Names of the bundles that come with the package."""
    folder = bundles_folder()
    if not folder.is_dir():
        return ()
    return tuple(sorted(f.name for f in folder.iterdir() if (f / CARD).is_file()))


def model_card(card: Mapping[str, Any]) -> str:
    """Write the card of a bundle for people, in Markdown."""
    names = card["parameters"]["names"]
    rows = "\n".join(
        f"| {name} | {mean:.4f} | {sigma:.4f} | "
        + " | ".join(f"{level['r2'][k]:.3f}" for level in card["accuracy"])
        + " |"
        for k, (name, mean, sigma) in enumerate(
            zip(
                names,
                card["parameters"]["prior_mean"],
                card["parameters"]["prior_sigma"],
                strict=True,
            )
        )
    )
    trust = (
        "Its spread is not an error bar. A parameter with a low R2 above is read from the prior, "
        "not from the\ndata, and still comes out with a narrow spread. Error bars come from the "
        "refinement."
    )
    if "calibration" in card:
        trust = _calibration_words(card["calibration"])
    heads = " | ".join(f"R2, {level['label']}" for level in card["accuracy"])
    rule = "---|" * (3 + len(card["accuracy"]))
    training = "\n".join(f"- {key}: {value}" for key, value in card["training"].items())
    experiment = "\n".join(
        f"- {key}: {value}" for key, value in card["experiment"].items() if key != "parts"
    )
    return f"""# {card["title"]}

{card["purpose"]}

Architecture: `{card["architecture"]}`.

## For which experiment

{experiment}

The bundle refuses an experiment whose path, energy axis, parameter names or isotopes differ.
Instrument, incident energy, temperature and tube width are recorded above but not enforced: a
spectrum from elsewhere shows as a large latent distance.

## Accuracy on {card["test_spectra"]} simulated spectra it was not trained on

| parameter | prior mean (eV/angstrom^2) | prior sigma | {heads} |
|{rule}
{rows}

## What it is not

{trust}

## Training

{training}
"""


def _calibration_words(table: Mapping[str, Any]) -> str:
    """How often intervals of a posterior held the truth, as a table."""
    rows = "\n".join(
        f"| {row['bin']} | {row['runs']} | {np.mean(row['coverage']):.3f} | "
        f"{min(row['coverage']):.3f} | {max(row['coverage']):.3f} | {np.mean(row['width']):.2f} |"
        for row in table["bins"]
    )
    return f"""Its intervals are those of a learned posterior, checked on simulated runs that it was
not trained on: share of {table["level"]:.0%} intervals that held the truth.

| counting time | runs | mean | lowest | highest | mean width over the prior's |
|---|---|---|---|---|---|
{rows}

It knows of no can, no multiphonon scattering and no other structure; the last word is the
refinement's."""
