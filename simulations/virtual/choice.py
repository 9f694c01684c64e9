"""The virtual section of an experiment file; only simulations of recorded runs read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulations.section import NotNegative, PixelLength, Positive, Section, SpreadAngle

Tube = Annotated[int, Field(strict=True, ge=0)]


class CanSection(Section):
    """A sample can: powder at the sample's place and temperature."""

    material: Literal["aluminium", "vanadium", "stainless steel"] = Field(
        default="aluminium", description="aluminium, vanadium or stainless steel"
    )
    atoms: Positive = Field(description="can atoms in the beam per primitive cell of the sample")
    line_width: Positive = Field(
        default=0.02, description="standard deviation of |Q| in a powder line, 1/angstrom"
    )


class VirtualSection(Section):
    """What a virtual experiment counts; the first two and the spread of q are on by default."""

    counts_per_minute: Positive = Field(
        default=3000.0, description="one-phonon counts per minute inside the tubes, above 0"
    )
    background_ratio: NotNegative = Field(
        default=1.0, description="background counts per one-phonon count, zero or more"
    )
    sample: bool = Field(
        default=True,
        description="false: no crystal, as for an empty can; the same psi give it the same flux",
    )
    elastic: NotNegative = Field(
        default=1.0, description="times the crystal's incoherent elastic scattering"
    )
    bragg: NotNegative = Field(
        default=0.0, description="times kinematic Bragg scattering; 1 means no extinction"
    )
    incoherent: NotNegative = Field(
        default=0.0, description="times the crystal's incoherent one-phonon scattering"
    )
    multiphonon: NotNegative = Field(
        default=0.0, description="times its scattering by two and more phonons"
    )
    can: CanSection | None = Field(default=None, description="a sample can, or null")
    decaying_ratio: NotNegative = Field(
        default=0.0,
        description="decaying background at E = 0, over the flat one of background_ratio 1",
    )
    decay_us: Positive = Field(
        default=200.0, description="microseconds of flight in which it falls to 1/e"
    )
    mosaic_deg: SpreadAngle | None = Field(
        default=None,
        description="mosaic, standard deviation about each axis, 0 to 5 degrees; null: as q_spread",
    )
    divergence_deg: SpreadAngle | None = Field(
        default=None,
        description="beam divergence, standard deviation, 0 to 5 degrees; null: as q_spread",
    )
    pixel_m: tuple[PixelLength, PixelLength] | None = Field(
        default=None,
        description="width and height of an unmerged pixel in metres; null: as q_spread",
    )
    dead_tubes: tuple[Tube, ...] = Field(
        default=(), description="tubes that count nothing although no mask says so"
    )
    power_sigma: Annotated[float, Field(strict=True, ge=0, lt=0.5)] = Field(
        default=0.0, description="relative spread of the beam power between orientations"
    )
