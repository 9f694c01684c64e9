"""Beamsteer as a library: open a run, simulate, fold, estimate, predict, plan, ask a server.

Everything is imported when it is used first, so importing this package costs nothing. What comes
back are the values of the program itself: frozen dataclasses and documents.

Examples
--------
>>> import beamsteer
>>> plan = beamsteer.plan("germanium", instrument="ARCS", ei_meV=(30, 40, 60))  # doctest: +SKIP
>>> run = beamsteer.open_run("build/ge/replay")  # doctest: +SKIP
>>> run.result.trusted  # doctest: +SKIP
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamsteer.client import Client
    from beamsteer.runs import open_run, open_runs, verdict
    from beamsteer.work import estimate, fold, guess, plan, predict, replay, simulate
    from simulations.errors import InputError
    from steering.experiment import Experiment, load_experiment
    from steering.planning import Assumed, ScanPlan
    from steering.run import ConflictError, RunResult, RunSnapshot, SpectrumView, Verdict

_HOMES = {
    "Assumed": "steering.planning",
    "Client": "beamsteer.client",
    "ConflictError": "steering.run",
    "Experiment": "steering.experiment",
    "InputError": "simulations.errors",
    "RunResult": "steering.run",
    "RunSnapshot": "steering.run",
    "ScanPlan": "steering.planning",
    "SpectrumView": "steering.run",
    "Verdict": "steering.run",
    "estimate": "beamsteer.work",
    "fold": "beamsteer.work",
    "guess": "beamsteer.work",
    "load_experiment": "steering.experiment",
    "open_run": "beamsteer.runs",
    "open_runs": "beamsteer.runs",
    "plan": "beamsteer.work",
    "predict": "beamsteer.work",
    "replay": "beamsteer.work",
    "simulate": "beamsteer.work",
    "verdict": "beamsteer.runs",
}

__all__ = [
    "Assumed",
    "Client",
    "ConflictError",
    "Experiment",
    "InputError",
    "RunResult",
    "RunSnapshot",
    "ScanPlan",
    "SpectrumView",
    "Verdict",
    "estimate",
    "fold",
    "guess",
    "load_experiment",
    "open_run",
    "open_runs",
    "plan",
    "predict",
    "replay",
    "simulate",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("beamsteer")
    if name not in _HOMES:
        raise AttributeError(f"module 'beamsteer' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
