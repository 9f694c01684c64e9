"""A first experiment from what recorded files say; what they do not say reads ``TODO``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from simulations.crystal import builtin_crystals
from simulations.dynamics import read_force_constants
from simulations.errors import InputError, NoForceConstantsError
from simulations.instrument import UNKNOWN_RESOLUTION, known_instruments, names_geometry
from simulations.prior import load_prior_record, stored_priors
from simulations.reciprocal import EnergySection
from steering.experiment.todo import WORD

ENERGY_BINS = 100
LONGEST_PAUSE_S = 1200.0  # between two files of one scan; a longer one is no move
GIVEN = {
    "sample.u": "--u",
    "sample.v": "--v",
    "sample.psi_offset_deg": "--psi-offset",
    "sample.temperature_K": "--temperature",
    "sample.structure": "--structure",
    "parameters.prior": "--prior",
    "motion.limits_deg": "--limits",
    "motion.speed_deg_per_s": "--speed",
    "motion.overhead_s": "--overhead",
}
"""Fields that `beamsteer init` takes from an option where the files do not say them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """The text of a drafted experiment file, and what to look at in it."""

    text: str
    unknown: dict[str, str]  # by field: what stands there, and what to do about it

    @property
    def content(self) -> dict[str, Any]:
        """Plain values by section and field; what is open is the word ``TODO``."""
        return dict(yaml.safe_load(self.text))


def draft_experiment(
    reports: Sequence[Mapping[str, Any]],
    *,
    structure: str | None,
    name: str,
    folder: Path | None = None,
    psi_log: str = "s1",
    given: Mapping[str, Any] | None = None,
) -> Draft:
    """Draft an experiment from reports of :func:`consumers.recorded.source.inspect_file`.

    Parameters
    ----------
    reports : sequence of mapping
        One per file of a scan; values are None where a file does not say.
    structure : str, optional
        Crystal named by the user: a builtin name, or a file from the working folder.
    name : str
        Of the recorded files, for messages.
    folder : Path, optional
        Where the experiment file will lie; files are named from there. The working folder.
    psi_log : str
        Log that the reports took psi from.
    given : mapping of str to value, optional
        What the user says, by field; ``GIVEN`` lists the fields.

    Raises
    ------
    InputError
        If a file is no recorded file, or has no incident energy to build an energy axis on.
    """
    said = {field: value for field, value in (given or {}).items() if value is not None}
    problems = list(dict.fromkeys(str(p) for one in reports for p in one.get("problems", [])))
    for one in reports:
        if one.get("kind") == "unreadable":
            whose = str(one.get("file", name)).rpartition("/")[2]
            faults = "; ".join(str(p) for p in one.get("problems", [])) or "of no known kind"
            raise InputError(
                f"{whose}: is no recorded file ({faults}); expected "
                "NXSPE, SQW, SNS or ISIS raw events, or SPE. Give another file."
            )
    report = reports[0]
    ei = _number(report.get("ei_meV"))
    if ei is None or ei <= 0:
        raise InputError(
            f"{name}: records no incident energy; expected Ei above 0. Give --ei in meV"
            + "".join(f"\n{name}: {problem}" for problem in problems)
        )
    axis = EnergySection(min_meV=0.0, max_meV=_top(ei, report.get("energy_meV")), bins=ENERGY_BINS)
    unknown: dict[str, str] = {}
    lines = [
        f"# Drafted by `beamsteer init` from {name}. What reads {WORD} is not in the files: fill",
        "# it in. `beamsteer align` finds u, v and psi_offset_deg from elastic peaks.",
        _line("", "title", _title(report, name)),
        *_sample(report, structure, folder or Path(), said, unknown),
        *_instrument(report, ei, unknown),
        "path:",
        _line("  ", "points", "seekpath", "the standard path, or points of your own"),
        _line("  ", "half_width_rlu", 0.1, "radius of the tubes: 0.1 for few orientations, 0.05"),
        f"  energy: {{min_meV: {axis.min_meV:g}, max_meV: {axis.max_meV:g}, bins: {axis.bins}}}",
        *_parameters(structure, folder or Path(), said, unknown),
        *_motion(reports, said, unknown),
        "q_spread: # what blurs Q: without it pixels are points and the crystal is perfect",
        _line("  ", "mosaic_deg", 0.2, "of the sample, standard deviation: yours, if you know it"),
        _line("  ", "divergence_deg", 0.2, "of the incident beam, standard deviation"),
        _line("  ", "pixel_m", "instrument", "width and height, or as the instrument has them"),
        _line("  ", "known_percent", 50.0, "how well all of that is known"),
        "targets:",
        _line("  ", "relative_sigma", 0.05, "wanted sigma over size: your choice"),
        "source:",
        _line("  ", "psi_log", psi_log, "log of event files that holds psi"),
    ]
    psi = _number(report.get("psi_deg"))
    if psi is None:
        logs = report.get("angle_logs") or ()
        hint = f"; its angle logs are {', '.join(map(str, logs))}" if logs else ""
        unknown["psi"] = f"none is recorded{hint}; set source.psi_log, or replay with --psi"
    for i, problem in enumerate(problems):
        unknown[f"problem {i + 1}"] = problem
    return Draft(text="\n".join(lines) + "\n", unknown=unknown)


def _sample(
    report: Mapping[str, Any],
    structure: str | None,
    folder: Path,
    said: Mapping[str, Any],
    unknown: dict[str, str],
) -> list[str]:
    mount = report.get("mount")
    recorded = mount if isinstance(mount, Mapping) else {}
    if structure is None:
        lattice = report.get("lattice")
        told = "a builtin crystal, or a structure file with its path from this one"
        if lattice is not None:
            told += " and the recorded lattice (a, b, c, angles: "
            told += ", ".join(f"{float(x):.5g}" for x in lattice) + ")"
        unknown["sample.structure"] = f"{WORD} stands there; expected {told}"
    u, v = (said.get(f"sample.{k}", recorded.get(k)) for k in ("u", "v"))
    for key, value in (("u", u), ("v", v)):
        if value is None:
            unknown[f"sample.{key}"] = f"{WORD} stands there; the files do not record it"
    # An SQW file records its mount with all of its arcs.
    offset = said.get("sample.psi_offset_deg", 0.0 if recorded else None)
    if offset is None:
        unknown["sample.psi_offset_deg"] = f"{WORD} stands there; elastic peaks tell it"
    temperature = said.get("sample.temperature_K", _number(report.get("temperature_K")))
    if temperature is None or temperature < 0:
        temperature = None
        unknown["sample.temperature_K"] = f"{WORD} stands there; the files have no temperature"
    lines = [
        "sample:",
        _line(
            "  ",
            "structure",
            _from(structure, folder),
            "builtin crystal, or a file",
        ),
        _line("  ", "u", None if u is None else _vector(u), "hkl along the beam at psi = 0"),
        _line("  ", "v", None if v is None else _vector(v), "hkl across it, horizontal"),
        _line("  ", "psi_offset_deg", offset, "added to every recorded psi"),
        _line("  ", "temperature_K", temperature, "of the sample, as the files log it"),
    ]
    arcs = {
        key: _number(recorded.get(key)) for key in ("omega_deg", "dpsi_deg", "gl_deg", "gs_deg")
    }
    lines += [_line("  ", key, value, "recorded") for key, value in arcs.items() if value]
    return lines


def _instrument(report: Mapping[str, Any], ei: float, unknown: dict[str, str]) -> list[str]:
    instrument = str(report.get("instrument") or "unknown")
    if not report.get("instrument"):
        unknown["instrument.name"] = (
            "unknown stands there, as the file names none; write its name. "
            "A fold takes the pixels of the files"
        )
    elif not names_geometry(instrument):
        unknown["instrument.name"] = (
            f"{instrument} is not known here ({', '.join(known_instruments())} are); "
            "a fold takes the pixels of the files"
        )
    lines = [
        "instrument:",
        _line("  ", "name", instrument),
        _line("  ", "ei_meV", ei, "incident energy, as the files have it"),
    ]
    if "instrument.name" in unknown:
        unknown["instrument.resolution"] = (
            f"{WORD} stands there; expected its coefficients, or null: a typical one, FWHM "
            f"{UNKNOWN_RESOLUTION.coefficients[0]:.0%} of Ei at E = 0"
        )
        told = "coefficients, or null: a typical one stands in"
        lines.append(_line("  ", "resolution", None, told))
    return lines


def _from(structure: str | None, folder: Path) -> str | None:
    """A structure as an experiment file in a folder names it."""
    if structure is None or structure in builtin_crystals():
        return structure
    return os.path.relpath(structure, folder)


def _parameters(
    structure: str | None, folder: Path, said: Mapping[str, Any], unknown: dict[str, str]
) -> list[str]:
    """Six free ones, under the prior that is given or stored; how far depends on the prior."""
    prior, cutoff, words = said.get("parameters.prior"), 5.0, "name or file of a prior"
    null = False
    if prior is None and structure in stored_priors():
        prior = structure
        words = "stored: ranges of force fields"
    elif prior is None and structure is not None and (beside := prior_beside(structure)):
        prior, words = os.path.relpath(beside, folder), "it lay beside the structure"
    elif prior is None and structure is not None and _has_force_constants(structure):
        null = True
        words = "null: half of the size about the force constants that come with the structure"
    if prior in stored_priors():
        cutoff = min(5.0, load_prior_record(str(prior)).cutoff_A)
    if prior is None and not null:
        unknown["parameters.prior"] = (
            f"{WORD} stands there, as no force constants are known; make one with `beamsteer prior "
            f"{structure or 'STRUCTURE'} -o prior.yaml`"
        )
    return [
        "parameters:",
        _line("  ", "cutoff_A", cutoff, "longest bond that is fitted, angstrom: your choice"),
        _line("  ", "free", 6, "how many of them are targeted: your choice"),
        f"  prior: null  # {words}" if null else _line("  ", "prior", prior, words),
    ]


def prior_beside(structure: str | Path) -> Path | None:
    """The prior that lies beside a structure file: ``prior.yaml``, or the structure's name before.

    None for a builtin crystal, or where there is none.
    """
    if str(structure) in builtin_crystals():
        return None
    path = Path(structure)
    names = (f"{path.stem}-prior.yaml", f"{path.stem}.prior.yaml", "prior.yaml")
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def _has_force_constants(structure: str) -> bool:
    try:
        read_force_constants(structure)
    except NoForceConstantsError:
        return False
    return True


def _motion(
    reports: Sequence[Mapping[str, Any]], said: Mapping[str, Any], unknown: dict[str, str]
) -> list[str]:
    """Limits and pauses of the files; one file tells neither."""
    limits, how = said.get("motion.limits_deg"), "degrees of psi that may be measured"
    if limits is None:
        limits = _psi_range(reports)
        how = "the psi of the files: widen it to what the goniometer allows"
    overhead, pause = said.get("motion.overhead_s"), "seconds per change of psi"
    if overhead is None:
        overhead = _pause_s(reports)
        pause = "median pause between the files, turning included"
    values = {
        "limits_deg": (None if limits is None else list(limits), how),
        "speed_deg_per_s": (said.get("motion.speed_deg_per_s"), "of the rotation of the crystal"),
        "overhead_s": (overhead, pause),
    }
    for key, (value, words) in values.items():
        if value is None:
            unknown[f"motion.{key}"] = f"{WORD} stands there; expected {words}"
    return ["motion:", *(_line("  ", key, *one) for key, one in values.items())]


def _psi_range(reports: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Lowest and highest psi of the files; None where they are one."""
    angles = [_number(one.get("psi_deg")) for one in reports]
    known = [angle for angle in angles if angle is not None]
    for one in reports:
        span = one.get("psi_range_deg")
        known += [x for x in map(_number, span or ()) if x is not None]
    if not known or max(known) - min(known) < 1e-6:
        return None
    return min(known), max(known)


def _pause_s(reports: Sequence[Mapping[str, Any]]) -> float | None:
    """Median pause between files that follow one another; None where they do not tell."""
    spans = []
    for one in reports:
        start, minutes = one.get("start_time_ns"), _number(one.get("minutes"))
        if isinstance(start, int) and start > 0 and minutes is not None:
            spans.append((start / 1e9, start / 1e9 + 60 * minutes))
    spans.sort()
    pauses = [after[0] - before[1] for before, after in zip(spans, spans[1:], strict=False)]
    moves = sorted(p for p in pauses if 0 <= p <= LONGEST_PAUSE_S)
    return round(moves[len(moves) // 2], 1) if moves else None


def _line(indent: str, key: str, value: Any, comment: str = "") -> str:
    """A line of YAML with its comment; None reads ``TODO``."""
    shown = WORD if value is None else _scalar(value)
    return f"{indent}{key}: {shown}" + (f"  # {comment}" if comment else "")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        dumped = yaml.safe_dump(value, width=10_000, allow_unicode=True).splitlines()[0]
        return dumped if value != WORD else f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(f"{x:g}" for x in value) + "]"
    return f"{value:.10g}"


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


def _title(report: Mapping[str, Any], name: str) -> str:
    said = "".join(c for c in str(report.get("title") or "") if c.isprintable()).strip()
    return said[:120] or f"{name} on {report.get('instrument') or 'an unknown instrument'}"
