"""What species are made of, as people write it."""

from __future__ import annotations

from simulations.errors import InputError


def isotopes_of_text(text: str, field: str) -> dict[str, str | dict[str, float]]:
    """Read what species are made of, e.g. ``H=D,Li=7Li``, or shares as in ``H=D:0.9+1H:0.1``.

    Parameters
    ----------
    text : str
    field : str
        What messages call it.

    Raises
    ------
    InputError
        If it is no such text, names a species twice, or shares do not sum to one.
    """
    found: dict[str, str | dict[str, float]] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        name, _, made_of = (piece.strip() for piece in part.partition("="))
        if not (name and made_of) or set("{}=") & set(name + made_of):
            raise InputError(
                f"{field} is {text!r}; expected pairs such as H=D,Li=7Li, or shares such as "
                "H=D:0.9+1H:0.1."
            )
        if name in found:
            raise InputError(
                f"{field} is {text!r}, which names {name} twice; expected every species once. "
                f"For a mixture give shares, such as {name}={made_of.partition(':')[0]}:0.5+"
                f"{_first(found[name])}:0.5."
            )
        found[name] = _shares(made_of, text, field) if ":" in made_of or "+" in made_of else made_of
    return found


def _first(made_of: str | dict[str, float]) -> str:
    return made_of if isinstance(made_of, str) else next(iter(made_of))


def _shares(made_of: str, text: str, field: str) -> dict[str, float]:
    """Read ``D:0.9+1H:0.1``."""
    found: dict[str, float] = {}
    for part in made_of.split("+"):
        isotope, _, share = (piece.strip() for piece in part.partition(":"))
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        if not isotope or isotope in found or not 0 < number <= 1:
            raise InputError(
                f"{field} is {text!r}, with {part.strip()!r} in it; expected an isotope and its "
                "share, each isotope once and all shares together 1, such as H=D:0.9+1H:0.1."
            )
        found[isotope] = number
    if abs(sum(found.values()) - 1) > 1e-6:
        raise InputError(
            f"{field} is {text!r}, whose shares {made_of} sum to {sum(found.values()):g}; "
            "expected 1."
        )
    return found
