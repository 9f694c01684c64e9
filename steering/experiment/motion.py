"""The motion section of an experiment file: how the crystal turns and what a move costs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from simulations.section import NotNegative, Number, Positive, Section, expected


class MotionSection(Section):
    """Rotation of the crystal about the vertical axis. Defaults are those of the reference run."""

    axis: Literal["psi"] = Field(default="psi", description="`psi`")
    limits_deg: tuple[Number, Number] = Field(
        default=(0.0, 120.0), description="two numbers, lower and upper limit in degrees"
    )
    speed_deg_per_s: Positive = Field(default=2.0, description="degrees per second, above 0")
    settle_s: NotNegative = Field(default=0.0, description="seconds after a move, zero or more")
    overhead_s: NotNegative = Field(
        default=30.0, description="seconds per change of psi, zero or more"
    )
    budget_minutes: Positive = Field(
        default=120.0, description="beam minutes planned for the scan, above 0"
    )

    @field_validator("limits_deg")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        lower, upper = value
        if lower >= upper:
            raise expected("lower < upper. Swap the two.")
        if upper - lower > 360:
            raise expected("a range of 360 degrees at most. Narrow it.")
        return value

    def move_minutes(self, from_deg: float | None, to_deg: float) -> float:
        """Wall minutes to change psi; zero where it stays, overhead alone for the first move."""
        if from_deg is None:
            return (self.overhead_s + self.settle_s) / 60
        turn = abs(to_deg - from_deg)
        if turn == 0:
            return 0.0
        return (self.overhead_s + self.settle_s + turn / self.speed_deg_per_s) / 60
