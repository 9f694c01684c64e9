"""Ei and T0, as monitors and elastic line tell them, held against the experiment file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from consumers.recorded import (
    EMISSION_LOG,
    T0_GOOD_ENOUGH_US,
    estimate_t0_of_run,
    kind_of_file,
    read_event_run,
    read_monitors,
)
from simulations.errors import InputError
from simulations.instrument import (
    PLACED_M,
    BeamEnergy,
    Estimated,
    OrientedEvents,
    fit_beam_energy,
    flight_time_us,
)
from steering.experiment import Experiment
from steering.report.check import Check

# Below which a difference does not matter, and the tolerance of a run: what 4 cm in 8 m of flight
# path do to the monitors' Ei, more than definition files are wrong by. It moves a phonon at Ei / 2
# by a fifth of a chopper's width.
EI = 0.01
EI_LOGGED = 0.05  # readers refuse an Ei that is further from the file's own
# Likewise: share of the elastic line's full width at half maximum that T0 may move it by.
T0_WIDTHS = 1 / 3
LINE = 0.2  # full width at half maximum, share of Ei; a wider "elastic line" is none
FWHM = float(np.sqrt(8 * np.log(2)))  # full width at half maximum in standard deviations


def beam_of_file(path: Path, psi_log: str, experiment: Experiment | None) -> dict[str, Any]:
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
    except InputError as error:
        return report | {"reason": f"not determined: {error}"}
    used = f"{len(placed)} monitor(s)"
    if lined:
        used += f" and the elastic line of {votes} events on the detectors"
    return report | {
        "ei_meV": Estimated(value=beam.ei_meV, sigma=beam.ei_sigma_meV),
        "t0_us": Estimated(value=beam.t0_us, sigma=beam.t0_sigma_us),
        "reason": f"from {used}",
    }


def judge_beam(
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
