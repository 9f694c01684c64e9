"""Measured aluminium read by networks, searched by Nelder-Mead, and refined: misfits of each.

    python -m tests.model_server.learned_aluminium build/learned/aluminium

1,000 simulated spectra (four temperatures, stable sets of the prior's box) train the autoencoders
of Su and Li (2024); one is fine-tuned for every temperature on the measured spectra of the other
three. Every reader's five constants go through one forward model (coherent, incoherent and
multiphonon scattering at that temperature, widths at what is expected, no background), and its
misfit to the measured spectrum is told as ``nmse_paper`` (model and data as (x - mean)/(max - min))
and ``nmse_free`` (scale and offset free). What FOLDER holds is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from model_server.networks import ImageNetwork, architecture_of
from model_server.networks.image_networks import normalised_images
from model_server.powder.aluminium import aluminium_setup
from model_server.powder.components import Components, usual_nuisances
from model_server.powder.fit import InversionSettings, fit_powder
from model_server.training.image_training import CleanImages, fine_tuned, train_images
from model_server.training.recipes import RECIPES, ImageRecipe
from simulations.arrays import FloatArray, SingleArray
from simulations.dynamics import ForceConstantModel
from simulations.prior import BoxPrior
from simulations.scattering import MeasuredSpectrum, read_powder_spectra
from tests.model_server.learned_protocol import Told

SETS = 1_000  # simulated, a quarter at each temperature
POINTS = 100  # sampled q of the powder average
EVALUATIONS = 120  # of a Nelder-Mead search
RECIPE_NAMES = (
    "su-li-2024-fc-ae",
    "su-li-2024-fc-vae",
    "su-li-2024-conv-ae",
    "su-li-2024-conv-vae",
)
EPOCHS = {"fc-ae": 60, "fc-vae": 60, "conv-ae": 8, "conv-vae": 8}
REGRESSOR_EPOCHS = 60
TUNED = "su-li-2024-fc-vae"
REFINED = "refined, in the common model"
PAPER = {"Nelder-Mead (Su and Li 2024)": 0.190, "FCVAE fine-tuned (Su and Li 2024)": 0.200}


@dataclass(frozen=True)
class Sample:
    """One temperature: what was measured, and what five constants give there."""

    spectrum: MeasuredSpectrum
    model: ForceConstantModel
    prior: BoxPrior
    parts: Components

    @classmethod
    def of(cls, spectrum: MeasuredSpectrum) -> Sample:
        """Forward model of a measured spectrum."""
        model, prior, resolution = aluminium_setup(spectrum.temperature_K)
        nuisances = usual_nuisances(spectrum, log_width=0.3, log_width_sigma=0.3)
        parts = Components(
            spectrum, model, resolution,
            points=POINTS, coarse_points=POINTS, max_order=4, nuisances=nuisances,
        )  # fmt: skip
        return cls(spectrum=spectrum, model=model, prior=prior.restricted(model.names), parts=parts)

    def simulated(self, phi: FloatArray) -> FloatArray | None:
        """Spectrum (energy, |Q|) on the measured cells; None where phi is no crystal."""
        x = np.append(phi, [one.centre for one in self.parts.nuisances])
        if not self.parts.stable(x):
            return None
        single, many = self.parts.slow(x)
        inner = self.parts.one_phonon(x, gradient=False).one + single + many
        whole = np.full(self.spectrum.intensity.shape, np.nan)
        whole[:, self.parts.columns] = np.where(self.parts.valid, inner, np.nan)
        return whole

    def misfits(self, phi: FloatArray) -> tuple[float, float]:
        """Return ``nmse_paper`` and ``nmse_free`` of five constants; infinite where unstable."""
        found = self.simulated(phi)
        if found is None:
            return float("inf"), float("inf")
        valid = self.spectrum.valid
        model, data = found[valid], self.spectrum.intensity[valid]
        centred, moved = data - data.mean(), model - model.mean()
        power = float(centred @ centred)
        alike = moved / np.ptp(model) * np.ptp(data)
        slope = float(moved @ centred) / float(moved @ moved)
        return (
            float(((alike - centred) ** 2).sum()) / power,
            float(((slope * moved - centred) ** 2).sum()) / power,
        )


def training(samples: list[Sample], file: Path, told: Told) -> tuple[FloatArray, SingleArray]:
    """Constants and normalised images of the simulated spectra; kept in a file."""
    if file.is_file():
        with np.load(file) as stored:
            return stored["parameters"], stored["images"]
    rng = np.random.default_rng(0)
    parameters, images = [], []
    for number in range(SETS):
        sample = samples[number % len(samples)]
        while True:
            phi = rng.uniform(sample.prior.lower, sample.prior.upper)
            found = sample.simulated(phi)
            if found is not None:
                break
        parameters.append(phi)
        images.append(normalised_images(found, sample.spectrum.valid))
        told("simulating", (number + 1) / SETS)
    np.savez(file, parameters=np.array(parameters), images=np.array(images))
    return np.array(parameters), np.array(images)


def searched(sample: Sample, which: int, start: FloatArray) -> FloatArray:
    """Nelder-Mead on one of the two misfits, in prior sigmas."""
    sigma = sample.prior.sigma

    def cost(u: FloatArray) -> float:
        return min(sample.misfits(start + sigma * u)[which], 1e3)

    simplex = np.concatenate([np.zeros((1, 5)), 0.3 * np.eye(5)])
    options = {"maxfev": EVALUATIONS, "initial_simplex": simplex, "fatol": 1e-4, "xatol": 1e-3}
    found = minimize(cost, np.zeros(5), method="Nelder-Mead", options=options)
    return start + sigma * found.x


class Table:
    """Constants and misfits that are known, in a file of JSON."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}

    def add(self, reader: str, sample: Sample, phi: Callable[[], FloatArray]) -> None:
        """Ask for constants where they are not known yet, and tell their misfits."""
        key = f"{reader} | {sample.spectrum.temperature_K:g}"
        if key in self.rows:
            return
        started = time.process_time()
        values = phi()
        paper, free = sample.misfits(values)
        self.rows[key] = {
            "values": values.tolist(),
            "nmse_paper": paper,
            "nmse_free": free,
            "seconds": time.process_time() - started,
        }
        self.file.write_text(json.dumps(self.rows, indent=1))
        print(f"{key} K: {paper:.3f} {free:.3f}", flush=True)  # noqa: T201

    def text(self, kelvin: list[float]) -> str:
        """The table; the figures of the paper are below."""
        heads = [f"{name}, {T:g} K" for name in ("nmse_paper", "nmse_free") for T in kelvin]
        lines = ["| reader | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for reader in dict.fromkeys(key.split(" | ")[0] for key in self.rows):
            cells = [
                self.rows.get(f"{reader} | {T:g}", {}).get(name, float("nan"))
                for name in ("nmse_paper", "nmse_free")
                for T in kelvin
            ]
            lines.append(f"| {reader} | " + " | ".join(f"{v:.3f}" for v in cells) + " |")
        lines += [f"{name}: {value:.3f}" for name, value in PAPER.items()]
        return "\n".join(lines) + "\n"


def network(
    folder: Path,
    recipe: ImageRecipe,
    images: SingleArray,
    mask: np.ndarray,
    targets: FloatArray,
    told: Told,
) -> ImageNetwork:
    """One autoencoder with its regressor, from FOLDER where it is there."""
    from safetensors.torch import load_file, save_file

    file = folder / f"{recipe.architecture}.safetensors"
    if not file.is_file():
        started = time.process_time()
        made = train_images(CleanImages(images), mask, targets, recipe, 0, told)
        print(f"{recipe.architecture}: {time.process_time() - started:.0f} s", flush=True)  # noqa: T201
        save_file({k: v.contiguous() for k, v in made.tensors().items()}, file)
    found = architecture_of(recipe.architecture).load(
        recipe.sizes, load_file(file), shape=mask.shape, parameters=targets.shape[1]
    )
    assert isinstance(found, ImageNetwork)
    return found


def short(name: str) -> ImageRecipe:
    """A published recipe in passes that fit one core."""
    published = RECIPES[name]
    assert isinstance(published, ImageRecipe)
    return published.shortened(EPOCHS[published.architecture], REGRESSOR_EPOCHS)


def refined(sample: Sample, table: Table) -> FloatArray:
    """Constants of the powder fit; the misfits of its own full model go into the table as well."""
    resolution = aluminium_setup(sample.spectrum.temperature_K)[2]
    settings = InversionSettings(points=POINTS, max_order=4)
    fit = fit_powder(sample.spectrum, sample.model, sample.prior, resolution, settings=settings)
    key = f"refined, its own full model | {sample.spectrum.temperature_K:g}"
    table.rows[key] = {"nmse_paper": fit.nmse_paper, "nmse_free": fit.nmse_free}
    return fit.values


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    told = Told()
    samples = [Sample.of(spectrum) for spectrum in read_powder_spectra()]
    table = Table(folder / "table.json")
    mask = samples[0].spectrum.valid
    prior = samples[0].prior
    measured = normalised_images([s.spectrum.intensity for s in samples], mask)

    def read(net: ImageNetwork, place: int) -> FloatArray:
        assert net.regressor is not None
        standard = net.regressor(net.latents(torch.from_numpy(measured[place : place + 1])))
        values = prior.mean + prior.sigma * standard.numpy()[0].astype(float)
        return np.clip(values, prior.lower, prior.upper)

    parameters, images = training(samples, folder / "simulated.npz", told)
    targets = (parameters - prior.mean) / prior.sigma
    middle = parameters.mean(axis=0)

    def by_networks(names: tuple[str, ...]) -> None:
        for name in names:
            recipe = short(name)
            net = network(folder, recipe, images, mask, targets, told)
            for place, sample in enumerate(samples):
                table.add(recipe.architecture, sample, lambda n=net, p=place: read(n, p))

    def by_search() -> None:
        for sample in samples:
            table.add("mean of the simulated", sample, lambda: middle)
            table.add("Nelder-Mead from there", sample, lambda s=sample: searched(s, 0, middle))
            table.add(REFINED, sample, lambda s=sample: refined(s, table))
            kept = np.array(table.rows[f"{REFINED} | {sample.spectrum.temperature_K:g}"]["values"])
            table.add(
                "least squares of the common model",
                sample,
                lambda s=sample, k=kept: searched(s, 1, k),
            )

    def by_tuning() -> None:
        recipe = replace(short(TUNED), fine_tuning_epochs=200, regressor_epochs=20)
        net = network(folder, recipe, images, mask, targets, told)
        for place, sample in enumerate(samples):

            def tuned(p: int = place) -> FloatArray:
                others = np.delete(measured, p, axis=0)
                simulated = CleanImages(images)
                return read(fine_tuned(net, others, simulated, targets, recipe, 0, told), p)

            table.add("fc-vae, fine-tuned on the others", sample, tuned)

    by_networks(RECIPE_NAMES[:2])
    by_tuning()
    by_search()
    by_networks(RECIPE_NAMES[2:])
    print(table.text([s.spectrum.temperature_K for s in samples]))  # noqa: T201


if __name__ == "__main__":
    main()
