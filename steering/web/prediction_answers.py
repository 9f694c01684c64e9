"""What ``/v1/predict`` and ``/v1/jobs`` answer, as models."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from simulations.instrument import known_instruments
from steering.predict import INDIRECT, optics
from steering.web.answers import Answer, clean
from steering.web.prediction_jobs import Job, JobState

EI_TABLE_MEV = (3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 350, 600, 1000, 2000)
_FWHM = 2.354820045  # over the standard deviation of a Gaussian


class JobFault(Answer):
    """Why a job has no result."""

    status: int = Field(description="HTTP status that its result is answered with")
    detail: str


class JobAnswer(Answer):
    """How far a prediction is."""

    id: str
    state: JobState
    stage: str = Field(description="what is done now, in words")
    fraction: float = Field(description="of the work that is done, 0 to 1, about")
    cached: bool = Field(description="whether it was known already")
    created_ns: int = Field(description="since the Unix epoch")
    ended_ns: int | None = None
    fault: JobFault | None = None
    events: str = Field(description="path of its server-sent events")
    result: str | None = Field(default=None, description="path of its result, when it is done")


class Preset(Answer):
    """An instrument that may be named."""

    name: str
    kind: Literal["direct", "indirect", "generic"]
    two_theta_deg: list[float] | None = Field(
        default=None, description="least and largest scattering angle"
    )
    ei_meV: list[float] = Field(default=[], description="incident energies of the next table")
    elastic_fwhm_meV: list[float] = Field(default=[], description="width at E = 0, at these Ei")


class DatabaseAnswer(Answer):
    """The database that structures may be taken from."""

    sources: list[str]


class PredictOptions(Answer):
    """What may be asked for."""

    presets: list[Preset]
    routes: list[str]
    quantities: list[str]
    formats: list[str]
    builtin_structures: list[str]
    can: list[str]
    time_limit_s: float = Field(description="longest time that one prediction gets")
    generic_fwhm_of_ei: float = Field(description="width of generic, if none is said")
    database: DatabaseAnswer | None = Field(default=None, description="null: there is none")
    predicts: bool = Field(description="whether predictions are made here")


class FoundEntry(Answer):
    """An entry of the database."""

    id: str = Field(description="names the structure in a request")
    formula: str
    space_group: str
    atoms: int = Field(description="in the primitive cell")
    words: str


class FoundEntries(Answer):
    """Entries that match, in the order of the store."""

    entries: list[FoundEntry]
    more: int = Field(description="that match too, and are left out")


def job_content(job: Job) -> dict[str, Any]:
    """A job as it is answered."""
    fault = job.fault
    answer = JobAnswer(
        id=job.id,
        state=job.state,
        stage=job.stage,
        fraction=round(job.fraction, 3),
        cached=job.cached,
        created_ns=job.created_ns,
        ended_ns=job.ended_ns,
        fault=None if fault is None else JobFault(status=fault.status, detail=fault.detail),
        events=f"/v1/jobs/{job.id}/events",
        result=f"/v1/jobs/{job.id}/result" if job.state == "done" else None,
    )
    return clean(answer)


def presets() -> list[Preset]:
    """Every instrument, with what it reaches and resolves."""
    found = []
    for name in known_instruments():
        seen = [optics(0.0, instrument=name, ei_meV=ei) for ei in EI_TABLE_MEV]
        widths = [_FWHM * float(one.sigma_of(np.zeros(1))[0]) for one in seen]
        found.append(
            Preset(
                name=name,
                kind="direct",
                two_theta_deg=list(seen[0].two_theta_deg),
                ei_meV=list(map(float, EI_TABLE_MEV)),
                elastic_fwhm_meV=widths,
            )
        )
    found += [Preset(name=name, kind="indirect") for name in INDIRECT]
    return [*found, Preset(name="generic", kind="generic", two_theta_deg=[0.0, 180.0])]
