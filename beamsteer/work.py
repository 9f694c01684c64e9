"""What the verbs of the command line do, as functions: simulate, fold, replay, estimate, plan.

An ``experiment`` is an experiment file; what it names is beside it, as on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beamsteer.logs import quiet
from simulations.errors import InputError
from simulations.progress import Progress
from steering.database import open_database
from steering.experiment import load_experiment, load_for_folding
from steering.planning import Assumed, ScanPlan, plan_scan, planned_experiment
from steering.predict import predict as predict_request
from steering.predict import prediction_request
from steering.report import fold as fold_files
from steering.report import refuse_missing, write_replayed
from steering.run import RunSnapshot, RunStore, estimate_folded, guess_folded
from steering.run import replay as replay_files
from steering.study import simulate as simulate_scan

quiet()

Places = Sequence[Path | str] | Path | str


def paths_of(files: Places) -> list[Path]:
    """Paths of one file or of several, each of which is there.

    Raises
    ------
    InputError
        If there are none, or one is no file.
    """
    found = [Path(one) for one in ([files] if isinstance(files, str | Path) else files)]
    if not found:
        raise InputError("files is empty; expected recorded files. Name one or more.")
    refuse_missing(found)
    return found


def simulate(
    experiment: Path | str,
    output: Path | str,
    *,
    psi_deg: Sequence[float],
    minutes: float = 1.0,
    seed: int = 0,
    formats: Sequence[str] = ("nxspe",),
    processes: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Simulate a rotation scan as recorded files, with the truth beside them.

    Parameters
    ----------
    experiment : Path or str
    output : Path or str
        Folder for the files and ``truth.json``.
    psi_deg : sequence of float
        Orientations, degrees.
    minutes : float
        Dwell at each.
    seed : int
        The same seed gives the same files.
    formats : sequence of str
        ``nxspe``, ``sns`` or both.
    processes : int
        More than one ask for ``if __name__ == "__main__":`` in a script.
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    dict
        The truth: force constants by name in eV/angstrom^2, and notes.

    Examples
    --------
    >>> beamsteer.simulate("examples/ge-arcs.yaml", "build/ge", psi_deg=[0, 30])  # doctest: +SKIP
    """
    path = Path(experiment)
    return simulate_scan(
        load_experiment(path),
        experiment_dir=path.parent,
        output=Path(output),
        psi_deg=list(psi_deg),
        minutes=minutes,
        seed=seed,
        formats=tuple(formats),
        processes=processes,
        progress=progress,
    )


def fold(
    files: Places,
    experiment: Path | str,
    output: Path | str,
    *,
    psi_deg: float | None = None,
    plot: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fold recorded files into I(q,E) along the experiment's path, without an estimate.

    Parameters
    ----------
    files : path or sequence of paths
        NXSPE, SQW, SNS or ISIS raw event files.
    experiment : Path or str
    output : Path or str
        Folder for ``folded.npz``, or the name of that file.
    psi_deg : float, optional
        For files that record no psi.
    plot : bool
        Whether to draw pictures beside it.
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    dict
        Coverage, events and chunks, as ``beamsteer fold --json`` prints them. The file holds S, V,
        N, D, ``intensity`` in barn/meV/sr per primitive cell (NaN where D = 0) and ``sigma``.

    Raises
    ------
    InputError
        If the experiment makes no sense, or no file could be folded.

    Examples
    --------
    >>> beamsteer.fold(files, "examples/ge-arcs.yaml", "build/ge/fold")  # doctest: +SKIP
    """
    path = Path(experiment)
    return fold_files(
        paths_of(files),
        load_for_folding(path),
        experiment_dir=path.parent,
        output=Path(output),
        plot=plot,
        psi_deg=psi_deg,
        progress=progress,
    )


def replay(
    files: Places,
    experiment: Path | str,
    output: Path | str | None = None,
    *,
    psi_deg: float | None = None,
    run_id: str | None = None,
    progress: Progress | None = None,
) -> RunSnapshot:
    """Replay recorded files as if they came live: fold, estimate and advice after each.

    Parameters
    ----------
    files, experiment, psi_deg, progress
        As in :func:`fold`.
    output : Path or str, optional
        Folder for what ``beamsteer replay`` writes; :func:`beamsteer.open_run` opens it.
    run_id : str, optional
        The experiment file's name by default.

    Returns
    -------
    RunSnapshot
        As :func:`beamsteer.open_run` gives it.

    Raises
    ------
    InputError
        If the experiment cannot be made concrete, or no file could be folded.

    Examples
    --------
    >>> run = beamsteer.replay(files, "examples/ge-arcs.yaml")  # doctest: +SKIP
    >>> run.result.advice[0].psi_deg  # doctest: +SKIP
    48.0
    """
    path, store = Path(experiment), RunStore()
    name = run_id or path.stem
    replay_files(
        paths_of(files),
        load_experiment(path),
        experiment_dir=path.parent,
        output=None if output is None else Path(output),
        store=store,
        run_id=name,
        psi_deg=psi_deg,
        progress=progress,
    )
    (found,) = store.list()
    if output is not None:
        write_replayed(found, Path(output))
    return found


def estimate(
    folded: Path | str,
    experiment: Path | str,
    *,
    draws: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit the force constants of an experiment to ``folded.npz``, and judge the fit.

    Parameters
    ----------
    folded : Path or str
        Of :func:`fold` or :func:`replay`.
    experiment : Path or str
        That it was folded with.
    draws : int
        Of the posterior with weights, under ``draws``, which tell where it is not Gaussian; 0:
        none, else 50 to 10,000.
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    dict
        ``parameters`` (eV/angstrom^2, with sigma and 90 % interval), ``covariance``, ``trusted``,
        ``reasons``, ``chi_square`` per degree of freedom and more, as ``beamsteer estimate --json``
        prints them.

    Raises
    ------
    InputError
        If the file cannot be read, was folded with other axes, or holds a can.

    Examples
    --------
    >>> beamsteer.estimate("build/ge/fold/folded.npz", "examples/ge-arcs.yaml")  # doctest: +SKIP
    """
    path = Path(experiment)
    return estimate_folded(
        Path(folded),
        load_experiment(path),
        experiment_dir=path.parent,
        draws=draws,
        progress=progress,
    )


def guess(
    folded: Places, *, model: str = "germanium", models: Sequence[Path | str] = ()
) -> dict[str, Any]:
    """Read force constants off ``folded.npz`` with a frozen network, in milliseconds.

    Parameters
    ----------
    folded : Path or str, or a sequence of them
        ``folded.npz`` of :func:`fold` or :func:`replay`.
    model : str
        Name of a bundle, or web address of one.
    models : sequence of Path or str
        Bundles, folders of some, or web addresses of some, beside those that are shipped.

    Returns
    -------
    dict
        ``estimates``, one for every file, as ``beamsteer guess --json`` prints them and
        ``POST /v1/estimate`` answers them.

    Raises
    ------
    InputError
        If a file cannot be read, holds no counts, or is of another experiment than the model's.

    Examples
    --------
    >>> beamsteer.guess("build/ge/fold/folded.npz", model="germanium")  # doctest: +SKIP
    """
    return guess_folded(paths_of(folded), model=model, models=models)


def predict(
    structure: Path | str,
    *,
    instrument: str = "ARCS",
    ei_meV: float = 40.0,
    temperature_K: float = 300.0,
    quantity: str = "all",
    route: str = "auto",
    database: Path | str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Predict the phonon DOS, the powder spectrum and the expected background of a crystal.

    Parameters
    ----------
    structure : Path or str
        POSCAR, CIF or phonopy.yaml, the name of a builtin crystal, or an id of the database.
    instrument : str
    ei_meV, temperature_K : float
    quantity : str
        ``all``, ``dos``, ``powder`` or ``background``.
    route : str
        ``auto``, ``force_constants``, ``database``, ``force_field``, or a force field's name.
    database : Path or str, optional
        A store of ``beamsteer database build``.
    **more
        Further fields of a prediction request: ``can``, ``supercell``, ``isotopes``, ``imaginary``,
        ``dipole_sum``, ``can_atoms_per_cell``.

    Returns
    -------
    dict
        ``structure``, ``route``, ``approximations``, ``uncertainty``, ``warnings``, and as asked
        for ``dos``, ``powder``, ``background`` with numpy arrays; units are in the names.

    Raises
    ------
    InputError
        Naming the field, what it is and what was expected.

    Examples
    --------
    >>> beamsteer.predict("germanium", quantity="dos")["dos"].keys()  # doctest: +SKIP
    """
    asked = prediction_request(
        structure=str(structure),
        instrument=instrument,
        ei_meV=ei_meV,
        temperature_K=temperature_K,
        quantity=quantity,
        route=route,
        **more,
    )
    store = None if database is None else open_database(Path(database))
    return predict_request(asked, files=True, database=store)


def plan(
    structure: Path | str | None = None,
    *,
    instrument: str | None = None,
    ei_meV: Sequence[float] | None = None,
    psi_deg: Sequence[float] | None = None,
    limits_deg: tuple[float, float] | None = None,
    experiment: Path | str | None = None,
    prior: Path | str | None = None,
    sample: Mapping[str, Any] | None = None,
    minutes: float | None = None,
    assumed: Assumed | None = None,
    draws: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
    **more: Any,
) -> ScanPlan:
    """Plan a scan before any file exists: which incident energy, which orientations, how long.

    Parameters
    ----------
    structure : Path or str, optional
        CIF, POSCAR, phonopy.yaml or a builtin name; absent with ``experiment``.
    instrument : str, optional
    ei_meV : sequence of float, optional
        Incident energies to choose from.
    psi_deg : sequence of float, optional
        Orientations to choose from, degrees; as many as an adviser takes within ``limits_deg``.
    limits_deg : pair of float, optional
    experiment : Path or str, optional
        An experiment file that says all that is not given here.
    prior : Path or str, optional
        Name or file of a prior.
    sample : mapping, optional
        ``u``, ``v``, ``temperature_K`` and other fields of the sample section.
    minutes : float, optional
        Dwell at every orientation; absent: the one that gains most.
    assumed : Assumed, optional
        Rates that the hours hang on.
    draws, seed : int
        Of the prior, to average over.
    progress : callable, optional
        Called with (message, fraction).
    **more
        ``points`` of the path, ``half_width_rlu``, ``free``, ``relative_sigma``.

    Returns
    -------
    ScanPlan
        ``best`` is the incident energy to take; its ``ranking`` orders ``psi_deg``, best first.

    Raises
    ------
    InputError
        If something is missing, or nothing reaches the path.

    Examples
    --------
    >>> plan = beamsteer.plan("germanium", instrument="ARCS", ei_meV=[30, 40])  # doctest: +SKIP
    >>> plan.best.ei_meV, plan.best.psi_deg[list(plan.best.ranking[:3])]  # doctest: +SKIP
    """
    if limits_deg is None and psi_deg is not None and len(set(psi_deg)) > 1:
        limits_deg = (min(psi_deg), max(psi_deg))
    described, folder = planned_experiment(
        None if structure is None else str(structure),
        experiment=None if experiment is None else Path(experiment),
        instrument=instrument,
        ei_meV=ei_meV,
        prior=None if prior is None else str(prior),
        sample=sample,
        motion={} if limits_deg is None else {"limits_deg": limits_deg},
        **more,
    )
    return plan_scan(
        described,
        folder=folder,
        ei_meV=tuple(ei_meV or (described.instrument.ei_meV,)),
        psi_deg=None if psi_deg is None else sorted(set(psi_deg)),
        minutes=minutes,
        assumed=assumed,
        draws=draws,
        seed=seed,
        progress=progress,
    )
