"""Incident energy and emission time from when the pulse passed known places: ``t = T0 + L / v``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.errors import InputError

PLACED_M = 0.005  # how well the distance of a monitor or detector is known


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamEnergy:
    """Incident energy and emission time with standard errors."""

    ei_meV: float
    ei_sigma_meV: float
    t0_us: float
    t0_sigma_us: float
    places: int  # where the pulse was seen


def fit_beam_energy(
    distance_m: FloatArray,
    time_us: FloatArray,
    error_us: FloatArray,
    *,
    nominal_ei_meV: float,
    frame_us: NDArray[np.float64] | None = None,
    placed_m: float = PLACED_M,
) -> BeamEnergy:
    """Fit a line through arrival times against distance from the source.

    Parameters
    ----------
    distance_m : (n,)
        Two or more different ones.
    time_us, error_us : (n,)
        After the proton pulse, with the standard error.
    nominal_ei_meV : float
        Tells which frame a time belongs to, and turns ``placed_m`` into a time.
    frame_us : (n,), optional
        Times are known modulo this; NaN or infinity: they are not folded.
    placed_m : float
        Standard error of every distance; the shorter the base, the more it counts.

    Raises
    ------
    ValueError
        If the distances do not differ or the fitted speed is no speed.
    """
    distance = np.asarray(distance_m, dtype=float)
    t = np.asarray(time_us, dtype=float).copy()
    if len(distance) < 2 or np.ptp(distance) < 0.1:
        raise InputError(
            f"the pulse was seen at {len(distance)} place(s) within {np.ptp(distance):.2g} m; "
            "expected two places at least 0.1 m apart"
        )
    speed = METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(nominal_ei_meV)
    if frame_us is not None:
        frame = np.asarray(frame_us, dtype=float)
        folded = np.isfinite(frame) & (frame > 0)
        late = 1e6 * distance / speed - t
        t[folded] += np.rint(late[folded] / frame[folded]) * frame[folded]
    sigma = np.hypot(np.asarray(error_us, dtype=float), 1e6 * placed_m / speed)
    design = np.stack([np.ones(len(distance)), distance], axis=1) / sigma[:, None]
    covariance = np.linalg.inv(design.T @ design)
    t0, slowness = covariance @ design.T @ (t / sigma)
    if slowness <= 0:
        raise InputError(
            f"arrival times {t.round(1)} us do not grow with distance {distance.round(3)} m"
        )
    ei = float((1e6 / slowness / METRE_PER_SECOND_PER_SQRT_MEV) ** 2)
    return BeamEnergy(
        ei_meV=ei,
        ei_sigma_meV=float(2 * ei * np.sqrt(covariance[1, 1]) / slowness),
        t0_us=float(t0),
        t0_sigma_us=float(np.sqrt(covariance[0, 0])),
        places=len(distance),
    )
