"""What a file holds and what is wrong with it, whatever it is; nothing here raises for content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.errors import InputError
from simulations.instrument import Instrument
from steering.report.tables_file import read_arrays

if TYPE_CHECKING:
    from simulations.dynamics import ParametersSection

KINDS = {
    "sns-events": "SNS raw events",
    "isis-events": "ISIS raw events",
    "nxspe": "NXSPE, reduced on detectors x energy",
    "spe": "SPE, reduced on detectors x energy, with a PAR or PHX file",
    "sqw": "SQW, pixels of many runs",
    "detectors": "PAR or PHX, where the detectors of an SPE file are",
    "instrument": "pixels of a spectrometer",
    "mask": "detector mask",
    "folded": "folded I(q,E)",
    "powder": "folded S(|Q|,E)",
    "spectrum": "S(|Q|,E) of a powder, reduced elsewhere",
    "chunk": "closed chunk of a run",
    "experiment": "experiment file",
    "unreadable": "nothing that Beamsteer reads",
}
_NEED_ORIENTATION = ("sns-events", "isis-events", "nxspe", "spe", "sqw")


def inspect(path: Path | str, *, psi_log: str = "s1", psi_deg: float | None = None) -> dict:
    """Look into one file.

    Parameters
    ----------
    path : Path
        Any file: recorded, closed chunk (``.safetensors``), experiment (``.yaml``), detectors
        (``.par``, ``.phx``), spectrometer (IDF, table), mask, ``folded.npz``, ``powder.npz``, a
        powder's S(|Q|,E) as ``invert-powder`` reads it, or something else.
    psi_log : str
        Log of event files that holds psi.
    psi_deg : float, optional
        Operator's psi, for files that have none.

    Returns
    -------
    dict
        ``file, kind`` (a key of ``KINDS``), ``format`` (in words), what the kind tells (None where
        a recorded file is silent; see ``consumers.recorded.source.inspect_file``), ``problems`` and
        ``unknown`` (lists of str).
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".safetensors": _chunk,
        ".yaml": _experiment,
        ".yml": _experiment,
        ".par": _detectors,
        ".phx": _detectors,
        ".xml": _xml,
        ".csv": _instrument,
        ".json": _instrument,
        ".npz": _npz,
    }
    report: dict[str, Any] = {"kind": "unreadable", "problems": [], "unknown": []}
    try:
        if not path.is_file():
            state = "is a folder" if path.is_dir() else "is not there"
            raise InputError(f"{path}: {state}; expected a file. Correct the path")
        reader = readers.get(path.suffix.lower())
        if reader is None and _holds_spectrum(path):
            reader = _spectrum
        if reader is not None:
            report |= reader(path)
        else:
            from consumers.recorded import inspect_file

            report |= inspect_file(path, psi_log=psi_log, psi_deg=psi_deg)
    except Exception as error:  # whatever a damaged file provokes is told, not thrown
        said = str(error) if isinstance(error, ValueError | OSError) else repr(error)
        said = said.replace(f"spectrum {path}", "spectrum")  # whose name stands above
        lines = (line.removeprefix(f"{path}: ") for line in said.splitlines())
        report["problems"] = [*report["problems"], *lines]
    if report["kind"] == "unreadable":
        report["unknown"] = []
    return {"file": str(path), "kind": report["kind"], "format": KINDS[report["kind"]]} | report


def scan_of(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Recorded files taken together as one rotation scan.

    Parameters
    ----------
    reports : sequence of dict
        Of :func:`inspect`; other kinds are left out.

    Returns
    -------
    dict
        ``files, psi_deg`` (sorted), ``events, proton_charge, minutes`` (sums of what is known) and
        ``problems``: what does not belong together.
    """
    recorded = [r for r in reports if r["kind"] in _NEED_ORIENTATION]
    problems = []
    for field, words, tolerance in (
        ("instrument", "instruments", None),
        ("ei_meV", "incident energies", 0.02),
        ("temperature_K", "temperatures", 0.1),
    ):
        seen = [r[field] for r in recorded if r.get(field) is not None]
        if tolerance is None:
            differ = len(set(seen)) > 1
        else:
            differ = bool(seen) and max(seen) - min(seen) > tolerance * abs(max(seen)) + 0.5
        if differ:
            told = ", ".join(dict.fromkeys(_short(value) for value in seen))
            problems.append(f"several {words}: {told}; a scan has one")
    numbers = [r["run_number"] for r in recorded if r.get("run_number")]
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    if twice:
        problems.append(f"run {', '.join(twice)} comes more than once; it would count once")
    without = sum(r.get("psi_deg") is None for r in recorded)
    if without:
        problems.append(f"{without} of {len(recorded)} files have no psi; give it with --psi")

    def total(field: str) -> float | int | None:
        known = [r[field] for r in recorded if r.get(field) is not None]
        return sum(known) if known else None

    return {
        "files": len(recorded),
        "psi_deg": sorted(r["psi_deg"] for r in recorded if r.get("psi_deg") is not None),
        "events": total("events"),
        "proton_charge": total("proton_charge"),
        "minutes": total("minutes"),
        "problems": problems,
    }


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _chunk(path: Path) -> dict[str, Any]:
    from consumers.state import read_chunk

    chunk = read_chunk(path)
    sums, account = chunk.sums, chunk.account
    exposed = sums.exposure > 0
    problems = []
    if not account.complete:
        problems.append(f"events do not add up: {account}")
    outside = int(np.sum(~exposed & (sums.counts + np.abs(sums.signal) > 0)))
    if outside:
        problems.append(f"{outside} cells have signal without exposure; they are not reported")
    if not exposed.any():
        problems.append("no cell has exposure: this orientation does not cross the path")
    for name in ("signal", "variance", "counts", "exposure"):
        if not np.isfinite(getattr(sums, name)).all():
            problems.append(f"{name} holds numbers that are not finite")
    return {
        "kind": "chunk",
        "chunk": chunk.chunk,
        "psi_deg": chunk.psi_deg,
        "minutes": chunk.minutes,
        "proton_charge": chunk.proton_charge,
        "events": account.read,
        "account": {name: getattr(account, name) for name in account.__slots__},
        "likelihood": "Gaussian, of reduced data" if sums.gaussian else "Poisson, of raw counts",
        "path_bins": sums.exposure.shape[0],
        "energy_bins": sums.exposure.shape[1],
        "coverage_fraction": float(exposed.mean()),
        "counts": float(sums.counts.sum()),
        "problems": problems,
    }


def _experiment(path: Path) -> dict[str, Any]:
    from simulations.instrument import known_instruments, split_name
    from steering.experiment import Experiment, load_experiment, todos_of

    experiment = load_experiment(path, spared=tuple(Experiment.model_fields))
    sample, instrument, route = experiment.sample, experiment.instrument, experiment.path
    todos = todos_of(path)
    problems = [f"line {todo.line}: {todo.field} is TODO; fill it in" for todo in todos]
    open_fields = {todo.field for todo in todos}
    name = instrument.name
    if split_name(Path(name).name)[0].upper() not in known_instruments():
        if not (path.parent / name).is_file():
            problems.append(
                f"instrument.name is {name!r}; expected one of {', '.join(known_instruments())}, "
                "or a file: only recorded files that carry their own geometry will fold"
            )
    from steering.experiment import structure_of

    dipoles = None
    try:
        if "sample.structure" in open_fields:
            raise InputError("without a structure nothing else can be told")
        dipoles = _dipole_note(structure_of(experiment, path.parent), experiment.parameters)
    except InputError as error:
        problems.append(str(error))
    segments = route.segments()
    return {
        "kind": "experiment",
        "title": experiment.title,
        "structure": sample.structure,
        "temperature_K": sample.temperature_K,
        "orientation": {
            "u": list(sample.u),
            "v": list(sample.v),
            "psi_offset_deg": sample.psi_offset_deg,
        },
        "instrument": name,
        "ei_meV": instrument.ei_meV,
        "path": "seekpath"
        if segments is None
        else ", ".join(f"{s.start_label}-{s.end_label}" for s in segments),
        "half_width_rlu": route.half_width_rlu,
        "energy_meV": (route.energy.min_meV, route.energy.max_meV),
        "psi_limits_deg": tuple(experiment.motion.limits_deg),
        "dipoles": dipoles,
        "problems": problems,
    }


def _dipole_note(structure: str | Path, parameters: ParametersSection) -> str | None:
    """How dipoles of force constants that come with a structure are summed; None if not polar."""
    from simulations.dynamics import (
        compare_dipole_sums,
        force_constant_model,
        read_force_constants,
        with_dipole_sum,
    )

    try:
        given = read_force_constants(structure)
    except InputError:  # the experiment's prior brings them, or the run says what is missing
        return None
    if given.dipole is None:
        return None
    model = force_constant_model(given.crystal, given, parameters.cutoff_A)
    compared = compare_dipole_sums(with_dipole_sum(model, parameters.dipole_sum))
    return None if compared is None else compared.note


def _detectors(path: Path) -> dict[str, Any]:
    from consumers.recorded import read_detectors

    instrument, problems = read_detectors(path)
    return _pixels(instrument) | {"kind": "detectors", "problems": problems}


def _instrument(path: Path) -> dict[str, Any]:
    from simulations.instrument import find_instrument

    return _pixels(find_instrument(str(path))) | {"kind": "instrument"}


def _pixels(instrument: Instrument) -> dict[str, Any]:
    angle = np.degrees(np.arccos(np.clip(instrument.direction[:, 2], -1, 1)))
    return {
        "instrument": instrument.name,
        "pixels": instrument.n_pixels,
        "masked_pixels": int(instrument.masked.sum()),
        "two_theta_deg": (float(angle.min()), float(angle.max())),
        "solid_angle_sr": float(instrument.solid_angle_sr[~instrument.masked].sum()),
    }


def _xml(path: Path) -> dict[str, Any]:
    from simulations.instrument import read_text

    if "<detector-masking" not in read_text(path)[:2000]:
        return _instrument(path)
    from simulations.instrument import read_mask

    mask = read_mask(path)
    return {
        "kind": "mask",
        "masked_pixels": len(mask.detector_id),
        "components": list(mask.components),
    }


def _holds_spectrum(path: Path) -> bool:
    from model_server.powder import holds_spectrum

    return holds_spectrum(path)


def _spectrum(path: Path) -> dict[str, Any]:
    from model_server.powder import read_reduced

    spectra = read_reduced(path, temperature_K=np.nan, ei_meV=np.inf, window_meV=(-np.inf, np.inf))
    first = spectra[0]
    energy, momentum = first.energy_meV, first.q_inverse_A
    unknown = [] if first.susceptibility else ["temperature", "Ei"]
    if first.sigma is None:
        unknown.append("errors")
    return {
        "kind": "spectrum",
        "temperature_K": [s.temperature_K for s in spectra] if first.susceptibility else None,
        "ei_meV": first.ei_meV if first.susceptibility else None,
        "momentum_bins": len(momentum),
        "momentum_inverse_angstrom": (float(momentum[0]), float(momentum[-1])),
        "energy_bins": len(energy),
        "energy_meV": (float(energy[0]), float(energy[-1])),
        "coverage_fraction": float(np.mean([s.valid.mean() for s in spectra])),
        "unknown": unknown,
    }


def _npz(path: Path) -> dict[str, Any]:
    arrays = read_arrays(path)
    if "chi" in arrays:
        return _spectrum(path)
    if not {"S", "D", "N", "energy_edges_meV"} <= set(arrays):
        return _instrument(path)
    S, D, N, edges = (arrays[name] for name in ("S", "D", "N", "energy_edges_meV"))
    powder = "momentum_edges_inverse_angstrom" in arrays
    momentum = arrays["momentum_edges_inverse_angstrom"] if powder else None
    reduced = bool(arrays["gaussian"]) if "gaussian" in arrays else False
    if D.ndim != 2 or {S.shape, N.shape} != {D.shape} or D.shape[1] != edges.size - 1:
        raise InputError(
            f"S, N, D have shapes {S.shape}, {N.shape}, {D.shape} with {edges.size} energy edges; "
            "expected (bins, energy bins) of all three. Fold again"
        )
    outside = int(np.sum((D <= 0) & (S != 0)))
    return {
        "kind": "powder" if powder else "folded",
        "arrays": sorted(arrays),
        "momentum_bins" if powder else "path_bins": D.shape[0],
        "momentum_inverse_angstrom": None
        if momentum is None
        else (float(momentum[0]), float(momentum[-1])),
        "energy_bins": D.shape[1],
        "energy_meV": (float(edges[0]), float(edges[-1])),
        "counts": float(N.sum()),
        "likelihood": "Gaussian, of reduced data" if reduced else "Poisson, of raw counts",
        "coverage_fraction": float((D > 0).mean()),
        "problems": [f"{outside} cells have signal without exposure"] if outside else [],
    }
