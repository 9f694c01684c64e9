"""What a fold is made of, and what one orientation looks at.

A `FoldGeometry` is a value: path, voxel map, energy axis, mount and what is masked. A `Sight` is
what an instrument's pixels look at at one psi: where they point, what of it counts and where they
cross the tubes. It is built once; events, histograms, exposure and trajectories of an orientation
all take the same one, so that their supports are equal by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.arrays import BoolArray, FloatArray
from simulations.crystal import Crystal
from simulations.fold.crossings import Crossings, find_crossings
from simulations.fold.exposure import VoxelExposure, expose
from simulations.fold.image_exposure import Form, expose_images
from simulations.fold.masks import spoilt_pairs
from simulations.fold.pixel_view import PixelView, histogram_range, view_pixels
from simulations.fold.voxel_map import VoxelMap
from simulations.instrument import Instrument, Orientation, Resolution, crystal_to_lab
from simulations.reciprocal import EnergyAxis, Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """What is left out of a fold because Bragg tails or the elastic band rule there."""

    mosaic_deg: float
    reflection_width: float  # standard deviation of a reflection in all directions, 1/angstrom
    elastic_reach: float  # standard deviations; 0: the elastic band stays
    bragg_reach: float  # standard deviations; 0: Bragg tails stay


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldGeometry:
    """All of a fold that no chunk changes."""

    crystal: Crystal
    path: Path
    energy: EnergyAxis
    voxels: VoxelMap
    orientation: Orientation
    psi_offset_deg: float  # of the mount, added to every recorded psi
    ei_meV: float
    resolution: Resolution
    displacement: FloatArray  # (atoms, 3, 3) mean square, angstrom^2, for the Debye-Waller factor
    form: Form  # of every exposure
    masking: Masking | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Path bins and energy bins."""
        return self.path.n_bins, self.energy.n_bins

    def rotation(self, psi_deg: float) -> FloatArray:
        """Crystal frame to laboratory (3, 3) at a recorded psi."""
        return crystal_to_lab(
            self.orientation,
            self.crystal.conventional_reciprocal,
            psi_deg + self.psi_offset_deg,
        )

    def view(
        self,
        psi_deg: float,
        instrument: Instrument,
        histogram_edges_meV: FloatArray | None = None,
        *,
        ei_meV: float | None = None,
    ) -> PixelView:
        """What the pixels look at, at the experiment's incident energy or another."""
        return view_pixels(
            crystal=self.crystal,
            instrument=instrument,
            energy=self.energy,
            ei_meV=self.ei_meV if ei_meV is None else ei_meV,
            crystal_to_lab=self.rotation(psi_deg),
            histogram_edges_meV=histogram_edges_meV,
        )

    def spoilt(self, view: PixelView, *, ei_meV: float | None = None) -> BoolArray | None:
        """(pixels, steps) pairs that ``masking`` leaves out; None: none."""
        if self.masking is None:
            return None
        return spoilt_pairs(
            view,
            crystal=self.crystal,
            resolution=self.resolution,
            ei_meV=self.ei_meV if ei_meV is None else ei_meV,
            mosaic_deg=self.masking.mosaic_deg,
            width=self.masking.reflection_width,
            elastic_reach=self.masking.elastic_reach,
            bragg_reach=self.masking.bragg_reach,
        )

    def histogram_steps(self, edges_meV: FloatArray) -> slice:
        """Bins of a histogram that lie inside the energy axis.

        Raises
        ------
        InputError
            If none does.
        """
        return histogram_range(edges_meV, self.energy, self.ei_meV)

    def sight(
        self,
        psi_deg: float,
        instrument: Instrument,
        *,
        histogram_edges_meV: FloatArray | None = None,
        unknown: BoolArray | None = None,
        ei_meV: float | None = None,
    ) -> Sight:
        """What one orientation looks at.

        Parameters
        ----------
        psi_deg : float
            As recorded.
        instrument : Instrument
        histogram_edges_meV : (bins + 1,), optional
            Of a histogram, whose bins are the steps then.
        unknown : (pixels, steps) bool, optional
            Pairs of which a histogram says nothing; they count nowhere.
        ei_meV : float, optional
            Another incident energy than the experiment's: what a candidate setting would see.
        """
        view = self.view(psi_deg, instrument, histogram_edges_meV, ei_meV=ei_meV)
        skip, spoilt = unknown, self.spoilt(view, ei_meV=ei_meV)
        if spoilt is not None:
            skip = spoilt if skip is None else skip | spoilt
        return Sight(
            geometry=self,
            instrument=instrument,
            psi_deg=psi_deg,
            ei_meV=self.ei_meV if ei_meV is None else ei_meV,
            histogram_edges_meV=histogram_edges_meV,
            view=view,
            skip=skip,
            crossings=find_crossings(view, self.voxels),
        )

    def path_sums(self, exposure: VoxelExposure) -> tuple[FloatArray, FloatArray]:
        """D and flat exposure padded to all bins of the energy axis."""
        padded = []
        for sums in exposure.path_sums(self.voxels):
            full = np.zeros(self.shape)
            full[:, : sums.shape[1]] = sums
            padded.append(full)
        return padded[0], padded[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sight:
    """What the pixels of an instrument look at at one psi; from ``FoldGeometry.sight``."""

    geometry: FoldGeometry
    instrument: Instrument
    psi_deg: float
    ei_meV: float
    histogram_edges_meV: FloatArray | None
    view: PixelView
    skip: BoolArray | None  # (pixels, steps) pairs that count nowhere
    crossings: Crossings

    def exposure(self, *, reduced: bool = False) -> VoxelExposure:
        """Exposure for one coulomb of proton charge, in the form of the geometry.

        ``reduced`` is for input that is divided by k_f/k_i and charge already.
        """
        geometry = self.geometry
        compute = expose_images if geometry.form == "images" else expose
        return compute(
            self.view,
            crystal=geometry.crystal,
            voxels=geometry.voxels,
            instrument=self.instrument,
            energy=geometry.energy,
            ei_meV=self.ei_meV,
            displacement=geometry.displacement,
            reduced=reduced,
            skip=self.skip,
            crossings=self.crossings,
        )
