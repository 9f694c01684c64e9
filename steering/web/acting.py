"""The API of actions: what people asked of a run, what became of it, and asking for more.

Nothing is changed here but the log of the run; its workers read it and apply it, and say so in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from simulations.errors import InputError, StorageError
from steering.run import (
    ACTION_VERBS,
    ADMIN_VERBS,
    NO_ORDERS,
    Action,
    ActionWay,
    Asked,
    ConflictError,
    LiveRun,
    Logged,
    Orders,
    PersonName,
    ReasonLine,
    Role,
    action_words,
    live_runs,
    read_only_run,
)
from steering.web.answers import Answer, Problem, clean
from steering.web.paging import MOST, link_to
from steering.web.people_file import LOCAL, Somebody
from steering.web.problems import CONFLICT, PROBLEM_JSON, title_of

IN_FOLD = ("withdraw", "restore", "close", "reopen")  # what the fold worker applies too
WORKERS = {"consume": "fold worker", "model-server": "model server"}
NEWEST = 50


class Me(Answer):
    """Who asks, and what that is allowed to do."""

    name: str
    role: Role
    named: bool = Field(description="false: whoever has the one token, or sits at this machine")
    may: list[str] = Field(description="actions that the role may ask for")
    login: bool = Field(description="whether people log in here")


class ActionAnswer(Answer):
    """One thing that somebody asked of a run."""

    number: int
    at_ns: int = Field(description="when it was asked for, since the Unix epoch")
    by: str
    role: Role
    way: ActionWay
    what: str = Field(description="in a few words")
    asked: Asked
    why: str
    before: Any = Field(description="what it changed, as it was")
    after: Any = Field(description="and as it was asked to be")
    state: Literal["asked for", "applied"]
    applied_ns: int | None = Field(description="when all who must had applied it; null: not yet")
    waits_for: list[str] = Field(description="workers that have not applied it yet")


class ActionList(Answer):
    """What people asked of a run, the newest first, and what it all comes to."""

    run_id: str
    live: bool = Field(description="whether the run takes actions: workers work on it")
    version: int = Field(description="to be sent with the next action; grows with every one")
    orders: Orders
    actions: list[ActionAnswer]
    next: str | None = Field(default=None, description="path of the older ones; null: none are")


class ActionRequest(Answer):
    """An action, and what its asker has seen of those before."""

    version: Annotated[int, Field(ge=0, strict=True)] = Field(
        description="of the log as the asker saw it; if it has moved on, the answer is 409"
    )
    asked: Asked
    why: ReasonLine = Field(description="in a line; the log keeps it")
    by: PersonName | None = Field(
        default=None, description="who, where nobody is named: under the one token, or on loopback"
    )


class ActionConflict(Problem):
    """Somebody asked for something meanwhile, or the action does not fit what the run is now."""

    version: int
    actions: list[ActionAnswer] = Field(description="what came since the version that was sent")


def somebody_of(request: Request) -> Somebody:
    """Who sent a request, as the door found."""
    return getattr(request.state, "somebody", LOCAL)


def name_of(somebody: Somebody, by: str | None) -> str:
    """Who is written down: a named person always as such."""
    if somebody.named or by is None:
        return somebody.name
    return f"{by[:60]} ({somebody.name})"


def acting_router(
    folders: Sequence[Path],
    *,
    login: bool,
    known: Callable[[str], bool],
    clock: Callable[[], int] = time.time_ns,
) -> APIRouter:
    """Routes of people and of actions.

    Parameters
    ----------
    folders : sequence of Path
        State folders, or folders that hold some.
    login : bool
        Whether people log in.
    known : callable
        Whether a run of a name is shown.
    clock : callable
        Unix time, ns.
    """
    router = APIRouter()

    @router.get("/me", tags=["people"], summary="Who asks")
    def me(request: Request) -> Me:
        """Name and role of who asks, and what that may do."""
        somebody = somebody_of(request)
        may = [verb for verb in ACTION_VERBS if _allowed(somebody, verb)]
        return Me(
            name=somebody.name,
            role=somebody.role,
            named=somebody.named,
            may=may,
            login=login,
        )

    @router.get(
        "/runs/{run_id}/actions",
        tags=["actions"],
        summary="What people asked of a run",
        response_model=ActionList,
        responses={404: {"model": Problem}, 503: {"model": Problem}},
    )
    def actions(
        run_id: str,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MOST, description="how many")] = NEWEST,
        before: Annotated[
            int | None, Query(ge=1, description="only those of a smaller number")
        ] = None,
        last: Annotated[  # as `limit` was called before there was a version
            int | None, Query(ge=1, le=MOST, include_in_schema=False)
        ] = None,
    ) -> JSONResponse:
        """The log of actions, the newest first, and when each was applied."""
        run = _found(folders, run_id)
        if run is None:
            if not known(run_id):
                raise HTTPException(404, f"run is {run_id[:100]!r}; expected one of /runs.")
            return _answer(
                ActionList(run_id=run_id, live=False, version=0, orders=NO_ORDERS, actions=[])
            )
        logged, limit = _read(run), last or limit
        older = [one for one in logged.actions if before is None or one.number < before]
        shown, left = older[-limit:], older[:-limit]
        following = f"{request.url.path}?limit={limit}&before={shown[0].number}" if left else None
        told = ActionList(
            run_id=run_id,
            live=True,
            version=logged.number,
            orders=logged.orders(),
            actions=[_told(logged, one) for one in reversed(shown)],
            next=following,
        )
        return _answer(told, more=link_to(following))

    @router.post(
        "/runs/{run_id}/actions",
        tags=["actions"],
        summary="Ask something of a run",
        status_code=201,
        response_model=ActionAnswer,
        responses={
            403: {"model": Problem, "description": "The role may not, or another site asks"},
            404: {"model": Problem, "description": "No such live run"},
            409: {"model": ActionConflict, "description": "It does not fit what the run is now"},
            422: {"model": Problem, "description": "It makes no sense"},
            503: {"model": Problem, "description": "It cannot be written now"},
        },
    )
    def act(run_id: str, body: ActionRequest, request: Request) -> JSONResponse:
        """Write an action into the run's log; its workers apply it within seconds."""
        somebody, verb = somebody_of(request), body.asked.what
        if not _allowed(somebody, verb):
            raise HTTPException(
                403,
                f"{somebody.name} has the role {somebody.role}, which may not {verb}; expected "
                f"{'admin' if somebody.acts else 'operator or admin'}. Ask somebody who has it.",
            )
        run = _found(folders, run_id)
        if run is None:
            raise HTTPException(404, read_only_run(run_id, folders))
        way: ActionWay = "page" if request.headers.get("sec-fetch-mode") else "api"
        try:
            action = run.ask(
                body.asked,
                by=name_of(somebody, body.by),
                role=somebody.role,
                way=way,
                why=body.why,
                at_ns=clock(),
                number=body.version,
            )
        except ConflictError as error:
            logged = _read(run)
            conflict = ActionConflict(
                type=CONFLICT,
                title=title_of(409),
                status=409,
                detail=str(error),
                version=logged.number,
                actions=[_told(logged, one) for one in logged.actions[body.version :][-NEWEST:]],
            )
            return _answer(conflict, 409)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        except StorageError as error:
            raise HTTPException(503, str(error)) from error
        return _answer(_told(_read(run), action), 201)

    return router


def _allowed(somebody: Somebody, verb: str) -> bool:
    return somebody.role == "admin" or (somebody.acts and verb not in ADMIN_VERBS)


def _found(folders: Sequence[Path], run_id: str) -> LiveRun | None:
    found = [one for one in live_runs(folders) if one.run_id == run_id]
    if len(found) > 1:
        raise HTTPException(
            409, f"run {run_id[:100]!r} is in {len(found)} state folders; serve them apart."
        )
    return found[0] if found else None


def _read(run: LiveRun) -> Logged:
    try:
        return run.log.read()
    except (InputError, OSError) as error:
        raise HTTPException(503, str(error)) from error


def _told(logged: Logged, action: Action) -> ActionAnswer:
    verb = action.asked.what
    needed = ("model-server", "consume") if verb in IN_FOLD else ("model-server",)
    times = {who: logged.applied_ns(action.number, who) for who in needed}
    waits = [WORKERS[who] for who, at_ns in times.items() if at_ns is None]
    return ActionAnswer(
        number=action.number,
        at_ns=action.at_ns,
        by=action.by,
        role=action.role,
        way=action.way,
        what=action_words(action.asked),
        asked=action.asked,
        why=action.why,
        before=action.before,
        after=action.after,
        state="asked for" if waits else "applied",
        applied_ns=None if waits else max(at_ns or 0 for at_ns in times.values()),
        waits_for=waits,
    )


def _answer(value: Any, status: int = 200, more: dict[str, str] | None = None) -> JSONResponse:
    plain = value.model_dump(mode="json")
    kind = PROBLEM_JSON if isinstance(value, Problem) else None
    return JSONResponse(clean(plain), status, {"Cache-Control": "no-store"} | (more or {}), kind)
