"""The targets section of an experiment file: how well the parameters are to be known."""

from __future__ import annotations

from pydantic import Field

from simulations.section import Positive, Section, Text


class TargetsSection(Section):
    """Wanted standard deviations, relative to each parameter's size."""

    relative_sigma: Positive = Field(
        default=0.05, description="sigma / |value| of every parameter, above 0"
    )
    per_parameter: dict[Text, Positive] = Field(
        default_factory=dict, description="parameter name to its own relative sigma"
    )

    def relative(self, name: str) -> float:
        """Wanted sigma over size of one parameter."""
        return self.per_parameter.get(name, self.relative_sigma)
