"""What the elastic peaks and monitors of recorded files say about mount, lattice, Ei and T0.

Every finding is held against the experiment file: by how many standard errors it differs, and
whether that matters. What differs by more than both is an alarm, in words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.instrument import Estimated, SpotsOfRun, elastic_peaks
from simulations.progress import Progress, silent
from steering.experiment import Experiment
from steering.report.beam_judgement import EI, beam_of_file, judge_beam
from steering.report.check import SIGMAS, Check, Findings, alarm, note
from steering.report.mount_judgement import Mount, judge_mount
from steering.report.oriented_events import read_oriented_events

LEAST_TURN_DEG = 0.02  # no mount is known better than pixels and goniometer allow
LEAST_STRAIN = 2e-4


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
    corrections: dict[str, dict[str, Any]] = field(default_factory=dict)  # by section
    mended: tuple[str, ...] = ()  # those of the alarms that the corrections answer
    refusals: tuple[str, ...] = ()  # why the mount is not among the corrections

    @property
    def left(self) -> tuple[str, ...]:
        """Alarms that no correction answers."""
        return tuple(alarm for alarm in self.alarms if alarm not in self.mended)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "alarm": bool(self.alarms),
            "alarms": list(self.alarms),
            "mended": list(self.mended),
            "refusals": list(self.refusals),
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
    unknown: Collection[str] = (),
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
    unknown : collection of str
        Fields that the experiment leaves open, e.g. ``sample.u``: nothing is held against them.
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    AlignmentReport

    Raises
    ------
    InputError
        If no file could be read.
    """
    say = progress or silent
    log = psi_log or (experiment.source.psi_log if experiment is not None else "s1")
    runs, hours, names, aside = read_oriented_events(files, log, psi_deg, experiment, say)
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
    findings = Findings()
    checks, alarms, notes = findings.checks, findings.alarms, findings.notes
    mount = judge_mount(spots, runs, crystal, experiment, propagation, findings, unknown=unknown)
    say("monitors", 0.9)
    corrections: dict[str, dict[str, Any]] = {}
    if mount.corrections:
        corrections["sample"] = mount.corrections
    beam = tuple(beam_of_file(path, log, experiment) for path in files)
    judged, change = judge_beam(beam, runs, experiment, alarms)
    checks += judged
    corrections |= change
    if mount.corrections and mount.method == "spots":
        corrections["missetting"] = _still_off(mount, crystal, judged)
    if change:
        notes.append(
            "mount and lattice were read with the Ei and T0 that do not hold; after --correct "
            "align again with the corrected file"
        )
    notes += [note(check) for check in checks if check.agrees and abs(check.sigmas or 0) > SIGMAS]
    if experiment is not None:
        wanted = experiment.instrument.ei_meV
        others = [
            f"Ei of {name} is {run.ei_meV:g} meV; the experiment file says {wanted:g}"
            for name, run in zip(names, runs, strict=True)
            if abs(run.ei_meV - wanted) > EI * wanted
        ]
        alarms += others
        if "ei_meV" in change.get("instrument", {}):
            findings.mended.extend(others)
    for check in checks:
        if check.agrees is False:
            alarms.append(alarm(check))
            if _answered(check, corrections):
                findings.mended.append(alarms[-1])
    return AlignmentReport(
        method=mount.method,
        u=mount.u,
        v=mount.v,
        axis_sigma_deg=mount.axis_sigma_deg,
        UB=mount.UB,
        lattice=mount.lattice,
        files=tuple(names),
        spots=tuple(len(run.peaks) for run in spots),
        checks=tuple(checks),
        beam=beam,
        alarms=tuple(alarms),
        notes=tuple(notes),
        set_aside=tuple(aside),
        corrections=corrections,
        mended=tuple(findings.mended),
        refusals=tuple(findings.refusals),
    )


def _answered(check: Check, corrections: dict[str, dict[str, Any]]) -> bool:
    """Whether a correction puts right what a check found."""
    if check.quantity in ("psi offset", "gl", "gs"):
        return "sample" in corrections
    if check.quantity.startswith("Ei"):
        return "ei_meV" in corrections.get("instrument", {})
    return check.quantity.startswith("T0") and "t0_us" in corrections.get("source", {})


def _still_off(mount: Mount, crystal: Crystal, beam: Sequence[Check]) -> dict[str, float]:
    """How far the set-up may still be off with the mount that was found: standard deviations.

    A lattice and an Ei that agree stay as the experiment has them, so that what was found of them
    counts beside its error. The elastic line holds T0 to Ei, and nothing is said of it.
    """
    off: dict[str, float] = {}
    if mount.turn_sigma_deg is not None:
        turned, tilted = (max(sigma, LEAST_TURN_DEG) for sigma in mount.turn_sigma_deg)
        off |= {"psi_offset_deg": turned, "tilt_deg": tilted}
    if mount.lattice is not None:
        lengths = np.linalg.norm(crystal.conventional_lattice, axis=1)
        apart = [
            np.hypot(one.sigma, one.value - length) / length
            for one, length in zip(mount.lattice, lengths, strict=False)
        ]
        off["lattice_percent"] = 100 * max(LEAST_STRAIN, *apart)
    for check in beam:
        if check.quantity.startswith("Ei"):
            held = check.expected if check.agrees and check.expected is not None else check.found
            sigma = float(np.hypot(check.sigma, check.found - held))
            off["ei_percent"] = 100 * max(sigma / check.found, LEAST_STRAIN)
    return {name: float(f"{value:.2g}") for name, value in off.items()}


def corrections_of(report: AlignmentReport) -> dict[str, dict[str, Any]]:
    """Mount that was found, and Ei and T0 where they do not agree, by section and field.

    Raises
    ------
    InputError
        If the report found neither; says why not.
    """
    if not report.corrections:
        raise InputError(
            "--correct: there is nothing to correct: Ei and T0 agree or were not found, and of the "
            "mount: " + ("; ".join(report.refusals) or "nothing was held against a file")
        )
    return {section: dict(values) for section, values in report.corrections.items()}
