"""Training of the networks of the literature: autoencoder, then regressor; fine-tuning; direct."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_server.networks import (
    ImageNetwork,
    Regressor,
    ResNet18,
    architecture_of,
    image_regressor,
    kl_to_normal,
    masked_flatten,
    sample_latent,
)
from model_server.training.progressed_file import Keeping, Stage
from model_server.training.recipes import ImageRecipe
from simulations.arrays import FloatArray, SingleArray
from simulations.errors import InputError
from simulations.progress import Progress

FEWEST_STEPS = 30  # of a cycle of the learning rate
RIDGE = 1e-3
"""Added to the covariance of latents before it is inverted."""


class Images(Protocol):
    """Spectra as images, possibly with noise that is drawn whenever they are seen."""

    @property
    def rngs(self) -> tuple[np.random.Generator, ...]:
        """What noise is drawn by."""
        ...

    def __len__(self) -> int:
        """Number of spectra."""
        ...

    def batch(self, rows: NDArray[np.int64]) -> tuple[SingleArray, SingleArray]:
        """What the network sees, and what a decoder should rebuild, (rows, rows, columns)."""
        ...


class CleanImages:
    """The same images every time."""

    def __init__(self, images: SingleArray) -> None:
        self.images = images

    @property
    def rngs(self) -> tuple[np.random.Generator, ...]:
        """As ``Images.rngs``: none."""
        return ()

    def __len__(self) -> int:
        """Number of spectra."""
        return len(self.images)

    def batch(self, rows: NDArray[np.int64]) -> tuple[SingleArray, SingleArray]:
        """As ``Images.batch``."""
        return self.images[rows], self.images[rows]


def train_images(
    images: Images,
    mask: NDArray[np.bool_],
    targets: FloatArray,
    recipe: ImageRecipe,
    seed: int,
    progress: Progress | None = None,
    *,
    keeping: Keeping | None = None,
) -> ImageNetwork:
    """Train a network of the literature by its recipe.

    Parameters
    ----------
    images : Images
        Normalised over the mask.
    mask : (rows, columns) bool
        Cells that the network sees.
    targets : (spectra, parameters) float64
        Parameters in prior sigmas from the prior mean.
    recipe : ImageRecipe
    seed : int
        The same seed gives the same weights on the same machine and number of threads.
    progress : callable, optional
        Told how far it is.
    keeping : Keeping, optional
        Where it stands is kept there.

    Returns
    -------
    ImageNetwork
        Frozen.

    Raises
    ------
    ValueError
        If there are fewer spectra than a batch, or numbers differ.
    """
    if len(images) < recipe.batch or len(targets) != len(images):
        raise InputError(
            f"{len(images)} spectra with {len(targets)} sets of parameters; expected as many of "
            f"both, and at least a batch of {recipe.batch}"
        )
    rng = np.random.default_rng(seed)
    kept = keeping or Keeping()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = architecture_of(recipe.architecture).body
        if build is None:
            raise InputError(f"{recipe.architecture} does not see images; use its own recipe")
        body: Any = build(torch.from_numpy(mask), recipe.sizes, targets.shape[1])
        regressor = None
        if isinstance(body, ResNet18):
            _direct(body, images, targets, recipe, rng, kept, progress)
        else:
            _autoencoder(body, images, recipe, recipe.epochs, rng, kept, progress)
            regressor = image_regressor(recipe.sizes, targets.shape[1])
            _regressor(regressor, body, images, targets, recipe, rng, kept, progress)
    return _frozen(recipe.architecture, body, regressor, images)


def fine_tuned(
    network: ImageNetwork,
    measured: SingleArray,
    images: Images,
    targets: FloatArray,
    recipe: ImageRecipe,
    seed: int,
    progress: Progress | None = None,
) -> ImageNetwork:
    """Go on training an autoencoder on measured spectra, then its regressor on simulated ones.

    Parameters
    ----------
    network : ImageNetwork
        Trained on simulated spectra; left as it is.
    measured : (spectra, rows, columns) float32
        Normalised over the mask; the whole set is one batch, as published.
    images, targets : Images, (spectra, parameters) float64
        Simulated spectra that the new regressor is trained on.
    recipe : ImageRecipe
    seed : int
    progress : callable, optional

    Raises
    ------
    ValueError
        If the network has no autoencoder.

    References
    ----------
    Y. Su and C. Li (2024): fine-tuned models.
    """
    if isinstance(network.body, ResNet18):
        raise InputError(
            f"{network.architecture} has no autoencoder to tune; choose another architecture"
        )
    rng = np.random.default_rng(seed)
    body: Any = copy.deepcopy(network.body).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gentle = recipe if recipe.optimiser == "sgd" else _slower(recipe)
        _autoencoder(
            body, CleanImages(measured), gentle, recipe.fine_tuning_epochs, rng, Keeping(),
            progress, batch=len(measured),
        )  # fmt: skip
        regressor = image_regressor(recipe.sizes, targets.shape[1])
        _regressor(regressor, body, images, targets, recipe, rng, Keeping(), progress)
    return _frozen(network.architecture, body, regressor, images)


def _slower(recipe: ImageRecipe) -> ImageRecipe:
    """Adam's steps do not shrink with the gradient: a tenth of the rate for a few spectra."""
    from dataclasses import replace

    return replace(recipe, learning_rate=0.1 * recipe.learning_rate)


def _frozen(
    architecture: str, body: Any, regressor: Regressor | None, images: Images
) -> ImageNetwork:
    for module in (body, regressor):
        if module is not None:
            module.eval()
            module.requires_grad_(False)
    one = ImageNetwork(
        architecture=architecture,
        body=body,
        regressor=regressor,
        latent_mean=np.zeros(0),
        latent_precision=np.zeros((0, 0)),
    )
    some = np.arange(min(len(images), 2000))
    parts = [
        one.latents(torch.from_numpy(images.batch(rows)[0])).numpy().astype(float)
        for rows in np.array_split(some, max(1, len(some) // 256))
    ]
    latents = np.concatenate(parts)
    covariance = np.atleast_2d(np.cov(latents.T)) + RIDGE * np.eye(latents.shape[1])
    return ImageNetwork(
        architecture=architecture,
        body=body,
        regressor=regressor,
        latent_mean=latents.mean(axis=0),
        latent_precision=np.asarray(np.linalg.inv(covariance), dtype=float),
    )


class _Steps:
    """Optimiser, its schedule, and batches of one stage."""

    def __init__(
        self,
        module: nn.Module,
        recipe: ImageRecipe,
        rate: float,
        count: int,
        epochs: int,
        batch: int,
    ) -> None:
        self.batch, self.count, self.epochs = min(batch, count), count, epochs
        self.weights = list(module.parameters())
        self.schedule: Any = None
        if recipe.optimiser == "sgd":
            self.optimiser: Any = torch.optim.SGD(self.weights, lr=rate, momentum=recipe.momentum)
        else:
            self.optimiser = torch.optim.Adam(self.weights, lr=rate)
            steps = epochs * (count // self.batch)
            if steps >= FEWEST_STEPS:
                self.schedule = torch.optim.lr_scheduler.OneCycleLR(
                    self.optimiser, max_lr=rate, total_steps=steps, pct_start=0.1
                )

    def batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Rows of each batch of one epoch; what does not fill one is left out, as published."""
        order = rng.permutation(self.count)
        for k in range(self.count // self.batch):
            yield order[k * self.batch : (k + 1) * self.batch]

    def stage(
        self,
        keeping: Keeping,
        name: str,
        module: nn.Module,
        images: Images,
        rng: np.random.Generator,
    ) -> Stage:
        """Where it is kept."""
        rngs = [rng, *images.rngs]
        return keeping.stage(name, {"module": module}, self.optimiser, self.schedule, rngs)

    def step(self, loss: Tensor) -> None:
        """One step downhill."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.schedule is not None:
            nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.optimiser.step()
        if self.schedule is not None:
            self.schedule.step()


def _run(
    steps: _Steps,
    rng: np.random.Generator,
    loss: Callable[[NDArray[np.int64]], Tensor],
    label: str,
    stage: Stage,
    progress: Progress | None,
) -> None:
    for epoch in range(stage.begun(), steps.epochs):
        for rows in steps.batches(rng):
            steps.step(loss(rows))
        stage.done(epoch + 1, steps.epochs)
        if progress is not None:
            progress(label, (epoch + 1) / steps.epochs)


def _autoencoder(
    body: Any,
    images: Images,
    recipe: ImageRecipe,
    epochs: int,
    rng: np.random.Generator,
    keeping: Keeping,
    progress: Progress | None,
    batch: int | None = None,
) -> None:
    """Mean square over the mask, and the divergence summed over the batch, as published."""
    steps = _Steps(body, recipe, recipe.learning_rate, len(images), epochs, batch or recipe.batch)
    body.train()

    def loss(rows: NDArray[np.int64]) -> Tensor:
        seen, clean = (torch.from_numpy(one) for one in images.batch(rows))
        mean, log_variance = body.encode(seen)
        z = mean
        if log_variance is not None:
            z = sample_latent(mean, log_variance, torch.randn_like(mean))
        gap = masked_flatten(body.decode(z) - clean, body.mask)
        misfit = (gap**2).mean()
        if log_variance is None:
            return misfit
        divergence = kl_to_normal(mean, log_variance).sum()
        return (1 - recipe.kl_weight) * misfit + recipe.kl_weight * divergence

    stage = steps.stage(keeping, "autoencoder", body, images, rng)
    _run(steps, rng, loss, "training the autoencoder", stage, progress)


def _regressor(
    regressor: Regressor,
    body: Any,
    images: Images,
    targets: FloatArray,
    recipe: ImageRecipe,
    rng: np.random.Generator,
    keeping: Keeping,
    progress: Progress | None,
) -> None:
    """On samples of the latent that the frozen autoencoder gives, as published."""
    body.eval()
    wanted = torch.from_numpy(targets.astype(np.float32))
    steps = _Steps(
        regressor, recipe, recipe.regressor_learning_rate, len(images), recipe.regressor_epochs,
        recipe.batch,
    )  # fmt: skip

    def codes(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return body.encode(torch.from_numpy(images.batch(rows)[0]))

    known: tuple[Tensor, Tensor | None] | None = None
    if isinstance(images, CleanImages):  # they do not change, nor do their codes
        parts = [
            codes(rows) for rows in np.array_split(np.arange(len(images)), 1 + len(images) // 256)
        ]
        means = torch.cat([mean for mean, _ in parts])
        variances = [v for _, v in parts if v is not None]
        known = means, torch.cat(variances) if variances else None

    def loss(rows: NDArray[np.int64]) -> Tensor:
        mean, log_variance = (
            codes(rows)
            if known is None
            else (known[0][rows], None if known[1] is None else known[1][rows])
        )
        z = mean
        if log_variance is not None:
            z = sample_latent(mean, log_variance, torch.randn_like(mean))
        return ((regressor(z) - wanted[rows]) ** 2).mean()

    stage = steps.stage(keeping, "regressor", regressor, images, rng)
    _run(steps, rng, loss, "training the regressor", stage, progress)


def _direct(
    body: ResNet18,
    images: Images,
    targets: FloatArray,
    recipe: ImageRecipe,
    rng: np.random.Generator,
    keeping: Keeping,
    progress: Progress | None,
) -> None:
    """Mean square of the parameters."""
    wanted = torch.from_numpy(targets.astype(np.float32))
    steps = _Steps(body, recipe, recipe.learning_rate, len(images), recipe.epochs, recipe.batch)
    body.train()

    def loss(rows: NDArray[np.int64]) -> Tensor:
        seen, _ = images.batch(rows)
        return ((body(torch.from_numpy(seen)) - wanted[rows]) ** 2).mean()

    stage = steps.stage(keeping, "direct", body, images, rng)
    _run(steps, rng, loss, "training", stage, progress)
