"""``beamsteer act``: ask something of a live run, and see what people asked of it."""

from __future__ import annotations

import getpass
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


class What(StrEnum):
    """What may be asked for."""

    WITHDRAW = "withdraw"
    RESTORE = "restore"
    TARGETS = "targets"
    BUDGET = "budget"
    PIN = "pin"
    UNPIN = "unpin"
    VETO = "veto"
    UNVETO = "unveto"
    APPROVE = "approve"
    REJECT = "reject"
    CLOSE = "close"
    REOPEN = "reopen"


ITEMS = {
    What.WITHDRAW: "the chunk",
    What.RESTORE: "the chunk",
    What.TARGETS: "relative sigmas such as 0.03 or '1NN xx=0.02', or `file`",
    What.BUDGET: "beam minutes, or `file`",
    What.PIN: "psi in degrees",
    What.UNPIN: "psi in degrees",
    What.VETO: "psi in degrees",
    What.UNVETO: "psi in degrees",
    What.APPROVE: "psi in degrees",
    What.REJECT: "psi in degrees",
}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer act build/state withdraw 178903 --why 'the shutter was closed'",
        context_settings={"ignore_unknown_options": True},  # psi may be negative
    )(act)


def act(
    state: Annotated[Path, typer.Argument(help="State folder of a live run.")],
    what: Annotated[
        What | None, typer.Argument(help="What to ask for; without it the log is listed.")
    ] = None,
    items: Annotated[
        list[str] | None,
        typer.Argument(help="A chunk, psi in degrees, beam minutes, or relative sigmas."),
    ] = None,
    why: Annotated[str, typer.Option(help="Why, in a line; the log keeps it.")] = "",
    run: Annotated[str | None, typer.Option(help="The run, where there are several.")] = None,
    by: Annotated[str | None, typer.Option(help="Who asks; your login name by default.")] = None,
    within: Annotated[
        float, typer.Option(help="How far around psi a veto reaches, degrees.")
    ] = 0.5,
    version: Annotated[
        int | None,
        typer.Option(help="Ask only if the log is still at this version; 2 if it is not."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Ask something of a live run: withdraw a chunk, pin psi, close it; or list what was asked.

    What is asked for is written into the log of the run with who, when and why; the workers of the
    run apply it within seconds, and after a restart too. Whoever may write the state folder may
    act here; over the network people act by role, on the page or the API.
    """
    from steering.run import live_run, live_runs

    known = list(live_runs([state]) if state.is_dir() else ())
    if not known:
        raise InputError(
            f"{state}: holds no live run; expected a state folder that `beamsteer consume` writes. "
            "Correct the path, or wait for the first chunk."
        )
    if run is None and len(known) > 1:
        names = ", ".join(one.run_id for one in known)
        raise InputError(f"--run is missing; expected one of {names}. Name it.")
    found = live_run([state], known[0].run_id if run is None else run)
    if what is None:
        _list(found, json=json)
        return
    asked = _asked(what, items or [], within)
    if not why.strip():
        raise InputError("--why is missing; expected a reason in a line. The log keeps it.")
    action = found.ask(
        asked,
        by=_line("by", by or _login()),
        role="admin",
        way="cli",
        why=_line("why", why),
        at_ns=time.time_ns(),
        number=version,
    )
    if json:
        terminal.print_json({"run": found.run_id, "action": action.model_dump(mode="json")})
    else:
        terminal.out.print(
            f"{found.run_id}: asked for, as number {action.number}. Its workers apply it; see "
            f"`beamsteer act {state}`.",
            markup=False,
        )


def _asked(what: What, items: list[str], within: float) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from steering.run import Asked

    document: dict[str, Any] = {"what": what.value}
    wanted = ITEMS.get(what)
    if wanted is None and items:
        raise InputError(f"{what} takes nothing more; got {items[0]!r}. Leave it away.")
    if wanted is not None and (not items or (len(items) > 1 and what is not What.TARGETS)):
        raise InputError(f"{what} got {len(items)} values; expected one: {wanted}.")
    if what in (What.WITHDRAW, What.RESTORE):
        document["chunk"] = items[0]
    elif what is What.BUDGET:
        document["minutes"] = None if items[0] == "file" else _number(items[0], wanted)
    elif what is What.TARGETS:
        document |= _targets(items)
    elif wanted is not None:
        document["psi_deg"] = _number(items[0], wanted)
        document |= {"within_deg": within} if what is What.VETO else {}
    try:
        return TypeAdapter(Asked).validate_python(document)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(
            f"{what}: {fault['loc'][-1]} is {str(fault['input'])[:60]!r}; expected {wanted}: "
            f"{fault['msg']}."
        ) from error


def _targets(items: list[str]) -> dict[str, Any]:
    if items == ["file"]:
        return {}
    single: dict[str, float] = {}
    found: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.rpartition("=")
        if equals:
            single[name] = _number(value, ITEMS[What.TARGETS])
        else:
            found["relative_sigma"] = _number(item, ITEMS[What.TARGETS])
    return found | ({"per_parameter": single} if single else {})


def _number(text: str, wanted: str | None) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"value is {text[:60]!r}; expected {wanted}. Correct it.") from None


def _line(name: str, text: str) -> str:
    from steering.run import LONGEST_NAME, LONGEST_WHY

    longest = LONGEST_NAME if name == "by" else LONGEST_WHY
    if len(text) > longest or not text.isprintable() or not text.strip():
        raise InputError(
            f"--{name} has {len(text)} characters, or some that cannot be printed; expected one "
            f"line of at most {longest}. Shorten it."
        )
    return text.strip()


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise InputError("nobody is named; expected who asks. Give --by NAME.") from None


def _list(found: Any, *, json: bool) -> None:
    logged = found.log.read()
    if json:
        told = [
            one.model_dump(mode="json")
            | {
                "applied_ns": {
                    who: logged.applied_ns(one.number, who) for who in ("consume", "model-server")
                }
            }
            for one in logged.actions
        ]
        orders = logged.orders().model_dump(mode="json")
        terminal.print_json(
            {"run": found.run_id, "version": logged.number, "orders": orders, "actions": told}
        )
        return
    if not logged.actions:
        terminal.out.print(f"{found.run_id}: nobody has asked for anything.", markup=False)
        return
    from steering.run import action_words, wall_time

    now = time.time_ns()
    rows = [
        [
            str(one.number),
            wall_time(one.at_ns, now_ns=now),
            one.by,
            action_words(one.asked),
            one.why,
            _applied(logged, one.number),
        ]
        for one in logged.actions
    ]
    title = f"{found.run_id}: version {logged.number}"
    terminal.table(title, ["number", "when", "who", "what", "why", "applied by"], rows)


def _applied(logged: Any, number: int) -> str:
    names = {"consume": "fold worker", "model-server": "model server"}
    done = [name for who, name in names.items() if logged.applied_ns(number, who) is not None]
    return ", ".join(done) or "asked for"
