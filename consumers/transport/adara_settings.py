"""Settings of an ADARA connection in an experiment file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulations.section import Section, Text


class AdaraSection(Section):
    """Connection to the live stream of an SNS beamline (its SMS, usually port 31415)."""

    address: Text = Field(description="HOST:PORT")
    dwell: Literal["run", "scan"] = Field(
        default="run", description="what a dwell is: a run, or a scan inside a run"
    )
    history: bool = Field(
        default=True,
        description="true: ask for the run in progress from its start, and after a lost connection "
        "for what was missed; false: take what comes",
    )
    allow_unencrypted: bool = Field(
        default=False, description="true: leave this machine; ADARA knows no encryption"
    )
