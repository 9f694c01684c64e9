"""Truth and set-up of a virtual experiment, and how its crystal stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import Instrument
from simulations.scattering import Pockets
from simulations.virtual.can import VirtualCan
from simulations.virtual.spread import Spread

if TYPE_CHECKING:
    from simulations.dynamics import ForceConstantModel


SLOWEST = 0.015
"""Share of Ei that a neutron keeps at the upper end of the default window.

Below the 0.0225 down to which the fold looks (k_f = 0.15 k_i): the window cuts nothing there.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VirtualExperiment:
    """Truth and set-up of a virtual experiment.

    At psi = 0 ``u`` lies along the beam (z) and ``v`` in the horizontal plane on the side of +x;
    psi turns the crystal right-handed about +y (up). The small corrections follow Horace:
    ``R_y(psi) R_y(omega) R_y(dpsi) R_x(gl) R_z(gs) R_y(-omega)``.
    """

    model: ForceConstantModel
    phi: FloatArray  # (K,) true force constants, eV/angstrom^2
    instrument: Instrument  # masked pixels count nothing; mask more of them for dead banks
    u: tuple[float, float, float]  # r.l.u. of the conventional cell
    v: tuple[float, float, float]
    ei_meV: float
    temperature_K: float
    flux: float  # counts per minute, steradian and barn per primitive cell
    background: float = 0.0  # counts per minute, steradian and microsecond of flight
    elastic_scale: float = 1.0  # times the crystal's own incoherent elastic scattering
    bragg_scale: float = 0.0  # times kinematic Bragg scattering; 1 means no extinction
    bragg_width: float = 0.03  # 1/angstrom, Gaussian spread of a reflection in all directions
    sample: bool = True  # False: no crystal in the beam, as in the run of an empty can
    incoherent_scale: float = 0.0  # times the crystal's own incoherent one-phonon scattering
    multiphonon_scale: float = 0.0  # times its scattering by two and more phonons
    can: VirtualCan | None = None
    decaying: float = 0.0  # background at the elastic line, unit of ``background``
    decay_us: float = 200.0  # time of flight in which it falls to 1/e
    spread: Spread = Spread()  # of Q; none by default
    intrinsic_sigma_meV: float = 0.05  # width of a phonon line before resolution
    lowest_line_meV: float = 0.25  # lines below are left out
    pockets: Pockets | None = None  # how imaginary modes count; None: there must be none
    window_meV: tuple[float, float] | None = None  # measured energies kept; -Ei/2..0.985 Ei
    psi_offset_deg: float = 0.0  # added to every recorded psi
    omega_deg: float = 0.0
    dpsi_deg: float = 0.0
    gl_deg: float = 0.0
    gs_deg: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        for name in ("ei_meV", "flux", "intrinsic_sigma_meV", "bragg_width", "decay_us"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} is {getattr(self, name)}; expected a number above 0")
        for name in (
            "background", "elastic_scale", "bragg_scale", "temperature_K", "incoherent_scale",
            "multiphonon_scale", "decaying",
        ):  # fmt: skip
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} is {getattr(self, name)}; expected zero or more")
        if self.lowest_line_meV < 4 * self.intrinsic_sigma_meV:
            raise InputError(
                f"lowest_line_meV is {self.lowest_line_meV}; expected at least 4 times "
                f"intrinsic_sigma_meV = {self.intrinsic_sigma_meV}. Raise it or narrow the lines."
            )
        low, high = self.window
        if not low < high < self.ei_meV:
            raise InputError(
                f"window_meV is {[low, high]}; expected lower < upper < ei_meV = {self.ei_meV}"
            )

    @property
    def window(self) -> tuple[float, float]:
        """Measured energy transfers that are recorded, meV; also the span of the background."""
        if self.window_meV is not None:
            return self.window_meV
        return (-0.5 * self.ei_meV, (1 - SLOWEST) * self.ei_meV)


def lab_from_crystal(experiment: VirtualExperiment, psi_deg: float) -> FloatArray:
    """Matrix (3, 3) with ``Q_lab = matrix @ Q_crystal`` at a recorded psi.

    Raises
    ------
    ValueError
        If psi is not finite or u and v are parallel.
    """
    if not np.isfinite(psi_deg):
        raise InputError(f"psi_deg is {psi_deg}; expected a finite angle in degrees")
    columns = 2 * np.pi * np.linalg.inv(experiment.model.crystal.conventional_lattice)
    along = columns @ np.asarray(experiment.u, dtype=float)
    side = columns @ np.asarray(experiment.v, dtype=float)
    z = along / np.linalg.norm(along)
    x = side - (side @ z) * z
    if np.linalg.norm(x) < 1e-9 * np.linalg.norm(side):
        raise InputError(
            f"u = {experiment.u} and v = {experiment.v} are parallel; expected two directions"
        )
    x = x / np.linalg.norm(x)
    mount = np.array([x, np.cross(z, x), z])

    def about(axis: str, angle_deg: float) -> Rotation:
        unit = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}[axis]
        return Rotation.from_rotvec(np.radians(angle_deg) * np.array(unit, dtype=float))

    arcs = about("y", experiment.dpsi_deg) * about("x", experiment.gl_deg)
    arcs = arcs * about("z", experiment.gs_deg)
    omega = about("y", experiment.omega_deg)
    turn = about("y", psi_deg + experiment.psi_offset_deg) * omega * arcs * omega.inv()
    return turn.as_matrix() @ mount
