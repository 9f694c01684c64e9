"""Bundle of springs: weights, a card for programs and one for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from model_server.direct.springs import (
    REACH_A,
    Bonds,
    SpringNetwork,
    SpringShape,
    ask_springs,
)
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.saved_file import write_whole

WEIGHTS, CARD, MODEL_CARD = "weights.safetensors", "springs.json", "MODEL_CARD.md"
FORMAT = 1
_NAME = "springs"


class SpringBundleError(InputError):
    """A bundle is missing, damaged or of another version; the message says what."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SpringBundle:
    """A network that is ready to be asked, with its card."""

    network: SpringNetwork
    card: Mapping[str, Any]

    def ask(self, bonds: Bonds, stiffness: FloatArray) -> FloatArray:
        """As `ask_springs`."""
        return ask_springs(self.network, bonds, stiffness)

    def save(self, folder: Path) -> None:
        """Write the bundle into a folder, which is made; existing files are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in self.network.state_dict().items()}
        shape = self.network.shape
        sizes = {"site": shape.site, "hidden": shape.hidden, "dropout": shape.dropout}
        card = {**self.card, "format": FORMAT, "shape": sizes}
        write_whole(folder / WEIGHTS, save_tensors(tensors))
        write_whole(folder / CARD, json.dumps(card, indent=1) + "\n")
        write_whole(folder / MODEL_CARD, _model_card(card))


def load_spring_bundle(folder: Path | None = None) -> SpringBundle:
    """The bundle that ships, or that of a folder.

    Raises
    ------
    SpringBundleError
        If it is missing, damaged or of another version.
    """
    return _load(None if folder is None else folder.resolve())


@cache
def _load(folder: Path | None) -> SpringBundle:
    at = resources.files("model_server") / "bundles" / _NAME if folder is None else folder
    told = _NAME if folder is None else str(folder)
    try:
        card = json.loads((at / CARD).read_text(encoding="utf-8"))
        tensors = load_tensors((at / WEIGHTS).read_bytes())
        if card["format"] != FORMAT:
            raise SpringBundleError(
                f"springs {told!r}: format is {card['format']}; this version reads {FORMAT}. "
                "Train them again with `beamsteer train-springs`."
            )
        network = SpringNetwork(SpringShape(**card["shape"]))
        network.load_state_dict(tensors)
    except SpringBundleError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise SpringBundleError(
            f"springs {told!r} cannot be loaded ({type(error).__name__}: {error}); expected a "
            f"folder with {WEIGHTS} and {CARD}. Make one with `beamsteer train-springs`."
        ) from error
    return SpringBundle(network=network.eval(), card=card)


def _model_card(card: Mapping[str, Any]) -> str:
    training = "\n".join(f"- {key}: {value}" for key, value in card["training"].items())
    measured = "\n".join(f"| {row['what']} | {row['figure']} |" for row in card["measured"])
    return f"""# Model bundle of springs

Reads how stiff the bonds of a crystal are, along and across, from the structure and how stiff its
sites are. The direct route takes from it which atoms move together, not energies.

## Measured on formulas that took no part in training

| what | figure |
|---|---|
{measured}

## What it is not

No force constants to take for themselves: what bonds have besides (tensors that are not round
about the bond, charges, bonds beyond {REACH_A:g} angstrom) is left out, and some modes, of some
crystals a quarter, come out imaginary.

## Training

{training}

Source: phonondb@kyoto-u 2018-04-17, A. Togo, CC BY 4.0.
"""
