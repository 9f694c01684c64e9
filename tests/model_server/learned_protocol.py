"""The simulated protocol: eight parameters read by networks and by the batched refinement.

    python -m tests.model_server.learned_protocol build/learned --crystal germanium

Path spectra of 10,000 sets of the prior's box train four networks, once: what FOLDER holds is not
trained again (``--retrain`` does). 1,500 further sets are read clean, and with counts: peaks of 3
to 300 counts on a flat background of 0 to 0.2 of the peak. Scale and background are known to no
reader. The lesser force constants are held at their true values, in this protocol only.
Every cell of the grid is a file in FOLDER and is not computed again (``--again`` does); the table
compares R2 of every parameter with that of the Cramer-Rao bound with prior.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_server.networks import Bundle, CoarseGrid, Domain, encoder_input
from model_server.training import Recipe, TrainingSpectra, train_bundle
from model_server.training.path_refinement import (
    GaussianPrior,
    best_fits,
    bound_of,
    information,
    nearest_sets,
    path_fits,
    posterior_means,
)
from model_server.training.recipes import RECIPES, ImageRecipe
from simulations.arrays import FloatArray
from simulations.crystal import read_crystal
from simulations.dynamics import force_constant_model, read_force_constants, select_free
from simulations.prior import BoxPrior, load_prior_record
from simulations.reciprocal import EnergyAxis, seekpath_segments
from simulations.scattering import displacement_tensors
from simulations.scattering.path_spectra import PathModel, path_model, path_spectra_gradients
from simulations.scattering.training_set import training_plan, training_set

TRAINED, TESTED, BLOCK = 10_000, 1_500, 250
DICTIONARY, PLACES = 4_000, 2  # simulated sets that are looked up, and places taken of them
CLEAN_COUNTS = 1e6  # at the peak: what clean spectra are fitted as
FEW_COUNTS = 30.0  # peaks up to here are searched twice, and their posterior's mean is taken
UNEXPLAINED = 5.0  # deviance in its standard deviations: begin elsewhere
ALLOWED = 1.3
PEAKS = (3.0, 10.0, 30.0, 100.0, 300.0)
BACKGROUNDS = (0.0, 0.02, 0.05, 0.1, 0.2)
FIRST = (0.05, 0.0, 0.2)  # backgrounds that are read before the others
CLEAN = 0.0  # in place of a peak: expected counts, no noise
ZONE = np.array([5.0, 3.0, 1.0])  # r.l.u.: every polarisation is seen, acoustic and optic
NETWORKS = ("ours", "published-vae", "resnet-18", "vae-noise")
BASELINES = ("published-vae", "resnet-18")
POINTS = 47  # of the path
SIGMA_MEV = 1.0
CRYSTALS = {"germanium": (7.0, 4.0, 48.0), "niobium": (7.3, 4.0, 36.0)}
"""Cutoff in angstrom, energies in meV, bins of 1 meV."""


@dataclass(frozen=True)
class Problem:
    """What is simulated."""

    name: str
    path: PathModel
    prior: BoxPrior

    @property
    def grid(self) -> CoarseGrid:
        """All cells, none joined."""
        rows, columns = self.path.shape
        return CoarseGrid(
            path_bins=rows, first_energy=0, energy_bins=columns, path_group=1, energy_group=1
        )

    @property
    def domain(self) -> Domain:
        """What a bundle is hashed with."""
        crystal = self.path.model.crystal
        return Domain(
            parameter_names=self.prior.names,
            path_hkl=self.path.Q @ np.linalg.inv(crystal.conventional_reciprocal),
            energy_edges_meV=self.path.energy.edges_meV,
        )

    def spectra(self, sets: int, seed: int) -> TrainingSpectra:
        """Spectra of stable sets, without noise."""
        found = training_set(training_plan(self.path, self.prior, sets, seed))
        ones = np.ones_like(found.spectra)
        return TrainingSpectra(
            parameters=found.parameters,
            rate=found.spectra,
            exposure=ones,
            flat=ones,
            coverage=ones,
        )


def problem(name: str) -> Problem:
    """Eight parameters of a crystal along its standard path, in one zone."""
    cutoff, low, high = CRYSTALS[name]
    record = load_prior_record(name)
    crystal = read_crystal(name)
    if name == "germanium":
        reference = read_force_constants(name)
        crystal = reference.crystal
    else:
        reference = record.force_constants(crystal, record.reference_values)
    segments = seekpath_segments(crystal, 0.2)
    length = np.linalg.norm(
        (segments.end_hkl - segments.start_hkl) @ crystal.conventional_reciprocal, axis=1
    )
    counts = np.maximum(2, np.rint(POINTS * length / length.sum()).astype(int))
    hkl = np.concatenate(
        [
            a + (b - a) * ((np.arange(n) + 0.5) / n)[:, None]
            for a, b, n in zip(segments.start_hkl, segments.end_hkl, counts, strict=True)
        ]
    )
    whole = force_constant_model(crystal, reference, cutoff)
    model = whole.with_free(select_free(whole, 8, hkl @ crystal.conventional_reciprocal))
    energy = EnergyAxis(edges_meV=np.linspace(low, high, int(high - low) + 1))
    Q = (hkl + ZONE) @ crystal.conventional_reciprocal
    path = path_model(model, Q, energy, SIGMA_MEV, 5.0, displacement_tensors(model, 5.0))
    return Problem(name=name, path=path, prior=record.box.restricted(model.names))


def recipes(spectra: TrainingSpectra) -> dict[str, Recipe | ImageRecipe]:
    """What is trained, in passes that fit one core: see docs/learned.md."""
    ratio = spectra.rate.sum(axis=(1, 2)) / spectra.rate.max(axis=(1, 2))
    counts = (float(0.7 * PEAKS[0] * np.median(ratio)), float(10 * PEAKS[-1] * np.median(ratio)))
    cells = np.prod(spectra.rate.shape[1:]) / np.median(ratio)
    background = (0.0, float(1.2 * BACKGROUNDS[-1] * cells))
    noise: dict[str, Any] = {"counts": counts, "background": background, "test_share": 0.05}
    published = RECIPES["sable-2026-vae"]
    residual = RECIPES["resnet-18"]
    assert isinstance(published, ImageRecipe)
    assert isinstance(residual, ImageRecipe)
    return {
        "ours": Recipe(hidden=256, latent=32, regressor_hidden=256, epochs=40, **noise),
        "published-vae": replace(published.shortened(30, 40), test_share=0.05),
        "vae-noise": replace(published.shortened(20, 20), noisy=True, **noise),
        "resnet-18": replace(residual, epochs=3, noisy=True, **noise),
    }


def trained(
    this: Problem,
    folder: Path,
    again: bool,
    progress: Callable[[str, float], None],
    networks: Sequence[str] = NETWORKS,
) -> dict[str, Bundle]:
    """Networks by name, from FOLDER where they are there."""
    spectra = None
    bundles = {}
    for name in networks:
        home = folder / this.name / name
        if again or not (home / "card.json").is_file():
            if spectra is None:
                spectra = this.spectra(TRAINED, seed=1)
            started = time.process_time()
            bundle = train_bundle(
                spectra,
                domain=this.domain,
                grid=this.grid,
                prior=this.prior,
                title=f"{name}, {this.name}, path spectra",
                experiment={"crystal": this.name, "spectra": "path spectra"},
                seed=0,
                recipe=recipes(spectra)[name],
                progress=lambda label, share, name=name: progress(f"{name}: {label}", share),
            )
            bundle.card["training"]["processor minutes"] = round(  # type: ignore[index]
                (time.process_time() - started) / 60, 1
            )
            bundle.save(home)
        bundles[name] = Bundle.load(home)
        bundles[name].check(this.domain)
    return bundles


@dataclass(frozen=True)
class Block:
    """Some test spectra with what is known of them beforehand."""

    number: int
    truth: FloatArray  # (spectra, K)
    spectra: FloatArray  # (spectra, Q, E)
    slopes: FloatArray  # (spectra, K, Q, E)


def prior_of(this: Problem, parameters: FloatArray) -> GaussianPrior:
    """Mean and covariance of stable sets: those of the training set, never those tested."""
    return GaussianPrior(
        mean=parameters.mean(axis=0),
        covariance=np.cov(parameters.T),
        lower=this.prior.lower,
        upper=this.prior.upper,
    )


def expected(block: Block, peak: float, background: float) -> tuple[FloatArray, FloatArray]:
    """Expected counts of every cell, and the scale of each spectrum."""
    peak = CLEAN_COUNTS if peak == CLEAN else peak
    scale = peak / block.spectra.max(axis=(1, 2))
    return scale[:, None, None] * block.spectra + background * peak, scale


def cell(
    this: Problem,
    bundles: dict[str, Bundle],
    prior: GaussianPrior,
    learnt: TrainingSpectra,
    block: Block,
    peak: float,
    background: float,
    known: dict[str, FloatArray],
) -> dict[str, FloatArray]:
    """Every reader's parameters of one block at one place of the grid, and the bound.

    What is known already is not computed again.
    """
    rate, scale = expected(block, peak, background)
    seed = [block.number, round(10 * peak), round(1000 * background)]
    counts = rate if peak == CLEAN else np.random.default_rng(seed).poisson(rate).astype(float)
    ones = np.ones_like(counts)
    inputs = encoder_input(counts, ones, ones)
    found: dict[str, FloatArray] = {"truth": block.truth, **known}
    for name, bundle in bundles.items():
        if name in known:
            continue
        parts = [bundle.network.centres(part) for part in np.array_split(inputs, 8)]
        values = bundle.prior_mean + bundle.prior_sigma * np.concatenate(parts)
        found[name] = np.clip(values, prior.lower, prior.upper)
    if "refined" in known:
        return found
    started = time.process_time()
    fits = path_fits(this.path, prior, counts, found["ours"], blurs_meV=(1.5, 0.0))
    few = 0 < peak <= FEW_COUNTS
    again = np.arange(len(counts)) if few else np.flatnonzero(fits.excess > UNEXPLAINED)
    if len(again):
        near = nearest_sets(this.path, counts[again], learnt.parameters, learnt.rate, places=PLACES)
        for begin in near:
            other = path_fits(this.path, prior, counts[again], begin, blurs_meV=(1.5, 0.0))
            fits = best_fits(fits, other, again)
    again = np.flatnonzero(fits.excess > UNEXPLAINED)
    if len(again):  # annealed from the middle of the prior
        begin = np.tile(prior.mean, (len(again), 1))
        fits = best_fits(fits, path_fits(this.path, prior, counts[again], begin), again)
    found["refined"] = fits.values
    if few:
        found["refined"], found["effective"] = posterior_means(
            this.path, prior, counts, fits, draws=64
        )
    found["sigma"], found["excess"] = fits.sigma, fits.excess
    fisher = information(
        scale[:, None, None] * block.spectra,
        scale[:, None, None, None] * block.slopes,
        np.maximum(rate, 1e-9 * rate.max(axis=(1, 2), keepdims=True)),
    )
    found["bound"] = bound_of(fisher, prior)
    found["seconds"] = np.array([time.process_time() - started])
    return found


def blocks(this: Problem) -> list[Block]:
    """Test spectra: sets of another seed than those trained on."""
    test = this.spectra(TESTED, seed=2)
    out = []
    for number in range(TESTED // BLOCK):
        rows = slice(number * BLOCK, (number + 1) * BLOCK)
        spectra, slopes = path_spectra_gradients(this.path, test.parameters[rows])
        out.append(
            Block(number=number, truth=test.parameters[rows], spectra=spectra, slopes=slopes)
        )
    return out


def places() -> list[tuple[float, float]]:
    """Clean, then the grid of peaks and backgrounds."""
    return [(CLEAN, 0.0), *((peak, background) for peak in PEAKS for background in BACKGROUNDS)]


def cell_file(folder: Path, peak: float, background: float, block: int) -> Path:
    """Where a cell of the grid is kept."""
    return folder / "cells" / f"peak{peak:g}-background{background:g}-{block}.npz"


def r2(values: FloatArray, truth: FloatArray) -> FloatArray:
    """Coefficient of determination of every parameter."""
    return 1 - ((values - truth) ** 2).mean(axis=0) / truth.var(axis=0)


def table(folder: Path, names: tuple[str, ...]) -> str:
    """R2 of every reader beside the bound, for the cells that are there."""
    lines = [
        "| peak | background | spectra | reader | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    met, cells_won, cells_there = 0, 0, 0
    there: set[str] = set()
    for peak, background in places():
        files = [cell_file(folder, peak, background, k) for k in range(TESTED // BLOCK)]
        parts = [dict(np.load(file)) for file in files if file.is_file()]
        if not parts:
            continue
        all_of = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        truth = all_of["truth"]
        bound = 1 - all_of["bound"].mean(axis=0) / truth.var(axis=0)
        where = f"| {'clean' if peak == CLEAN else f'{peak:g}'} | {background:g} | {len(truth)} |"
        rows = {name: r2(all_of[name], truth) for name in (*NETWORKS, "refined") if name in all_of}
        for name, row in rows.items():
            lines.append(f"{where} {name} | " + " | ".join(f"{v:.4f}" for v in row) + " |")
        if peak == CLEAN:
            gap = np.abs(all_of["refined"] - truth)
            inside = (gap <= 5 * all_of["sigma"]) | (gap <= 1e-3 * np.abs(truth))
            lines.append(
                f"\nClean, refined: {100 * inside.all(axis=1).mean():.2f} % of spectra within 5 "
                "sigma or "
                f"0.1 % in every parameter, least R2 {rows['refined'].min():.5f}."
            )
            lines += ["", *lines[:2]]
            continue
        lines.append(f"{where} bound | " + " | ".join(f"{v:.4f}" for v in bound) + " |")
        ratio = (1 - rows["refined"]) / (1 - bound)
        lines.append(f"{where} (1 - R2) / bound | " + " | ".join(f"{v:.2f}" for v in ratio) + " |")
        met += int((ratio <= ALLOWED).sum())
        cells_there += 1
        there |= {name for name in BASELINES if name in rows}
        rivals = [rows[name] for name in BASELINES if name in rows]
        cells_won += all(
            bool(np.all((rows["refined"] > rival) | ((rows["refined"] > 0.988) & (rival > 0.99))))
            for rival in rivals
        )
    rivals_told = " and ".join(sorted(there)) or "no baseline"
    lines.append(
        f"\nOf {cells_there * len(names)} parameters in {cells_there} cells of the grid, {met} are "
        f"within {ALLOWED} of the bound; {cells_won} cells beat {rivals_told} in every parameter."
    )
    return "\n".join(lines) + "\n"


class Told:
    """Progress in lines, one for every tenth, with what is left at this pace."""

    def __init__(self) -> None:
        self.label, self.began, self.last, self.first = "", 0.0, 0.0, 0.0

    def __call__(self, label: str, share: float) -> None:
        now = time.monotonic()
        if label != self.label:
            self.label, self.began, self.last, self.first = label, now, share, share
        elif share - self.last < 0.099 and share < 1:
            return
        done = share - self.first
        if done <= 0:
            return
        left = (now - self.began) * (1 - share) / done
        self.last = share
        print(f"{label}: {100 * share:.0f} %, {left / 60:.1f} minutes left", flush=True)  # noqa: T201


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crystal", choices=sorted(CRYSTALS), default="germanium")
    parser.add_argument("--retrain", action="store_true", help="train what is there once more")
    parser.add_argument("--again", action="store_true", help="read what is there once more")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--blocks", type=int, default=TESTED // BLOCK, help="of 250 test spectra")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    this = problem(arguments.crystal)
    home = arguments.folder / arguments.crystal
    (home / "cells").mkdir(parents=True, exist_ok=True)
    readers = trained(this, arguments.folder, arguments.retrain, Told(), arguments.networks)
    learnt = this.spectra(DICTIONARY, seed=1)
    prior = prior_of(this, learnt.parameters)
    tested = None
    for block in range(arguments.blocks):
        order = sorted(places(), key=lambda place: place[1] not in FIRST)
        for peak, background in order:
            file = cell_file(home, peak, background, block)
            known: dict[str, FloatArray] = {}
            if file.is_file() and not arguments.again:
                with np.load(file) as stored:
                    known = dict(stored)
                if set(readers) <= set(known):
                    continue
            tested = tested or blocks(this)
            found = cell(this, readers, prior, learnt, tested[block], peak, background, known)
            np.savez(file, **found)
            line = f"{peak:g} {background:g} block {block}: {found['seconds'][0]:.0f} s"
            print(line, r2(found["refined"], found["truth"]).round(4), flush=True)  # noqa: T201
    print(table(home, this.prior.names))  # noqa: T201


if __name__ == "__main__":
    main()
