"""Geometry of the fold: voxel map, pixel views, exposure in its forms, masks, can and cell sums."""

from simulations.fold.background_choice import BackgroundSection
from simulations.fold.can import CanRate, can_elsewhere, can_share, likelihood_of_can, predicted_can
from simulations.fold.cell_sums import CellSums
from simulations.fold.crossings import LIVE_BIT, MASKED_BIT, Crossings, find_crossings
from simulations.fold.expected_part import ExpectedPart
from simulations.fold.exposure import (
    PAIRS,
    Coverage,
    Exposure,
    Form,
    VoxelExposure,
    check_array,
    check_arrays,
    sum_voxels,
    tensor_reals,
)
from simulations.fold.geometry import FoldGeometry, Masking, Sight
from simulations.fold.image_exposure import ImageExposure, damp, exposure_of_arrays, form_for
from simulations.fold.masks import BRAGG_REACH, ELASTIC_REACH, without_spoilt
from simulations.fold.pixel_view import PixelView, grid_index, histogram_range
from simulations.fold.powder_exposure import (
    PowderView,
    momentum_axis,
    momentum_bin,
    powder_exposure,
    view_powder,
)
from simulations.fold.reach import PlaneReach, ZoneReach, plane_reached, zones_reached
from simulations.fold.voxel_map import (
    MergedVoxels,
    VoxelMap,
    build_voxel_map,
    grid_divisions,
    merge_voxels,
)

__all__ = [
    "BRAGG_REACH",
    "BackgroundSection",
    "CanRate",
    "CellSums",
    "Coverage",
    "Crossings",
    "ELASTIC_REACH",
    "ExpectedPart",
    "Exposure",
    "FoldGeometry",
    "Form",
    "ImageExposure",
    "LIVE_BIT",
    "MASKED_BIT",
    "Masking",
    "MergedVoxels",
    "PAIRS",
    "PixelView",
    "PlaneReach",
    "PowderView",
    "Sight",
    "VoxelExposure",
    "VoxelMap",
    "ZoneReach",
    "build_voxel_map",
    "can_elsewhere",
    "can_share",
    "check_array",
    "check_arrays",
    "damp",
    "exposure_of_arrays",
    "find_crossings",
    "form_for",
    "grid_divisions",
    "grid_index",
    "histogram_range",
    "likelihood_of_can",
    "merge_voxels",
    "momentum_axis",
    "momentum_bin",
    "plane_reached",
    "powder_exposure",
    "predicted_can",
    "sum_voxels",
    "tensor_reals",
    "view_powder",
    "without_spoilt",
    "zones_reached",
]
