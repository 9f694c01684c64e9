"""How the crystal sits, as its elastic scattering tells it, held against the experiment file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.instrument import (
    Alignment,
    Estimated,
    MountFit,
    Orientation,
    OrientedEvents,
    SpotsOfRun,
    align,
    crystal_to_lab,
    cubic_rotations,
    fit_mount,
)
from steering.experiment import Experiment
from steering.report.check import SIGMAS, Check, Findings
from steering.report.mount_axes import Vector, plain_axes

ANGLE_DEG = 0.1  # below which a difference does not matter: a tenth of a tube at 5 1/angstrom
LATTICE = 2e-3  # likewise, relative
FEWEST_ORIENTATIONS = 3  # that a mount without clean spots rests on
PLANE_DEG = 5.0  # tilt beyond which u and v are wrong, and no arc of a goniometer is
UNEXPLAINED = 0.35  # share of spots that another grain or the can may give
LEFT_HANDED = (
    "the logged angle turns the crystal left-handed about the vertical; expected right-handed. "
    "Give the negative of the log, or another psi_log"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mount:
    """How the crystal sits, and by which numbers the experiment file is wrong about it."""

    method: str = "none"  # "spots", "intensity" or "none"
    u: tuple[float, float, float] | None = None  # hkl along the beam at a logged angle of zero
    v: tuple[float, float, float] | None = None
    axis_sigma_deg: float | None = None
    turn_sigma_deg: tuple[float, float] | None = None  # of the psi offset, and of either tilt
    UB: FloatArray | None = None  # (3, 3) Mantid's convention
    lattice: tuple[Estimated, ...] | None = None
    corrections: dict[str, Any] = field(default_factory=dict)  # of the sample section


def judge_mount(
    spots: Sequence[SpotsOfRun],
    runs: Sequence[OrientedEvents],
    crystal: Crystal,
    experiment: Experiment | None,
    propagation: tuple[float, float, float] | None,
    findings: Findings,
    *,
    unknown: Collection[str] = (),
) -> Mount:
    """Find the mount from clean spots, else from all intensity, and hold it against the file.

    Parameters
    ----------
    spots : sequence of SpotsOfRun
        One per orientation.
    runs : sequence of OrientedEvents
        The same orientations.
    crystal : Crystal
    experiment : Experiment or None
        What is held against the mount; None: nothing is.
    propagation : (3,) or None
        Reflections also at whole hkl plus this.
    findings : Findings
        Takes what was found.
    unknown : collection of str
        Fields that the experiment leaves open, e.g. ``sample.u``: nothing is held against them.
    """
    named = experiment is not None and not {"sample.u", "sample.v"} & set(unknown)
    reference = _reference(experiment, crystal) if experiment is not None and named else None
    fit = fit_mount(spots, crystal, reference=reference, extra=propagation)
    if fit is not None:
        u, v = _directions(fit.rotation, fit.reciprocal)
        return Mount(
            method="spots",
            u=u,
            v=v,
            axis_sigma_deg=fit.axis_sigma_deg,
            turn_sigma_deg=(fit.turn[0].sigma, max(one.sigma for one in fit.turn[1:])),
            UB=fit.rotation @ fit.reciprocal.T / (2 * np.pi),
            lattice=fit.lattice,
            corrections=_judge_fit(
                fit, crystal, experiment, reference, [r.hours for r in spots], findings, unknown
            ),
        )
    rough = _rough(runs, crystal, experiment if named else None, propagation, findings.notes)
    if rough is not None:
        doubts = _doubts(rough, runs, experiment, propagation)
        mount = _of_rough(
            rough, crystal, experiment, reference, findings, unknown, doubted=bool(doubts)
        )
        findings.alarms.extend(doubts)
        findings.refusals.extend(doubts)
        return mount
    count = sum(len(run.peaks) for run in spots)
    why = (
        f"{count} elastic spots in {len(spots)} file(s) agree with no mount of the crystal: "
        "too few, or another lattice. Add orientations or check the structure"
    )
    findings.alarms.append(why)
    findings.refusals.append(why)
    return Mount()


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
    except InputError as error:
        notes.append(str(error))
        return None


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
    reference: FloatArray | None,
    hours: Sequence[float],
    findings: Findings,
    unknown: Collection[str],
) -> dict[str, Any]:
    """Compare a fitted mount with the experiment; corrections of its sample section."""
    alarms = findings.alarms
    findings.notes.append(
        f"{fit.spots} spots of {fit.reflections} reflections fitted, {fit.unexplained} "
        f"unexplained; chi-square per degree of freedom {fit.chi_square_per_degree:.2f}"
    )
    apart = fit.rival is None or fit.rival > SIGMAS**2
    if fit.rival is not None and not apart:
        why = (
            "the spots do not tell the mount from another one (chi-square differs by "
            f"{fit.rival:.1f}; expected more than {SIGMAS**2:g}): u, v and offset are one of "
            "several, and --correct leaves the mount alone. Add orientations"
        )
        alarms.append(why)
        findings.refusals.append(why)
    if fit.sense < 0:
        alarms.append(LEFT_HANDED)
        findings.refusals.append(LEFT_HANDED)
    if fit.unexplained > UNEXPLAINED * (fit.spots + fit.unexplained):
        alarms.append(
            f"{fit.unexplained} of {fit.spots + fit.unexplained} spots belong to no reflection of "
            "the crystal: a second grain, the sample holder, or another lattice"
        )
    corrections: dict[str, Any] = {}
    if experiment is not None:
        sure = apart and fit.sense > 0
        corrections = _judge_turn(fit, crystal, experiment, reference, findings, unknown, sure=sure)
    _check_lattice(fit, crystal, findings)
    _check_drift(fit, hours, findings)
    return corrections


def _judge_turn(
    fit: MountFit,
    crystal: Crystal,
    experiment: Experiment,
    reference: FloatArray | None,
    findings: Findings,
    unknown: Collection[str],
    *,
    sure: bool,
) -> dict[str, Any]:
    """Hold psi offset and arcs against the file, and u and v where it is another plane."""
    sample = experiment.sample
    wanted: tuple[float | None, ...] = (
        None if "sample.psi_offset_deg" in unknown else sample.psi_offset_deg + sample.dpsi_deg,
        sample.gl_deg,
        sample.gs_deg,
    )
    rotation, axes, omega = fit.rotation, None, np.eye(3)
    if reference is not None:
        omega = Rotation.from_euler("y", sample.omega_deg, degrees=True).as_matrix()
        _, *arcs = _turns(rotation, reference, omega)
        if max(abs(arcs[0] - sample.gl_deg), abs(arcs[1] - sample.gs_deg)) > PLANE_DEG:
            reference = None
    if reference is None:
        rotation, *axes = plain_axes(rotation, crystal)
        reference = _mount_of(axes[0], axes[1], crystal)
        omega, wanted = np.eye(3), (None, None, None)
        _tell_axes(axes[0], axes[1], findings, unknown, sure=sure)
    psi, gl, gs = _turns(rotation, reference, omega)
    about = wanted[0] or 0.0
    psi = about + (psi - about + 180.0) % 360.0 - 180.0
    for name, value, one, expected in zip(
        ("psi offset", "gl", "gs"), (psi, gl, gs), fit.turn, wanted, strict=True
    ):
        findings.checks.append(
            Check(
                quantity=name,
                unit="degrees",
                found=value,
                sigma=one.sigma,
                expected=expected,
                matters=ANGLE_DEG,
            )
        )
    if not sure:
        return {}
    found: dict[str, Any] = {} if axes is None else {"u": axes[0], "v": axes[1], "omega_deg": 0.0}
    return found | {
        "psi_offset_deg": round(psi, 4),
        "dpsi_deg": 0.0,
        "gl_deg": round(gl, 4),
        "gs_deg": round(gs, 4),
    }


def _turns(
    rotation: FloatArray, reference: FloatArray, omega: FloatArray
) -> tuple[float, float, float]:
    """Psi offset, gl and gs, in degrees, that carry a reference to a mount."""
    arcs = Rotation.from_matrix(omega.T @ rotation @ reference.T @ omega)
    psi, gl, gs = (float(x) for x in arcs.as_euler("YXZ", degrees=True))
    return psi, gl, gs


def _mount_of(u: Vector, v: Vector, crystal: Crystal) -> FloatArray:
    return crystal_to_lab(Orientation(u=u, v=v), crystal.conventional_reciprocal, 0.0)


def _tell_axes(
    u: Vector, v: Vector, findings: Findings, unknown: Collection[str], *, sure: bool
) -> None:
    """Say which u and v span the horizontal plane, where the file names others or none."""
    found = f"u = {_hkl(u)} and v = {_hkl(v)} span it"
    if {"sample.u", "sample.v"} & set(unknown):
        findings.notes.append(f"the horizontal plane was found: {found}")
        return
    told = f"another plane is horizontal than that of the experiment file's u and v: {found}"
    findings.alarms.append(told)
    if sure:
        findings.mended.append(told)


def _hkl(one: Vector) -> str:
    return "[" + ", ".join(f"{x:g}" for x in one) + "]"


def _check_lattice(fit: MountFit, crystal: Crystal, findings: Findings) -> None:
    """Hold lengths and angles that symmetry leaves free against the structure's."""
    if fit.lattice is None:
        findings.notes.append(
            "too few different reflections to fit the lattice; the structure's is kept"
        )
        return
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
        findings.checks.append(
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


def _check_drift(fit: MountFit, hours: Sequence[float], findings: Findings) -> None:
    """Hold the drift of psi against a crystal that stays put."""
    if fit.drift_deg_per_hour is None:
        findings.notes.append("drift needs spots in four or more files taken one after another")
        return
    span = max(np.ptp(hours), 1e-9)
    findings.checks.append(
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
    findings: Findings,
    unknown: Collection[str],
    *,
    doubted: bool,
) -> Mount:
    """Directions of a mount found from intensity, and its offset from the experiment's.

    Of a mount that may be another one nothing is held against the experiment, and no error is
    stated: the jackknife knows only how well this one is centred.
    """
    best, reciprocal = rough.best, crystal.conventional_reciprocal
    rotation = crystal_to_lab(Orientation(u=best.u, v=best.v), reciprocal, best.psi_offset_deg)
    if best.sense < 0:
        findings.alarms.append(
            "the best mount turns left-handed with the logged angle, which speaks against it"
            if doubted
            else LEFT_HANDED
        )
        findings.refusals.append(findings.alarms[-1])
    corrections: dict[str, Any] = {}
    if experiment is not None:
        sample = experiment.sample
        sure = best.sense > 0 and not doubted
        axes, flat = None, False
        if reference is not None:
            trace = np.einsum("ij,njk,ik->n", rotation, cubic_rotations(), reference)
            rotation = rotation @ cubic_rotations()[int(np.argmax(trace))]
            psi, gl, gs = _turns(rotation, reference, np.eye(3))
            flat = max(abs(gl), abs(gs)) < 1.0
        if reference is None or not (flat or doubted):
            rotation, *axes = plain_axes(rotation, crystal)
            _tell_axes(axes[0], axes[1], findings, unknown, sure=sure)
            reference = _mount_of(axes[0], axes[1], crystal)
        psi, *_ = _turns(rotation, reference, np.eye(3))
        given = axes is None and "sample.psi_offset_deg" not in unknown
        if not doubted:
            findings.checks.append(
                Check(
                    quantity="psi offset",
                    unit="degrees",
                    found=psi,
                    sigma=rough.psi_offset_sigma_deg,
                    expected=sample.psi_offset_deg + sample.dpsi_deg if given else None,
                    matters=ANGLE_DEG,
                )
            )
        if sure:
            corrections = {"psi_offset_deg": round(psi, 2), "dpsi_deg": 0.0}
            if axes is not None:
                level = {"omega_deg": 0.0, "gl_deg": 0.0, "gs_deg": 0.0}
                corrections |= {"u": axes[0], "v": axes[1], **level}
    u, v = _directions(rotation, reciprocal)
    return Mount(
        method="intensity",
        u=u,
        v=v,
        axis_sigma_deg=None if doubted else rough.psi_offset_sigma_deg,
        UB=rotation @ reciprocal.T / (2 * np.pi),
        corrections=corrections,
    )
