"""The source section of an experiment file: where messages come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulations.section import Number, Section, Text


class SourceSection(Section):
    """Where chunks come from; recorded files for now."""

    kind: Literal["files"] = Field(default="files", description="`files`")
    psi_log: Text = Field(
        default="s1", description="log of raw event files that holds psi in degrees"
    )
    t0_us: Number | None = Field(
        default=None,
        description="emission time of event files in microseconds, or null: the instrument's own",
    )
