"""``beamsteer phonons RESULT.json``: force constants of a run and what follows from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._option_text import axis

if TYPE_CHECKING:
    from steering.predict import PosteriorPhonons

SHOWN_K = (100.0, 300.0)
"""Temperatures of the table besides the sample's, where they are among those computed."""


def posterior_verb(
    result: Path,
    *,
    experiment: Path | None,
    path: str | None,
    points: int,
    samples: int,
    sets: int,
    seed: int,
    temperatures: str,
    output: list[Path],
    json: bool,
) -> None:
    """Compute, write and tell; the options of the verb by their names."""
    import numpy as np

    if len(output) > 1 or any(name.suffix in (".png", ".npz", ".csv") for name in output):
        raise InputError(
            f"--output is {', '.join(map(str, output))}; expected one folder for the files of a "
            "result. Give -o FOLDER"
        )
    kelvins = axis(temperatures, "--temperatures")
    if kelvins is None or kelvins[0] < 0:
        raise InputError(f"--temperatures is {temperatures!r}; expected kelvins, 0 or more")

    from steering.experiment import force_constants_of
    from steering.predict import (
        experiment_of_result,
        posterior_phonons,
        write_posterior_phonons,
    )
    from steering.run import read_result

    found_result = read_result(result)
    described, folder = experiment_of_result(result, experiment)
    with terminal.progress("phonons", quiet=json) as progress:
        progress("reading the experiment", 0.0)
        sample_K = described.sample.temperature_K
        found = posterior_phonons(
            found_result,
            force_constants_of(described, folder),
            where=str(result),
            samples=samples,
            seed=seed,
            path=path,
            points=points,
            temperatures_K=np.append(kelvins, sample_K),
            progress=progress,
        )
        progress("writing", 0.95)
        written = write_posterior_phonons(found, output[0], sets=sets) if output else []
    if json:
        terminal.print_json({**found.content(), "files": written})
        return
    _print(found, sample_K)
    if not output:
        terminal.out.print("Write force constants, tables and a picture with -o FOLDER")
        return
    terminal.out.print(f"Written: {', '.join(map(str, written))}")
    count = min(sets, len(found.draws))
    if count:
        terminal.out.print(
            f"and {count} draws for phonopy: {output[0] / 'sample-001'} to sample-{count:03d}"
        )


def _print(found: PosteriorPhonons, sample_K: float) -> None:
    import numpy as np

    from steering.predict import independent_elastic

    terminal.out.print(found.verdict, markup=False, style="bold" if found.trusted else "bold red")
    for note in found.notes:
        terminal.out.print(f"  - {note}", markup=False)
    band = found.elastic_GPa
    rows = [
        [name, *_cells(band.value[i, j], band.sigma[i, j], band.low90[i, j], band.high90[i, j])]
        for name, i, j in independent_elastic(found)
    ]
    terminal.table(
        f"Elastic constants of {found.title}, GPa",
        ["constant", "value", "sigma", "5 to 95 %"],
        rows,
    )
    heat, moved = found.heat_capacity, found.isotropic_A2
    rows = []
    for k, kelvin in enumerate(found.temperatures_K):
        if not np.isclose(kelvin, [sample_K, *SHOWN_K]).any():
            continue
        at = f"{kelvin:g} K"
        told = _cells(heat.value[k], heat.sigma[k], heat.low90[k], heat.high90[k])
        rows.append([at, "C_V, J/(mol K)", *told])
        for name, atom in found.distinct_atoms():
            told = _cells(
                moved.value[k, atom], moved.sigma[k, atom], moved.low90[k, atom],
                moved.high90[k, atom],
            )  # fmt: skip
            rows.append([at, f"U of {name}, A^2", *told])
    if rows:
        terminal.table(
            "Heat capacity (a mole of primitive cells) and U_iso",
            ["temperature", "quantity", "value", "sigma", "5 to 95 %"],
            rows,
        )
    widest = found.energies_meV.high90 - found.energies_meV.low90
    if np.isfinite(widest).all():
        terminal.out.print(
            f"Highest mode on the path: {found.energies_meV.value.max():.4g} meV; energies are "
            f"known to +- {0.5 * np.median(widest):.2g} meV (90 %, median), "
            f"{0.5 * widest.max():.2g} at worst"
        )


def _cells(value: float, sigma: float, low: float, high: float) -> list[str]:
    """Value in the digits that its error leaves, sigma in two, and the band."""
    if not math.isfinite(sigma):
        return [terminal.number(float(value)), "-", "-"]
    from steering.predict import rounded

    value_text, sigma_text = rounded(value, sigma)
    return [value_text, sigma_text, f"{rounded(low, sigma)[0]} to {rounded(high, sigma)[0]}"]
