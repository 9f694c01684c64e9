"""The instrument section of an experiment file."""

from __future__ import annotations

from pydantic import Field, model_validator

from simulations.errors import InputError
from simulations.section import Count, Number, Positive, Section, Text


class ChopperSetting(Section):
    """A Fermi chopper and its speed, where the instrument's resolution curves are fitted."""

    package: Text = Field(description="name of the slit package, e.g. FC1")
    frequency_Hz: Positive = Field(description="in Hz, above 0")


class InstrumentSection(Section):
    """Which spectrometer, at which incident energy.

    Recorded files that carry their own geometry overrule the pixels meant by ``name``.
    """

    name: Text = Field(
        description="an instrument name, e.g. ARCS or HYSPEC, or a file (IDF, table)"
    )
    ei_meV: Positive = Field(description="incident energy in meV, above 0")
    coarsen: Count = Field(
        default=1, description="pixels along a tube that are merged into one, 1 or more"
    )
    resolution: tuple[Number, ...] | None = Field(
        default=None,
        description="coefficients c_k of FWHM/Ei = sum_k c_k (E/Ei)^k; else its own",
    )
    chopper: ChopperSetting | None = Field(
        default=None,
        description="package and frequency_Hz, for the fitted resolution of that setting",
    )

    mask: Text | None = Field(
        default=None, description="file of masked detectors, Mantid XML or ASCII"
    )
    vanadium: Text | None = Field(
        default=None, description="file of a vanadium run: relative efficiency of every detector"
    )

    @model_validator(mode="after")
    def _one_resolution(self) -> InstrumentSection:
        if self.resolution is not None and self.chopper is not None:
            raise InputError("resolution and chopper are both given; expected one of them")
        return self
