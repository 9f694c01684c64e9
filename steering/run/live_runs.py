"""Live runs of state folders, for people who ask something of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from consumers.state import MANIFEST, partition_folders, read_manifest, run_folder
from simulations.errors import InputError
from steering.experiment import load_experiment
from steering.run.action_log_store import ActionLog, Logged
from steering.run.actions import (
    Action,
    ActionWay,
    Asked,
    ConflictError,
    Moment,
    Role,
    Scene,
    refuse_unfit,
)
from steering.run.store import newest_result

STATE = "state.json"  # what makes a folder one of a live run
EXPERIMENT = "experiment.yaml"  # in a state folder
RESULT = "estimate/result.json"  # of a run's newest answer, inside its folder


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRun:
    """A run of a state folder."""

    run_id: str  # as it is shown
    name: str  # as messages call it
    partition: Path
    folder: Path

    @property
    def log(self) -> ActionLog:
        """Of what people asked of it."""
        return _log(self.folder)

    def scene(self) -> Scene:
        """What of it an action is judged by.

        Raises
        ------
        InputError
            If its manifest is damaged.
        """
        manifest = read_manifest(self.partition)
        record = None if manifest is None else manifest.runs.get(self.name)
        chunks = () if record is None else record.chunks
        result = newest_result(self.folder / RESULT)
        return Scene(
            folded=tuple(one.chunk for one in chunks if one.file is not None),
            advised_deg=() if result is None else tuple(one.psi_deg for one in result.advice),
            targeted=None
            if result is None or result.targets is None
            else tuple(one.name for one in result.targets),
            moment=Moment(
                chunks=len(chunks),
                newest_start_ns=max((one.start_time_ns for one in chunks), default=0),
            ),
            **self._limits(),
        )

    def _limits(self) -> dict[str, tuple[float, float]]:
        """Of the motion, where the state folder says."""
        try:
            experiment = load_experiment(self.partition.parent / EXPERIMENT)
        except (InputError, OSError):
            return {}
        return {"limits_deg": experiment.motion.limits_deg}

    def ask(
        self,
        asked: Asked,
        *,
        by: str,
        role: Role,
        way: ActionWay,
        why: str,
        at_ns: int,
        number: int | None,
    ) -> Action:
        """Write an action into the log of the run; its workers apply it.

        Parameters
        ----------
        asked : Asked
        by, role, way, why : str
            Who asks, as what, how, and why.
        at_ns : int
            Since the Unix epoch.
        number : int, optional
            Of the last action that who asks has seen; absent: whatever there is.

        Raises
        ------
        ConflictError
            If somebody asked for something meanwhile, or it does not fit what the run is now.
        InputError
            If it names what the run does not have, or the log is damaged.
        StorageError
            If it cannot be written.
        """
        scene = self.scene()

        def made(logged: Logged) -> Action:
            if number is not None and number != logged.number:
                raise ConflictError(_meanwhile(logged, number))
            before = logged.orders()
            refuse_unfit(asked, before, scene)
            action = Action(
                number=logged.number + 1,
                at_ns=at_ns,
                by=by,
                role=role,
                way=way,
                asked=asked,
                why=why,
                moment=scene.moment,
                before=before.touched(asked),
            )
            after = before.with_action(action).touched(asked)
            return action.model_copy(update={"after": after})

        return self.log.append(made)


def live_runs(folders: Iterable[Path]) -> tuple[LiveRun, ...]:
    """Runs of the state folders in and below some folders, at most two deep."""
    found: list[LiveRun] = []
    for state in live_states(folders):
        parts = [(partition, *_runs_of(partition)) for partition in partition_folders(state)]
        names = [name for _, _, of in parts for name in of]
        for partition, number, of in parts:
            for name in of:
                folder = run_folder(partition, name)
                alone = names.count(name) == 1
                run_id = name if alone else _shown_as(folder, name, number)
                found.append(LiveRun(run_id=run_id, name=name, partition=partition, folder=folder))
    return tuple(found)


def _shown_as(folder: Path, name: str, partition: int) -> str:
    """Name of one of several runs of a name: the model service gives it, and its answer has it."""
    result = newest_result(folder / RESULT)
    return f"{name}@{partition}" if result is None else result.run


def live_run(folders: Iterable[Path], run_id: str) -> LiveRun:
    """The run of a name.

    Raises
    ------
    InputError
        If there is none, or two.
    """
    folders = tuple(folders)
    known = live_runs(folders)
    found = [one for one in known if one.run_id == run_id]
    if len(found) > 1:
        raise InputError(
            f"run {run_id!r} is in {len(found)} state folders; expected one. Serve them apart."
        )
    if not found:
        raise InputError(read_only_run(run_id, folders))
    return found[0]


def read_only_run(run_id: str, folders: Iterable[Path]) -> str:
    """Why nothing can be asked of a run that is no live one."""
    there = ", ".join(one.run_id for one in live_runs(folders)) or "none"
    return (
        f"run {run_id[:100]!r} is no live run; expected one that `beamsteer consume` works on: "
        f"{there}. What was replayed changes by being replayed again."
    )


def live_states(folders: Iterable[Path]) -> tuple[Path, ...]:
    """State folders of live runs in and below some folders, at most two deep."""
    patterns = (STATE, f"*/{STATE}", f"*/*/{STATE}")
    found = {
        path.parent for folder in folders for pattern in patterns for path in folder.glob(pattern)
    }
    return tuple(sorted(found))


def _meanwhile(logged: Logged, number: int) -> str:
    if number > logged.number:
        return (
            f"version is {number}; expected {logged.number}, that of the log, or one before it. "
            "Read the log again."
        )
    came = "; ".join(
        f"{one.by}: {one.asked.what} ({one.why})" for one in logged.actions[number:][-3:]
    )
    return (
        f"version is {number}; expected {logged.number}: meanwhile {came}. Look again, and ask "
        "once more if it is still wanted."
    )


@lru_cache(maxsize=256)
def _log(folder: Path) -> ActionLog:
    return ActionLog(folder)


def _runs_of(partition: Path) -> tuple[int, tuple[str, ...]]:
    """Number of a partition and names of its runs; its manifest is read where it is another one."""
    try:
        told = (partition / MANIFEST).stat()
        return _runs_in(partition, told.st_mtime_ns, told.st_size, told.st_ino)
    except (OSError, ValueError):
        return 0, ()  # is told by whoever works on it


@lru_cache(maxsize=64)
def _runs_in(
    partition: Path, _mtime_ns: int, _size: int, _inode: int
) -> tuple[int, tuple[str, ...]]:
    manifest = read_manifest(partition)
    return (0, ()) if manifest is None else (manifest.partition, tuple(manifest.runs))
