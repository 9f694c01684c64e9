"""A predicted spectrum over two axes, with what it was computed for and from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.dynamics import Sampling
from simulations.errors import InputError
from simulations.scattering import Displacements
from steering.predict.optics import FREE_EI_MEV, Optics
from steering.predict.path_points import PathPoints
from steering.predict.vibrations import Vibrations, formula

PER_CELL = "barn/meV/sr per primitive cell"
MOST_CELLS = 4_000_000
HARMONIC = "harmonic; Gaussian resolution; no elastic line, multiple scattering or absorption"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Setting:
    """What a spectrum was computed for and from."""

    title: str
    route: dict[str, str]
    approximations: tuple[str, ...]
    instrument: str
    temperature_K: float
    ei_meV: float | None
    words: str
    warnings: tuple[str, ...] = ()
    sampling: dict[str, str] = field(default_factory=dict)  # of what, how well and at which price

    def content(self) -> dict[str, Any]:
        """All of it as plain names."""
        return {
            "title": self.title,
            "route": self.route,
            "approximations": list(self.approximations),
            "instrument": self.instrument,
            "temperature_K": self.temperature_K,
            "ei_meV": self.ei_meV,
            "setting": self.words,
            "warnings": list(self.warnings),
            "sampling": self.sampling,
            "unit": PER_CELL,
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpectrumMap:
    """Intensity over two axes; NaN where the instrument does not reach."""

    kind: str  # powder, path, line or plane
    setting: Setting
    x_name: str  # with its unit, for example q_inverse_A
    x_edges: FloatArray  # (X + 1,), of a path its points (X,)
    y_name: str
    y_edges: FloatArray  # (Y + 1,)
    intensity: FloatArray  # (X, Y)
    parts: dict[str, FloatArray]  # (X, Y) each, summing to intensity
    hkl: FloatArray | None = None  # (X, 3) or (X, Y, 3), r.l.u. of the conventional cell
    path: PathPoints | None = None
    branches_meV: FloatArray | None = None  # (X, modes)
    axes_hkl: tuple[FloatArray, ...] = ()  # directions of x (and y), r.l.u.
    origin_hkl: FloatArray | None = None
    band_meV: tuple[float, float] | None = None

    @property
    def x(self) -> FloatArray:
        """Where columns are, (X,)."""
        if self.path is not None:
            return self.x_edges
        return 0.5 * (self.x_edges[1:] + self.x_edges[:-1])

    @property
    def y(self) -> FloatArray:
        """Where rows are, (Y,)."""
        return 0.5 * (self.y_edges[1:] + self.y_edges[:-1])

    def content(self) -> dict[str, Any]:
        """All of it as plain names and arrays, units in the names."""
        edges = "" if self.path is not None else "_edges"
        found: dict[str, Any] = {
            "kind": self.kind,
            **self.setting.content(),
            f"{self.x_name}{edges}": self.x_edges,
            f"{self.y_name}_edges": self.y_edges,
            "intensity": self.intensity,
            "parts": self.parts,
        }
        if self.hkl is not None:
            found["hkl_rlu"] = self.hkl
        if self.path is not None:
            found["path_hkl_rlu"] = self.path.hkl
            found["tick_positions_inverse_A"] = self.path.tick_positions
            found["tick_labels"] = list(self.path.tick_labels)
            found["breaks"] = list(self.path.breaks)
        if self.branches_meV is not None:
            found["branches_meV"] = self.branches_meV
        if self.origin_hkl is not None:
            found["origin_hkl_rlu"] = self.origin_hkl
        for name, direction in zip(("x", "y"), self.axes_hkl, strict=False):
            found[f"{name}_direction_rlu"] = direction
        if self.band_meV is not None:
            found["energy_band_meV"] = np.array(self.band_meV)
        return found


def samplings(
    vibrations: Vibrations, moved: Displacements | None = None, powder: Sampling | None = None
) -> dict[str, str]:
    """How well the meshes of each quantity are converged, in words."""
    found = {
        "density_of_states": vibrations.dos.sampling,
        "debye_waller": moved,
        "powder_map": powder,
    }
    return {name: one.words for name, one in found.items() if one is not None}


def map_setting(
    vibrations: Vibrations,
    seen: Optics,
    temperature_K: float,
    notes: tuple[str, ...],
    sampling: dict[str, str],
) -> Setting:
    """What a map is computed for and from, with what is approximate about it."""
    return Setting(
        title=formula(vibrations.crystal),
        route=vibrations.route,
        approximations=(*vibrations.approximations, *notes),
        instrument=seen.instrument,
        temperature_K=temperature_K,
        ei_meV=None if seen.ei_meV >= FREE_EI_MEV else seen.ei_meV,
        words=f"{seen.words}, {temperature_K:g} K",
        warnings=(*vibrations.warnings, *seen.warnings),
        sampling=sampling,
    )


def summed(parts: dict[str, FloatArray], accessible: NDArray[np.bool_]) -> dict[str, Any]:
    """Parts and their sum as fields of a map, NaN out of reach.

    Raises
    ------
    InputError
        If the instrument reaches no cell.
    """
    seen = {name: np.where(accessible, values, np.nan) for name, values in parts.items()}
    if not accessible.any():
        raise InputError(
            "the instrument reaches no cell of these axes at this Ei; expected some. Look at "
            "smaller or larger |Q|, or change Ei."
        )
    return {"parts": seen, "intensity": np.sum(list(seen.values()), axis=0)}


def refuse_many(first: int, second: int) -> None:
    """Raise for axes of more cells than memory should hold."""
    if first * second > MOST_CELLS:
        raise InputError(
            f"the axes have {first:,} x {second:,} bins; expected at most {MOST_CELLS:,} cells. "
            "Take wider bins."
        )
