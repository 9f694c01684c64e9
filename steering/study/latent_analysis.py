"""What the latent of a bundle holds, on simulated spectra of its experiment and measured ones.

Spectra are simulated one orientation at a time, and a coverage with any dwell times is a sum of
them, as it is of a measurement. The folded model of the summed exposure differs a little, since its
moments are means over orientations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_server.networks import (
    Bundle,
    BundleRegistry,
    Domain,
    FoldedSpectrum,
    codes_of,
    correlation,
    distance_table,
    distances,
    encoder_input,
    interpolation,
    latent_activity,
    latent_share,
    principal_map,
    read_folded_spectrum,
    read_spectra,
    sensitivity,
)
from model_server.training import (
    LEVELS,
    Recipe,
    TrainingSpectra,
    joined_spectra,
    level_inputs,
    noisy_inputs,
)
from simulations.arrays import FloatArray, SingleArray
from simulations.crystal import species_words
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.experiment import Experiment, Measurement, build_measurement
from steering.study.model_training import WIDER_TUBE, merged_pixels

COVERAGES = 8  # under which each set of parameters is seen
MINUTES = (1.0, 10.0)  # at which single orientations are judged
DRAWS = 6  # of noise, for each set and orientation
PLACES = 6  # where derivatives are taken
STEP = 0.1  # prior sigmas, of derivatives
STEPS = 9  # of an interpolation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scan:
    """Expected spectra of sets of parameters at each of some orientations, on the coarse grid."""

    measurement: Measurement
    psi_deg: FloatArray  # (psi,)
    parameters: FloatArray  # (sets, parameters) eV/angstrom^2
    rate: FloatArray  # (sets, psi, rows, columns) phonon counts per unit scale
    exposure: FloatArray  # (psi, rows, columns) D
    flat: FloatArray  # (psi, rows, columns) F
    known: FloatArray  # (psi, path bins, energy bins) 1 where D > 0
    slopes: FloatArray  # (places, parameters, rows, columns) of the whole scan's rate, first sets
    line: FloatArray  # (steps, rows, columns) whole scan's rate from one set to another
    line_parameters: FloatArray  # (steps, parameters)
    line_spectra: FloatArray  # (steps, path bins, energy bins) intensity, NaN where unknown


def analyse_latent(
    model: str,
    experiment: Experiment,
    *,
    experiment_dir: Path,
    models: Sequence[Path] = (),
    runs: Sequence[Path] = (),
    sets: int = 48,
    orientations: int = 7,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Look into the latent of a bundle.

    Parameters
    ----------
    model : str
        Name of a bundle.
    experiment : Experiment
        That it was trained for.
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    models : sequence of Path
        Bundles, or folders of some, beside those that are shipped.
    runs : sequence of Path
        ``folded.npz``, or folders of a replay that hold one, to be placed among the simulated.
    sets : int
        Sets of parameters; half are seen in tubes as wide as the experiment's, half in wider ones.
    orientations : int
        At which they are simulated, over the limits of the motion.
    seed : int
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    dict
        Arrays and figures by what they tell: ``activity``, ``sensitivity``, ``correlation``,
        ``map``, ``interpolation``, ``psi``, ``distance``, ``runs``.

    Raises
    ------
    InputError
        If the bundle was trained for another experiment, or a run is of another one.
    """
    say = progress or silent
    bundle = BundleRegistry(models).get(model)
    if bundle.card["architecture"] == "flow":
        raise InputError(
            f"model {bundle.name!r} is a flow, which has no latent but gives a posterior; expected "
            "an encoder. Its card holds its calibration; `beamsteer guess` prints its intervals."
        )
    measurement = build_measurement(experiment, experiment_dir).targeted_alone()
    bundle.check(
        Domain(
            parameter_names=measurement.model.names,
            path_hkl=measurement.path.centres_hkl(),
            energy_edges_meV=measurement.energy.edges_meV,
            isotopes=species_words(measurement.crystal),
        )
    )
    measured = [read_folded_spectrum(folded_of(path), str(path)) for path in runs]
    readings = read_spectra(bundle, measured)  # before minutes of simulation
    rng = np.random.default_rng(seed)
    factors = (1.0, WIDER_TUBE)
    scans = []
    for k, factor in enumerate(factors):
        part = _Part(say, k / len(factors), 1 / len(factors))
        wide = _with_tubes(experiment, measurement, factor)
        this = build_measurement(wide, experiment_dir).targeted_alone()
        scans.append(_simulate(this, bundle, max(2, sets // 2), orientations, rng, part))
    say("reading", 1.0)
    spectra = joined_spectra([_covered(bundle, scan, rng) for scan in scans])
    inputs, _ = noisy_inputs(spectra, Recipe(), rng)
    codes, deviations = codes_of(bundle.network, inputs)
    truth = (spectra.parameters - bundle.prior_mean) / bundle.prior_sigma
    activity = latent_activity(codes, deviations)
    places = principal_map(codes)
    levels = {
        counts: codes_of(bundle.network, level_inputs(spectra, counts))[0] for counts in LEVELS
    }
    table = distance_table(levels, bundle.network)
    card = {**bundle.card, "latent distance": table}
    whole = scans[-1]
    below, above = _sides(bundle, whole)
    line = _clean(whole.line, whole.exposure.sum(axis=0), _share(bundle, whole.known.max(axis=0)))
    bent = interpolation(
        bundle.network, line, (whole.line_parameters - bundle.prior_mean) / bundle.prior_sigma
    )
    errors = np.array([_errors(bundle, whole, experiment, minutes, rng) for minutes in MINUTES])
    moved = sensitivity(bundle.network, below, above, STEP)
    return {
        "model": bundle.name,
        "title": str(bundle.card["title"]),
        "architecture": bundle.card["architecture"],
        "experiment": bundle.card["experiment"]["hash"],
        "parameter_names": list(bundle.parameter_names),
        "unit": "eV/angstrom^2",
        "spectra": len(spectra),
        "sets": len(spectra) // COVERAGES,
        "half_widths_rlu": [experiment.path.half_width_rlu * factor for factor in factors],
        "activity": {
            "variance": activity.variance,
            "noise": activity.noise,
            "divergence_nats": activity.divergence,
            "active": activity.active,
        },
        "sensitivity": {
            "d_code_d_parameter": moved,
            "over_spread": moved / np.maximum(codes.std(axis=0), 1e-12)[:, None],
        },
        "correlation": {
            "codes_parameters": correlation(codes, truth),
            "codes_codes": correlation(codes, codes),
        },
        "map": {
            **places.to_card(),
            "simulated": places.place(codes),
            "parameters": spectra.parameters,
        },
        "interpolation": {
            "steps": bent.steps,
            "along_latent": _in_units(bundle, bent.read),
            "along_parameters": _in_units(bundle, bent.given),
            "read_off_spectra": _in_units(bundle, bent.read_of_given),
            "bend": bent.bend,
            "spectra": whole.line_spectra,
            "energy_edges_meV": whole.measurement.energy.edges_meV,
        },
        "psi": {
            "psi_deg": whole.psi_deg,
            "minutes": list(MINUTES),
            "error_over_prior": errors[:, :-1],
            "all_orientations": errors[:, -1],
        },
        "distance": {
            **table,
            "simulated": [distances(some, bundle.network) for some in levels.values()],
        },
        "runs": [
            {
                "name": one.name,
                "map": places.place(bundle.network.codes(_seen(bundle, spectrum))[0])[0],
                "values": one.values,
                "typical_error": one.typical_error,
                "counts": one.counts,
                "latent_distance": one.latent_distance,
                "latent_share": latent_share(card, one.latent_distance, one.counts),
            }
            for one, spectrum in zip(readings, measured, strict=True)
        ],
    }


def folded_of(path: Path) -> Path:
    """The ``folded.npz`` that a name stands for: itself, in a folder, or beside ``result.json``."""
    if path.is_dir():
        return path / "folded.npz"
    return path.with_name("folded.npz") if path.suffix == ".json" else path


# --- simulated spectra -------------------------------------------------------------------------


class _Part:
    """A stretch of the progress of something larger."""

    def __init__(self, say: Progress, first: float, share: float) -> None:
        self._say, self._first, self._share = say, first, share

    def __call__(self, label: str, fraction: float) -> None:
        self._say(label, self._first + self._share * fraction)


def _with_tubes(experiment: Experiment, measurement: Measurement, factor: float) -> Experiment:
    """The same in wider tubes and voxels, with pixels merged as for training."""
    section = experiment.path
    return experiment.model_copy(
        update={
            "path": section.model_copy(
                update={
                    "half_width_rlu": section.half_width_rlu * factor,
                    "voxel_rlu": section.voxel_rlu * factor,
                }
            ),
            "instrument": merged_pixels(experiment, measurement),
        }
    )


def _simulate(
    this: Measurement,
    bundle: Bundle,
    sets: int,
    orientations: int,
    rng: np.random.Generator,
    say: Progress,
) -> _Scan:
    forward, grid = this.forward, bundle.grid
    low, high = this.experiment.motion.limits_deg
    angles = np.linspace(low, high, orientations)
    exposures = []
    for k, psi in enumerate(angles):
        exposures.append(this.exposure(float(psi)))
        say("exposures", 0.2 * (k + 1) / orientations)
    D, F = np.moveaxis(np.array([this.geometry.path_sums(one) for one in exposures]), 1, 0)
    whole = exposures[0]
    for one in exposures[1:]:
        whole = whole + one
    q = this.voxels.centre_cartesian[:: max(1, this.voxels.n_voxels // 150)]
    drawn = this.box.sample(sets, rng, this.model, q, tolerance_meV=forward.deepest_meV).values
    rates, slopes = [], []
    for s, phi in enumerate(drawn):
        state = forward.prepare(phi)
        rates.append([grid.sums(forward.rates(one, state, gradient=False)[0]) for one in exposures])
        if s < PLACES:
            gradient = forward.rates(whole, state)[1][..., : len(phi)]
            slopes.append(grid.sums(np.moveaxis(gradient, -1, 0)))
        say("simulating spectra", 0.2 + 0.7 * (s + 1) / sets)
    order = np.argsort(drawn[:, 0])
    line = np.linspace(drawn[order[0]], drawn[order[-1]], STEPS)
    fine = []
    for k, phi in enumerate(line):
        fine.append(forward.rates(whole, forward.prepare(phi), gradient=False)[0])
        say("interpolating", 0.9 + 0.1 * (k + 1) / STEPS)
    total = D.sum(axis=0)
    return _Scan(
        measurement=this,
        psi_deg=angles,
        parameters=drawn,
        rate=np.array(rates),
        exposure=grid.sums(D),
        flat=grid.sums(np.where(D > 0, F, 0.0)),
        known=(D > 0).astype(float),
        slopes=np.array(slopes),
        line=grid.sums(np.array(fine)),
        line_parameters=line,
        line_spectra=np.divide(
            np.array(fine), total, out=np.full((STEPS, *total.shape), np.nan), where=total > 0
        ),
    )


def _share(bundle: Bundle, known: FloatArray) -> FloatArray:
    """Share of measured fine cells in every coarse one, (..., rows, columns)."""
    return bundle.grid.sums(known) / (bundle.grid.path_group * bundle.grid.energy_group)


def _covered(bundle: Bundle, scan: _Scan, rng: np.random.Generator) -> TrainingSpectra:
    """Every set under some random coverages, from one orientation to all, with random dwells."""
    n = len(scan.psi_deg)
    rates, D, F, shares, parameters = [], [], [], [], []
    for phi, rate in zip(scan.parameters, scan.rate, strict=True):
        for k in range(COVERAGES):
            size = int(np.rint(n ** (k / (COVERAGES - 1))))
            chosen = rng.choice(n, size=size, replace=False)
            dwell = rng.uniform(0.3, 1.7, size)
            rates.append(np.tensordot(dwell, rate[chosen], 1))
            D.append(np.tensordot(dwell, scan.exposure[chosen], 1))
            F.append(np.tensordot(dwell, scan.flat[chosen], 1))
            shares.append(_share(bundle, scan.known[chosen].max(axis=0)))
            parameters.append(phi)
    return TrainingSpectra(
        parameters=np.array(parameters),
        rate=np.array(rates, dtype=np.float32),
        exposure=np.array(D, dtype=np.float32),
        flat=np.array(F, dtype=np.float32),
        coverage=np.array(shares, dtype=np.float32),
    )


def _clean(rate: FloatArray, D: FloatArray, share: FloatArray) -> SingleArray:
    """What a network sees of spectra (..., rows, columns) without noise and background."""
    return encoder_input(rate, np.broadcast_to(D, rate.shape), np.broadcast_to(share, rate.shape))


def _sides(bundle: Bundle, scan: _Scan) -> tuple[SingleArray, SingleArray]:
    """Spectra of the whole scan with one parameter after the other a step below and above."""
    D, share = scan.exposure.sum(axis=0), _share(bundle, scan.known.max(axis=0))
    centre = scan.rate[: len(scan.slopes)].sum(axis=1)[:, None]
    step = STEP * bundle.prior_sigma[:, None, None] * scan.slopes
    # Where little is expected a step along the slope may lead below zero.
    below, above = (np.maximum(centre + sign * step, 0.0) for sign in (-1, 1))
    return _clean(below, D, share), _clean(above, D, share)


def _errors(
    bundle: Bundle,
    scan: _Scan,
    experiment: Experiment,
    minutes: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Root mean square errors over prior widths, (psi and all together, parameters).

    Counts follow the rate of ``virtual``, on average over sets and orientations, and so does the
    background beside them, flat in time of flight; all together share one and the same time.
    """
    rate = np.concatenate([scan.rate, scan.rate.mean(axis=1, keepdims=True)], axis=1)
    D, F = (
        np.concatenate([sums, sums.mean(axis=0, keepdims=True)])
        for sums in (scan.exposure, scan.flat)
    )
    known = np.concatenate([scan.known, scan.known.max(axis=0, keepdims=True)])
    share = _share(bundle, known)
    virtual = experiment.virtual
    scale = virtual.counts_per_minute * minutes / rate.sum(axis=(2, 3)).mean()
    beside = virtual.background_ratio * rate.sum(axis=(2, 3)).mean() / F.sum(axis=(1, 2)).mean()
    expected = scale * (rate + beside * F)
    errors = np.zeros((len(D), len(bundle.parameter_names)))
    for _ in range(DRAWS):
        drawn = rng.poisson(expected)
        for k in range(len(D)):
            read = bundle.network.centres(
                encoder_input(
                    drawn[:, k],
                    np.broadcast_to(D[k], drawn[:, k].shape),
                    np.broadcast_to(share[k], drawn[:, k].shape),
                )
            )
            truth = (scan.parameters - bundle.prior_mean) / bundle.prior_sigma
            errors[k] += ((read - truth) ** 2).mean(axis=0) / DRAWS
    return np.sqrt(errors)


def _seen(bundle: Bundle, spectrum: FoldedSpectrum) -> SingleArray:
    return bundle.inputs_of(spectrum.intensity, None, spectrum.exposure)[0][None]


def _in_units(bundle: Bundle, standard: FloatArray) -> FloatArray:
    return bundle.prior_mean + bundle.prior_sigma * standard


def keep_analysis(folder: Path, found: dict[str, Any]) -> None:
    """Keep distances and map of simulated spectra with a bundle, where measured ones are placed.

    On its card, and beside it what the page draws.

    Raises
    ------
    InputError
        If the analysis is of another bundle's experiment.
    """
    bundle = Bundle.load(folder)
    if bundle.card["experiment"]["hash"] != found["experiment"]:
        raise InputError(
            f"{folder} is for experiment {bundle.card['experiment']['hash']}; expected "
            f"{found['experiment']}, that of the analysis. Name the bundle that was analysed."
        )
    table = {key: found["distance"][key] for key in found["distance"] if key != "simulated"}
    places = {key: found["map"][key] for key in ("mean", "axes", "shares")}
    bundle.with_card({"latent distance": table, "latent map": places}).save(folder)
    Bundle.keep_latent(folder, _drawn(found))


def _drawn(found: dict[str, Any]) -> dict[str, Any]:
    """What is drawn of an analysis, plain and in five significant digits."""
    psi, places, distance = found["psi"], found["map"], found["distance"]
    activity = found["activity"]
    drawn = {
        **{
            key: found[key]
            for key in ("title", "architecture", "experiment", "parameter_names", "unit", "spectra")
        },
        "activity": {key: activity[key] for key in ("variance", "noise", "active")},
        "sensitivity": found["sensitivity"]["over_spread"],
        "correlation": found["correlation"]["codes_parameters"],
        "map": {key: places[key] for key in ("shares", "simulated", "parameters")},
        "psi": psi,
        "distance": {key: distance[key] for key in distance if key != "simulated"},
    }
    return _short(drawn)


def _short(value: Any) -> Any:
    """Numbers in five significant digits, arrays as lists."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _short(value.tolist())
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
