"""The background section of an experiment file: what is masked, and the empty can."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulations.errors import InputError
from simulations.section import Positive, Section, Text

Mosaic = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=5)]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=1)]
RelativeSigma = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=2)]

MEASURED_SIGMA = 0.05
PREDICTED_SIGMA = 0.3
Metal = Literal["aluminium", "vanadium", "stainless steel"]


class CryostatSection(Section):
    """Walls of a cryostat in the beam, as if they stood where the sample is."""

    material: Metal = Field(
        default="aluminium", description="aluminium, vanadium or stainless steel"
    )
    atoms: Positive = Field(
        description="its atoms in the beam per primitive cell of the sample, times their "
        "transmission"
    )
    temperature_K: Positive = Field(  # noqa: N815
        default=77.0, description="of its shields, kelvin"
    )
    relative_sigma: RelativeSigma = Field(
        default=PREDICTED_SIGMA, description="relative standard deviation of its strength"
    )


class BackgroundSection(Section):
    """What lies under the phonons; all of it is off by default."""

    bragg_tails: bool = Field(
        default=False, description="true: leave out what is near a Bragg reflection at E = 0"
    )
    elastic_band: bool = Field(
        default=False, description="true: leave out what is near E = 0, from the sums too"
    )
    mosaic_deg: Mosaic = Field(
        default=0.3, description="mosaic, standard deviation about each axis, 0 to 5 degrees"
    )
    reflection_width: Positive = Field(
        default=0.03,
        description="standard deviation of a reflection in all directions, 1/angstrom",
    )
    can: Text | None = Field(
        default=None,
        description="files of the empty can, e.g. can/*.nxs.h5, beside the experiment file",
    )
    can_transmission: Share = Field(
        default=1.0, description="share of the can's signal that the sample lets through, up to 1"
    )
    can_material: Metal | None = Field(
        default=None,
        description="aluminium, vanadium or stainless steel: predict the can that was not measured",
    )
    can_atoms: Positive | None = Field(
        default=None,
        description="of a predicted can: its atoms in the beam per primitive cell of the sample",
    )
    can_relative_sigma: RelativeSigma | None = Field(
        default=None,
        description="relative standard deviation of the can's strength; else 0.05 measured, 0.3 "
        "predicted",
    )

    own: bool = Field(
        default=False,
        description="true: expect the sample's own incoherent and multiphonon scattering, "
        "predicted from the middle of the prior",
    )
    own_relative_sigma: RelativeSigma = Field(
        default=PREDICTED_SIGMA, description="relative standard deviation of its strength"
    )
    cryostat: CryostatSection | None = Field(
        default=None, description="walls of a cryostat that scatter, or null"
    )

    @model_validator(mode="after")
    def _one_can(self) -> BackgroundSection:
        if self.can is not None and self.can_material is not None:
            raise InputError("can and can_material are both given; expected one of them")
        if (self.can_material is None) != (self.can_atoms is None):
            raise InputError("can_material and can_atoms belong together; expected both or none")
        return self

    @property
    def can_sigma(self) -> float | None:
        """Relative standard deviation of the can's strength; None without a can."""
        if self.can is None and self.can_material is None:
            return None
        if self.can_relative_sigma is not None:
            return self.can_relative_sigma
        return MEASURED_SIGMA if self.can is not None else PREDICTED_SIGMA
