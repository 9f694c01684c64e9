"""Pictures of a fold: what was measured, and which zones and tubes it reached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simulations.arrays import FloatArray
from simulations.fold import PlaneReach, ZoneReach, plane_reached, zones_reached
from simulations.instrument import Instrument
from steering.experiment import Measurement
from steering.report.plots_file import write_fold_maps, write_reach
from steering.run import SpectrumView

if TYPE_CHECKING:
    from steering.run import Run

MOST_ORIENTATIONS = 40  # of a long scan, spread evenly: enough for a picture


def write_fold_pictures(
    run: Run, view: SpectrumView, folded: Path, geometry: Mapping[str, Instrument | None]
) -> tuple[Path, Path]:
    """Write maps beside ``folded`` (its name with .png) and the reach (its name with -reach.png).

    ``geometry`` holds the pixels that the file of a chunk describes; None: the experiment's.

    Returns
    -------
    (Path, Path)
        What was written.
    """
    title = run.measurement.experiment.title
    maps = folded.with_suffix(".png")
    total = run.sums
    net = not np.array_equal(run.net_sums.signal, total.signal)
    write_fold_maps(view, maps, title=title, reduced=total.gaussian, net=net)
    looks = {round(c.psi_deg, 6): geometry.get(c.chunk) for c in run.chunks}
    angles = sorted(looks)
    plane, zones, labels = reach_of(run.measurement, looks)
    told = f"\u03c8 = {angles[0]:g}\u00b0"
    if len(angles) > 1:
        told = f"{len(angles)} orientations, {told} to {angles[-1]:g}\u00b0"
    picture = folded.with_name(f"{folded.stem}-reach.png")
    write_reach(plane, zones, view, picture, title=f"{title}: {told}", axis_labels=labels)
    return maps, picture


def reach_of(
    measurement: Measurement, looks: Mapping[float, Instrument | None]
) -> tuple[PlaneReach, ZoneReach, tuple[str, str]]:
    """Plane and zones that orientations reach, and labels of the plane's two axes.

    ``looks`` are the psi in degrees with the pixels there; None: the experiment's instrument.
    """
    angles = sorted(looks)[:: max(1, -(-len(looks) // MOST_ORIENTATIONS))]
    chosen = [(psi, looks[psi] or measurement.instrument) for psi in angles]
    crystal = measurement.crystal
    reciprocal = crystal.conventional_reciprocal
    orientation = measurement.orientation
    along = np.asarray(orientation.u) @ reciprocal
    side = np.asarray(orientation.v) @ reciprocal
    along = along / np.linalg.norm(along)
    side = side - (side @ along) * along
    side = side / np.linalg.norm(side)
    reachable = measurement.energy.reachable_bins(measurement.ei_meV)
    edges = measurement.energy.edges_meV
    plane = plane_reached(
        [(measurement.geometry.rotation(psi), instrument) for psi, instrument in chosen],
        crystal,
        measurement.voxels,
        axes=np.stack([along, side]),
        ei_meV=measurement.ei_meV,
        energies_meV=(float(edges[0]), float(edges[reachable])),
    )
    views = [(measurement.geometry.view(psi, instrument), instrument) for psi, instrument in chosen]
    zones = zones_reached(views, crystal, measurement.voxels)
    second = side @ np.linalg.inv(reciprocal)
    second = second / np.abs(second).max()
    return plane, zones, (_direction(orientation.u), _direction(second))


def _direction(hkl: FloatArray | tuple[float, ...]) -> str:
    return "[" + " ".join(f"{x:.3g}".replace("-", "\u2212") for x in hkl) + "]"
