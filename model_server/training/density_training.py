"""Training of a conditional density, and its check: simulation-based calibration.

The loss is minus the log density of the true parameters (in deviates of the box, where the prior is
normal), so that over the runs that are simulated the density tends to their posterior.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model_server.networks import (
    ConditionalDensity,
    Density,
    counted_input,
    normal_deviates,
)
from model_server.training.progressed_file import Keeping
from model_server.training.recipes import FlowRecipe
from model_server.training.spectra import TrainingSpectra, noisy_counts
from simulations.arrays import FloatArray, SingleArray
from simulations.errors import InputError
from simulations.prior import BoxPrior
from simulations.progress import Progress

FEWEST_STEPS = 11  # of a cycle of the learning rate: its rise must take more than one
LEVEL = 0.9
CALIBRATION_DRAWS = 399  # ranks 0 to 399: twenty bins of equal probability
RANK_BINS = 20
AT_ONCE = 64  # spectra of one pass
JUDGED = 1_000  # unseen spectra that an epoch is judged by


def density_inputs(
    spectra: TrainingSpectra, recipe: FlowRecipe, rng: np.random.Generator
) -> SingleArray:
    """What a density sees of spectra with counts and background drawn anew."""
    drawn, _ = noisy_counts(spectra, recipe, rng)
    return counted_input(drawn, spectra.exposure, spectra.coverage)


def trained_density(
    train: TrainingSpectra,
    test: TrainingSpectra,
    prior: BoxPrior,
    recipe: FlowRecipe,
    seed: int,
    keeping: Keeping,
    progress: Progress | None = None,
) -> tuple[ConditionalDensity, list[tuple[float, float]]]:
    """Train a density.

    Returns
    -------
    ConditionalDensity
        Of the epoch that did best on the test.
    list of (float, float)
        Minus log density over that of the prior, per spectrum, of the training and of the test, for
        every epoch that this call did.
    """
    target = normal_deviates((train.parameters - prior.mean) / prior.sigma).float()
    unseen = test[: min(len(test), JUDGED)]
    unseen_target = normal_deviates((unseen.parameters - prior.mean) / prior.sigma).float()
    rows, columns = train.rate.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        density = Density((rows, columns), len(prior.names), **recipe.sizes)
        losses = fit_density(
            density,
            lambda some, rng: density_inputs(train[some], recipe, rng),
            target,
            (density_inputs(unseen, recipe, np.random.default_rng([seed, 1])), unseen_target),
            recipe,
            seed,
            keeping,
            progress,
        )
    seen = density_inputs(test, recipe, np.random.default_rng([seed, 2]))
    return frozen_density(density, seen), losses


def frozen_density(density: Density, seen: SingleArray) -> ConditionalDensity:
    """A trained density, with where inputs (spectra, inputs) lie among its contexts."""
    density.eval()
    density.requires_grad_(False)
    codes = density.summary(torch.from_numpy(seen)).numpy().astype(float)
    return ConditionalDensity(
        density=density,
        latent_mean=codes.mean(axis=0),
        latent_precision=np.asarray(
            np.linalg.inv(np.cov(codes.T) + 1e-3 * np.eye(codes.shape[1])), dtype=float
        ),
    )


class _Best(nn.Module):
    """The density of the epoch that did best on unseen spectra."""

    def __init__(self, density: Density) -> None:
        super().__init__()
        self.density = copy.deepcopy(density)
        self.loss: torch.Tensor
        self.register_buffer("loss", torch.tensor(torch.inf))

    def judge(self, density: Density, loss: float) -> None:
        if loss < float(self.loss):
            self.loss.fill_(loss)
            self.density.load_state_dict(density.state_dict())


def fit_density(
    density: Density,
    inputs_of: Callable[[NDArray[np.int64], np.random.Generator], SingleArray],
    target: torch.Tensor,
    unseen: tuple[SingleArray, torch.Tensor],
    recipe: FlowRecipe,
    seed: int,
    keeping: Keeping,
    progress: Progress | None = None,
) -> list[tuple[float, float]]:
    """Train a density in place; it ends as it was when it did best on unseen spectra.

    What it learned by heart of the training makes it too sure: one factor on its noise, by the
    unseen spectra, undoes that on average.

    Parameters
    ----------
    density : Density
    inputs_of : callable
        Inputs (rows, inputs) of some rows, with noise drawn anew.
    target : (rows, parameters)
        True deviates.
    unseen : pair
        Inputs and deviates of a test.
    recipe : FlowRecipe
    seed : int
    keeping : Keeping

    Returns
    -------
    list of (float, float)
        Minus log density over that of the prior, of training and test, per epoch.
    """
    rng = np.random.default_rng(seed)
    weights = list(density.parameters())
    optimiser = torch.optim.AdamW(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    per_epoch = len(target) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=recipe.learning_rate,
        total_steps=max(FEWEST_STEPS, recipe.epochs * per_epoch),
        pct_start=0.1,
    )
    losses: list[tuple[float, float]] = []
    best = _Best(density)
    modules = {"density": density, "best": best}
    stage = keeping.stage("density", modules, optimiser, schedule, [rng])
    for epoch in range(stage.begun(), recipe.epochs):
        density.train()
        order = rng.permutation(len(target))
        total = 0.0
        for k in range(per_epoch):
            batch = order[k * recipe.batch : (k + 1) * recipe.batch]
            z = target[batch]
            context = density.summary(torch.from_numpy(inputs_of(batch, rng)))
            loss = -density.log_prob(context, z).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) - _of_prior(z)
        density.eval()
        with torch.no_grad():
            here = density.log_prob(density.summary(torch.from_numpy(unseen[0])), unseen[1])
        losses.append((total / per_epoch, float(-here.mean()) - _of_prior(unseen[1])))
        best.judge(density, losses[-1][1])
        stage.done(epoch + 1, recipe.epochs)
        if progress is not None:
            told = f"training (loss {losses[-1][0]:.3f}, unseen {losses[-1][1]:.3f})"
            progress(told, (epoch + 1) / recipe.epochs)
    density.load_state_dict(best.density.state_dict())
    density.eval()
    with torch.no_grad():
        density.widen(density.summary(torch.from_numpy(unseen[0])), unseen[1])
    return losses


def _of_prior(z: torch.Tensor) -> float:
    return float(0.5 * (z**2).sum(dim=-1).mean() + 0.5 * z.shape[-1] * np.log(2 * np.pi))


def calibration_table(
    network: ConditionalDensity,
    spectra: TrainingSpectra,
    prior: BoxPrior,
    bins: Mapping[str, tuple[float, float]],
    *,
    recipe: FlowRecipe | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Simulation-based calibration on unseen runs.

    Parameters
    ----------
    network : ConditionalDensity
    spectra : TrainingSpectra
        That it was not trained on, their parameters drawn from the prior.
    prior : BoxPrior
    bins : mapping
        Bounds of phonon counts by the label of a bin; within it they are drawn log-uniform.
    recipe : FlowRecipe, optional
        Of the background.
    seed : int

    Returns
    -------
    dict
        ``level``, ``draws``, ``names`` and, for every bin: ``coverage`` of central intervals and
        ``rank_p`` (of chi-squared of the truth's ranks against uniform) per parameter,
        ``width`` (posterior over prior standard deviation, median) per parameter.

    References
    ----------
    S. Talts et al., Validating Bayesian Inference Algorithms with Simulation-Based Calibration
    (arXiv:1804.06788).
    """
    from scipy.stats import chi2

    recipe = recipe or FlowRecipe()
    truth = (spectra.parameters - prior.mean) / prior.sigma
    rows: list[dict[str, Any]] = []
    for place, (label, counts) in enumerate(bins.items()):
        rng = np.random.default_rng([seed, place])
        seen = density_inputs(spectra, replace(recipe, counts=counts), rng)
        ranks, widths = ranks_of(network, seen, truth, seed=place)
        inside = np.abs(ranks - CALIBRATION_DRAWS / 2) <= LEVEL * (CALIBRATION_DRAWS + 1) / 2
        expected = len(truth) / RANK_BINS
        found = np.stack(
            [
                np.bincount(r * RANK_BINS // (CALIBRATION_DRAWS + 1), minlength=RANK_BINS)
                for r in ranks.T
            ]
        )
        statistic = ((found - expected) ** 2 / expected).sum(axis=1)
        rows.append(
            {
                "bin": label,
                "phonon counts": list(counts),
                "runs": len(truth),
                "coverage": np.round(inside.mean(axis=0), 4).tolist(),
                "rank_p": np.round(chi2.sf(statistic, RANK_BINS - 1), 4).tolist(),
                "width": np.round(np.median(widths, axis=0), 4).tolist(),
            }
        )
        if progress is not None:
            progress("calibration", (place + 1) / len(bins))
    return {
        "level": LEVEL,
        "draws": CALIBRATION_DRAWS,
        "names": list(prior.names),
        "bins": rows,
    }


def ranks_of(
    network: ConditionalDensity, seen: SingleArray, truth: FloatArray, *, seed: int
) -> tuple[NDArray[np.int64], FloatArray]:
    """Ranks of the truth among draws and their standard deviations, both (spectra, parameters)."""
    if len(seen) != len(truth):
        raise InputError(f"inputs are of {len(seen)} spectra; expected {len(truth)}")
    ranks: list[NDArray[np.int64]] = []
    widths: list[FloatArray] = []
    for first in range(0, len(seen), AT_ONCE):
        here = slice(first, first + AT_ONCE)
        draws = network.draws(seen[here], CALIBRATION_DRAWS, seed=seed + 1000 * first, shared=False)
        ranks.append((draws < truth[here]).sum(axis=0))
        widths.append(draws.std(axis=0))
    return np.concatenate(ranks), np.concatenate(widths)


def coverage_words(table: Mapping[str, Any]) -> list[str]:
    """Lines of a calibration for people."""
    return [
        f"{row['bin']}: {np.mean(row['coverage']):.1%} of {table['level']:.0%} intervals hold the "
        f"truth ({min(row['coverage']):.1%} to {max(row['coverage']):.1%} by parameter, "
        f"{row['runs']} runs)"
        for row in _rows(table)
    ]


def _rows(table: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    return table["bins"]
