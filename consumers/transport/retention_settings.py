"""How long what was folded is kept; everything, unless the experiment says otherwise."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulations.section import Positive, Section


class Keep(Section):
    """Bounds by age and size; what is still needed stays beyond them."""

    days: Positive | None = Field(
        default=None, description="by the time of the stream, or null: for ever"
    )
    bytes: Annotated[int, Field(strict=True, gt=0)] | None = Field(
        default=None, description="of a partition, the oldest goes first; null: without bound"
    )

    @property
    def everything(self) -> bool:
        """Whether nothing is ever removed."""
        return self.days is None and self.bytes is None


class RetentionSection(Section):
    """What is removed once it is not needed any more: by default nothing."""

    recordings: Keep = Field(
        default=Keep(),
        description="raw events of closed dwells; a dwell without them takes nothing late",
    )
    runs: Keep = Field(
        default=Keep(),
        description="chunks and recordings of runs that are over; estimates stay",
    )
    tape: Keep = Field(
        default=Keep(), description="segments of the tape before ZMQ that are folded and committed"
    )
