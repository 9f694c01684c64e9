"""Virtual rotation scans written as recorded files, with the truth beside them.

Only two numbers come from the path that the data will be folded onto: the flux and the background,
set so that the tubes count what the experiment's ``virtual`` section asks for. All kinematics of
the events are those of ``simulations.virtual.sampling``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.recorded import write_nxspe, write_sns_events
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import Instrument, coarsen, instrument_idf, split_name
from simulations.likelihood import QSpreadSection, size_of_pixels
from simulations.progress import Progress, silent
from simulations.virtual import (
    SmoothParts,
    Spread,
    VirtualCan,
    VirtualChunk,
    VirtualExperiment,
    VirtualLattice,
    VirtualSection,
    lattice_of,
    simulate_chunk,
    smooth_parts,
)
from steering.experiment import Experiment, Measurement, build_measurement
from steering.study.truth_file import remove_earlier, write_truth

COULOMB_PER_MINUTE = 0.084  # 1.4 MW of 1 GeV protons
FIRST_START_NS = 1_767_225_600_000_000_000  # 2026-01-01, so that equal seeds give equal files
CALIBRATION_PSIS = 8
CALIBRATION_COARSENING = (4, 2)
STABILITY_MESH = 6
FORMATS = ("sns", "nxspe")


@dataclass(frozen=True, kw_only=True, slots=True)
class TubeRates:
    """Counts per minute in the tubes of a path, over its energy axis, mean over orientations."""

    phonon: float  # per unit of VirtualExperiment.flux
    flat: float  # per unit of VirtualExperiment.background
    psi_deg: tuple[float, ...]  # orientations that were averaged
    coarsen: int  # pixels merged along the tubes for it


def tube_rates(
    measurement: Measurement, psi_deg: Sequence[float], phi: FloatArray, instrument: Instrument
) -> TubeRates:
    """Expected rates inside the tubes, from the fold's exposure and forward model.

    At most eight of the orientations are looked at, with pixels merged along the tubes where they
    can be; on the reference run this moves the rates by less than 1 %.

    Parameters
    ----------
    measurement : Measurement
    psi_deg : sequence of float
    phi : (K,)
        True force constants.
    instrument : Instrument
        True instrument.

    Raises
    ------
    ValueError
        If no orientation reaches a tube.
    """
    factor, coarse = _coarsest(instrument)
    order = np.sort(np.asarray(psi_deg, dtype=float))
    chosen = order[np.unique(np.linspace(0, len(order) - 1, CALIBRATION_PSIS).round().astype(int))]
    forward = measurement.quick_forward
    state = forward.prepare(phi)
    phonon = flat = 0.0
    for psi in chosen:
        exposure = measurement.exposure(float(psi), coarse)  # of one coulomb: one unit of flux
        seen = exposure if not measurement.costly else exposure.merged(measurement.merged)
        rate, _ = forward.rates(seen, state, log_width=0.0, gradient=False)
        phonon += float(rate.sum()) / len(chosen)
        flat += 1e3 * float(measurement.geometry.path_sums(exposure)[1].sum()) / len(chosen)
    if phonon <= 0:
        raise InputError(
            f"psi {[float(psi) for psi in chosen]} degrees and Ei {measurement.ei_meV:g} meV reach "
            "no tube of the path; expected some. Change the orientations, Ei or the path."
        )
    return TubeRates(
        phonon=phonon, flat=flat, psi_deg=tuple(float(p) for p in chosen), coarsen=factor
    )


def simulate(
    experiment: Experiment,
    *,
    experiment_dir: Path,
    output: Path,
    psi_deg: Sequence[float],
    minutes: float,
    seed: int,
    formats: Sequence[str] = FORMATS,
    processes: int = 2,
    progress: Progress | None = None,
    truth: str | Mapping[str, float] = "reference",
    settings: Mapping[str, Any] | None = None,
    dead_pixels: NDArray[np.bool_] | None = None,
    power_sigma: float | None = None,
    geometry: tuple[Instrument, str] | None = None,
) -> dict[str, Any]:
    """Simulate a rotation scan and write it.

    Parameters
    ----------
    experiment : Experiment
        Sample, instrument, path and counting rates.
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    output : Path
        Folder for one file per orientation and format, and ``truth.json``. Files of an earlier
        simulation there, as its truth lists them, are removed.
    psi_deg : sequence of float
        Orientations in the order of measuring.
    minutes : float
        Dwell at each.
    seed : int
        Same seed, same events, whatever ``processes``.
    formats : sequence of str
        ``sns`` (raw events; ``events`` means the same) and ``nxspe`` (histograms).
    processes : int
        1 works in this process.
    progress : callable, optional
        Called with (message, fraction).
    truth : str or mapping
        ``reference``: the structure's own force constants; ``prior``: one stable draw from the
        prior's box; a mapping sets single parameters by name and leaves the others at reference.
    settings : mapping, optional
        Fields of ``VirtualExperiment`` to change beyond the experiment's ``virtual`` section.
    dead_pixels : (pixels,) bool, optional
        Pixels that count nothing although no mask says so; default: those of the experiment's
        ``virtual.dead_tubes``.
    power_sigma : float, optional
        Relative standard deviation of the beam power between orientations; moves counts and
        recorded proton charge alike. Default: the experiment's.
    geometry : (Instrument, str), optional
        Pixels and their IDF text in place of the named instrument, e.g. as a recorded run had it.

    Returns
    -------
    dict
        As ``truth.json``.

    Raises
    ------
    ValueError
        If an argument is impossible or the truth is unstable.
    """
    wanted = _formats(formats)
    angles = [float(psi) for psi in psi_deg]
    if not angles or not np.all(np.isfinite(angles)):
        raise InputError(f"psi_deg is {angles}; expected at least one finite angle in degrees")
    if not (np.isfinite(minutes) and minutes > 0):
        raise InputError(f"minutes is {minutes}; expected a number above 0")
    asked = experiment.virtual
    power_sigma = asked.power_sigma if power_sigma is None else power_sigma
    if not 0 <= power_sigma < 0.5:
        raise InputError(f"power_sigma is {power_sigma}; expected 0 or more, below 0.5")
    say = progress or silent

    say("reading the experiment", 0.0)
    measurement = build_measurement(experiment, experiment_dir)
    instrument, idf = geometry or (measurement.instrument, None)
    if idf is None:
        idf = instrument_idf(instrument.name)
    phi = true_parameters(measurement, truth, seed)
    if dead_pixels is None and asked.dead_tubes:
        dead_pixels = _pixels_of_tubes(instrument, asked.dead_tubes)
    say("setting flux and background", 0.02)
    virtual, rates = virtual_experiment(
        measurement, angles, phi, instrument=instrument, settings=settings, dead_pixels=dead_pixels
    )
    # Beside a pocket they take long to converge, and the reference's are known.
    known = virtual.pockets is not None and np.array_equal(phi, measurement.model.values)
    power = np.random.default_rng([seed, 1 << 33]).normal(1.0, power_sigma, len(angles))
    edges = measurement.energy.edges_meV
    job = _Job(
        virtual=virtual,
        lattice=lattice_of(virtual, measurement.displacement if known else None),
        smooth=smooth_parts(virtual),
        recorded=instrument,
        idf=idf,
        minutes=minutes,
        seed=seed,
        power=tuple(np.maximum(power, 0.1).tolist()),
        psi_deg=tuple(angles),
        spacing_s=minutes * 60 + experiment.motion.overhead_s,
        psi_log=experiment.source.psi_log,
        nxspe_edges_meV=_histogram_edges(edges, virtual.window),
        stem=str(output / _stem(measurement, instrument)),
        title=experiment.title,
        formats=wanted,
    )
    output.mkdir(parents=True, exist_ok=True)
    remove_earlier(output)
    chunks = []
    for record in _run(job, min(processes, len(angles))):
        chunks.append(record)
        say(f"psi {record['psi_deg']:g} deg", 0.1 + 0.9 * len(chunks) / len(angles))
    written = _truth(experiment, measurement, job, rates, truth, dead_pixels, chunks)
    write_truth(output, written)
    return written


def virtual_experiment(
    measurement: Measurement,
    psi_deg: Sequence[float],
    phi: FloatArray,
    *,
    instrument: Instrument | None = None,
    settings: Mapping[str, Any] | None = None,
    dead_pixels: NDArray[np.bool_] | None = None,
) -> tuple[VirtualExperiment, TubeRates]:
    """Virtual experiment with flux and background set for a scan; arguments as in ``simulate``."""
    experiment = measurement.experiment
    sample = experiment.sample
    instrument = measurement.instrument if instrument is None else instrument
    rates = tube_rates(measurement, psi_deg, phi, instrument)
    counts = experiment.virtual.counts_per_minute
    fields: dict[str, Any] = {
        "model": measurement.model,
        "phi": phi,
        "instrument": instrument if dead_pixels is None else instrument.with_mask(dead_pixels),
        "u": sample.u,
        "v": sample.v,
        "ei_meV": experiment.instrument.ei_meV,
        "temperature_K": sample.temperature_K,
        "flux": counts / rates.phonon,
        "background": experiment.virtual.background_ratio * counts / rates.flat,
        "pockets": measurement.pockets,
        "psi_offset_deg": sample.psi_offset_deg,
        "omega_deg": sample.omega_deg,
        "dpsi_deg": sample.dpsi_deg,
        "gl_deg": sample.gl_deg,
        "gs_deg": sample.gs_deg,
        "spread": _spread(experiment, instrument),
        **_parts(experiment.virtual, counts / rates.flat),
    }
    return VirtualExperiment(**(fields | dict(settings or {}))), rates


def _spread(experiment: Experiment, instrument: Instrument) -> Spread:
    """What blurs Q: as the virtual section has it, else as the fit believes it."""
    asked = experiment.virtual.model_dump(include=set(QSpreadSection.model_fields))
    told = {name: value for name, value in asked.items() if value is not None}
    spread = experiment.q_spread.model_copy(update=told)
    return Spread(
        mosaic_deg=spread.mosaic_deg,
        divergence_deg=spread.divergence_deg,
        pixel_m=size_of_pixels(instrument, spread.pixel_m),
    )


def _parts(section: VirtualSection, flat_background: float) -> dict[str, Any]:
    """Fields of ``VirtualExperiment`` that the section asks for; the flat level is of ratio 1."""
    can = section.can
    return {
        "sample": section.sample,
        "elastic_scale": section.elastic,
        "bragg_scale": section.bragg,
        "incoherent_scale": section.incoherent,
        "multiphonon_scale": section.multiphonon,
        "can": None
        if can is None
        else VirtualCan(atoms=can.atoms, material=can.material, line_width=can.line_width),
        "decaying": section.decaying_ratio * flat_background,
        "decay_us": section.decay_us,
    }


def _pixels_of_tubes(instrument: Instrument, tubes: Sequence[int]) -> NDArray[np.bool_]:
    """Pixels of the numbered tubes, (pixels,)."""
    tube = np.full(instrument.n_pixels, -1) if instrument.tube is None else instrument.tube
    unknown = sorted(set(tubes) - set(tube.tolist()))
    if unknown:
        raise InputError(
            f"virtual.dead_tubes names {unknown}; expected tubes of {instrument.name}, "
            f"{int(tube.min())} to {int(tube.max())} (-1: it has none)"
        )
    return np.isin(tube, tubes)


def true_parameters(
    measurement: Measurement, truth: str | Mapping[str, float], seed: int
) -> FloatArray:
    """Force constants of the simulated crystal, (K,), eV/angstrom^2; see ``simulate``.

    Raises
    ------
    ValueError
        If ``truth`` is another word or names a parameter that is not free.
    """
    model = measurement.model
    if isinstance(truth, Mapping):
        unknown = sorted(set(truth) - set(model.names))
        if unknown:
            raise InputError(f"truth names {unknown}; expected some of {list(model.names)}")
        return np.array(
            [truth.get(n, v) for n, v in zip(model.names, model.values, strict=True)], dtype=float
        )
    if truth == "reference":
        return model.values
    if truth == "prior":
        axis = (np.arange(STABILITY_MESH) + 0.25) / STABILITY_MESH
        fraction = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        q = np.concatenate([fraction, 0.05 * (fraction - 0.5)]) @ measurement.crystal.reciprocal
        rng = np.random.default_rng([seed, 1 << 32])
        pockets = measurement.pockets
        deepest = 0.0 if pockets is None else pockets.depth_meV
        return measurement.box.sample(1, rng, model, q, tolerance_meV=deepest).values[0]
    raise InputError(f"truth is {truth!r}; expected 'reference', 'prior' or values by name")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    """Everything a worker needs; the same for all orientations."""

    virtual: VirtualExperiment
    lattice: VirtualLattice
    smooth: SmoothParts
    recorded: Instrument  # as the files describe it: dead pixels look alive
    idf: str
    minutes: float
    seed: int
    power: tuple[float, ...]
    psi_deg: tuple[float, ...]
    spacing_s: float
    psi_log: str
    nxspe_edges_meV: FloatArray
    stem: str
    title: str
    formats: tuple[str, ...]


def _run(job: _Job, processes: int):
    """Records of all orientations, in order."""
    indices = range(len(job.psi_deg))
    if processes <= 1:
        for index in indices:
            yield _chunk(job, index)
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_keep, initargs=(job,)
    ) as pool:
        yield from pool.map(_kept_chunk, indices)


_KEPT: list[_Job] = []  # of a worker process


def _keep(job: _Job) -> None:
    _KEPT[:] = [job]


def _kept_chunk(index: int) -> dict[str, Any]:
    return _chunk(_KEPT[0], index)


def _chunk(job: _Job, index: int) -> dict[str, Any]:
    """Simulate and write one orientation."""
    psi, power = job.psi_deg[index], job.power[index]
    seed = np.random.SeedSequence([job.seed, index])
    events = simulate_chunk(
        job.virtual, psi, job.minutes * power, seed, lattice=job.lattice, smooth=job.smooth
    )
    stem = f"{job.stem}_{index + 1:04d}"
    charge = COULOMB_PER_MINUTE * job.minutes * power
    common = {
        "ei_meV": job.virtual.ei_meV,
        "psi_deg": psi,
        "proton_charge": charge,
        "minutes": job.minutes,
        "run_number": str(index + 1),
        "temperature_K": job.virtual.temperature_K,
        "start_time_ns": FIRST_START_NS + round(index * job.spacing_s * 1e9),
    }
    files = []
    if "sns" in job.formats:
        files.append(f"{stem}.nxs.h5")
        write_sns_events(
            files[-1],
            idf_xml=job.idf,
            instrument_name=job.recorded.name,
            detector_id=job.recorded.detector_id[events.pixel],
            tof_us=events.time_of_flight_us,
            title=job.title,
            psi_log=job.psi_log,
            **common,
        )
    if "nxspe" in job.formats:
        files.append(f"{stem}.nxspe")
        intensity, error, counts = histogram(job, events, charge)
        write_nxspe(
            files[-1],
            instrument=job.recorded,
            energy_edges_meV=job.nxspe_edges_meV,
            intensity=intensity,
            error=error,
            counts=counts,
            notes=("virtual experiment; the truth is in truth.json",),
            **common,
        )
    return {
        "chunk": str(index + 1),
        "psi_deg": psi,
        "minutes": job.minutes,
        "proton_charge": charge,
        "events": events.counts,
        "expected": events.expected,
        "expected_phonon_sigma": events.phonon_sigma,
        "files": [Path(name).name for name in files],
    }


def histogram(
    job: _Job, events: VirtualChunk, charge: float
) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Intensity, error and counts on pixels x energy bins; events beyond the bins are dropped.

    Intensity is counts over charge, solid angle and bin width, times k_i/k_f.
    """
    edges = job.nxspe_edges_meV
    bins, n = len(edges) - 1, job.recorded.n_pixels
    place = np.searchsorted(edges, events.energy_transfer_meV, side="right") - 1
    inside = (place >= 0) & (place < bins)
    flat = events.pixel[inside].astype(np.int64) * bins + place[inside]
    counts = np.bincount(flat, minlength=n * bins).reshape(n, bins)
    middle = 0.5 * (edges[1:] + edges[:-1])
    ei = job.virtual.ei_meV
    weight = np.sqrt(ei / (ei - middle)) / np.diff(edges) / charge
    solid = np.where(job.recorded.solid_angle_sr > 0, job.recorded.solid_angle_sr, np.nan)
    per_count = weight / solid[:, None]
    return counts * per_count, np.sqrt(counts) * per_count, counts


def _histogram_edges(path_edges_meV: FloatArray, window: tuple[float, float]) -> FloatArray:
    """Bins of the path's width, aligned with the path, inside the recorded window."""
    step = (path_edges_meV[-1] - path_edges_meV[0]) / (len(path_edges_meV) - 1)
    first = np.ceil((window[0] - path_edges_meV[0]) / step - 1e-9)
    last = np.floor((window[1] - path_edges_meV[0]) / step + 1e-9)
    return path_edges_meV[0] + step * np.arange(first, last + 1)


def _coarsest(instrument: Instrument) -> tuple[int, Instrument]:
    """Instrument with pixels merged where that is possible and masks no more of it."""
    live = instrument.solid_angle_sr[~instrument.masked].sum()
    for factor in CALIBRATION_COARSENING:
        try:
            merged = coarsen(instrument, factor)
        except ValueError:
            continue
        if merged.solid_angle_sr[~merged.masked].sum() > 0.998 * live:
            return factor, merged
    return 1, instrument


def _stem(measurement: Measurement, instrument: Instrument) -> str:
    formula = "".join(dict.fromkeys(measurement.crystal.elements))
    name = f"{formula}-{split_name(instrument.name)[0]}".lower()
    return "".join(c if c.isalnum() or c == "-" else "-" for c in name)


def _formats(formats: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys("sns" if f == "events" else f for f in formats))
    unknown = sorted(set(wanted) - set(FORMATS))
    if unknown or not wanted:
        raise InputError(f"formats is {list(formats)}; expected some of {list(FORMATS)}")
    return wanted


def _truth(
    experiment: Experiment,
    measurement: Measurement,
    job: _Job,
    rates: TubeRates,
    truth: str | Mapping[str, float],
    dead_pixels: NDArray[np.bool_] | None,
    chunks: list[dict[str, Any]],
) -> dict[str, Any]:
    """What ``truth.json`` holds."""
    virtual, instrument = job.virtual, job.recorded
    model = measurement.model
    return {
        "schema_version": 1,
        "title": experiment.title,
        "seed": job.seed,
        "drawn": truth if isinstance(truth, str) else "given",
        "notes": list(measurement.notes),
        "parameters": [
            {"name": name, "unit": "eV/angstrom^2", "value": float(value)}
            for name, value in zip(model.names, virtual.phi, strict=True)
        ],
        "held_fixed": {
            name: float(value)
            for name, value in zip(model.elements, model.element_values, strict=True)
            if name not in model.names
        },
        "sample": {
            "structure": experiment.sample.structure,
            "u": list(virtual.u),
            "v": list(virtual.v),
            "temperature_K": virtual.temperature_K,
            "psi_offset_deg": virtual.psi_offset_deg,
            "omega_deg": virtual.omega_deg,
            "dpsi_deg": virtual.dpsi_deg,
            "gl_deg": virtual.gl_deg,
            "gs_deg": virtual.gs_deg,
            "mean_square_displacement_A2": job.lattice.mean_square.tolist(),
        },
        "instrument": {
            "name": instrument.name,
            "coarsen": split_name(instrument.name)[1],
            "pixels": instrument.n_pixels,
            "pixels_used": int(np.sum(~virtual.instrument.masked)),
            "pixels_dead": 0 if dead_pixels is None else int(np.sum(dead_pixels)),
            "ei_meV": virtual.ei_meV,
            "resolution": list(instrument.resolution.coefficients),
        },
        "flux": {
            "value": virtual.flux,
            "unit": "counts / (minute sr barn per primitive cell)",
            "scale_per_coulomb": virtual.flux / COULOMB_PER_MINUTE,
        },
        "background": {
            "value": virtual.background,
            "unit": "counts / (minute sr microsecond)",
            "per_coulomb_sr_ms": 1e3 * virtual.background / COULOMB_PER_MINUTE,
        },
        "tubes": {
            "phonon_counts_per_minute": virtual.flux * rates.phonon,
            "background_counts_per_minute": virtual.background * rates.flat,
            "half_width_rlu": experiment.path.half_width_rlu,
            "calibrated_on_psi_deg": list(rates.psi_deg),
            "calibrated_with_coarsening": rates.coarsen,
        },
        "spread": {
            "mosaic_deg": virtual.spread.mosaic_deg,
            "divergence_deg": virtual.spread.divergence_deg,
            "pixel_m": list(virtual.spread.pixel_m),
        },
        "can": None
        if virtual.can is None
        else {
            "material": virtual.can.material,
            "atoms": virtual.can.atoms,
            "line_width_inverse_A": virtual.can.line_width,
        },
        "decaying_background": {
            "value": virtual.decaying,
            "unit": "counts / (minute sr microsecond) at E = 0",
            "decay_us": virtual.decay_us,
        },
        "lines": {
            "intrinsic_sigma_meV": virtual.intrinsic_sigma_meV,
            "lowest_line_meV": virtual.lowest_line_meV,
            "sample": virtual.sample,
            "incoherent_scale": virtual.incoherent_scale,
            "multiphonon_scale": virtual.multiphonon_scale,
            "elastic_scale": virtual.elastic_scale,
            "bragg_scale": virtual.bragg_scale,
            "bragg_width_inverse_A": virtual.bragg_width,
            "window_meV": list(virtual.window),
        },
        "minutes": job.minutes,
        "psi_deg": list(job.psi_deg),
        "chunks": chunks,
    }
