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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_server.networks import Bundle, CoarseGrid, Domain, encoder_input
from model_server.training import Recipe, TrainingSpectra, train_bundle
from model_server.training.recipes import RECIPES, ImageRecipe
from simulations.arrays import FloatArray
from simulations.crystal import read_crystal
from simulations.dynamics import force_constant_model, read_force_constants, select_free
from simulations.prior import BoxPrior, load_prior_record
from simulations.reciprocal import EnergyAxis, seekpath_segments
from simulations.scattering import displacement_tensors
from simulations.scattering.path_spectra import PathModel, path_model
from simulations.scattering.training_set import training_plan, training_set

TRAINED, TESTED = 10_000, 1_500
PEAKS = (3.0, 10.0, 30.0, 100.0, 300.0)
BACKGROUNDS = (0.0, 0.02, 0.05, 0.1, 0.2)
CLEAN = 0.0  # in place of a peak: expected counts, no noise
ZONE = np.array([5.0, 3.0, 1.0])  # r.l.u.: every polarisation is seen, acoustic and optic
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
            parameters=found.parameters, rate=found.spectra, exposure=ones, coverage=ones
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
        "ours": Recipe(hidden=256, latent=32, regressor_hidden=256, epochs=60, **noise),
        "published-vae": replace(published.shortened(60, 100), test_share=0.05),
        "vae-noise": replace(published.shortened(40), noisy=True, **noise),
        "resnet-18": replace(residual, epochs=6, noisy=True, **noise),
    }


def trained(
    this: Problem, folder: Path, again: bool, progress: Callable[[str, float], None]
) -> dict[str, Bundle]:
    """Networks by name, from FOLDER where they are there."""
    spectra = None
    bundles = {}
    for name in ("ours", "published-vae", "vae-noise", "resnet-18"):
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


class Told:
    """Progress in lines, one for every tenth, with what is left at this pace."""

    def __init__(self) -> None:
        self.label, self.began, self.last = "", 0.0, -1.0

    def __call__(self, label: str, share: float) -> None:
        now = time.monotonic()
        if label != self.label:
            self.label, self.began, self.last = label, now, -1.0
        elif share - self.last < 0.099 and share < 1:
            return
        left = (now - self.began) * (1 - share) / share if share > 0 else float("nan")
        self.last = share
        print(f"{label}: {100 * share:.0f} %, {left / 60:.1f} minutes left", flush=True)  # noqa: T201


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crystal", choices=sorted(CRYSTALS), default="germanium")
    parser.add_argument("--retrain", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    this = problem(arguments.crystal)
    print(this.prior.names, this.path.shape)  # noqa: T201
    trained(this, arguments.folder, arguments.retrain, Told())


if __name__ == "__main__":
    main()
