"""The API of alarms: which ones hold, what was told, and who knows of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from simulations.errors import InputError, StorageError
from steering.alarms.book import Acknowledgement, Alarm, Event
from steering.alarms.book_store import LONGEST_NOTE, AlarmFolder
from steering.experiment import AlarmKind
from steering.run import PersonName, live_states
from steering.web import Problem, name_of, somebody_of


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AlarmAnswer(_Answer):
    """An alarm that holds, or did until a short while ago."""

    state: str = Field(description="name of the state folder")
    id: str
    kind: AlarmKind
    subject: str = Field(description="run, worker or disk")
    text: str = Field(description="what holds, and what to do")
    since_ns: int = Field(description="when it was seen first, since the Unix epoch")
    over_ns: int | None = Field(description="when it was over; null: it holds")
    told: list[str] = Field(description="names of the receivers that took a message")
    acknowledged: Acknowledgement | None


class AlarmList(_Answer):
    """Alarms of all live state folders that are shown; those that hold first."""

    alarms: list[AlarmAnswer]


class AlarmLog(_Answer):
    """The newest lines of the log, oldest first."""

    events: list[Event]


class AcknowledgeRequest(_Answer):
    """Who knows of an alarm."""

    by: PersonName | None = Field(
        default=None,
        description="who, where nobody is named: under the one token, or on loopback",
    )
    note: str = Field(default="", max_length=LONGEST_NOTE, description="what they say")


def alarm_router(folders: Sequence[Path], *, clock: Callable[[], int] = time.time_ns) -> APIRouter:
    """Routes of the alarms of some folders; what guards an app guards them too.

    Parameters
    ----------
    folders : sequence of Path
        State folders, or folders that hold some.
    clock : callable
        Unix time, ns.
    """
    router = APIRouter(tags=["alarms"])

    @router.get("/alarms", summary="Alarms of live runs")
    def alarms() -> AlarmList:
        """Alarms that hold or did until a short while ago."""
        found = [
            _answer(state, one)
            for state in live_states(folders)
            for one in _readable(AlarmFolder(state))
        ]
        return AlarmList(alarms=sorted(found, key=lambda one: one.over_ns is not None))

    @router.get("/alarms/log", summary="What became of alarms")
    def alarm_log(
        last: Annotated[int, Query(ge=1, le=1000, description="how many lines")] = 200,
    ) -> AlarmLog:
        """What was raised, told, acknowledged and over, and by whom."""
        events = [one for state in live_states(folders) for one in AlarmFolder(state).events(last)]
        return AlarmLog(events=sorted(events, key=lambda one: one.at_ns)[-last:])

    @router.post(
        "/alarms/{alarm}/acknowledge",
        summary="Somebody knows of an alarm",
        responses={
            404: {"model": Problem, "description": "No such alarm holds"},
            503: {"model": Problem, "description": "It cannot be written now"},
        },
    )
    def acknowledge(alarm: str, body: AcknowledgeRequest, request: Request) -> AlarmAnswer:
        """Note who knows of an alarm: it is told no more until there is more to say."""
        who = name_of(somebody_of(request), body.by)
        for state in live_states(folders):
            folder = AlarmFolder(state)
            if any(one.id == alarm and one.over_ns is None for one in _readable(folder)):
                try:
                    told = folder.acknowledge(alarm, by=who, note=body.note, at_ns=clock())
                except StorageError as error:
                    raise HTTPException(503, str(error)) from error
                except InputError as error:
                    raise HTTPException(422, str(error)) from error
                return _answer(state, told)
        raise HTTPException(
            404, f"alarm is {alarm[:40]!r}; expected one that holds. GET /alarms lists them."
        )

    return router


def _readable(folder: AlarmFolder) -> tuple[Alarm, ...]:
    try:
        return folder.alarms()
    except (OSError, ValueError):
        return ()  # a damaged book is told by whoever evaluates


def _answer(state: Path, alarm: Alarm) -> AlarmAnswer:
    return AlarmAnswer(
        state=state.name,
        id=alarm.id,
        kind=alarm.kind,
        subject=alarm.subject,
        text=alarm.text,
        since_ns=alarm.since_ns,
        over_ns=alarm.over_ns,
        told=alarm.told,
        acknowledged=alarm.acknowledged,
    )
