"""S(|Q|, E) of a powder as a direct-geometry instrument sees it."""

from __future__ import annotations

import numpy as np

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.scattering import (
    TOLERANCE,
    incoherent_spectrum,
    kinematic_mask,
    many_phonons,
    momentum_limits,
    orders_that_serve,
    powder_spectrum,
)
from steering.predict.interference import powder_parts
from steering.predict.optics import FREE_EI_MEV, FWHM, Optics, energy_axis
from steering.predict.spectrum_map import (
    HARMONIC,
    SpectrumMap,
    map_setting,
    refuse_many,
    samplings,
    summed,
)
from steering.predict.vibrations import Vibrations

MOMENTUM_BINS = 120
FREE_REACH = 15.0  # 1/angstrom, of a default axis without kinematic limits


def powder_map(
    vibrations: Vibrations,
    seen: Optics,
    *,
    temperature_K: float = 300.0,
    energy_edges_meV: FloatArray | None = None,
    momentum_edges: FloatArray | None = None,
    momentum_fwhm: float = 0.0,
    tolerance: float = TOLERANCE,
) -> SpectrumMap:
    """S(|Q|, E) of a powder: coherent and incoherent one-phonon, and multiphonon.

    Parameters
    ----------
    vibrations, seen
        From `stable`, `optics`.
    temperature_K : float
    energy_edges_meV : (E + 1,) float64 or None
        None: from 0 to above the highest mode.
    momentum_edges : (Q + 1,) float64 or None
        1/angstrom; None: all that the instrument reaches.
    momentum_fwhm : float
        Resolution in |Q|, 1/angstrom.
    tolerance : float
        Wanted error of the powder average, as of `powder_spectrum`; a larger one than usual is
        enough for Debye-Waller tensors, too.

    Raises
    ------
    InputError
        If |Q| is negative or far out of reach; as `energy_axis`.
    """
    edges = energy_axis(vibrations.dos, seen, energy_edges_meV)
    _, high = momentum_limits(np.array([min(0.0, edges[0])]), seen.ei_meV, seen.two_theta_deg)
    reach = float(high[0])
    if momentum_edges is None:
        top = FREE_REACH if seen.ei_meV >= FREE_EI_MEV else reach
        momentum_edges = np.linspace(0.02, 1.0, MOMENTUM_BINS + 1) * top
    elif not 0 <= momentum_edges[0] < momentum_edges[-1] <= 3 * reach:
        raise InputError(
            f"q_inverse_A is {momentum_edges[0]:g} to {momentum_edges[-1]:g}; expected an axis "
            f"between 0 and {3 * reach:.3g} 1/angstrom, three times what {seen.instrument} reaches."
        )
    refuse_many(len(momentum_edges) - 1, len(edges) - 1)
    if vibrations.model is None:
        return _without_force_constants(
            vibrations, seen, temperature_K, edges, momentum_edges, momentum_fwhm
        )
    model = vibrations.model
    moved = vibrations.displacements(temperature_K, tolerance=max(tolerance, TOLERANCE))
    displacement = None if moved is None else moved.tensors
    coherent = powder_spectrum(
        model,
        momentum_edges,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        two_theta_deg=seen.two_theta_deg,
        momentum_sigma=momentum_fwhm / FWHM,
        displacement=displacement,
        tolerance=tolerance,
        pockets=vibrations.pockets,
    )
    orders = orders_that_serve(
        vibrations.crystal,
        vibrations.dos,
        temperature_K,
        float(momentum_edges[-1]),
        displacement=displacement,
    )
    others = incoherent_spectrum(
        vibrations.crystal,
        vibrations.dos,
        momentum_edges,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        max_order=orders,
        displacement=displacement,
        beyond=True,
    )
    parts = {
        "coherent": coherent.intensity,
        "incoherent": others.one_phonon,
        "multiphonon": others.multiphonon,
    }
    notes = (
        "coherent: one phonon, powder average over sampled q and all G",
        f"incoherent: one phonon; multiphonon: {many_phonons(orders)} in the incoherent "
        "approximation; both with the motion of every site averaged over directions of Q",
        HARMONIC,
    )
    return SpectrumMap(
        kind="powder",
        setting=map_setting(
            vibrations, seen, temperature_K, notes, samplings(vibrations, moved, coherent.sampling)
        ),
        x_name="q_inverse_A",
        x_edges=momentum_edges,
        y_name="energy_meV",
        y_edges=edges,
        **summed(parts, coherent.accessible),
    )


def _without_force_constants(
    vibrations: Vibrations,
    seen: Optics,
    temperature_K: float,
    edges: FloatArray,
    momentum_edges: FloatArray,
    momentum_fwhm: float,
) -> SpectrumMap:
    crystal, dos = vibrations.crystal, vibrations.dos
    orders = orders_that_serve(crystal, dos, temperature_K, float(momentum_edges[-1]))
    found, note = powder_parts(
        vibrations,
        momentum_edges,
        edges,
        temperature_K=temperature_K,
        sigma_of=seen.sigma_of,
        ei_meV=seen.ei_meV,
        max_order=orders,
        beyond=True,
        momentum_sigma=momentum_fwhm / FWHM,
    )
    parts = {
        "coherent": found.coherent,
        "incoherent": found.incoherent,
        "multiphonon": found.multiphonon,
    }
    accessible = kinematic_mask(momentum_edges, edges, seen.ei_meV, seen.two_theta_deg)
    multiphonon = f"multiphonon: {many_phonons(orders)} in the incoherent approximation"
    return SpectrumMap(
        kind="powder",
        setting=map_setting(
            vibrations, seen, temperature_K, (note, multiphonon, HARMONIC),
            samplings(vibrations, None),
        ),
        x_name="q_inverse_A",
        x_edges=momentum_edges,
        y_name="energy_meV",
        y_edges=edges,
        **summed(parts, accessible),
    )  # fmt: skip
