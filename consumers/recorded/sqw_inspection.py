"""What an SQW file tells of its scan: runs, psi, mount and lattice, and whether pixels fit them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from consumers.recorded.hdf5_file import UnreadableError
from consumers.recorded.sqw_file import (
    PIXELS_HELD,
    RESIDUAL_RLU,
    SqwPixels,
    read_sqw,
    residual_of_sqw,
    runs_of_sqw,
)
from simulations.instrument import Orientation


@np.errstate(all="ignore")  # numbers of a damaged file may be any
def inspect_sqw(
    path: Path, *, psi_deg: float | None = None, ei_meV: float | None = None
) -> tuple[SqwPixels, dict[str, object], list[str]]:
    """Values that an SQW file can give, None where it cannot, and what is wrong with it.

    Parameters
    ----------
    path : Path
        The file.
    psi_deg, ei_meV : float, optional
        Operator's, for runs whose header has none.

    Returns
    -------
    pixels : SqwPixels
    values : dict
        As of ``inspect_file``, with ``runs`` (with pixels), ``sqw_pixels``, ``psi_range_deg``,
        ``mount`` (u, v, omega, dpsi, gl, gs) and ``lattice`` (a, b, c, alpha, beta, gamma) where
        all runs have the same, and ``residual`` (see ``residual_of_sqw``).
    problems : list of str

    Raises
    ------
    UnreadableError
        If it is cut, foreign or contradicts itself.
    """
    pixels = read_sqw(path)
    content = pixels.content
    problems = list(pixels.problems)
    present = [r for r, n in zip(content.runs, pixels.pixels_of_run, strict=True) if n]
    if content.pixels <= PIXELS_HELD:
        for run in runs_of_sqw(pixels, psi_deg=psi_deg, ei_meV=ei_meV):
            if isinstance(run, UnreadableError):
                problems.append(str(run))
            elif run.left_out:
                problems.append(
                    f"run {run.run_number}: {run.left_out} pixels repeat or lie above Ei"
                )
    else:
        problems.append("too large to be taken apart here; pixels that repeat were not looked for")
    psis = [run.psi_deg for run in present if np.isfinite(run.psi_deg)]
    psis = psis or ([] if psi_deg is None else [psi_deg])
    known = [run.ei_meV for run in present if np.isfinite(run.ei_meV) and run.ei_meV > 0]
    ei = known[0] if known else ei_meV
    edges = [run.energy_edges_meV for run in present if np.isfinite(run.energy_edges_meV).all()]
    edges = [e if ei is None else np.minimum(e, ei) for e in edges if len(e) > 1]
    mounts, lattices = {run.mount for run in present}, {run.lattice for run in present}
    if len(mounts) > 1:
        problems.append(f"{len(mounts)} different mounts (u, v, omega, dpsi, gl, gs) in one file")
    energies = {run.ei_meV for run in present}
    if len(energies) > 1:
        problems.append(f"{len(energies)} different incident energies in one file")
    residual = residual_of_sqw(pixels)
    if residual is not None and residual.hkl_rlu > RESIDUAL_RLU:
        problems.append(
            f"pixels lie up to {residual.hkl_rlu:.2g} r.l.u. from where the headers put "
            "them (psi, mount, detectors, Ei); a fold follows the headers. Check them, or find the "
            "mount with align"
        )
    elif residual is not None and abs(residual.scale - 1) > 10 * RESIDUAL_RLU:
        problems.append(
            f"hkl of the pixels are {residual.scale:.5f} times those of their detectors; a fold "
            "follows the detectors"
        )
    (mount,) = mounts if len(mounts) == 1 else (None,)
    if mount is not None and not _sensible(mount):
        problems.append("u, v or the angles of the mount are no mount; they are not taken")
        mount = None
    (lattice,) = lattices if len(lattices) == 1 else (None,)
    values: dict[str, object] = {
        "instrument": content.instrument_name or None,
        "ei_meV": ei,
        "psi_deg": psis[0] if psis else None,
        "psi_range_deg": (min(psis), max(psis)) if psis else None,
        "runs": len(present),
        "sqw_pixels": content.pixels,
        "title": content.title or None,
        "bins": max((len(e) - 1 for e in edges), default=None),
        "energy_meV": (
            (float(min(e[0] for e in edges)), float(max(e[-1] for e in edges))) if edges else None
        ),
        "mount": None if mount is None else asdict(mount),
        "lattice": lattice,
        "residual": None if residual is None else asdict(residual),
    }
    return pixels, values, problems


def _sensible(mount: Orientation) -> bool:
    """Whether all numbers are finite and u and v span a plane."""
    numbers = (*mount.u, *mount.v, mount.omega_deg, mount.dpsi_deg, mount.gl_deg, mount.gs_deg)
    if not np.isfinite(numbers).all():
        return False
    u, v = (np.asarray(x) / (np.linalg.norm(x) or 1.0) for x in (mount.u, mount.v))
    return bool(np.linalg.norm(np.cross(u, v)) > 1e-6)
