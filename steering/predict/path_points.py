"""A high-symmetry path as text, and the q points along it that are drawn and written."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.reciprocal import Path, seekpath_segments

EXAMPLE = "'Gamma X | K Gamma L' or 'Gamma=0,0,0 X=1,0,0'"
MOST = 20_000  # points of one path
_NUDGE = 1e-2  # of a step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PathPoints:
    """Points along a path, ends of segments included; where it jumps, both ends share a place."""

    hkl: FloatArray  # (Q, 3) r.l.u. of the conventional cell
    position: FloatArray  # (Q,) 1/angstrom along the path
    breaks: tuple[int, ...]  # first point of every piece but the first
    tick_positions: FloatArray  # (ticks,) 1/angstrom
    tick_labels: tuple[str, ...]  # (ticks,) `U|K` where the path jumps
    corner_labels: tuple[str, ...]  # (corners,) every labelled point once
    corner_hkl: FloatArray  # (corners, 3)


def path_points(
    crystal: Crystal, text: str | None = None, *, points: int = 400, off_gamma: float = _NUDGE
) -> PathPoints:
    """Points along the standard path of a crystal, or along one that is given.

    Parameters
    ----------
    crystal : Crystal
    text : str or None
        Labels in a row, ``|`` where the path jumps: names of the standard path, or
        ``label=h,k,l`` in r.l.u. of the conventional cell. None: the standard path.
    points : int
        About as many over the whole path.
    off_gamma : float
        Ends of segments at Gamma are moved so many steps inwards: polar modes there depend on the
        direction, and one-phonon scattering diverges.

    Raises
    ------
    ValueError
        Unknown label, unreadable point, a segment without length, or a number out of range.
    """
    if not 2 <= points <= MOST:
        raise InputError(f"points is {points}; expected 2 to {MOST:,}")
    standard = seekpath_segments(crystal, 0.1)
    if text is None:
        corners = list(zip(standard.labels, standard.start_hkl, standard.end_hkl, strict=True))
    else:
        corners = _segments(text, _known(standard))
    reciprocal = crystal.conventional_reciprocal
    lengths = [float(np.linalg.norm((b - a) @ reciprocal)) for _, a, b in corners]
    hkl, position, starts = [], [], []
    tick_positions, tick_labels = [0.0], [corners[0][0][0]]
    at, done = 0.0, 0
    for k, (((_, last), a, b), length) in enumerate(zip(corners, lengths, strict=True)):
        n = max(2, round(points * length / sum(lengths)) + 1)
        share = np.linspace(0.0, 1.0, n)
        for end, inwards in ((0, off_gamma), (-1, n - 1 - off_gamma)):
            if _is_gamma(crystal, (a, b)[end]):
                share[end] = inwards / (n - 1)
        first, before = corners[k][0][0], corners[k - 1][0][1]
        if k and first != before:
            tick_labels[-1] = f"{before}|{first}"
        starts.append(done)
        done += n
        hkl.append(a + share[:, None] * (b - a))
        position.append(at + np.linspace(0.0, length, n))
        at += length
        tick_positions.append(at)
        tick_labels.append(last)
    named = {}
    for (first, last), a, b in corners:
        named.setdefault(first, a)
        named.setdefault(last, b)
    return PathPoints(
        hkl=np.concatenate(hkl),
        position=np.concatenate(position),
        breaks=tuple(starts[1:]),
        tick_positions=np.array(tick_positions),
        tick_labels=tuple(tick_labels),
        corner_labels=tuple(named),
        corner_hkl=np.array(list(named.values())),
    )


Corner = tuple[tuple[str, str], FloatArray, FloatArray]


def _known(standard: Path) -> dict[str, FloatArray]:
    found: dict[str, FloatArray] = {}
    for (first, last), a, b in zip(
        standard.labels, standard.start_hkl, standard.end_hkl, strict=True
    ):
        found.setdefault(first, a)
        found.setdefault(last, b)
    return found


def _segments(text: str, known: dict[str, FloatArray]) -> list[Corner]:
    names = {name.lower(): name for name in known} | {"g": "Gamma", "γ": "Gamma"}
    given: dict[str, FloatArray] = {}
    found: list[Corner] = []
    for piece in text.split("|"):
        before: tuple[str, FloatArray] | None = None
        for word in piece.split():
            label, equals, numbers = word.partition("=")
            if equals:
                given[label] = _hkl(word, numbers)
                corner = (label, given[label])
            elif label in given:
                corner = (label, given[label])
            elif label.lower() in names and names[label.lower()] in known:
                corner = (names[label.lower()], known[names[label.lower()]])
            else:
                raise InputError(
                    f"path: no point is named {label!r}; expected one of {', '.join(known)}, or "
                    f"a point of your own as label=h,k,l. Write it like {EXAMPLE}."
                )
            if before is not None:
                if np.allclose(before[1], corner[1]):
                    raise InputError(
                        f"path: {before[0]} and {corner[0]} are the same point, "
                        f"{corner[1].tolist()}; expected neighbours that differ. Remove one."
                    )
                found.append(((before[0], corner[0]), before[1], corner[1]))
            before = corner
    if not found:
        raise InputError(
            f"path is {text!r}; expected at least two points in a row, like {EXAMPLE}."
        )
    return found


def _hkl(word: str, numbers: str) -> FloatArray:
    parts = re.split(r"[,;]", numbers)
    try:
        values = np.array([float(part) for part in parts])
    except ValueError:
        values = np.zeros(0)
    if values.shape != (3,) or not np.all(np.abs(values) <= 1000):
        raise InputError(
            f"path: {word!r} is no point; expected label=h,k,l with three numbers in r.l.u. of "
            "the conventional cell."
        )
    return values


def _is_gamma(crystal: Crystal, hkl: FloatArray) -> bool:
    """Whether a point is a vector of the reciprocal lattice."""
    index = hkl @ crystal.conventional_reciprocal @ crystal.lattice.T / (2 * np.pi)
    return bool(np.abs(index - np.rint(index)).max() < 1e-6)
