"""The instrument section of an experiment file."""

from __future__ import annotations

from pydantic import Field

from simulations.section import Count, Number, Positive, Section, Text


class InstrumentSection(Section):
    """Which spectrometer, at which incident energy.

    Recorded files that carry their own geometry overrule the pixels meant by ``name``.
    """

    name: Text = Field(description="an instrument name, e.g. ARCS or HYSPEC")
    ei_meV: Positive = Field(description="incident energy in meV, above 0")
    coarsen: Count = Field(
        default=1, description="pixels along a tube that are merged into one, 1 or more"
    )
    resolution: tuple[Number, ...] | None = Field(
        default=None,
        description="coefficients c_k of FWHM/Ei = sum_k c_k (E/Ei)^k; else its own",
    )
