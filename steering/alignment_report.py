"""What the elastic peaks and monitors of recorded files say about mount, lattice, Ei and T0.

Every finding is held against the experiment file: by how many standard errors it differs, and
whether that matters. What differs by more than both is an alarm, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from consumers.message import ChunkStart, ChunkStop, EventBlock, HistogramBlock, SetAside
from consumers.recorded import kind_of_file, recorded_source
from consumers.sns_event_file import (
    EMISSION_LOG,
    T0_GOOD_ENOUGH_US,
    estimate_t0_of_run,
    read_event_run,
)
from consumers.sns_monitor_file import read_monitors
from simulations.alignment import (
    Alignment,
    Estimated,
    MountFit,
    OrientedEvents,
    SpotsOfRun,
    align,
    cubic_rotations,
    elastic_peaks,
    fit_mount,
)
from simulations.beam_energy import PLACED_M, BeamEnergy, fit_beam_energy
from simulations.crystal import Crystal
from simulations.goniometer import Orientation, crystal_to_lab
from simulations.kinematics import flight_time_us
from steering.experiment_file import Experiment

FloatArray = NDArray[np.float64]
Progress = Callable[[str, float], None]

SIGMAS = 3.0  # beyond which a difference is no chance
ANGLE_DEG = 0.1  # below which a difference does not matter: a tenth of a tube at 5 1/angstrom
LATTICE = 2e-3  # likewise, relative
# Likewise, and the tolerance of a run: what 4 cm in 8 m of flight path do to the monitors' Ei, more
# than definition files are wrong by. It moves a phonon at Ei / 2 by a fifth of a chopper's width.
EI = 0.01
EI_LOGGED = 0.05  # readers refuse an Ei that is further from the file's own
# Likewise: share of the elastic line's full width at half maximum that T0 may move it by.
T0_WIDTHS = 1 / 3
LINE = 0.2  # full width at half maximum, share of Ei; a wider "elastic line" is none
FEWEST_ORIENTATIONS = 3  # that a mount without clean spots rests on
UNEXPLAINED = 0.35  # share of spots that another grain or the can may give
MOST_EVENTS = 2_000_000  # per file, of those near the elastic line
LOW_ENERGY = 0.45  # share of Ei up to which events are kept for a mount without clean spots


FWHM = float(np.sqrt(8 * np.log(2)))  # full width at half maximum in standard deviations
LEFT_HANDED = (
    "the logged angle turns the crystal left-handed about the vertical; expected right-handed. "
    "Give the negative of the log, or another psi_log"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding held against what was expected."""

    quantity: str
    unit: str
    found: float
    sigma: float
    expected: float | None
    matters: float  # smallest difference that does
    where: str = "experiment file"

    @property
    def sigmas(self) -> float | None:
        """Difference in standard errors; None where nothing was expected."""
        if self.expected is None:
            return None
        return (self.found - self.expected) / max(self.sigma, 1e-12)

    @property
    def agrees(self) -> bool | None:
        """Whether the difference may be chance or does not matter."""
        if self.expected is None or self.sigmas is None:
            return None
        # bool: a numpy one is neither True nor False to ``is``
        return bool(abs(self.sigmas) <= SIGMAS or abs(self.found - self.expected) <= self.matters)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self) | {"sigmas": self.sigmas, "agrees": self.agrees}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AlignmentReport:
    """What ``beamsteer align`` tells."""

    method: str  # "spots", "intensity" or "none"
    files: tuple[str, ...]
    spots: tuple[int, ...]  # per file
    checks: tuple[Check, ...]
    u: tuple[float, float, float] | None  # hkl along the beam at a logged angle of zero
    v: tuple[float, float, float] | None
    axis_sigma_deg: float | None  # standard error of the directions u and v
    UB: FloatArray | None  # (3, 3) Mantid's convention, fitted lattice
    lattice: tuple[Estimated, ...] | None
    beam: tuple[dict[str, Any], ...]  # per file: Ei and T0, or why not
    alarms: tuple[str, ...]
    notes: tuple[str, ...]
    set_aside: tuple[tuple[str, str], ...] = ()
    corrections: dict[str, dict[str, float]] = field(default_factory=dict)  # by section

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "alarm": bool(self.alarms),
            "alarms": list(self.alarms),
            "method": self.method,
            "files": list(self.files),
            "spots": list(self.spots),
            "checks": [check.as_dict() for check in self.checks],
            "u": self.u,
            "v": self.v,
            "axis_sigma_deg": self.axis_sigma_deg,
            "UB": self.UB,
            "lattice": None if self.lattice is None else [asdict(x) for x in self.lattice],
            "beam": list(self.beam),
            "notes": list(self.notes),
            "set_aside": [{"file": name, "reason": reason} for name, reason in self.set_aside],
            "corrections": self.corrections,
        }


def align_files(
    files: Sequence[Path],
    crystal: Crystal,
    *,
    experiment: Experiment | None = None,
    psi_log: str | None = None,
    psi_deg: float | None = None,
    propagation: tuple[float, float, float] | None = None,
    progress: Progress | None = None,
) -> AlignmentReport:
    """Read a rotation scan and say how the crystal sits and what the beam's energy is.

    Parameters
    ----------
    files : sequence of Path
        SNS event files or NXSPE, one orientation each.
    crystal : Crystal
        Lattice and reflections to expect.
    experiment : Experiment, optional
        What the findings are held against.
    psi_log : str, optional
        Log that holds psi; the experiment's, else ``s1``.
    psi_deg : float, optional
        For files without a psi.
    propagation : (3,), optional
        Reflections also at whole hkl plus this, e.g. (1/2, 1/2, 1/2).
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    AlignmentReport

    Raises
    ------
    ValueError
        If no file could be read.
    """
    say = progress or (lambda message, fraction: None)
    log = psi_log or (experiment.source.psi_log if experiment is not None else "s1")
    runs, hours, names, aside = _read(files, log, psi_deg, experiment, say)
    spots = [
        SpotsOfRun(
            angle_deg=run.angle_deg,
            hours=hour,
            ei_meV=run.ei_meV,
            peaks=tuple(elastic_peaks(run, window_meV=max(1.0, 0.03 * run.ei_meV))),
        )
        for run, hour in zip(runs, hours, strict=True)
    ]
    say("indexing", 0.7)
    checks: list[Check] = []
    alarms: list[str] = []
    notes: list[str] = []
    reference = None if experiment is None else _reference(experiment, crystal)
    fit = fit_mount(spots, crystal, reference=reference, extra=propagation)
    rough = None
    if fit is None:
        rough = _rough(runs, crystal, experiment, propagation, notes)
    corrections: dict[str, dict[str, float]] = {}
    mount: dict[str, float] = {}
    found: dict[str, Any] = {
        "method": "none", "u": None, "v": None, "UB": None, "lattice": None, "axis_sigma_deg": None
    }  # fmt: skip
    if fit is not None:
        found = _of_fit(fit)
        mount = _judge_fit(fit, crystal, experiment, hours, checks, alarms, notes)
    elif rough is not None:
        doubts = _doubts(rough, runs, experiment, propagation)
        found, mount = _of_rough(
            rough, crystal, experiment, reference, checks, alarms, doubted=bool(doubts)
        )
        alarms += doubts
    else:
        count = sum(len(run.peaks) for run in spots)
        alarms.append(
            f"{count} elastic spots in {len(spots)} file(s) agree with no mount of the crystal: "
            "too few, or another lattice. Add orientations or check the structure"
        )
    say("monitors", 0.9)
    if mount:
        corrections["sample"] = mount
    beam = tuple(_beam(path, log, experiment) for path in files)
    judged, change = _judge_beam(beam, runs, experiment, alarms)
    checks += judged
    corrections |= change
    if change:
        notes.append(
            "mount and lattice were read with the Ei and T0 that do not hold; after --correct "
            "align again with the corrected file"
        )
    notes += [_note(check) for check in checks if check.agrees and abs(check.sigmas or 0) > SIGMAS]
    if experiment is not None:
        wanted = experiment.instrument.ei_meV
        alarms += [
            f"Ei of {name} is {run.ei_meV:g} meV; the experiment file says {wanted:g}"
            for name, run in zip(names, runs, strict=True)
            if abs(run.ei_meV - wanted) > EI * wanted
        ]
    alarms += [_alarm(check) for check in checks if check.agrees is False]
    return AlignmentReport(
        files=tuple(names),
        spots=tuple(len(run.peaks) for run in spots),
        checks=tuple(checks),
        beam=beam,
        alarms=tuple(alarms),
        notes=tuple(notes),
        set_aside=tuple(aside),
        corrections=corrections,
        **found,
    )


def corrected(experiment: Experiment, report: AlignmentReport) -> Experiment:
    """Return the experiment with the mount that was found, and Ei and T0 where they do not agree.

    Raises
    ------
    ValueError
        If the report found neither.
    """
    if not report.corrections:
        raise ValueError(
            "--correct: no mount was found that can be told from others, and no Ei or T0 that "
            "disagrees; there is nothing to correct. Add orientations."
        )
    changed = {
        section: getattr(experiment, section).model_copy(update=values)
        for section, values in report.corrections.items()
    }
    return experiment.model_copy(update=changed)


def _read(
    files: Sequence[Path],
    psi_log: str,
    psi_deg: float | None,
    experiment: Experiment | None,
    say: Progress,
) -> tuple[list[OrientedEvents], list[float], list[str], list[tuple[str, str]]]:
    """Events near the elastic line of every file, and the middle of its dwell in hours."""
    source = recorded_source(
        files,
        run="align",
        psi_log=psi_log,
        psi_deg=psi_deg,
        ei_meV=None if experiment is None else experiment.source.ei_meV,
        nominal_ei_meV=None if experiment is None else experiment.instrument.ei_meV,
        t0_us=None if experiment is None else experiment.source.t0_us,
    )
    runs: list[OrientedEvents] = []
    hours: list[float] = []
    names: list[str] = []
    aside: list[tuple[str, str]] = []
    start: ChunkStart | None = None
    pixel: list[NDArray[np.int32]] = []
    energy: list[FloatArray] = []
    for message in source.messages():
        payload = message.payload
        if isinstance(payload, SetAside):
            aside.append((payload.origin, payload.reason))
        elif isinstance(payload, ChunkStart):
            start, pixel, energy = payload, [], []
        elif isinstance(payload, EventBlock) and start is not None:
            near = np.abs(payload.energy_transfer_meV) < LOW_ENERGY * start.ei_meV
            near &= payload.pixel >= 0
            if sum(map(len, pixel)) < MOST_EVENTS:
                pixel.append(payload.pixel[near])
                energy.append(payload.energy_transfer_meV[near])
        elif isinstance(payload, HistogramBlock) and start is not None:
            p, e = _as_events(payload, LOW_ENERGY * start.ei_meV)
            pixel.append(p)
            energy.append(e)
        elif isinstance(payload, ChunkStop) and start is not None:
            if start.geometry is None:
                aside.append((payload.chunk, "the file has no geometry"))
                continue
            runs.append(
                OrientedEvents(
                    angle_deg=start.psi_deg,
                    instrument=start.geometry,
                    ei_meV=start.ei_meV,
                    pixel=np.concatenate([*pixel, np.zeros(0, np.int32)]),
                    energy_transfer_meV=np.concatenate([*energy, np.zeros(0)]),
                )
            )
            hours.append(start.start_time_ns / 3.6e12 + payload.minutes / 120)
            names.append(payload.chunk)
            say(f"read {payload.chunk}", 0.6 * len(runs) / max(len(files), 1))
    if not runs:
        reasons = "\n".join(f"{origin}: {reason}" for origin, reason in aside)
        raise ValueError(f"no file could be read:\n{reasons}" if reasons else "no files were given")
    first = min(hours)
    return runs, [hour - first for hour in hours], names, aside


def _as_events(block: HistogramBlock, reach: float) -> tuple[NDArray[np.int32], FloatArray]:
    """Counts of a histogram as events at the middle of their bins; reduced: effective counts."""
    edges = np.asarray(block.energy_edges_meV, dtype=float)
    middle = 0.5 * (edges[1:] + edges[:-1])
    columns = np.flatnonzero(np.abs(middle) < reach)
    if block.counts is not None:
        counts = block.counts[:, columns]
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = (block.intensity[:, columns] / block.error[:, columns]) ** 2
        counts = np.where(np.isfinite(counts) & (block.intensity[:, columns] > 0), counts, 0.0)
    counts = np.rint(counts).astype(np.int64)
    counts //= max(1, int(counts.sum() // MOST_EVENTS))
    rows, place = np.nonzero(counts > 0)
    times = counts[rows, place]
    return np.repeat(rows, times).astype(np.int32), np.repeat(middle[columns[place]], times)


def _reference(experiment: Experiment, crystal: Crystal) -> FloatArray:
    """Mount of the experiment at psi = 0 without offset or arcs."""
    sample = experiment.sample
    return crystal_to_lab(Orientation(u=sample.u, v=sample.v), crystal.conventional_reciprocal, 0.0)


def _rough(
    runs: Sequence[OrientedEvents],
    crystal: Crystal,
    experiment: Experiment | None,
    propagation: tuple[float, float, float] | None,
    notes: list[str],
) -> Alignment | None:
    """Mount from all intensity near reciprocal points; cubic crystals only."""
    reciprocal = crystal.conventional_reciprocal
    length = np.linalg.norm(reciprocal, axis=1)
    if np.ptp(length) > 1e-6 or np.abs(reciprocal @ reciprocal.T - np.diag(length**2)).max() > 1e-6:
        return None
    planes = [
        ((0.0, 0.0, 1.0), (1.0, 1.0, 0.0)),
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        ((1.0, -1.0, 0.0), (1.0, 1.0, -2.0)),
        ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0)),
    ]
    if experiment is not None:
        planes.insert(0, (experiment.sample.u, experiment.sample.v))
    notes.append(
        "too few clean spots to index; the mount is the one under which the scattering gathers "
        "round the reciprocal points. Lattice, arcs and drift are not determined"
    )
    try:
        return align(runs, reciprocal, planes=planes, points=propagation or (0.0, 0.0, 0.0))
    except ValueError as error:
        notes.append(str(error))
        return None


def _of_fit(fit: MountFit) -> dict[str, Any]:
    """Directions and matrices of a fitted mount."""
    u, v = _directions(fit.rotation, fit.reciprocal)
    return {
        "method": "spots",
        "u": u,
        "v": v,
        "axis_sigma_deg": fit.axis_sigma_deg,
        "UB": fit.rotation @ fit.reciprocal.T / (2 * np.pi),
        "lattice": fit.lattice,
    }


def _directions(
    rotation: FloatArray, reciprocal: FloatArray
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Hkl along the beam and across it; the largest index is 1."""
    out = []
    for axis in (2, 0):
        hkl = rotation[axis] @ np.linalg.inv(reciprocal)
        hkl = hkl / np.abs(hkl).max()
        out.append((float(hkl[0]), float(hkl[1]), float(hkl[2])))
    return out[0], out[1]


def _judge_fit(
    fit: MountFit,
    crystal: Crystal,
    experiment: Experiment | None,
    hours: Sequence[float],
    checks: list[Check],
    alarms: list[str],
    notes: list[str],
) -> dict[str, float]:
    """Compare a fitted mount with the experiment; corrections of its sample section."""
    notes.append(
        f"{fit.spots} spots of {fit.reflections} reflections fitted, {fit.unexplained} "
        f"unexplained; chi-square per degree of freedom {fit.chi_square_per_degree:.2f}"
    )
    apart = fit.rival is None or fit.rival > SIGMAS**2
    if fit.rival is not None and not apart:
        alarms.append(
            "the spots do not tell the mount from another one (chi-square differs by "
            f"{fit.rival:.1f}; expected more than {SIGMAS**2:g}): u, v and offset are one of "
            "several, and --correct leaves the mount alone. Add orientations"
        )
    if fit.sense < 0:
        alarms.append(LEFT_HANDED)
    if fit.unexplained > UNEXPLAINED * (fit.spots + fit.unexplained):
        alarms.append(
            f"{fit.unexplained} of {fit.spots + fit.unexplained} spots belong to no reflection of "
            "the crystal: a second grain, the sample holder, or another lattice"
        )
    corrections: dict[str, float] = {}
    if experiment is not None:
        sample = experiment.sample
        omega = Rotation.from_euler("y", sample.omega_deg, degrees=True).as_matrix()
        reference = _reference(experiment, crystal)
        arcs = Rotation.from_matrix(omega.T @ fit.rotation @ reference.T @ omega)
        psi, gl, gs = (float(x) for x in arcs.as_euler("YXZ", degrees=True))
        expected = sample.psi_offset_deg + sample.dpsi_deg
        psi = expected + (psi - expected + 180.0) % 360.0 - 180.0
        for name, value, one, wanted in (
            ("psi offset", psi, fit.turn[0], expected),
            ("gl", gl, fit.turn[1], sample.gl_deg),
            ("gs", gs, fit.turn[2], sample.gs_deg),
        ):
            checks.append(
                Check(
                    quantity=name,
                    unit="degrees",
                    found=value,
                    sigma=one.sigma,
                    expected=wanted,
                    matters=ANGLE_DEG,
                )
            )
        if apart and fit.sense > 0:
            corrections = {
                "psi_offset_deg": round(psi, 4),
                "dpsi_deg": 0.0,
                "gl_deg": round(gl, 4),
                "gs_deg": round(gs, 4),
            }
    if fit.lattice is None:
        notes.append("too few different reflections to fit the lattice; the structure's is kept")
    else:
        cell = np.linalg.norm(crystal.conventional_lattice, axis=1)
        pairs = ((1, 2), (0, 2), (0, 1))
        angles = [
            crystal.conventional_lattice[i] @ crystal.conventional_lattice[j] / cell[i] / cell[j]
            for i, j in pairs
        ]
        wanted = [*cell, *np.degrees(np.arccos(angles))]
        names = ("a", "b", "c", "alpha", "beta", "gamma")
        for k, (name, one) in enumerate(zip(names, fit.lattice, strict=True)):
            if one.sigma < 1e-7 or any(
                abs(one.value - fit.lattice[i].value) < 1e-9 for i in range(3 * (k // 3), k)
            ):
                continue  # held by symmetry, or equal to one before
            checks.append(
                Check(
                    quantity=name,
                    unit="angstrom" if k < 3 else "degrees",
                    found=one.value,
                    sigma=one.sigma,
                    expected=float(wanted[k]),
                    matters=LATTICE * wanted[k] if k < 3 else ANGLE_DEG,
                    where="structure",
                )
            )
    if fit.drift_deg_per_hour is None:
        notes.append("drift needs spots in four or more files taken one after another")
    else:
        span = max(np.ptp(hours), 1e-9)
        checks.append(
            Check(
                quantity="drift of psi",
                unit="degrees/hour",
                found=fit.drift_deg_per_hour.value,
                sigma=fit.drift_deg_per_hour.sigma,
                expected=0.0,
                matters=ANGLE_DEG / float(span),
                where="a crystal that stays put",
            )
        )
    return corrections


def _doubts(
    rough: Alignment,
    runs: Sequence[OrientedEvents],
    experiment: Experiment | None,
    propagation: tuple[float, float, float] | None,
) -> list[str]:
    """Why a mount found from intensity may be another one, as alarms."""
    if len(runs) >= FEWEST_ORIENTATIONS and rough.exclusive:
        return []
    if rough.exclusive:
        why = (
            f"the mount rests on {len(runs)} orientation(s) without clean spots; expected "
            f"{FEWEST_ORIENTATIONS} or more to tell it from others"
        )
    else:
        why = "another mount explains the scattering almost as well"
    why += ": u, v and offset are one of several, and --correct leaves the mount alone. Add "
    why += "orientations"
    if propagation is None:
        why += ", or give --propagation if the strongest reflections are magnetic (0.5,0.5,0.5)"
    if experiment is None:
        why += ", or --experiment: the plane of its u and v is tried too"
    return [why]


def _of_rough(
    rough: Alignment,
    crystal: Crystal,
    experiment: Experiment | None,
    reference: FloatArray | None,
    checks: list[Check],
    alarms: list[str],
    *,
    doubted: bool,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Directions of a mount found from intensity, and its offset from the experiment's.

    Of a mount that may be another one nothing is held against the experiment, and no error is
    stated: the jackknife knows only how well this one is centred.
    """
    best, reciprocal = rough.best, crystal.conventional_reciprocal
    rotation = crystal_to_lab(Orientation(u=best.u, v=best.v), reciprocal, best.psi_offset_deg)
    if best.sense < 0:
        alarms.append(
            "the best mount turns left-handed with the logged angle, which speaks against it"
            if doubted
            else LEFT_HANDED
        )
    corrections: dict[str, float] = {}
    if experiment is not None and reference is not None:
        trace = np.einsum("ij,njk,ik->n", rotation, cubic_rotations(), reference)
        rotation = rotation @ cubic_rotations()[int(np.argmax(trace))]
        between = Rotation.from_matrix(rotation @ reference.T)
        psi, gl, gs = (float(x) for x in between.as_euler("YXZ", degrees=True))
        flat = max(abs(gl), abs(gs)) < 1.0
        if not doubted:
            checks.append(
                Check(
                    quantity="psi offset",
                    unit="degrees",
                    found=psi,
                    sigma=rough.psi_offset_sigma_deg,
                    expected=experiment.sample.psi_offset_deg + experiment.sample.dpsi_deg,
                    matters=ANGLE_DEG,
                )
            )
            if not flat:
                alarms.append("another plane is horizontal than the one that u and v span")
        if flat and best.sense > 0 and not doubted:
            corrections = {"psi_offset_deg": round(psi, 2), "dpsi_deg": 0.0}
    u, v = _directions(rotation, reciprocal)
    found = {
        "method": "intensity",
        "u": u,
        "v": v,
        "axis_sigma_deg": None if doubted else rough.psi_offset_sigma_deg,
        "UB": rotation @ reciprocal.T / (2 * np.pi),
        "lattice": None,
    }
    return found, corrections


def _beam(path: Path, psi_log: str, experiment: Experiment | None) -> dict[str, Any]:
    """Ei and T0 of one file from its monitors and its elastic line, or why not."""
    report: dict[str, Any] = {
        "file": path.name, "ei_meV": None, "t0_us": None, "monitors": [], "elastic_t0_us": None
    }  # fmt: skip
    try:
        if kind_of_file(path) != "sns-events":
            return report | {"reason": "not recorded: reduced files have no monitors"}
        run = read_event_run(
            path,
            psi_log=psi_log,
            psi_deg=0.0,  # of no matter here
            ei_meV=None if experiment is None else experiment.source.ei_meV,
            t0_us=None if experiment is None else experiment.source.t0_us,
        )
        report |= {"used_ei_meV": run.ei_meV, "used_t0_us": run.t0_us, "t0_source": run.t0_source}
        to_detectors = run.instrument.source_to_sample_m + float(
            np.median(run.instrument.distance_m[~run.instrument.masked])
        )
        elastic, error, votes = estimate_t0_of_run(run)
        width = error * np.sqrt(votes)
        slow = float(flight_time_us(np.median(run.instrument.distance_m), run.ei_meV))
        sharp = 2 * FWHM * width / slow < LINE
        lined = bool(np.isfinite(elastic) and error < T0_GOOD_ENOUGH_US and sharp)
        if lined:
            placed_us = float(flight_time_us(PLACED_M, run.ei_meV))
            report |= {
                "elastic_t0_us": elastic,
                "elastic_t0_sigma_us": float(np.hypot(error, placed_us)),
                "elastic_width_us": float(FWHM * width),
                "to_detectors_m": to_detectors,
            }
        pulses, silent = read_monitors(path)
        report["monitors"] = [asdict(pulse) for pulse in pulses]
        placed = [pulse for pulse in pulses if pulse.distance_m is not None]
        if not placed:
            why = "monitors without counts" if silent else "no monitors"
            why = "monitors without a known place" if pulses else why
            return report | {"reason": f"not recorded: {why}"}
        distance = [float(pulse.distance_m or 0.0) for pulse in placed]
        time = [pulse.time_us for pulse in placed]
        errors = [float(pulse.error_us) for pulse in placed]
        frames = [pulse.frame_us or np.nan for pulse in placed]
        if lined:
            distance.append(to_detectors)
            time.append(float(elastic + flight_time_us(to_detectors, run.ei_meV)))
            errors.append(error)
            frames.append(np.nan)
        beam: BeamEnergy = fit_beam_energy(
            np.array(distance),
            np.array(time),
            np.array(errors),
            nominal_ei_meV=run.ei_meV,
            frame_us=np.array(frames),
        )
    except ValueError as error:
        return report | {"reason": f"not determined: {error}"}
    used = f"{len(placed)} monitor(s)"
    if lined:
        used += f" and the elastic line of {votes} events on the detectors"
    return report | {
        "ei_meV": Estimated(value=beam.ei_meV, sigma=beam.ei_sigma_meV),
        "t0_us": Estimated(value=beam.t0_us, sigma=beam.t0_sigma_us),
        "reason": f"from {used}",
    }


def _judge_beam(
    beam: Sequence[dict[str, Any]],
    runs: Sequence[OrientedEvents],
    experiment: Experiment | None,
    alarms: list[str],
) -> tuple[list[Check], dict[str, dict[str, float]]]:
    """Ei and T0, means over files, against experiment and files, and what corrects them.

    Ei and T0 of a flight path go together: T0 is asked for at the Ei that holds. At the Ei in use
    the elastic line tells T0; where the monitors disagree with that Ei, their own T0 counts.
    """
    seen = [one for one in beam if one["ei_meV"] is not None]
    lined = [one for one in beam if one["elastic_t0_us"] is not None]
    in_use = float(np.median([run.ei_meV for run in runs]))
    expected = in_use if experiment is None else experiment.instrument.ei_meV
    checks: list[Check] = []
    energy = None
    if seen:
        # Places are wrong by the same in every file: the mean is no better known than one file.
        energy = Check(
            quantity="Ei (monitors)",
            unit="meV",
            found=_mean([one["ei_meV"].value for one in seen]),
            sigma=_mean([one["ei_meV"].sigma for one in seen]),
            expected=expected,
            matters=EI * expected,
            where="log of the files" if experiment is None else "experiment file",
        )
        checks.append(energy)
    wrong = energy is not None and energy.agrees is False
    ei = in_use
    change: dict[str, dict[str, float]] = {"instrument": {}, "source": {}}
    if wrong and energy is not None:
        apart = abs(energy.found - in_use) / in_use
        if apart > EI_LOGGED or np.ptp([one["ei_meV"].value for one in seen]) > EI * in_use:
            alarms.append(
                f"Ei of the monitors is {energy.found:.4g} meV, not the same in all files or more "
                f"than {EI_LOGGED:.0%} from the {in_use:g} meV in use; --correct leaves it alone. "
                "Leave out the files that differ, or check the log of Ei and the monitors' places"
            )
            return checks, {}
        if apart > EI:
            ei = round(energy.found, 4)
            change["source"]["ei_meV"] = ei
        change["instrument"]["ei_meV"] = ei
    given = next((one for one in beam if _told(one)), None)
    moved = ei != in_use
    if not lined and not (moved and seen):
        return checks, {section: values for section, values in change.items() if values}
    if moved or not lined:
        value = _mean([one["t0_us"].value for one in seen])
        sigma = _mean([one["t0_us"].sigma for one in seen])
    else:
        value = _mean([one["elastic_t0_us"] for one in lined])
        sigma = _mean([one["elastic_t0_sigma_us"] for one in lined])
    width = _mean([one["elastic_width_us"] for one in lined]) if lined else 0.0
    emission = Check(
        quantity="T0 (monitors)" if moved else "T0 (elastic line)",
        unit="us",
        found=value,
        sigma=sigma,
        expected=None if given is None else given["used_t0_us"],
        matters=T0_WIDTHS * width,
        where="experiment file" if given and given["t0_source"] == "given" else "log of the files",
    )
    checks.append(emission)
    if lined and (moved or emission.agrees is False):
        # The line lies at E = 0 with this T0 at that Ei, whatever the monitors' own scatter.
        change["source"]["t0_us"] = round(
            _mean(
                [
                    one["elastic_t0_us"]
                    + float(flight_time_us(one["to_detectors_m"], one["used_ei_meV"]))
                    - float(flight_time_us(one["to_detectors_m"], ei))
                    for one in lined
                ]
            ),
            2,
        )
    elif moved:
        change["source"]["t0_us"] = round(value, 2)
    return checks, {section: values for section, values in change.items() if values}


def _told(one: dict[str, Any]) -> bool:
    """Whether the T0 in use was stated, not read from the elastic line itself."""
    return one.get("t0_source") in ("given", f"log {EMISSION_LOG}")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _note(check: Check) -> str:
    return (
        f"{check.quantity} is {abs(check.sigmas or 0.0):.1f} of its own errors from what the "
        f"{check.where} says, but by less than matters ({check.matters:.2g} {check.unit})"
    )


def _alarm(check: Check) -> str:
    sigmas = abs(check.sigmas or 0.0)
    return (
        f"{check.quantity} is {check.found:.4g} +- {check.sigma:.2g} {check.unit}; the "
        f"{check.where} says {check.expected:.4g}, {sigmas:.1f} sigma away"
    )
