"""Recipes by name: how the networks of the literature were trained, and how ours is.

Su and Li (2024) publish sizes, optimiser and epochs with their code (Zenodo 10373288); labels were
in eV/angstrom^2 there and are in prior sigmas here, which only changes what "equal weight" means.
Of Sable (2026) the latent of 20 dimensions is known to this project, and nothing else of the
recipe: the rest is that of Su and Li. No one published a recipe of the residual network for
this purpose: architecture of He et al. (2016), schedule ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from model_server.networks import PUBLISHED_HIDDEN
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the variational encoder of a bundle is trained: coverage and noise drawn afresh."""

    latent: int = 20
    hidden: int = 160
    regressor_hidden: int = 128
    epochs: int = 150
    batch: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-3
    kl_weight: float = 1e-3
    reconstruction_weight: float = 0.3
    counts: tuple[float, float] = (300.0, 300_000.0)  # phonon counts in a spectrum, log-uniform
    background: tuple[float, float] = (0.0, 2.0)  # background counts over phonon counts, uniform
    tilt: float = 0.5  # of a background of the shape of the exposure, along energy, at most
    test_share: float = 0.1

    @property
    def architecture(self) -> str:
        """Name in the registry."""
        return "variational-encoder"

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes of the network, as its card keeps them."""
        return {
            "hidden": self.hidden,
            "latent": self.latent,
            "regressor_hidden": self.regressor_hidden,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecipe:
    """How a network of the literature is trained."""

    architecture: str
    source: str
    optimiser: Literal["sgd", "adam"] = "sgd"  # adam: with one cycle of the learning rate
    learning_rate: float = 0.1
    momentum: float = 0.9
    batch: int = 64
    epochs: int = 2000
    kl_weight: float = 1e-6  # of the divergence summed over a batch, beside a mean square
    latent: int = 30
    hidden: int = 400
    channels: tuple[int, ...] = (32, 64, 128)
    regressor_hidden: tuple[int, ...] = PUBLISHED_HIDDEN
    regressor_learning_rate: float = 0.05
    regressor_epochs: int = 2000
    fine_tuning_epochs: int = 500
    noisy: bool = False  # counts drawn afresh as for ours; else clean spectra
    counts: tuple[float, float] = (300.0, 300_000.0)
    background: tuple[float, float] = (0.0, 2.0)
    tilt: float = 0.5
    test_share: float = 0.1

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes of the network, as its card keeps them."""
        if self.architecture == "resnet-18":
            return {}
        sizes: dict[str, Any] = {
            "hidden": self.hidden,
            "latent": self.latent,
            "regressor_hidden": list(self.regressor_hidden),
        }
        if self.architecture.startswith("conv"):
            sizes["channels"] = list(self.channels)
        return sizes

    def shortened(self, epochs: int, regressor_epochs: int | None = None) -> ImageRecipe:
        """The same network in fewer passes: Adam, and one cycle of the learning rate."""
        return replace(
            self,
            optimiser="adam",
            learning_rate=1e-3,
            regressor_learning_rate=1e-3,
            epochs=epochs,
            regressor_epochs=epochs if regressor_epochs is None else regressor_epochs,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowRecipe:
    """How a conditional density is trained: coverage, counts and set-up drawn afresh."""

    hidden: int = 256
    context: int = 96
    transforms: int = 2
    bins: int = 8
    flow_hidden: int = 96
    dropout: float = 0.1
    channels: tuple[int, ...] = (16, 32, 64)  # none: no convolutions
    epochs: int = 40
    batch: int = 256
    learning_rate: float = 1.5e-3
    weight_decay: float = 3e-2
    counts: tuple[float, float] = (1_000.0, 600_000.0)  # phonon counts in a spectrum, log-uniform
    background: tuple[float, float] = (0.0, 2.0)  # background counts over phonon counts, uniform
    tilt: float = 0.0  # of the background along energy: none, as the refinement believes
    test_share: float = 0.1

    counts_per_minute: float = 3_000.0  # phonon counts: what minutes of a calibration mean
    minutes: tuple[float, ...] = (1.0, 3.0, 10.0, 40.0, 120.0)  # edges of a calibration's bins

    @property
    def architecture(self) -> str:
        """Name in the registry."""
        return "flow"

    @property
    def bins_of_counts(self) -> dict[str, tuple[float, float]]:
        """Phonon counts between two edges of minutes, by label."""
        edges = zip(self.minutes, self.minutes[1:], strict=False)
        return {
            f"{low:g} to {high:g} min": (
                low * self.counts_per_minute,
                high * self.counts_per_minute,
            )
            for low, high in edges
        }

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes of the network, as its card keeps them."""
        return {
            "hidden": self.hidden,
            "context": self.context,
            "transforms": self.transforms,
            "bins": self.bins,
            "flow_hidden": self.flow_hidden,
            "dropout": self.dropout,
            "channels": list(self.channels),
        }


AnyRecipe: TypeAlias = Recipe | ImageRecipe | FlowRecipe

_SU_LI = "Y. Su and C. Li (2024), Zenodo 10373288"

RECIPES: Mapping[str, AnyRecipe] = {
    "beamsteer": Recipe(),
    "su-li-2024-fc-ae": ImageRecipe(architecture="fc-ae", source=_SU_LI),
    "su-li-2024-fc-vae": ImageRecipe(architecture="fc-vae", source=_SU_LI),
    "su-li-2024-conv-ae": ImageRecipe(architecture="conv-ae", source=_SU_LI, hidden=200),
    "su-li-2024-conv-vae": ImageRecipe(architecture="conv-vae", source=_SU_LI, hidden=200),
    "sable-2026-vae": ImageRecipe(
        architecture="fc-vae",
        source="Sable (2026): 20 latent dimensions; all else of Su and Li",
        latent=20,
    ),
    "resnet-18": ImageRecipe(
        architecture="resnet-18",
        source="K. He et al. (CVPR 2016); schedule ours",
        optimiser="adam",
        learning_rate=1e-3,
        epochs=60,
    ),
    "beamsteer-flow": FlowRecipe(),
}
"""Every recipe by its name."""


def recipe_of(architecture: str) -> AnyRecipe:
    """First recipe of an architecture.

    Raises
    ------
    ValueError
        If no recipe is of that architecture.
    """
    for recipe in RECIPES.values():
        if recipe.architecture == architecture:
            return recipe
    known = dict.fromkeys(recipe.architecture for recipe in RECIPES.values())
    raise InputError(f"architecture is {architecture!r}; expected one of {', '.join(known)}")
