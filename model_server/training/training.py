"""Training a bundle on simulated folded spectra, with noise and coverage drawn afresh.

The spectra come as expected rates on the encoder's coarse grid: counts per unit scale and the
exposures that belong to them. Scale, background and Poisson noise are drawn anew whenever a
spectrum is seen, so that a few thousand simulated spectra go a long way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_server.networks import (
    FORMAT,
    OURS,
    Bundle,
    CoarseGrid,
    Decoder,
    Domain,
    Encoder,
    Network,
    Regressor,
    VariationalEncoder,
    architecture_of,
    codes_of,
    distance_table,
    encoder_input,
    images_of_inputs,
    kl_to_normal,
    sample_latent,
)
from model_server.training.density_training import calibration_table, trained_density
from model_server.training.image_training import CleanImages, Images, train_images
from model_server.training.progressed_file import Keeping, key_of
from model_server.training.recipes import AnyRecipe, FlowRecipe, ImageRecipe, Recipe
from model_server.training.spectra import TrainingSpectra, noisy_counts
from simulations.arrays import FloatArray, SingleArray
from simulations.errors import InputError
from simulations.fold import VoxelExposure
from simulations.likelihood import FoldedPhonons
from simulations.prior import BoxPrior
from simulations.progress import Progress


def simulate_spectra(
    forward: FoldedPhonons,
    exposures: Sequence[VoxelExposure],
    parameters: FloatArray,
    grid: CoarseGrid,
    rng: np.random.Generator,
    *,
    coverages: int = 24,
    per_set: int = 4,
    progress: Progress | None = None,
) -> TrainingSpectra:
    """Simulate folded spectra of many force-constant sets under random coverages.

    A coverage is the sum over a random set of orientations, from a single one to all, each with a
    random dwell time.

    Parameters
    ----------
    forward : FoldedPhonons
        Exact folded forward model.
    exposures : sequence of VoxelExposure
        One per orientation.
    parameters : (sets, parameters) float64
        Dynamically stable force constants, eV/angstrom^2.
    grid : CoarseGrid
        What the encoder sees.
    rng : numpy.random.Generator
        Source of coverages.
    coverages : int
        Different coverages in all.
    per_set : int
        Coverages under which each set is simulated.
    progress : callable, optional
        Told how far it is.

    Returns
    -------
    TrainingSpectra
        ``sets * per_set`` of them.
    """
    n_bins = forward.energy.n_bins
    combined: list[VoxelExposure] = []
    weights: list[FloatArray] = []
    flats: list[FloatArray] = []
    shares: list[FloatArray] = []
    fine = grid.path_group * grid.energy_group
    for k in range(coverages):
        # from one orientation to all of them, evenly on a logarithmic scale
        size = int(np.rint(len(exposures) ** (k / max(coverages - 1, 1))))
        chosen = rng.choice(len(exposures), size=size, replace=False)
        dwell = rng.uniform(0.3, 1.7, size)
        total = exposures[chosen[0]].scaled(float(dwell[0]))
        for which, minutes in zip(chosen[1:], dwell[1:], strict=True):
            total = total + exposures[which].scaled(float(minutes))
        D, F = np.zeros((2, forward.voxels.n_path_bins, n_bins))
        for padded, sums in zip((D, F), total.path_sums(forward.voxels), strict=True):
            padded[:, : sums.shape[1]] = sums
        combined.append(total)
        weights.append(grid.sums(D))
        flats.append(grid.sums(np.where(D > 0, F, 0.0)))
        shares.append(grid.sums(D > 0) / fine)
    rates: list[FloatArray] = []
    which_coverage: list[int] = []
    for s, phi in enumerate(parameters):
        state = forward.prepare(phi)
        for k in rng.choice(coverages, size=per_set, replace=False):
            rates.append(grid.sums(forward.rates(combined[k], state, gradient=False)[0]))
            which_coverage.append(int(k))
        if progress is not None:
            progress("simulating spectra", (s + 1) / len(parameters))
    order = np.array(which_coverage)
    return TrainingSpectra(
        parameters=np.repeat(parameters, per_set, axis=0),
        rate=np.array(rates, dtype=np.float32),
        exposure=np.array(weights, dtype=np.float32)[order],
        flat=np.array(flats, dtype=np.float32)[order],
        coverage=np.array(shares, dtype=np.float32)[order],
    )


def noisy_inputs(
    spectra: TrainingSpectra, recipe: Recipe | ImageRecipe, rng: np.random.Generator
) -> tuple[SingleArray, SingleArray]:
    """What the encoder sees of ``noisy_counts``.

    Returns
    -------
    noisy : (spectra, inputs) float32
        With counting noise and background.
    clean : (spectra, rows * columns) float32
        Spectrum part without either: what the decoder should rebuild.
    """
    drawn, signal = noisy_counts(spectra, recipe, rng)
    noisy = encoder_input(drawn, spectra.exposure, spectra.coverage)
    clean = encoder_input(signal, spectra.exposure, spectra.coverage)
    return noisy, clean[:, : clean.shape[1] // 2]


def train_bundle(
    spectra: TrainingSpectra,
    *,
    domain: Domain,
    grid: CoarseGrid,
    prior: BoxPrior,
    title: str,
    experiment: dict[str, Any],
    seed: int,
    recipe: AnyRecipe | None = None,
    work: Path | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Train the network of a recipe on simulated spectra.

    Parameters
    ----------
    spectra : TrainingSpectra
        Sets that share force constants must be neighbours; the last tenth is kept for the test.
    domain : Domain
        Experiment that the bundle will accept.
    grid : CoarseGrid
        Grid of ``spectra``.
    prior : BoxPrior
        Box that the parameters were drawn from.
    title : str
        Heading of the model card.
    experiment : dict
        What else to record of the experiment: instrument, incident energy, temperature.
    seed : int
        The same seed gives the same weights on the same machine and number of threads.
    recipe : Recipe or ImageRecipe, optional
        Architecture, sizes and schedule; ours by default.
    work : Path, optional
        Folder where the training is kept, every few seconds, so that one that was killed goes on.
    progress : callable, optional
        Told how far it is.

    Returns
    -------
    Bundle
        Not saved yet; ``bundle.card["accuracy"]`` holds R2 on the spectra kept for the test.

    Raises
    ------
    ValueError
        If names and parameters disagree, there are too few spectra, or ``work`` is of another
        training.
    """
    recipe = recipe or Recipe()
    asked = len(domain.parameter_names)
    if prior.names[:asked] != domain.parameter_names or spectra.parameters.shape[1] != len(
        prior.names
    ):
        raise InputError(
            f"prior is for {len(prior.names)} parameters, the domain for "
            f"{len(domain.parameter_names)}, the spectra for {spectra.parameters.shape[1]}; "
            "expected the same names in the same order, the domain's first"
        )
    n_test = int(len(spectra) * recipe.test_share)
    if n_test < 1 or len(spectra) - n_test < recipe.batch:
        raise InputError(
            f"{len(spectra)} spectra are too few to train on in batches of {recipe.batch} and keep "
            f"a share of {recipe.test_share} for the test"
        )
    train, test = spectra[: len(spectra) - n_test], spectra[len(spectra) - n_test :]
    key = key_of(
        domain=domain.hash, recipe=recipe, seed=seed, torch=torch.__version__,
        lower=prior.lower, upper=prior.upper, rate=spectra.rate, exposure=spectra.exposure,
        flat=spectra.flat,
    )  # fmt: skip
    keeping = Keeping(folder=work, key=key)
    more: dict[str, Any] = {}
    if isinstance(recipe, Recipe):
        network = _trained_encoder(train, test, grid, prior, recipe, seed, keeping, progress)
    elif isinstance(recipe, FlowRecipe):
        network, losses = trained_density(train, test, prior, recipe, seed, keeping, progress)
        test = test[:: max(1, len(test) // JUDGED_BY_DRAWS)]
        more["calibration"] = calibration_table(
            network, test, prior, recipe.bins_of_counts, progress=progress
        )
        if losses:
            more["loss"] = [round(value, 4) for value in min(losses, key=lambda pair: pair[1])]
    else:
        network = _trained_on_images(train, prior, recipe, seed, keeping, progress)
    noisy = not isinstance(recipe, ImageRecipe) or recipe.noisy
    card = {
        "format": FORMAT,
        "architecture": recipe.architecture,
        "title": title,
        "purpose": "Reads force constants from a folded spectrum in milliseconds, as a first guess "
        f"for the refinement. {architecture_of(recipe.architecture).words.capitalize()}.",
        "experiment": {"hash": domain.hash, "parts": domain.parts(), **experiment},
        "parameters": {
            "names": list(prior.names),
            "unit": "eV/angstrom^2",
            "prior_mean": prior.mean.tolist(),
            "prior_sigma": prior.sigma.tolist(),
        },
        "grid": {
            "path_bins": grid.path_bins,
            "first_energy": grid.first_energy,
            "energy_bins": grid.energy_bins,
            "path_group": grid.path_group,
            "energy_group": grid.energy_group,
        },
        "network": recipe.sizes,
        "training": {
            "seed": seed,
            "spectra": len(train),
            **_schedule(recipe),
            **(
                {
                    "phonon counts per spectrum": f"{recipe.counts[0]:g} to {recipe.counts[1]:g}",
                    "background over phonon counts": f"{recipe.background[0]:g} to "
                    f"{recipe.background[1]:g}",
                    "background": "flat in time of flight, of the shape of the exposure, or both",
                }
                if noisy
                else {"noise": "none: clean spectra, as published"}
            ),
            "torch": torch.__version__,
        },
        "test_spectra": len(test),
        "accuracy": _accuracy(network, test, prior),
        "latent distance": distances_of(network, test),
        **more,
    }
    return Bundle(
        name=title,
        parameter_names=prior.names,
        prior_mean=prior.mean,
        prior_sigma=prior.sigma,
        grid=grid,
        network=network,
        card=card,
    )


def _schedule(recipe: AnyRecipe) -> dict[str, Any]:
    """What a card tells of the schedule."""
    if not isinstance(recipe, ImageRecipe):
        return {"epochs": recipe.epochs}
    told: dict[str, Any] = {
        "source": recipe.source,
        "epochs": recipe.epochs,
        "optimiser": recipe.optimiser,
        "learning rate": recipe.learning_rate,
    }
    if architecture_of(recipe.architecture).autoencoder:
        told["epochs of the regressor"] = recipe.regressor_epochs
    return told


class _CountedImages:
    """Images of spectra with scale, background and counts drawn whenever they are seen."""

    def __init__(
        self,
        spectra: TrainingSpectra,
        mask: NDArray[np.bool_],
        recipe: ImageRecipe,
        rng: np.random.Generator,
    ) -> None:
        self.spectra, self.mask, self.recipe, self.rng = spectra, mask, recipe, rng

    @property
    def rngs(self) -> tuple[np.random.Generator, ...]:
        return (self.rng,)

    def __len__(self) -> int:
        return len(self.spectra)

    def batch(self, rows: NDArray[np.int64]) -> tuple[SingleArray, SingleArray]:
        some = self.spectra[rows]
        noisy, clean = noisy_inputs(some, self.recipe, self.rng)
        half = clean.shape[1]
        wanted = np.concatenate([clean, noisy[:, half:]], axis=1)
        return images_of_inputs(noisy, self.mask), images_of_inputs(wanted, self.mask)


def _trained_on_images(
    train: TrainingSpectra,
    prior: BoxPrior,
    recipe: ImageRecipe,
    seed: int,
    keeping: Keeping,
    progress: Progress | None,
) -> Network:
    """A network of the literature; its mask is what any of the spectra knows."""
    mask = np.asarray((train.coverage > 0).any(axis=0), dtype=bool)
    if recipe.noisy:
        rng = np.random.default_rng([seed, 1])
        images: Images = _CountedImages(train, mask, recipe, rng)
    else:
        clean = encoder_input(train.rate, train.exposure, train.coverage)
        images = CleanImages(images_of_inputs(clean, mask))
    targets = (train.parameters - prior.mean) / prior.sigma
    return train_images(images, mask, targets, recipe, seed, progress, keeping=keeping)


def _trained_encoder(
    train: TrainingSpectra,
    test: TrainingSpectra,
    grid: CoarseGrid,
    prior: BoxPrior,
    recipe: Recipe,
    seed: int,
    keeping: Keeping,
    progress: Progress | None,
) -> VariationalEncoder:
    """Our encoder, which sees coverage and noise; its latents of the test spectra."""
    rng = np.random.default_rng(seed)
    rows, columns = grid.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(grid.inputs, recipe.hidden, recipe.latent)
        decoder = Decoder(recipe.latent, recipe.hidden, rows * columns)
        regressor = Regressor(recipe.latent, recipe.regressor_hidden, len(prior.names))
        _fit(encoder, decoder, regressor, train, prior, recipe, rng, keeping, progress)
    for module in (encoder, regressor):
        module.eval()
        module.requires_grad_(False)
    latents = np.concatenate(
        [
            encoder(torch.from_numpy(noisy))[0].numpy().astype(float)
            for _, noisy in _levels(test, OURS)
        ]
    )
    return VariationalEncoder(
        encoder=encoder,
        regressor=regressor,
        latent_mean=latents.mean(axis=0),
        latent_precision=np.asarray(
            np.linalg.inv(np.cov(latents.T) + 1e-3 * np.eye(latents.shape[1])), dtype=float
        ),
    )


JUDGED_BY_DRAWS = 300  # spectra of the test whose posterior is drawn from
FEWEST_STEPS = 11  # of a cycle of the learning rate: its rise must take more than one


def _fit(
    encoder: Encoder,
    decoder: Decoder,
    regressor: Regressor,
    train: TrainingSpectra,
    prior: BoxPrior,
    recipe: Recipe,
    rng: np.random.Generator,
    keeping: Keeping,
    progress: Progress | None,
) -> None:
    """Train the three networks together, in place."""
    weights = [*encoder.parameters(), *decoder.parameters(), *regressor.parameters()]
    optimiser = torch.optim.AdamW(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = max(FEWEST_STEPS, recipe.epochs * (len(train) // recipe.batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=recipe.learning_rate, total_steps=steps, pct_start=0.1
    )
    target = ((train.parameters - prior.mean) / prior.sigma).astype(np.float32)
    modules = {"encoder": encoder, "decoder": decoder, "regressor": regressor}
    stage = keeping.stage("encoder", modules, optimiser, schedule, [rng])
    for epoch in range(stage.begun(), recipe.epochs):
        order = rng.permutation(len(train))
        for k in range(len(train) // recipe.batch):
            batch = order[k * recipe.batch : (k + 1) * recipe.batch]
            noisy, clean = noisy_inputs(train[batch], recipe, rng)
            loss = _loss(
                encoder,
                decoder,
                regressor,
                torch.from_numpy(noisy),
                torch.from_numpy(clean),
                torch.from_numpy(target[batch]),
                recipe,
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimiser.step()
            schedule.step()
        stage.done(epoch + 1, recipe.epochs)
        if progress is not None:
            progress("training", (epoch + 1) / recipe.epochs)


def _loss(
    encoder: Encoder,
    decoder: Decoder,
    regressor: Regressor,
    noisy: Tensor,
    clean: Tensor,
    target: Tensor,
    recipe: Recipe,
) -> Tensor:
    """Rebuild the clean spectrum where it was measured, stay near the normal, read phi."""
    mean, log_variance = encoder(noisy)
    z = sample_latent(mean, log_variance, torch.randn_like(mean))
    known = (noisy[:, clean.shape[1] :] > 0).float()
    misfit = ((decoder(z) - clean) ** 2 * known).sum(dim=1) / known.sum(dim=1).clamp(min=1.0)
    parameters = ((regressor(z) - target) ** 2).mean(dim=1)
    loss = parameters + recipe.reconstruction_weight * misfit
    return (loss + recipe.kl_weight * kl_to_normal(mean, log_variance)).mean()


LEVELS = (1_000.0, 10_000.0, 100_000.0)
"""Phonon counts of a spectrum at which a network is judged; as many of background beside them."""


def level_inputs(spectra: TrainingSpectra, counts: float, architecture: str = OURS) -> SingleArray:
    """Spectra at one level of counts, as an architecture sees them, (spectra, inputs)."""
    fixed = Recipe(counts=(counts, counts), background=(1.0, 1.0))
    drawn, _ = noisy_counts(spectra, fixed, np.random.default_rng(1))
    return architecture_of(architecture).see(drawn, spectra.exposure, spectra.coverage)


def _levels(test: TrainingSpectra, architecture: str) -> Iterator[tuple[str, SingleArray]]:
    """Test spectra at three levels of counts, as an architecture sees them."""
    for counts in LEVELS:
        yield f"{counts:,.0f} counts", level_inputs(test, counts, architecture)


def distances_of(network: Network, spectra: TrainingSpectra) -> dict[str, Any]:
    """How far simulated spectra lie in the latent, at each of ``LEVELS``: the card's table."""
    kind = network.architecture
    codes = {c: codes_of(network, level_inputs(spectra, c, kind))[0] for c in LEVELS}
    return distance_table(codes, network)


def _accuracy(network: Network, test: TrainingSpectra, prior: BoxPrior) -> list[dict[str, Any]]:
    """R2 per parameter at three levels of counts."""
    truth = (test.parameters - prior.mean) / prior.sigma
    levels = []
    for label, noisy in _levels(test, network.architecture):
        parts = np.array_split(noisy, 1 + len(noisy) // 256)
        values = np.concatenate([network.centres(part) for part in parts])
        r2 = 1 - ((values - truth) ** 2).mean(axis=0) / truth.var(axis=0)
        levels.append({"label": label, "r2": [round(float(v), 4) for v in r2]})
    return levels
