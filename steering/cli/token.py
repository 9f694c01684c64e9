"""``beamsteer token``: a token for a named person, whose hash goes into the file of people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


class RoleName(StrEnum):
    """What somebody may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer token 'Ada Lovelace' --role operator --people people.yaml"
    )(token)


def token(
    name: Annotated[str, typer.Argument(help="Who it is for; the log of actions names them so.")],
    role: Annotated[
        RoleName,
        typer.Option(
            help="viewer reads, operator acts on runs and alarms, admin also closes and reopens."
        ),
    ] = RoleName.VIEWER,
    people: Annotated[
        Path | None,
        typer.Option(
            envvar="BEAMSTEER_PEOPLE",
            help="File of people to add them to, made where there is none.",
            show_envvar=True,
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=0, max=3650, help="Days that it is taken for; no end if absent."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Make a token for a named person and add its hash to the file of people.

    The token is printed once and kept nowhere. A server that runs with `--people` takes it within a
    second; whoever is struck out of the file is out as quickly.
    """
    from steering.web import add_person

    if people is None:
        raise InputError(
            "--people is missing; expected the file of people. Give --people FILE, or set "
            "BEAMSTEER_PEOPLE."
        )
    until = None if days is None else datetime.now(UTC).date() + timedelta(days=days)
    made = add_person(people, name=name, role=role.value, until=until)
    if json:
        terminal.print_json(
            {"name": name, "role": role.value, "token": made, "until": until and str(until)}
        )
        return
    terminal.say(f"{name} is in {people} as {role.value}. Their token, shown this once:")
    terminal.out.print(made, markup=False)
