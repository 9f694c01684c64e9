"""What may be off in the set-up of a measurement: mount, lattice, incident energy, time zero, blur.

Events are put into cells with the set-up that is believed. Where it is off, the neutrons of a cell
come from ``Q' = (1 + sum_g x_g A_g) Q``, to first order, with ``A_g`` a rotation or a strain in the
frame of the crystal; an incident energy that is off by a share x moves ``k_i`` by x/2 and what is
scattered at E to the measured E - x E_i; a time zero that is late by tau moves it by
``2 E_f tau / t_f`` with ``t_f`` the time of flight from the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from simulations.arrays import BoolArray, FloatArray
from simulations.constants import NEUTRON_MEV_A2
from simulations.crystal import Crystal, laue_rotations
from simulations.instrument import (
    Instrument,
    Orientation,
    crystal_to_lab,
    flight_time_us,
    wave_vector,
)
from simulations.likelihood.trajectory_arguments import Moves
from simulations.section import NotNegative, Section

PERCENT = 1e-2
Q_SPREAD = "spread of q"
TILTS = ("tilt gl", "tilt gs")


class MissettingSection(Section):
    """How far the set-up may be off: standard deviations before any data; 0: it is known.

    Error bars know of it to first order, see ``model_server.posterior.aside``. ``fitted`` walks
    trajectories with the set-up that is found, too: a few minutes of counts know tilts to 0.02
    degrees, and beyond some 0.2 degrees or 0.2 % there are other minima that look as good (searches
    look at other tilts). So align first; `align --correct` writes here how well it found the mount.
    """

    psi_offset_deg: NotNegative = Field(
        default=0.3, description="of the turn about the vertical, degrees, 0 or more"
    )
    tilt_deg: NotNegative = Field(
        default=0.3, description="of the tilts gl and gs, degrees, 0 or more"
    )
    lattice_percent: NotNegative = Field(
        default=0.3, description="of every free length of the cell, %, 0 or more"
    )
    ei_percent: NotNegative = Field(default=0.5, description="of the incident energy, %, 0 or more")
    t0_us: NotNegative = Field(default=0.5, description="of time zero, microseconds, 0 or more")
    fitted: bool = Field(
        default=False,
        description="whether the set-up is fitted like a force constant, at a higher cost",
    )

    @property
    def assumed(self) -> str:
        """What error bars know of, where nobody said it."""
        return (
            f"the set-up is taken to be known to {self.psi_offset_deg:g} degrees (psi), "
            f"{self.tilt_deg:g} degrees (tilts), {self.lattice_percent:g} % (lattice), "
            f"{self.ei_percent:g} % (Ei) and {self.t0_us:g} us (time zero): `beamsteer align "
            "--correct` finds how well it is, or give missetting"
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Missetting:
    """Ways a set-up may be off, G of them, each with one number x in its unit."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    sigma: FloatArray  # (G,) of what is off, before any data
    linear: FloatArray  # (G, 3, 3) of Q, for one unit
    ei: FloatArray  # (G,) relative change of the incident energy, for one unit
    delay: FloatArray  # (G,) of time zero, in times of flight from the sample at E = 0
    blur: FloatArray  # (G,) relative change of the spread of q, for one unit; -1: none is left

    def __len__(self) -> int:
        return len(self.names)

    def and_then(self, other: Missetting) -> Missetting:
        """These ways and others after them."""
        return Missetting(
            names=self.names + other.names,
            units=self.units + other.units,
            sigma=np.concatenate([self.sigma, other.sigma]),
            linear=np.concatenate([self.linear, other.linear]),
            ei=np.concatenate([self.ei, other.ei]),
            delay=np.concatenate([self.delay, other.delay]),
            blur=np.concatenate([self.blur, other.blur]),
        )

    def where(self, kept: BoolArray) -> Missetting:
        """Those of them that are kept, (G,)."""
        return Missetting(
            names=tuple(n for n, k in zip(self.names, kept, strict=True) if k),
            units=tuple(u for u, k in zip(self.units, kept, strict=True) if k),
            sigma=self.sigma[kept],
            linear=self.linear[kept],
            ei=self.ei[kept],
            delay=self.delay[kept],
            blur=self.blur[kept],
        )

    @property
    def tilts(self) -> list[int]:
        """Which of the ways are turns about the arcs of the goniometer."""
        return [at for at, name in enumerate(self.names) if name in TILTS]

    @property
    def beam(self) -> FloatArray:
        """Relative change of k_i with each."""
        return 0.5 * self.ei

    def moves(self, true_meV: FloatArray, ei_meV: float) -> Moves:
        """How Q, k_f and the measured energy move with each, at true energy transfers.

        Parameters
        ----------
        true_meV : (T,) float64
        ei_meV : float
        """
        final = ei_meV - np.asarray(true_meV)
        kf = wave_vector(final)
        late = 2 * final * np.sqrt(final / ei_meV)
        return Moves(
            linear=np.ascontiguousarray(self.linear),
            beam=self.beam,
            final=self.ei[:, None] * ei_meV / (2 * NEUTRON_MEV_A2 * kf),
            shift=self.delay[:, None] * late - self.ei[:, None] * ei_meV,
            blur=self.blur,
        )

    def turn(self, off: FloatArray) -> FloatArray:
        """Matrix (3, 3) that takes believed to true wave vectors, both in the crystal's frame."""
        return np.eye(3) + np.tensordot(np.asarray(off, dtype=float), self.linear, axes=1)


NONE_OFF = Missetting(
    names=(),
    units=(),
    sigma=np.empty(0),
    linear=np.empty((0, 3, 3)),
    ei=np.empty(0),
    delay=np.empty(0),
    blur=np.empty(0),
)


def missetting(
    crystal: Crystal, instrument: Instrument, orientation: Orientation, ei_meV: float,
    section: MissettingSection, spread_percent: float = 0.0,
) -> Missetting:  # fmt: skip
    """Ways a measurement may be off, those too that are known not to be: their sigma is zero.

    Parameters
    ----------
    crystal : Crystal
    instrument : Instrument
        Its pixels give the time of flight that time zero is held against.
    orientation : Orientation
        Tilts are about its arcs.
    ei_meV : float
    section : MissettingSection
    spread_percent : float
        How well the spread of q is known; 0: there is none, or it is known.
    """
    names: list[tuple[str, str, float]] = []
    linear: list[FloatArray] = []
    ei: list[float] = []
    delay: list[float] = []
    blur: list[float] = []

    def add(
        name: str, unit: str, sigma: float, A: ArrayLike = 0.0, of_ei: float = 0.0,
        late: float = 0.0, wider: float = 0.0,
    ) -> None:  # fmt: skip
        names.append((name, unit, sigma))
        linear.append(np.broadcast_to(np.asarray(A, dtype=float), (3, 3)))
        ei.append(of_ei)
        delay.append(late)
        blur.append(wider)

    for name, arc, sigma in (
        ("psi offset", "dpsi_deg", section.psi_offset_deg),
        (TILTS[0], "gl_deg", section.tilt_deg),
        (TILTS[1], "gs_deg", section.tilt_deg),
    ):
        add(name, "deg", sigma, _turn(crystal, orientation, arc))
    for name, strain in lattice_strains(crystal):
        add(name, "%", section.lattice_percent, PERCENT * strain)
    add("incident energy", "%", section.ei_percent, of_ei=PERCENT)
    distance = np.linalg.norm(instrument.position_m[~instrument.masked], axis=1)
    flight = float(np.mean(flight_time_us(distance, ei_meV)))
    add("time zero", "us", section.t0_us, late=1 / flight)
    if spread_percent > 0:
        add(Q_SPREAD, "%", spread_percent, wider=PERCENT)
    return Missetting(
        names=tuple(n for n, _, _ in names),
        units=tuple(u for _, u, _ in names),
        sigma=np.array([s for _, _, s in names]),
        linear=np.array(linear).reshape(-1, 3, 3),
        ei=np.array(ei),
        delay=np.array(delay),
        blur=np.array(blur),
    )


def _turn(crystal: Crystal, orientation: Orientation, arc: str) -> FloatArray:
    """Generator of a turn of the crystal by one degree of an arc, in the crystal's frame."""
    at = {name: getattr(orientation, name) for name in ("u", "v", "omega_deg")}
    arcs = {name: getattr(orientation, name) for name in ("dpsi_deg", "gl_deg", "gs_deg")}
    step = 0.5
    rotations = [
        crystal_to_lab(
            Orientation(**at, **{**arcs, arc: arcs[arc] + sign * step}),
            crystal.conventional_reciprocal,
            0.0,
        )
        for sign in (-1, 0, 1)
    ]
    return (rotations[2] - rotations[0]).T @ rotations[1] / (2 * step)


def lattice_strains(crystal: Crystal) -> list[tuple[str, FloatArray]]:
    """Strains (3, 3) that the point group leaves free, one per length of the conventional cell.

    Lengths that an operation mixes are one. Angles are taken to be known.
    """
    cell = np.linalg.inv(crystal.conventional_reciprocal).T  # rows; the factor of 2 pi is of no use
    axes = cell / np.linalg.norm(cell, axis=1, keepdims=True)
    _, operations = laue_rotations(crystal)
    left = [0, 1, 2]
    strains: list[tuple[str, FloatArray]] = []
    while left:
        first = left[0]
        overlap = np.abs(np.einsum("oij,j,ki->ok", operations, axes[first], axes))
        together = [k for k in left if np.any(overlap[:, k] > 1 - 1e-4)]
        if len(together) == 3:
            strain = np.eye(3)
        else:
            # Along these axes, with the others still: rows of the dual basis pick their part out.
            dual = np.linalg.inv(cell)
            strain = sum((np.outer(cell[k], dual[:, k]) for k in together), np.zeros((3, 3)))
        strains.append(("lattice " + "".join("abc"[k] for k in together), strain))
        left = [k for k in left if k not in together]
    return strains
