"""What a minute at any allowed setting would bring.

Per minute at psi a cell counts ``Poisson(lambda)`` and carries the information
``F_psi = sum_cells u u^T / lambda`` about all of theta (``u`` the gradient of lambda).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model_server.posterior import Observation, Refinement, usable_cells
from simulations.arrays import FloatArray
from simulations.fold import CanRate, CellSums, VoxelExposure
from simulations.likelihood import State
from steering.advice.situation import Candidate


def candidate_angles(limits_deg: tuple[float, float], how_many: int) -> FloatArray:
    """Evenly spaced orientations within the limits."""
    return np.linspace(limits_deg[0], limits_deg[1], how_many)


def information_per_minute(
    psi_deg: float,
    exposure: Callable[[], VoxelExposure],
    sums_of_exposure: tuple[FloatArray, FloatArray],
    *,
    ei_meV: float,
    refinement: Refinement,
    theta: FloatArray,
    charge_per_minute: float,
    state: State | None = None,
    can: CanRate | None = None,
    parts: tuple[FloatArray, ...] = (),
    stride: int = 1,
) -> Candidate:
    """Fisher information that one minute at psi would add at theta.

    Parameters
    ----------
    psi_deg : float
    exposure : callable
        Exposure for one coulomb.
    sums_of_exposure : two (path_bins, energy_bins)
        D and flat exposure of the same.
    ei_meV : float
        Incident energy of the exposure and of the forward model.
    refinement : Refinement
        Holds the forward model and the cells that count.
    theta : (P,)
        Parameters and nuisances.
    charge_per_minute : float
        Coulomb.
    state : State, optional
        The forward model prepared at theta, where the caller has it.
    can : CanRate, optional
        What the empty can adds in that minute.
    parts : (path_bins, energy_bins) each
        Rates of expected parts for one coulomb.
    stride : int
        Only one of so many energy bins is looked at and stands for all of them: an approximation
        that is good while lines are wider than that.
    """
    weight, flat = (_thinned(s * charge_per_minute, stride) for s in sums_of_exposure)
    zero = np.zeros_like(weight)
    sums = CellSums(signal=zero, variance=zero, counts=zero, exposure=weight, flat=flat)
    observation = Observation(
        sums=sums,
        exposure=lambda: exposure().scaled(charge_per_minute).thinned(stride),
        can=can,
        parts=tuple(_thinned(part * charge_per_minute, stride) for part in parts),
    )
    rate, information = refinement.objective.information_of(theta, observation, state)
    use = usable_cells(sums, refinement.energy, refinement.elastic_cut)
    return Candidate(
        psi_deg=psi_deg,
        ei_meV=ei_meV,
        information=stride * information,
        rate=_repeated(np.where(use, rate, 0.0), stride),
    )


def _thinned(sums: FloatArray, stride: int) -> FloatArray:
    """One of so many energy bins, zero in the others."""
    thinned = np.zeros_like(sums)
    thinned[:, ::stride] = sums[:, ::stride]
    return thinned


def _repeated(rate: FloatArray, stride: int) -> FloatArray:
    """Every bin that was looked at in place of those up to the next."""
    return np.repeat(rate[:, ::stride], stride, axis=1)[:, : rate.shape[1]]
