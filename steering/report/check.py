"""One finding held against what was expected: how far it is from it, and whether that matters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SIGMAS = 3.0  # beyond which a difference is no chance


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding held against what was expected."""

    quantity: str
    unit: str
    found: float
    sigma: float
    expected: float | None
    matters: float  # smallest difference that does
    where: str = "experiment file"

    @property
    def sigmas(self) -> float | None:
        """Difference in standard errors; None where nothing was expected."""
        if self.expected is None:
            return None
        return (self.found - self.expected) / max(self.sigma, 1e-12)

    @property
    def agrees(self) -> bool | None:
        """Whether the difference may be chance or does not matter."""
        if self.expected is None or self.sigmas is None:
            return None
        # bool: a numpy one is neither True nor False to ``is``
        return bool(abs(self.sigmas) <= SIGMAS or abs(self.found - self.expected) <= self.matters)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self) | {"sigmas": self.sigmas, "agrees": self.agrees}


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What was found so far, in the order in which it is told."""

    checks: list[Check] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)  # those of the alarms that a correction answers
    refusals: list[str] = field(default_factory=list)  # why the mount is not corrected
    notes: list[str] = field(default_factory=list)


def note(check: Check) -> str:
    """Say that a difference is no chance and does not matter."""
    return (
        f"{check.quantity} is {abs(check.sigmas or 0.0):.1f} of its own errors from what the "
        f"{check.where} says, but by less than matters ({check.matters:.2g} {check.unit})"
    )


def alarm(check: Check) -> str:
    """Say that a finding disagrees."""
    sigmas = abs(check.sigmas or 0.0)
    return (
        f"{check.quantity} is {check.found:.4g} +- {check.sigma:.2g} {check.unit}; the "
        f"{check.where} says {check.expected:.4g}, {sigmas:.1f} sigma away"
    )
