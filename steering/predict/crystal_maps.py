"""S(Q,E) of a single crystal: along a high-symmetry path, along a line, over a plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.dynamics import ForceConstantModel
from simulations.errors import InputError
from simulations.scattering import (
    bragg_intensities,
    broadened,
    converged_displacements,
    incoherent_lines,
    lattice_vectors_within,
    line_cut,
    momentum_limits,
    one_phonon_lines,
    plane_cut,
)
from steering.predict.optics import FWHM, Optics, energy_axis
from steering.predict.path_points import path_points
from steering.predict.spectrum_map import (
    HARMONIC,
    SpectrumMap,
    map_setting,
    refuse_many,
    samplings,
    summed,
)
from steering.predict.vibrations import Vibrations

PLANE_BINS = 160
ONE_PHONON = (
    f"one phonon, coherent and incoherent, with anisotropic Debye-Waller factor; {HARMONIC}"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Line:
    """A line through reciprocal space and the box about it."""

    start_hkl: FloatArray  # (3,) r.l.u. of the conventional cell
    stop_hkl: FloatArray  # (3,)
    bins: int = 150
    half_widths: tuple[float, float] = (0.05, 0.05)  # of the box across, 1/angstrom


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """A plane through reciprocal space and the slab about it, over a band of energies."""

    u_hkl: FloatArray  # (3,) first direction, r.l.u. of the conventional cell
    v_hkl: FloatArray  # (3,) second one; what is perpendicular to u counts
    band_meV: tuple[float, float]
    origin_hkl: FloatArray | None = None  # (3,) where both axes are zero; None: Q = 0
    u_edges: FloatArray | None = None  # (U + 1,) 1/angstrom
    v_edges: FloatArray | None = None  # (V + 1,); None: all that is reached in mid-band
    half_width: float = 0.05  # of the slab, 1/angstrom


def path_map(
    vibrations: Vibrations,
    seen: Optics,
    *,
    temperature_K: float = 300.0,
    energy_edges_meV: FloatArray | None = None,
    path: str | None = None,
    points: int = 400,
    zone_hkl: FloatArray | None = None,
) -> SpectrumMap:
    """S(Q,E) along a high-symmetry path, seen in one Brillouin zone.

    Parameters
    ----------
    vibrations, seen, temperature_K, energy_edges_meV
        As of `powder_map`.
    path : str or None
        As `path_points`.
    points : int
        About as many along the path.
    zone_hkl : (3,) float64 or None
        Reciprocal-lattice vector that the path starts from, r.l.u.; None: the strongest reflection
        within reach.

    Raises
    ------
    InputError
        If ``zone_hkl`` is no vector of the reciprocal lattice; as `path_points`, `energy_axis`.
    """
    model = vibrations.force_constants("a path")
    crystal = model.crystal
    edges = energy_axis(vibrations.dos, seen, energy_edges_meV)
    along = path_points(crystal, path, points=points, off_gamma=0.5)
    refuse_many(len(along.hkl), len(edges) - 1)
    moved = converged_displacements(model, temperature_K, pockets=vibrations.pockets)
    displacement = moved.tensors
    reciprocal = crystal.conventional_reciprocal
    strong = _strongest_zone(model, seen, edges, displacement, along.hkl[:: max(1, points // 40)])
    zone = strong if zone_hkl is None else np.asarray(zone_hkl, dtype=float)
    index = zone @ reciprocal @ crystal.lattice.T / (2 * np.pi)
    if np.abs(index - np.rint(index)).max() > 1e-6:
        raise InputError(
            f"zone is {zone.tolist()}; expected a reciprocal-lattice vector, in r.l.u. of the "
            f"conventional cell, for example {strong.tolist()}."
        )
    Q = (along.hkl + zone) @ reciprocal
    lines = one_phonon_lines(
        model, Q, temperature_K, displacement=displacement, pockets=vibrations.pockets
    )
    parts = {
        "coherent": broadened(lines, edges, seen.sigma_of),
        "incoherent": _incoherent(vibrations, model, Q, edges, temperature_K, seen, displacement),
    }
    low, high = momentum_limits(0.5 * (edges[1:] + edges[:-1]), seen.ei_meV, seen.two_theta_deg)
    length = np.linalg.norm(Q, axis=1)[:, None]
    return SpectrumMap(
        kind="path",
        setting=map_setting(
            vibrations,
            seen,
            temperature_K,
            (f"path: {ONE_PHONON}",),
            samplings(vibrations, moved),
        ),
        x_name="position_inverse_A",
        x_edges=along.position,
        y_name="energy_meV",
        y_edges=edges,
        **summed(parts, (length >= low) & (length <= high)),
        hkl=along.hkl + zone,
        path=along,
        branches_meV=lines.energies_meV,
        origin_hkl=zone,
    )


def line_map(
    vibrations: Vibrations,
    seen: Optics,
    line: Line,
    *,
    temperature_K: float = 300.0,
    energy_edges_meV: FloatArray | None = None,
    momentum_fwhm: float = 0.0,
) -> SpectrumMap:
    """S(Q,E) of a single crystal along a line, integrated across it.

    Parameters
    ----------
    vibrations, seen, temperature_K, energy_edges_meV, momentum_fwhm
        As of `powder_map`.
    line : Line

    Raises
    ------
    InputError
        As `line_cut`, `energy_axis`.
    """
    model = vibrations.force_constants("a line")
    edges = energy_axis(vibrations.dos, seen, energy_edges_meV)
    refuse_many(line.bins, len(edges) - 1)
    moved = converged_displacements(model, temperature_K, pockets=vibrations.pockets)
    displacement = moved.tensors
    cut = line_cut(
        model,
        line.start_hkl,
        line.stop_hkl,
        line.bins,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        two_theta_deg=seen.two_theta_deg,
        half_widths=line.half_widths,
        momentum_sigma=momentum_fwhm / FWHM,
        displacement=displacement,
        pockets=vibrations.pockets,
    )
    Q = cut.hkl @ model.crystal.conventional_reciprocal
    parts = {
        "coherent": cut.intensity,
        "incoherent": _incoherent(vibrations, model, Q, edges, temperature_K, seen, displacement),
    }
    a, b = line.half_widths
    notes = (f"cut: {ONE_PHONON}", f"integrated over +-{a:g} and +-{b:g} 1/angstrom across")
    start = np.asarray(line.start_hkl, dtype=float)
    return SpectrumMap(
        kind="line",
        setting=map_setting(vibrations, seen, temperature_K, notes, samplings(vibrations, moved)),
        x_name="distance_inverse_A",
        x_edges=cut.momentum_edges,
        y_name="energy_meV",
        y_edges=edges,
        **summed(parts, cut.accessible),
        hkl=cut.hkl,
        origin_hkl=start,
        axes_hkl=(np.asarray(line.stop_hkl, dtype=float) - start,),
    )


def plane_map(
    vibrations: Vibrations,
    seen: Optics,
    plane: Plane,
    *,
    temperature_K: float = 300.0,
    momentum_fwhm: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> SpectrumMap:
    """S(Q,E) of a single crystal over a plane of Q, averaged over an energy band.

    Parameters
    ----------
    vibrations, seen, temperature_K, momentum_fwhm
        As of `powder_map`.
    plane : Plane
    progress : callable or None
        Told the share that is done, 0 to 1.

    Raises
    ------
    InputError
        As `plane_cut`; if the band reaches the incident energy.
    """
    model = vibrations.force_constants("a plane")
    band = energy_axis(vibrations.dos, seen, np.asarray(plane.band_meV, dtype=float))
    _, reach = momentum_limits(band.mean(keepdims=True), seen.ei_meV, seen.two_theta_deg)
    square = np.linspace(-1.0, 1.0, PLANE_BINS + 1) * float(reach[0])
    u_edges = square if plane.u_edges is None else plane.u_edges
    v_edges = square if plane.v_edges is None else plane.v_edges
    refuse_many(len(u_edges) - 1, len(v_edges) - 1)
    origin = np.zeros(3)
    if plane.origin_hkl is not None:
        origin = np.asarray(plane.origin_hkl, dtype=float)
    moved = converged_displacements(model, temperature_K, pockets=vibrations.pockets)
    displacement = moved.tensors
    rows = len(v_edges) - 1
    cuts = []
    for start in range(0, rows, max(1, rows // 20)):
        if progress is not None:
            progress(start / rows)
        cuts.append(
            plane_cut(
                model,
                origin,
                plane.u_hkl,
                plane.v_hkl,
                u_edges,
                v_edges[start : start + max(1, rows // 20) + 1],
                (float(band[0]), float(band[1])),
                temperature_K=temperature_K,
                resolution=seen.sigma_of,
                ei_meV=seen.ei_meV,
                two_theta_deg=seen.two_theta_deg,
                half_width=plane.half_width,
                momentum_sigma=momentum_fwhm / FWHM,
                spacing=max(0.03, 0.5 * float(np.diff(u_edges).max())),
                displacement=displacement,
                pockets=vibrations.pockets,
            )
        )
    hkl = np.concatenate([cut.hkl for cut in cuts], axis=1)
    coherent = np.concatenate([cut.intensity for cut in cuts], axis=1)
    accessible = np.concatenate([cut.accessible for cut in cuts], axis=1)
    Q = (hkl @ model.crystal.conventional_reciprocal).reshape(-1, 3)
    flat = _incoherent(vibrations, model, Q, band, temperature_K, seen, displacement)
    parts = {"coherent": coherent, "incoherent": flat.reshape(coherent.shape)}
    notes = (
        f"cut: {ONE_PHONON}",
        f"averaged over {band[0]:g} to {band[1]:g} meV and +-{plane.half_width:g} 1/angstrom "
        "across",
    )
    reciprocal = model.crystal.conventional_reciprocal
    along = np.asarray(plane.u_hkl, dtype=float) @ reciprocal
    across = np.asarray(plane.v_hkl, dtype=float) @ reciprocal
    across = across - (across @ along) / (along @ along) * along
    return SpectrumMap(
        kind="plane",
        setting=map_setting(vibrations, seen, temperature_K, notes, samplings(vibrations, moved)),
        x_name="u_inverse_A",
        x_edges=u_edges,
        y_name="v_inverse_A",
        y_edges=v_edges,
        **summed(parts, accessible),
        hkl=hkl,
        origin_hkl=origin,
        axes_hkl=(np.asarray(plane.u_hkl, dtype=float), across @ np.linalg.inv(reciprocal)),
        band_meV=(float(band[0]), float(band[1])),
    )


def _incoherent(
    vibrations: Vibrations,
    model: ForceConstantModel,
    Q: FloatArray,
    edges: FloatArray,
    temperature_K: float,
    seen: Optics,
    displacement: FloatArray,
) -> FloatArray:
    return incoherent_lines(
        model,
        Q,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        displacement=displacement,
        pockets=vibrations.pockets,
        dos=vibrations.dos,
    ).sum(axis=0)


def _strongest_zone(
    model: ForceConstantModel,
    seen: Optics,
    edges: FloatArray,
    displacement: FloatArray,
    path_hkl: FloatArray,
) -> FloatArray:
    """Strongest reflection, for acoustic phonons, whose zone the instrument reaches best; r.l.u."""
    reciprocal = model.crystal.conventional_reciprocal
    energy = np.linspace(edges[0], edges[-1], 13)[1:-1]
    low, high = momentum_limits(energy, seen.ei_meV, seen.two_theta_deg)
    G = lattice_vectors_within(model.crystal, float(high.max()))
    length = np.linalg.norm(G[:, None] + path_hkl @ reciprocal, axis=2)[:, :, None]
    reached = ((length >= low) & (length <= high)).mean(axis=(1, 2))
    strength = np.sum(G**2, axis=1) * bragg_intensities(model.crystal, G, displacement)
    strength = np.where(reached >= 0.995 * reached.max(), strength, 0.0)
    hkl = np.rint(1e6 * G @ np.linalg.inv(reciprocal)) / 1e6 + 0.0
    best = hkl[strength >= strength.max() * (1 - 1e-6)]
    return best[np.lexsort(best.T[::-1])[-1]]  # of equivalent ones, the largest h, then k, then l
