"""The virtual section of an experiment file; only simulations of recorded runs read it."""

from __future__ import annotations

from pydantic import Field

from simulations.section import NotNegative, Positive, Section


class VirtualSection(Section):
    """Counting rates of a virtual experiment."""

    counts_per_minute: Positive = Field(
        default=3000.0, description="one-phonon counts per minute inside the tubes, above 0"
    )
    background_ratio: NotNegative = Field(
        default=1.0, description="background counts per one-phonon count, zero or more"
    )
