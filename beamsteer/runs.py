"""Open runs: of a live state folder, of a replay, of a server."""

from __future__ import annotations

from pathlib import Path

from beamsteer.client import Client
from steering.report import chosen_run, runs_found
from steering.run import RunSnapshot, Verdict, judge, now_ns
from steering.web import read_heartbeats


def is_url(place: Path | str) -> bool:
    """Whether a place is a server."""
    return isinstance(place, str) and place.startswith(("http://", "https://"))


def open_runs(place: Path | str, *, token: str | None = None) -> tuple[RunSnapshot, ...]:
    """Every run in a place, as it stands now.

    Parameters
    ----------
    place : Path or str
        State folder of live runs, folder or ``result.json`` of a replayed one, or the URL of
        ``beamsteer serve``.
    token : str, optional
        For a server that asks for one; the variable ``BEAMSTEER_TOKEN`` by default.

    Returns
    -------
    tuple of RunSnapshot
        By name; of a folder from its files, of a server by its API.

    Raises
    ------
    InputError
        If there is no run, or one is damaged.
    ConnectionError
        If the server does not answer.

    Examples
    --------
    >>> [run.run_id for run in beamsteer.open_runs("build")]  # doctest: +SKIP
    ['demo']
    """
    if not is_url(place):
        return tuple(one.snapshot for one in runs_found(Path(place)))
    with Client(str(place), token=token) as client:
        names = sorted(one.run_id for one in client.runs())
        return tuple(client.snapshot(name) for name in names)


def open_run(
    place: Path | str, run_id: str | None = None, *, token: str | None = None
) -> RunSnapshot:
    """One run, as it stands now: chunks, folded spectrum, result, history.

    Parameters
    ----------
    place : Path or str
        As in :func:`open_runs`.
    run_id : str, optional
        Which of several.
    token : str, optional
        As in :func:`open_runs`.

    Returns
    -------
    RunSnapshot
        ``spectrum.intensity`` is (path bins, energy bins), barn/meV/sr per primitive cell, NaN
        where nothing was seen; ``result.parameters`` are force constants in eV/angstrom^2.

    Raises
    ------
    InputError
        If there is no such run, or several and no name.
    ConnectionError
        If the server does not answer.

    Examples
    --------
    >>> run = beamsteer.open_run("build/ge/replay")  # doctest: +SKIP
    >>> {one.name: (one.value, one.sigma) for one in run.result.parameters}  # doctest: +SKIP
    """
    if not is_url(place):
        return chosen_run(runs_found(Path(place)), run_id).snapshot
    with Client(str(place), token=token) as client:
        return client.snapshot(client.only(run_id))


def verdict(place: Path | str, run_id: str | None = None, *, token: str | None = None) -> Verdict:
    """What page, API and command line say of a run now, and how old that is.

    Parameters
    ----------
    place, run_id, token
        As in :func:`open_run`.

    Returns
    -------
    Verdict
        Words for ``trust``, ``stop``, ``advice`` and ``coverage`` with their evidence, and
        ``stale``: why they may be old.

    Examples
    --------
    >>> beamsteer.verdict("build/state").stop.word  # doctest: +SKIP
    'Go on: 12 min'
    """
    if not is_url(place):
        found = chosen_run(runs_found(Path(place)), run_id)
        return judge(found.snapshot, read_heartbeats([found.top]), now_ns=now_ns())
    with Client(str(place), token=token) as client:
        return client.verdict(client.only(run_id))
