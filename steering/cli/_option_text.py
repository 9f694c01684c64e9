"""Options that several verbs share, and those that are several numbers in one text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.errors import InputError

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from steering.database import Database

MOST_BINS = 20_000


class Treatment(StrEnum):
    """What to do with a small pocket of imaginary modes."""

    LEFT_OUT = "left_out"
    DAMPED = "damped"
    REFUSE = "refuse"


Imaginary = Annotated[
    Treatment,
    typer.Option(
        help="A small pocket of imaginary modes (at most 1 % of them, no deeper than 10 % of the "
        "highest energy): leave it out, count it by its modulus and as wide as that, or refuse."
    ),
]


class Summed(StrEnum):
    """How the dipoles of a polar crystal are summed."""

    CONVERGED = "converged"
    PHONOPY = "phonopy"
    EWALD = "ewald"


DipoleSum = Annotated[
    Summed,
    typer.Option(
        help="How dipoles of a polar crystal are summed, where force constants were given: with "
        "phonopy's Ewald parameter to convergence (constants of CASTEP: as a full Ewald sum), with "
        "phonopy's own cut-off, or as a full Ewald sum. Approximations say what the others would "
        "give."
    ),
]


DatabasePath = Annotated[
    Path | None,
    typer.Option(
        "--database",
        help="A store of `beamsteer database build`: its ids name structures, and route auto takes "
        "the entry that has a structure.",
    ),
]


Order = Annotated[
    bool,
    typer.Option(
        "--order",
        help="Order partly occupied sites in a supercell of at most 60 atoms: one ordering of "
        "many.",
    ),
]


def named_database(folder: Path | None) -> Database | None:
    """Open the store that was named, if one was."""
    if folder is None:
        return None
    from steering.database import open_database

    return open_database(folder)


def axis(text: str | None, option: str) -> NDArray[float64] | None:
    """Read bin edges from ``min:max:step``."""
    if text is None:
        return None
    import numpy as np

    try:
        low, high, step = (float(part) for part in text.split(":"))
        bins = (high - low) / step
    except (ValueError, ArithmeticError):
        bins = float("nan")
        low = step = 0.0
    if not (0.999 <= bins <= MOST_BINS and step > 0):
        raise InputError(
            f"{option} is {text!r}; expected min:max:step with min < max and at most "
            f"{MOST_BINS:,} steps, e.g. 0:40:0.25."
        )
    return np.asarray(low + step * np.arange(round(bins) + 1), dtype=np.float64)


def three_numbers(text: str, option: str, example: str = "2,2,-2") -> tuple[float, float, float]:
    """Read ``h,k,l``."""
    try:
        h, k, l = (float(part) for part in text.replace(" ", ",").split(","))  # noqa: E741
    except ValueError:
        h = k = l = float("nan")  # noqa: E741
    if not all(abs(value) <= 1000 for value in (h, k, l)):
        raise InputError(f"{option} is {text!r}; expected three numbers such as {example}.")
    return h, k, l


def vector(text: str, option: str) -> NDArray[float64]:
    """Read ``h,k,l`` as an array."""
    import numpy as np

    return np.array(three_numbers(text, option))


def band(text: str, option: str) -> tuple[float, float]:
    """Read ``min:max``."""
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not -1e6 < low < high < 1e6:
        raise InputError(f"{option} is {text!r}; expected min:max with min < max, e.g. 9:11.")
    return low, high


def whole_numbers(text: str | None, option: str) -> tuple[int, int, int] | None:
    """Read three positive whole numbers, e.g. ``2,2,1``."""
    if text is None:
        return None
    try:
        a, b, c = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        a = b = c = 0
    if not 1 <= min(a, b, c) <= max(a, b, c) <= 100:
        raise InputError(f"{option} is {text!r}; expected three whole numbers like 2,2,1.")
    return a, b, c


def supercell_numbers(text: str | None) -> tuple[int, ...] | None:
    """Read a supercell: three positive whole numbers, or nine of a matrix in reading order."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) != 9:
        return whole_numbers(text, "--supercell")
    try:
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        numbers = (1000,)
    if max(abs(n) for n in numbers) > 100:
        raise InputError(f"--supercell is {text!r}; expected nine whole numbers of a matrix.")
    return numbers


def isotopes_named(text: str | None) -> dict[str, str | dict[str, float]]:
    """Read what species are made of, e.g. ``H=D,Li=7Li``, or shares as in ``H=D:0.9+1H:0.1``."""
    from steering.predict import isotopes_of_text

    return isotopes_of_text(text or "", "--isotopes")


def within(value: float, option: str, low: float, high: float) -> float:
    """Return a number that lies in a range; NaN lies in none."""
    if not low <= value <= high:
        raise InputError(f"{option} is {value:g}; expected {low:g} to {high:g}.")
    return value
