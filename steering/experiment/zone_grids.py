"""Which grid of the zone the exact rates are computed on."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from simulations.crystal import Crystal
from simulations.dynamics import ForceConstantModel
from simulations.instrument import Resolution
from simulations.likelihood import ZoneMap, build_zone_map, bytes_per_point, continuation_error
from simulations.reciprocal import EnergyAxis

log = structlog.get_logger()

ZONE_STEP = 0.8  # of the zone grid, edges of a voxel
ZONE_BYTES = 1.5e9  # most memory for the matrices of the zone grid
SMALL_ZONE_BYTES = 5e8  # a grid that takes no more stays as fine as wanted; zinc oxide: 3.9e8
WIDER = (3.0, 2.5, 2.0, 1.5, 1.0)  # grids to try then, times the step wanted
CHEAP_POINTS = 2.0  # times those of the smallest grid: a finer one is taken whatever the error
CONTINUATION_ERROR = 0.01  # of resolved spectra at single wave vectors, mean
ROUGH = 2.0  # times the step wanted: cells of germanium are off by a chi-square of 0.14 in 7,800


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZoneGrids:
    """Grids for one measurement."""

    model: ForceConstantModel
    crystal: Crystal
    energy: EnergyAxis
    ei_meV: float
    temperature_K: float
    resolution: Resolution
    voxel_rlu: float

    def chosen(self) -> ZoneMap:
        """As fine as wanted; where that is large, as wide as the error of modes allows."""
        wanted = ZONE_STEP * self.voxel_rlu
        usual = self.of(wanted)
        if usual.n_points * bytes_per_point(self.model) <= min(SMALL_ZONE_BYTES, ZONE_BYTES):
            return usual
        point = bytes_per_point(self.model, basis=False)
        step = WIDER[0] * wanted
        while (zone := self.of(step)).n_points * point > ZONE_BYTES:
            step *= max(1.03, (zone.n_points * point / ZONE_BYTES) ** (1 / 3))
        error = self._error(zone)
        fewest = zone.n_points
        for factor in WIDER[1:]:
            finer = self.of(factor * wanted)
            fewest = min(fewest, finer.n_points)
            # About Gamma the grid of a polar crystal takes its points whatever the rest does.
            cheap = finer.n_points <= CHEAP_POINTS * fewest
            if finer.n_points * point > ZONE_BYTES or (error <= CONTINUATION_ERROR and not cheap):
                continue
            zone, step = finer, factor * wanted
            error = self._error(zone)
        if zone.n_points >= usual.n_points:  # it is finer about Gamma, where most points are
            return usual
        log.warning(
            "zone_grid_widened",
            wanted_rlu=wanted,
            step_rlu=round(step, 4),
            points=zone.n_points,
            gigabytes=round(zone.n_points * point / 1e9, 2),
            error_of_spectra=round(error, 4),
            reason=f"modes at every point of a grid of {wanted:g} r.l.u. would take more than "
            f"{SMALL_ZONE_BYTES / 1e9:g} GB; spectra of modes continued from a wider one are off "
            f"by {error:.1%}, of which about a third is left in a cell",
        )
        return zone

    def rough(self) -> ZoneMap:
        """A wider one, to look around with."""
        return self.of(ROUGH * ZONE_STEP * self.voxel_rlu)

    def of(self, step_rlu: float) -> ZoneMap:
        """The grid of such steps.

        About Gamma the modes of a polar crystal turn fastest: there the grid stays as wanted.
        """
        polar = self.model.reference.dipole is not None
        wanted = ZONE_STEP * self.voxel_rlu
        return build_zone_map(
            self.crystal,
            step_rlu=step_rlu,
            temperature_K=self.temperature_K,
            polar=polar,
            near_gamma=max(1, round(step_rlu / wanted)) if polar else 1,
        )

    def _error(self, zone: ZoneMap) -> float:
        return continuation_error(
            zone,
            model=self.model,
            energy=self.energy,
            ei_meV=self.ei_meV,
            resolution=self.resolution,
        )
