"""Named people: who may do what, from a file of hashed tokens, or by the facility's OpenID.

The file is YAML::

    people:
      - {name: Ada Lovelace, role: admin, token: "sha256:9f86...", until: 2027-01-31}
    openid:
      issuer: https://login.facility.example
      audience: beamsteer
      role_claim: groups
      roles: {operator: [beamline-17], admin: [instrument-scientists]}

`beamsteer token` makes tokens of 256 random bits, so their hash tells nothing and needs no salt.
The file is read again when it changes: who is struck out is out within a second.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import structlog
import yaml
from pydantic import AfterValidator, Field, ValidationError

from simulations.errors import InputError
from simulations.section import Section, expected
from steering.run import PersonName, Role
from steering.web.openid import OpenId, OpenIdSection

log = structlog.get_logger()

VARIABLE = "BEAMSTEER_PEOPLE"
PREFIX = "bst_"  # so that programs that look for secrets know one
LARGEST_BYTES = 1_000_000
LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Somebody:
    """Who asks."""

    name: str
    role: Role
    named: bool = True  # false: whoever has the one token, or sits at this machine

    @property
    def acts(self) -> bool:
        """Whether this is somebody who may change something."""
        return self.role != "viewer"


LOCAL = Somebody(name="local", role="admin", named=False)
BY_TOKEN = Somebody(name="token", role="admin", named=False)


def _digest(value: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise expected('"sha256:" and 64 hexadecimal digits, as `beamsteer token` prints it.')
    return value


class PersonEntry(Section):
    """A token of a person; one may have several."""

    name: PersonName
    role: Role
    token: Annotated[str, AfterValidator(_digest)] = Field(repr=False)
    until: date | None = Field(default=None, description="last day on which it is taken, UTC")


class PeopleSection(Section):
    """The file."""

    people: tuple[PersonEntry, ...] = ()
    openid: OpenIdSection | None = None


def hashed(token: str) -> str:
    """A token as the file holds it."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def new_token() -> str:
    """A token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def read_people(path: Path) -> PeopleSection:
    """Read a file of people.

    Raises
    ------
    InputError
        If it is missing, others than its owner may write it, or it holds something else.
    """
    try:
        told = path.stat()
        if not stat.S_ISREG(told.st_mode) and not stat.S_ISDIR(told.st_mode):
            raise InputError(  # a pipe that nobody feeds would be waited for
                f"{path}: is no plain file; expected a file of people. Correct the path."
            )
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a file of people. Make one with "
            "`beamsteer token NAME --role operator --people FILE`."
        ) from error
    if told.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        raise InputError(
            f"{path}: may be written by others than its owner; expected that they may not. Run: "
            f"chmod 600 {path}"
        )
    if len(content) > LARGEST_BYTES:
        raise InputError(f"{path}: is too large; expected at most {LARGEST_BYTES} bytes.")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: is no YAML; expected people with tokens. Mend it.") from error
    try:
        found = PeopleSection.model_validate({} if document is None else document)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise InputError(
            f"{path}: {'; '.join(faults[:5])}; expected people, each with name, role and token."
        ) from error
    tokens = [one.token for one in found.people]
    if len(set(tokens)) < len(tokens):
        twice = next(one.name for one in found.people if tokens.count(one.token) > 1)
        raise InputError(f"{path}: a token of {twice} comes twice; expected each once. Strike one.")
    return found


def add_person(path: Path, *, name: str, role: Role, until: date | None = None) -> str:
    """Add a person with a new token to a file, which is made where there is none.

    Returns
    -------
    str
        The token; it is nowhere else.

    Raises
    ------
    InputError
        As :func:`read_people`, or if the name is no line of text.
    OSError
        If the file cannot be written.
    """
    token = new_token()
    try:
        entry = PersonEntry(name=name, role=role, token=hashed(token), until=until)
    except ValidationError as error:
        raise InputError(
            f"name is {name[:100]!r}; expected one line of at most 80 characters."
        ) from error
    there = path.exists()
    known = read_people(path) if there else PeopleSection()
    if there and not known.people and path.read_text(encoding="utf-8").strip():
        raise InputError(
            f"{path}: has no list of people to add to; expected one at its end. Add `people: []` "
            "to it by hand, or name another file."
        )
    document = known.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    document["people"] = [
        one.model_dump(mode="json", exclude_none=True) for one in (*known.people, entry)
    ]
    partial = path.with_name(f".{path.name}.partial")
    partial.touch(mode=0o600)
    try:
        partial.write_text(
            yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        if there:
            partial.chmod(stat.S_IMODE(path.stat().st_mode))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return token


class People:
    """Who a token belongs to.

    Parameters
    ----------
    token : str, optional
        The one token of before there were people: whoever has it is an admin named ``token``.
    path : Path, optional
        A file of people.
    today : callable
        The day, UTC.
    monotonic : callable
        Clock in seconds.

    Raises
    ------
    InputError
        As :func:`read_people`.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        path: Path | None = None,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token, self._path, self._today = token, path, today
        self._monotonic = monotonic
        self._looked_s = -math.inf
        self._mark: tuple[int, int, int] | None = None
        self._known: dict[str, PersonEntry] = {}
        self._openid: OpenId | None = None
        self._looking = threading.Lock()
        if path is not None:
            self._take(read_people(path))
            self._mark = self._mark_now()
            self._looked_s = monotonic()

    @property
    def guards(self) -> bool:
        """Whether a token is asked for at all."""
        return self._token is not None or self._path is not None

    @property
    def openid(self) -> bool:
        """Whether the facility's tokens are taken."""
        return self._openid is not None

    def who(self, token: str) -> Somebody | None:
        """Whose token it is; None: nobody's. May wait for the facility's keys."""
        self._look()
        if self._token is not None and secrets.compare_digest(token.encode(), self._token.encode()):
            return BY_TOKEN
        entry = self._known.get(hashed(token))
        if entry is not None:
            if entry.until is not None and self._today() > entry.until:
                return None
            return Somebody(name=entry.name, role=entry.role)
        if self._openid is not None and token.count(".") == 2:
            found = self._openid.who(token)
            return None if found is None else Somebody(name=found[0], role=found[1])
        return None

    def _take(self, section: PeopleSection) -> None:
        self._known = {one.token: one for one in section.people}
        if section.openid is None:
            self._openid = None
        elif self._openid is None or self._openid.section != section.openid:
            self._openid = OpenId(section.openid)

    def _mark_now(self) -> tuple[int, int, int] | None:
        try:
            told = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return None if told is None else (told.st_mtime_ns, told.st_size, told.st_ino)

    def _look(self) -> None:
        """Read the file again if it changed; a bad one leaves who is known, and is told."""
        if self._path is None or self._monotonic() - self._looked_s < LOOK_SECONDS:
            return
        with self._looking:
            self._looked_s = self._monotonic()
            mark = self._mark_now()
            if mark == self._mark:
                return
            self._mark = mark
            try:
                self._take(read_people(self._path))
                log.info("people_read", people=len(self._known))
            except InputError as error:
                log.error("people_refused", reason=str(error))
