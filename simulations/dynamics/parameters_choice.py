"""The parameters section of an experiment file: which force constants are to be found."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from simulations.dynamics.dipole_sums import DipoleWay
from simulations.section import Count, Positive, Section, Text, expected


def _free_kind(value: Any) -> str:
    return "names" if isinstance(value, list | tuple) else "number"


class ParametersSection(Section):
    """Free tensor elements of the force-constant model and their prior."""

    cutoff_A: Positive = Field(description="largest bond length of a free parameter, angstrom")
    free: Annotated[
        Annotated[Count, Tag("number")] | Annotated[tuple[Text, ...], Tag("names")],
        Discriminator(_free_kind),
    ] = Field(description="how many parameters are free (1 or more), or a list of their names")
    others: Literal["held", "fitted"] = Field(
        default="fitted",
        description="force constants within the cutoff that are not free: fitted as well under "
        "their prior and reported below the free ones, or held at their reference, of which error "
        "bars do not know",
    )
    prior: Text | None = Field(
        default=None, description="name of a stored prior, or null for a box around the reference"
    )
    dipole_sum: DipoleWay = Field(
        default="converged",
        description="how dipoles of a polar crystal are summed: with phonopy's Ewald parameter to "
        "convergence (constants of CASTEP: as a full Ewald sum, for which they are made), with "
        "phonopy's own cut-off, or as a full Ewald sum; notes of results say what the others "
        "would give",
    )

    @field_validator("free")
    @classmethod
    def _named_once(cls, value: int | tuple[str, ...]) -> int | tuple[str, ...]:
        if isinstance(value, tuple):
            if not value:
                raise expected("at least one name. Give a number to choose the best ones.")
            twice = sorted({name for name in value if value.count(name) > 1})
            if twice:
                raise expected(f"every name once, but {', '.join(twice)} comes twice. Remove one.")
        return value
