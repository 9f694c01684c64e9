"""The bundle of the direct route: members, calibration, and a card that says what they can do.

A folder of ``weights.safetensors``, ``members.json`` (what the program reads) and
``MODEL_CARD.md`` (what a person reads). Nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from model_server.direct.bands import Bands
from model_server.direct.calibration import Calibration
from model_server.direct.members import MemberDensities, ask_members
from model_server.direct.network import Shape, SiteNetwork
from model_server.direct.training import Progressed
from simulations.arrays import FloatArray, IntArray
from simulations.errors import InputError
from simulations.saved_file import write_whole

FORMAT = 2
NAME = "direct"
WEIGHTS, CARD, MODEL_CARD = "weights.safetensors", "members.json", "MODEL_CARD.md"
_ARRAYS = ("seen", "latent_mean", "latent_axes", "references")
_NUMBERS = (
    "energy_low", "energy_high", "far", "distance_scale", "disagreement_scale", "rare_below",
    "most_atoms", "alone",
)  # fmt: skip


class DirectBundleError(InputError):
    """A bundle is missing, damaged or of another version; the message says what."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectBundle:
    """Members that are ready to be asked, with how far they may be off."""

    networks: tuple[SiteNetwork, ...]
    calibration: Calibration
    card: Mapping[str, Any]

    def ask(self, lattice: FloatArray, positions: FloatArray, numbers: IntArray) -> MemberDensities:
        """Site densities of a crystal, as `ask_members`."""
        return ask_members(self.networks, lattice, positions, numbers)

    def save(self, folder: Path) -> None:
        """Write the bundle into a folder, which is made; existing files are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for k, network in enumerate(self.networks):
            for name, value in network.state_dict().items():
                tensors[f"member{k}.{name}"] = value.contiguous()
        for name in _ARRAYS:
            value = torch.as_tensor(getattr(self.calibration, name))
            tensors[f"calibration.{name}"] = (
                value.float() if value.is_floating_point() else value
            ).contiguous()
        card = {
            **self.card,
            "format": FORMAT,
            "shapes": [network.shape.as_dict() for network in self.networks],
            "calibration": asdict(self.calibration.bands)
            | {name: getattr(self.calibration, name) for name in _NUMBERS},
        }
        # The largest first: where a disk lacks room for it, the bundle before stays.
        write_whole(folder / WEIGHTS, save_tensors(tensors))
        write_whole(folder / CARD, json.dumps(card, indent=1) + "\n")
        write_whole(folder / MODEL_CARD, model_card(card))


def load_direct_bundle(folder: Path | None = None) -> DirectBundle:
    """The bundle that ships, or that of a folder; read once.

    Raises
    ------
    DirectBundleError
        If it is missing, damaged or of another version.
    """
    return _load(None if folder is None else folder.resolve())


@lru_cache(maxsize=2)
def _load(folder: Path | None) -> DirectBundle:
    at = resources.files("model_server") / "bundles" / NAME if folder is None else folder
    told = NAME if folder is None else str(folder)
    try:
        card = json.loads((at / CARD).read_text(encoding="utf-8"))
        tensors = load_tensors((at / WEIGHTS).read_bytes())
    except (OSError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DirectBundleError(
            f"direct model {told!r} cannot be loaded ({type(error).__name__}: {error}); expected a "
            f"folder with {WEIGHTS} and {CARD}. Make one with `beamsteer train-direct`."
        ) from error
    try:
        if card["format"] != FORMAT:
            raise DirectBundleError(
                f"direct model {told!r}: format is {card['format']}; this version reads {FORMAT}. "
                "Train it again."
            )
        networks = []
        for k, shape in enumerate(card["shapes"]):
            network = SiteNetwork(Shape(**shape))
            prefix = f"member{k}."
            network.load_state_dict(
                {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}
            )
            networks.append(network.eval())
        arrays = {name: tensors[f"calibration.{name}"].numpy() for name in _ARRAYS}
        known: dict[str, Any] = {
            name: value.astype(np.float64 if value.dtype.kind == "f" else np.int64)
            for name, value in arrays.items()
        }
        numbers = dict(card["calibration"])
        bands = Bands(**{field.name: numbers.pop(field.name) for field in fields(Bands)})
        alone = tuple(numbers.pop("alone", ()))  # bundles before did not count them
        calibration = Calibration(bands=bands, alone=alone, **numbers, **known)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, DirectBundleError):
            raise
        raise DirectBundleError(
            f"direct model {told!r} is damaged or of another version "
            f"({type(error).__name__}: {error}). Train it again."
        ) from error
    return DirectBundle(networks=tuple(networks), calibration=calibration, card=card)


def save_progressed(path: Path, progressed: Progressed) -> None:
    """Write where a training stands, in one step."""
    tensors = {k: v.contiguous() for k, v in progressed.tensors.items()}
    write_whole(path, save_tensors(tensors, metadata={"epoch": str(progressed.epoch)}))


def load_progressed(path: Path) -> Progressed | None:
    """Where a training stands; None if it has not begun.

    Raises
    ------
    DirectBundleError
        If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return Progressed(
            epoch=int(header["__metadata__"]["epoch"]), tensors=dict(load_tensors(data))
        )
    except (SafetensorError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise DirectBundleError(
            f"{path} is no training that can go on ({type(error).__name__}: {error}). Remove it to "
            "begin anew"
        ) from error


def model_card(card: Mapping[str, Any]) -> str:
    """Write the card of a bundle for people, in Markdown."""
    training = "\n".join(f"- {key}: {value}" for key, value in card["training"].items())
    measured = "\n".join(f"| {row['what']} | {row['figure']} |" for row in card.get("measured", []))
    return f"""# Model bundle of the direct route

Reads the site-projected phonon density of states of every atom from the structure alone.
{len(card["shapes"])} equivariant networks; their mean is the answer.

## Measured on formulas that took no part in training or calibration

| what | figure |
|---|---|
{measured}

## What it is not

Densities of states only: no dispersion, no force constants. Motion counts as isotropic at every
site. Energies are those of the DFT it learned from (PBEsol). A crystal that is unlike the training
set is called far from it; bands do not hold there. Crystals with imaginary modes were left out of
training: an unstable structure gets a density as if it were stable.

## Training

{training}

Source: phonondb@kyoto-u 2018-04-17, A. Togo, CC BY 4.0.
"""
