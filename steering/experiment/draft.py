"""A first experiment from what a recorded file says, with a list of what it does not say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from consumers.transport import SourceSection
from simulations.crystal import SampleSection, builtin_crystals
from simulations.dynamics import ParametersSection, read_force_constants
from simulations.errors import InputError, NoForceConstantsError
from simulations.instrument import (
    UNKNOWN_RESOLUTION,
    InstrumentSection,
    known_instruments,
    names_geometry,
)
from simulations.prior import load_prior_record, stored_priors
from simulations.reciprocal import EnergySection, PathSection
from steering.experiment.experiment_file import Experiment
from steering.experiment.motion import MotionSection

ENERGY_BINS = 100


def draft_experiment(
    report: Mapping[str, Any], *, structure: str | None, name: str, psi_log: str = "s1"
) -> tuple[Experiment, dict[str, str]]:
    """Fill an experiment from a report of :func:`consumers.recorded.source.inspect_file`.

    Parameters
    ----------
    report : mapping
        Values are None where the file does not say.
    structure : str, optional
        Crystal named by the user.
    name : str
        Of the recorded file, for messages.
    psi_log : str
        Log that the report took psi from.

    Returns
    -------
    experiment : Experiment
        Valid; placeholders stand where nothing is known.
    unknown : dict of str to str
        Field to what was put there and what to do about it.

    Raises
    ------
    ValueError
        If the file is no recorded file, or has no incident energy to build an energy axis on.
    """
    problems = [str(problem) for problem in report.get("problems", [])]
    if report.get("kind") == "unreadable":
        raise InputError(
            f"{name}: is no recorded file ({'; '.join(problems) or 'of no known kind'}); expected "
            "NXSPE, SQW, SNS or ISIS raw events, or SPE. Give another file."
        )
    ei = report.get("ei_meV")
    if not isinstance(ei, int | float) or not math.isfinite(ei) or ei <= 0:
        raise InputError(
            f"{name}: records no incident energy; expected Ei above 0. Give --ei in meV"
            + "".join(f"\n{name}: {problem}" for problem in problems)
        )
    unknown: dict[str, str] = {}
    if structure is None:
        unknown["sample.structure"] = "germanium stands there; name yours or give a structure file"
        lattice = report.get("lattice")
        if lattice is not None:
            told = ", ".join(f"{float(x):.5g}" for x in lattice)
            unknown["sample.structure"] += f" with the recorded lattice (a, b, c, angles: {told})"
    mount = report.get("mount")
    if not isinstance(mount, Mapping):
        mount = {"u": (1.0, 1.0, 0.0), "v": (0.0, 0.0, 1.0)}
        unknown["sample.u, sample.v"] = (
            "[1, 1, 0] and [0, 0, 1] stand there; the file does not record them"
        )
    unknown["sample.psi_offset_deg"] = "0 stands there; check it on the elastic peaks"
    temperature = _number(report.get("temperature_K"))
    if temperature is None or temperature < 0:
        unknown["sample.temperature_K"] = "300 stands there; the file has no temperature"
    instrument = report.get("instrument")
    if not instrument:
        instrument = "unknown"
        unknown["instrument.name"] = (
            "unknown stands there, as the file names none; write its name. "
            "A fold takes the pixels of the files"
        )
    elif not names_geometry(str(instrument)):
        unknown["instrument.name"] = (
            f"{instrument} is not known here ({', '.join(known_instruments())} are); "
            "a fold takes the pixels of the files"
        )
    if "instrument.name" in unknown:
        unknown["instrument.resolution"] = (
            "a typical one will stand in, FWHM "
            f"{UNKNOWN_RESOLUTION.coefficients[0]:.0%} of Ei at E = 0; give its coefficients"
        )
    psi = _number(report.get("psi_deg"))
    if psi is None:
        logs = report.get("angle_logs") or ()
        hint = f"; its angle logs are {', '.join(map(str, logs))}" if logs else ""
        unknown["psi"] = f"none is recorded{hint}; set source.psi_log, or replay with --psi"
    unknown["motion"] = "limits, speed and overhead of the reference run stand there"
    parameters = _parameters(structure or "germanium")
    unknown["parameters"] = (
        f"{parameters.free} free ones up to {parameters.cutoff_A:g} angstrom stand there"
        + (f", within the stored prior {parameters.prior}" if parameters.prior else "")
    )
    for i, problem in enumerate(problems):
        unknown[f"problem {i + 1}"] = problem
    ei = round(float(ei), 4)
    top = _top(ei, report.get("energy_meV"))
    experiment = Experiment(
        title=_title(report, str(instrument), name),
        sample=SampleSection(
            structure=structure or "germanium",
            u=_vector(mount["u"]),
            v=_vector(mount["v"]),
            temperature_K=temperature if temperature is not None and temperature >= 0 else 300.0,
            omega_deg=_number(mount.get("omega_deg")) or 0.0,
            dpsi_deg=_number(mount.get("dpsi_deg")) or 0.0,
            gl_deg=_number(mount.get("gl_deg")) or 0.0,
            gs_deg=_number(mount.get("gs_deg")) or 0.0,
        ),
        instrument=InstrumentSection(name=str(instrument), ei_meV=ei),
        path=PathSection(
            points="seekpath",
            half_width_rlu=0.1,
            energy=EnergySection(min_meV=0.0, max_meV=top, bins=ENERGY_BINS),
        ),
        parameters=parameters,
        motion=MotionSection(),
        source=SourceSection(psi_log=psi_log),
    )
    return experiment, unknown


def _parameters(structure: str) -> ParametersSection:
    """Six free ones, from the stored prior where the structure has no force constants."""
    if structure in builtin_crystals() and structure in stored_priors():
        try:
            read_force_constants(structure)
        except NoForceConstantsError:
            record = load_prior_record(structure)
            return ParametersSection(cutoff_A=min(5.0, record.cutoff_A), free=6, prior=structure)
    return ParametersSection(cutoff_A=5.0, free=6)


def _vector(recorded: Any) -> tuple[float, float, float]:
    """Three numbers without the rounding of float32."""
    x, y, z = (round(float(number), 6) + 0.0 for number in recorded)
    return x, y, z


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(float(value), 4)


def _top(ei: float, energies: Any) -> float:
    """Upper end of the energy axis: 0.95 Ei, or where the file's own axis ends."""
    top = 0.95 * ei
    if energies is not None and len(energies):
        last = _number(float(max(energies)))
        if last is not None and 0 < last < ei:
            top = last
    return round(top, 3)


def _title(report: Mapping[str, Any], instrument: str, name: str) -> str:
    said = "".join(c for c in str(report.get("title") or "") if c.isprintable()).strip()
    return said[:120] or f"{name} on {instrument}"
