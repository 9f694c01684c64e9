"""The empty can that an experiment names: its recorded runs, or what is to be predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consumers.fold import (
    Can,
    CanRun,
    ChunkStart,
    ChunkStop,
    EventBlock,
    HistogramBlock,
    PredictedCan,
    SetAside,
)
from consumers.recorded import recorded_source
from simulations.errors import InputError
from steering.experiment import EI_TOLERANCE, Measurement


def read_can(measurement: Measurement) -> tuple[CanRun, ...]:
    """Recorded runs of the empty can that the experiment names; none if it names none.

    Events stay in memory, 8 bytes each.

    Raises
    ------
    ValueError
        If there is no such file, or one cannot be read or was measured with another Ei.
    """
    experiment = measurement.experiment
    pattern = experiment.background.can
    if pattern is None:
        return ()
    at = measurement.folder / pattern
    files = sorted(Path(at.anchor).glob(str(at.relative_to(at.anchor))))
    if not files:
        raise InputError(
            f"background.can is {pattern!r}, which no file in {measurement.folder} matches; "
            "expected files of the empty can. Correct the pattern."
        )
    return tuple(_read(measurement, file) for file in files)


def _read(measurement: Measurement, file: Path) -> CanRun:
    experiment = measurement.experiment
    source = recorded_source(
        [file],
        run="can",
        psi_log=experiment.source.psi_log,
        psi_deg=0.0,  # of a file that has none; the can's own psi is not used
        ei_meV=experiment.source.ei_meV,
        t0_us=experiment.source.t0_us,
        period=experiment.source.period,
        nominal_ei_meV=experiment.instrument.ei_meV,
    )
    start, stop, histogram = None, None, None
    pixels: list[NDArray[np.int32]] = []
    energies: list[NDArray[np.float32]] = []
    for message in source.messages():
        payload = message.payload
        if isinstance(payload, SetAside):
            raise InputError(f"background.can: {payload.origin}: {payload.reason}")
        if isinstance(payload, ChunkStart):
            start = payload
        elif isinstance(payload, EventBlock):
            pixels.append(np.asarray(payload.pixel, dtype=np.int32))
            energies.append(payload.energy_transfer_meV.astype(np.float32))
        elif isinstance(payload, HistogramBlock):
            histogram = payload
        else:
            stop = payload
    if start is None or stop is None:
        raise InputError(f"background.can: {file}: holds no complete chunk; expected one")
    expected = experiment.instrument.ei_meV
    if abs(start.ei_meV - expected) > EI_TOLERANCE * expected:
        raise InputError(
            f"background.can: {file}: Ei is {start.ei_meV:g} meV; expected {expected:g} meV within "
            f"{EI_TOLERANCE:.0%}, that of the sample. Name a can measured with it."
        )
    charge = _charge(file, stop, reduced=histogram is not None and histogram.counts is None)
    instrument = measurement.instrument if start.geometry is None else start.geometry
    return CanRun(
        name=file.name,
        position_m=instrument.position_m,
        proton_charge=charge,
        pixel=np.concatenate(pixels) if pixels else np.zeros(0, np.int32),
        energy_transfer_meV=np.concatenate(energies) if energies else np.zeros(0, np.float32),
        histogram=histogram,
    )


def _charge(file: Path, stop: ChunkStop, *, reduced: bool) -> float:
    if reduced:
        return 1.0
    if not (np.isfinite(stop.proton_charge) and stop.proton_charge > 0):
        raise InputError(
            f"background.can: {file}: proton charge is {stop.proton_charge}; expected a positive "
            "number of coulomb, to scale the can by"
        )
    return stop.proton_charge


def can_of(measurement: Measurement) -> Can:
    """The can of an experiment: read, to be predicted, or none."""
    section = measurement.experiment.background
    predicted = None
    if section.can_material is not None and section.can_atoms is not None and section.can_sigma:
        predicted = PredictedCan(
            material=section.can_material,
            atoms=section.can_atoms,
            relative_sigma=section.can_sigma,
            temperature_K=measurement.experiment.sample.temperature_K,
        )
    return Can(runs=read_can(measurement), predicted=predicted)
