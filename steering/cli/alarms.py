"""``beamsteer alarms``: what is wrong or done in a live run, who knows of it, and who is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer alarms build/state --acknowledge 1a2b3c4d --by Ada")(
        alarms
    )


def alarms(
    state: Annotated[Path, typer.Argument(help="State folder of a live run.")],
    acknowledge: Annotated[
        str | None, typer.Option(help="Id of an alarm that somebody knows of.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who knows of it.")] = "",
    note: Annotated[str, typer.Option(help="What they say.")] = "",
    test: Annotated[
        bool, typer.Option("--test", help="Send a test message to every receiver, and end.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Evaluate and send until interrupted, without a page."),
    ] = False,
    log: terminal.Log = terminal.LogKind.TEXT,
    json: terminal.Json = False,
) -> None:
    """List the alarms of a live run, acknowledge one, or test who is told.

    `beamsteer serve` evaluates and sends them. Where they go is a secret: URLs of apprise in the
    file that `alarms.urls_file` of the experiment names, or in BEAMSTEER_ALARM_URLS, each line a
    name and a URL. With --test: 2 if a receiver does not take the message.
    """
    from steering.alarms import AlarmFolder, Watch, watching
    from steering.run import live_states

    if state not in live_states([state]):
        raise InputError(
            f"{state}: is no state folder of a live run; expected one that `beamsteer consume` "
            "writes. Correct the path."
        )
    if sum((acknowledge is not None, test, watch)) > 1:
        raise InputError(
            "expected one of --acknowledge, --test and --watch. Leave the others away."
        )
    if test:
        _tell_test(Watch(state).test(), json=json)
        return
    if watch:
        from steering.cli._interruption import asked_to_stop

        terminal.log_to_stderr(log)
        with asked_to_stop() as asked, watching([state]):
            terminal.say(f"Watching over {state}. Stop with Ctrl-C.")
            asked.wait()
        return
    folder = AlarmFolder(state)
    if acknowledge is not None:
        if not by:
            raise InputError("--by is missing; expected who acknowledges. Add a name.")
        folder.acknowledge(acknowledge, by=by, note=note, at_ns=time.time_ns())
    _tell(folder.alarms(), json=json)


def _tell_test(told: dict[str, str | None], *, json: bool) -> None:
    if json:
        terminal.print_json({"receivers": [{"name": n, "fault": f} for n, f in told.items()]})
    else:
        for name, fault in told.items():
            terminal.out.print(f"{name}: {'taken' if fault is None else f'NOT TAKEN: {fault}'}")
    if not told:
        raise InputError(
            "nobody is told; expected receivers. Set BEAMSTEER_ALARM_URLS='NAME URL', or name a "
            "file of such lines in alarms.urls_file of the experiment."
        )
    if any(told.values()):
        raise InputError("a receiver did not take the test message; see above.")


def _tell(found: tuple[Any, ...], *, json: bool) -> None:
    if json:
        terminal.print_json({"alarms": [one.model_dump(mode="json") for one in found]})
        return
    if not found:
        terminal.out.print("No alarms.")
        return
    rows = [
        [
            one.id,
            f"{one.kind} ({one.subject})",
            _clock(one.since_ns),
            "holds" if one.over_ns is None else f"over since {_clock(one.over_ns)}",
            _known(one.acknowledged),
        ]
        for one in found
    ]
    terminal.table("Alarms", ["id", "what", "since", "now", "known to"], rows)
    for one in found:
        if one.over_ns is None:
            terminal.out.print(f"{one.id}: {one.text}", markup=False)


def _known(known: Any) -> str:
    if known is None:
        return "nobody"
    return f"{known.by}, {_clock(known.at_ns)}" + (f": {known.note}" if known.note else "")


def _clock(at_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(at_ns / 1e9))
