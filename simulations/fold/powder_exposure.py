"""What a powder, or any sample whatever its orientation, exposes of every (|Q|, E) cell.

The modulus of Q depends on the scattering angle of a pixel and on the energy sub-step alone, so one
map serves all orientations, and counts and exposure look it up alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.errors import InputError
from simulations.fold.pixel_view import histogram_range
from simulations.instrument import Instrument, wave_vector
from simulations.kernels import njit
from simulations.reciprocal import EnergyAxis


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowderView:
    """Where the pixels of an instrument lie in |Q| at every energy sub-step."""

    cosine: FloatArray  # (pixels,) of the scattering angle
    masked: NDArray[np.bool_]  # (pixels,)
    ki: float  # 1/angstrom
    kf: FloatArray  # (steps,) 1/angstrom at the step centres
    step_edges_meV: FloatArray  # (steps + 1,)
    bin_of_step: NDArray[np.int64]  # (steps,) energy bin
    momentum_edges: FloatArray  # (momentum bins + 1,) ascending, uniform, 1/angstrom

    @property
    def n_momentum_bins(self) -> int:
        """Number of |Q| bins."""
        return len(self.momentum_edges) - 1


def momentum_axis(
    instrument: Instrument, energy: EnergyAxis, ei_meV: float, step: float
) -> FloatArray:
    """Edges of |Q| bins from 0 to beyond what any open pixel reaches, 1/angstrom.

    Raises
    ------
    ValueError
        If the step is not positive, so fine that there would be more than 5,000 bins, or no pixel
        is open.
    """
    if instrument.masked.all():
        raise InputError(f"every pixel of {instrument.name} is masked; expected some open ones")
    n_e = energy.reachable_bins(ei_meV)
    ki = float(wave_vector(ei_meV))
    kf = wave_vector(ei_meV - energy.edges_meV[[0, n_e]])  # |Q| is largest at one of the two ends
    cosine = _cosine(instrument)[~instrument.masked][:, None]
    top = float(np.sqrt((ki**2 + kf**2 - 2 * ki * kf * cosine).max()))
    if not (np.isfinite(step) and step > 0) or top / step > 5000:
        raise InputError(
            f"the |Q| step is {step} 1/angstrom; expected above {top / 5000:.2g}, e.g. 0.05"
        )
    return np.arange(int(np.ceil(top / step + 1e-9)) + 1, dtype=np.float64) * float(step)


def view_powder(
    *,
    instrument: Instrument,
    energy: EnergyAxis,
    ei_meV: float,
    momentum_edges: FloatArray,
    histogram_edges_meV: FloatArray | None = None,
) -> PowderView:
    """Map of (pixel, energy sub-step) to (|Q| bin, energy bin); the steps as for crystals.

    ``histogram_edges_meV`` replaces the sub-steps by the bins of histogram input.

    Raises
    ------
    ValueError
        If no energy bin can be reached with ``ei_meV`` or the |Q| edges are not uniform from 0.
    """
    edges_Q = np.asarray(momentum_edges, dtype=float)
    steps = np.diff(edges_Q)
    if len(steps) < 1 or edges_Q[0] != 0 or steps[0] <= 0 or np.ptp(steps) > 1e-6 * steps[0]:
        raise InputError("momentum_edges must ascend from 0 in equal steps")
    n_e = energy.reachable_bins(ei_meV)
    if n_e == 0:
        raise InputError(
            f"instrument.ei_meV is {ei_meV}; expected above the lowest energy bin "
            f"{energy.edges_meV[0]}..{energy.edges_meV[1]} meV"
        )
    if histogram_edges_meV is None:
        edges = energy.substep_edges_meV[: n_e * energy.substeps + 1]
        bin_of_step = np.arange(n_e * energy.substeps) // energy.substeps
    else:
        kept = histogram_range(histogram_edges_meV, energy, ei_meV)
        edges = np.asarray(histogram_edges_meV, dtype=float)[kept.start : kept.stop + 1]
        middle = 0.5 * (edges[1:] + edges[:-1])
        bin_of_step = ((middle - energy.edges_meV[0]) / energy.step_meV).astype(np.int64)
    return PowderView(
        cosine=_cosine(instrument),
        masked=instrument.masked,
        ki=float(wave_vector(ei_meV)),
        kf=wave_vector(ei_meV - 0.5 * (edges[1:] + edges[:-1])),
        step_edges_meV=edges,
        bin_of_step=bin_of_step,
        momentum_edges=edges_Q,
    )


def _cosine(instrument: Instrument) -> FloatArray:
    return np.ascontiguousarray(instrument.direction[:, 2])


@njit(cache=True, inline="always")
def momentum_bin(cosine, ki, kf, per_bin):
    """Bin of |Q|; may lie beyond the last one."""
    square = ki * ki + kf * kf - 2.0 * ki * kf * cosine
    return int(np.sqrt(max(square, 0.0)) * per_bin)


@njit(cache=True)
def _accumulate(
    cosine, masked, ki, kf, bin_of_step, per_bin, skip,
    solid_angle, distance, weight_step, time_step, out_weight, out_flat,
):  # fmt: skip
    """Add all (pixel, sub-step) pairs; see ``powder_exposure``."""
    bins = out_weight.shape[0]
    use_skip = skip.shape[0] > 0
    for p in range(len(masked)):
        if masked[p]:
            continue
        for step in range(len(kf)):
            if use_skip and skip[p, step]:
                continue
            q = momentum_bin(cosine[p], ki, kf[step], per_bin)
            if q < bins:
                out_weight[q, bin_of_step[step]] += solid_angle[p] * weight_step[step]
                out_flat[q, bin_of_step[step]] += solid_angle[p] * distance[p] * time_step[step]


def powder_exposure(
    *,
    view: PowderView,
    instrument: Instrument,
    energy: EnergyAxis,
    ei_meV: float,
    reduced: bool = False,
    skip: NDArray[np.bool_] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Exposure of every (|Q|, E) cell for a proton charge of 1 coulomb.

    Parameters
    ----------
    view : PowderView
        The map; counts must use the same.
    instrument, energy, ei_meV
        As given to ``view_powder``.
    reduced : bool
        For input already divided by k_f/k_i and charge: weights without them.
    skip : (pixels, steps) bool, optional
        Pairs that count nowhere: masked or unknown bins of a histogram.

    Returns
    -------
    weight : (momentum bins, energy bins)
        D = sum of charge x solid angle x energy step x k_f/k_i, coulomb sr meV; 0 is unknown.
    flat : (momentum bins, energy bins)
        Sum of charge x solid angle x time step, coulomb sr ms.
    """
    edges = view.step_edges_meV
    slowness = 1e3 / (METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(ei_meV - edges))  # ms per metre
    time_step, weight_step = np.diff(slowness), np.diff(edges)
    if reduced:
        time_step = time_step * view.ki / view.kf
    else:
        weight_step = weight_step * view.kf / view.ki
    shape = (view.n_momentum_bins, energy.n_bins)
    weight, flat = np.zeros(shape), np.zeros(shape)
    _accumulate(
        view.cosine,
        view.masked,
        view.ki,
        view.kf,
        view.bin_of_step,
        1.0 / (view.momentum_edges[1] - view.momentum_edges[0]),
        np.zeros((0, 0), dtype=np.bool_) if skip is None else skip,
        instrument.solid_angle_sr,
        instrument.distance_m,
        weight_step,
        time_step,
        weight,
        flat,
    )
    return weight, flat
