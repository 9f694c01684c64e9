"""A client of the API of ``beamsteer serve``: what it answers, as the values of the program."""

from __future__ import annotations

import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from simulations.errors import InputError
from steering.alarms import AlarmAnswer, AlarmList
from steering.report import spectrum_of_npz
from steering.run import Asked, ConflictError, HistoryEntry, RunSnapshot, SpectrumView, Verdict
from steering.web import (
    ActionAnswer,
    ActionList,
    AdviceAnswer,
    EstimateAnswer,
    HistoryAnswer,
    Me,
    RunDetails,
    RunList,
    RunSummary,
    WorkerAnswer,
    WorkerList,
    snapshot_of,
)

Model = TypeVar("Model", bound=BaseModel)

PAGE = 500  # entries of one page
KEPT = 64  # answers, to be told only whether they changed
PASSING = (429, 502, 503, 504)  # asking again later may help
POLL_SECONDS = 1.0  # between two questions after a prediction
SILENT_SECONDS = 60.0  # of a stream of events, until it is lost; the server sends a sign in 15


class Client:
    """The API of one server.

    What did not change is not sent again. Close it, or use it as a context.

    Parameters
    ----------
    url : str
        As ``beamsteer serve`` prints it.
    token : str, optional
        For a server that asks for one; the variable ``BEAMSTEER_TOKEN`` by default.
    timeout_s : float
        For one answer.

    Raises
    ------
    InputError
        From every method: the request cannot be answered, and the message says why.
    ConnectionError
        From every method: the server does not answer, or not now.

    Examples
    --------
    >>> with beamsteer.Client("http://127.0.0.1:8080") as client:  # doctest: +SKIP
    ...     print(client.verdict("ge-demo").stop.word)
    Go on: 12 min
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 20.0) -> None:
        given = token or os.environ.get("BEAMSTEER_TOKEN")
        self._url = url.rstrip("/")
        self._kept: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        try:
            self._http = httpx.Client(
                base_url=self._url + "/v1/",
                headers={} if given is None else {"Authorization": f"Bearer {given}"},
                timeout=timeout_s,
                trust_env=False,  # a proxy of the surroundings knows nothing of this machine
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InputError(
                f"url is {url!r} ({error}); expected one as http://127.0.0.1:8080. Correct it."
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- runs --------------------------------------------------------------------------------

    def runs(self) -> tuple[RunSummary, ...]:
        """Every run, last updated first."""
        return tuple(one for page in self._pages("runs", RunList) for one in page.runs)

    def only(self, run_id: str | None = None) -> str:
        """Name of the one run there is, or the given one.

        Raises
        ------
        InputError
            If there is none, or several and no name.
        """
        if run_id is not None:
            return run_id
        names = [one.run_id for one in self.runs()]
        if len(names) != 1:
            raise InputError(
                f"run_id is missing; expected one of: {', '.join(names) or 'none yet'}. Name one."
            )
        return names[0]

    def run(self, run_id: str) -> RunDetails:
        """One run with chunks, result and history, but without its spectrum."""
        return self._read(f"runs/{_part(run_id)}", RunDetails)

    def spectrum(self, run_id: str) -> SpectrumView:
        """The folded spectrum of a run, arrays to the last bit."""
        return spectrum_of_npz(self._content(f"runs/{_part(run_id)}/spectrum?format=npz"))

    def snapshot(self, run_id: str) -> RunSnapshot:
        """A run with its spectrum, as :func:`beamsteer.open_run` gives it."""
        details = self.run(run_id)
        found = snapshot_of(details, self.spectrum(run_id) if details.has_spectrum else None)
        return replace(found, history=self.history(run_id))  # there in all its digits

    def verdict(self, run_id: str) -> Verdict:
        """What is said of a run now, with its evidence, and how old that is."""
        return self._read(f"runs/{_part(run_id)}/verdict", Verdict)

    def estimate(self, run_id: str) -> EstimateAnswer:
        """Parameters with errors, derived constants, trust with its reasons."""
        return self._read(f"runs/{_part(run_id)}/estimate", EstimateAnswer)

    def history(self, run_id: str) -> tuple[HistoryEntry, ...]:
        """Estimate after every chunk."""
        pages = self._pages(f"runs/{_part(run_id)}/history", HistoryAnswer)
        return tuple(one for page in pages for one in page.history)

    def advice(self, run_id: str) -> AdviceAnswer:
        """Next orientations, best first, and whether to stop."""
        return self._read(f"runs/{_part(run_id)}/advice", AdviceAnswer)

    def events(self, run_id: str | None = None) -> Iterator[RunSummary]:
        """Follow one run, or all: a summary for every new snapshot, until the server ends.

        Raises
        ------
        ConnectionError
            If the server is lost.
        """
        path = "events" if run_id is None else f"runs/{_part(run_id)}/events"
        patience = httpx.Timeout(self._http.timeout.connect, read=SILENT_SECONDS)
        try:
            with self._http.stream("GET", path, timeout=patience) as answer:
                if answer.status_code != 200:
                    answer.read()
                    _refuse(answer)
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield _validated(RunSummary, json.loads(line.removeprefix("data:")))
        except httpx.HTTPError as error:
            raise self._lost(error) from error

    # --- people ------------------------------------------------------------------------------

    def me(self) -> Me:
        """Who asks, and what that may do."""
        return self._read("me", Me)

    def workers(self) -> tuple[WorkerAnswer, ...]:
        """Who works on the live streams."""
        return tuple(self._read("workers", WorkerList).workers)

    def actions(self, run_id: str) -> ActionList:
        """What people asked of a run, the newest first, and what it all comes to."""
        return self._read(f"runs/{_part(run_id)}/actions", ActionList)

    def act(
        self,
        run_id: str,
        asked: Asked | Mapping[str, Any],
        *,
        why: str,
        version: int | None = None,
        by: str | None = None,
    ) -> ActionAnswer:
        """Ask something of a live run; its workers apply it within seconds.

        Parameters
        ----------
        run_id : str
        asked : Asked or mapping
            What: ``{"what": "withdraw", "chunk": "178903"}``, ``{"what": "pin", "psi_deg": 48}``.
        why : str
            In a line; the log keeps it.
        version : int, optional
            Of the log as it was looked at; absent: as it is now.
        by : str, optional
            Who, where nobody is named by a token.

        Raises
        ------
        ConflictError
            If somebody asked for something since that version, or it does not fit the run.
        InputError
            If it makes no sense, or the role may not.

        Examples
        --------
        >>> client.act("ge", {"what": "pin", "psi_deg": 48.0}, why="look again")  # doctest: +SKIP
        """
        seen = self.actions(run_id).version if version is None else version
        plain = asked.model_dump(mode="json") if isinstance(asked, BaseModel) else dict(asked)
        body = {"version": seen, "asked": plain, "why": why, "by": by}
        return _validated(ActionAnswer, self._sent(f"runs/{_part(run_id)}/actions", body))

    def alarms(self) -> tuple[AlarmAnswer, ...]:
        """Alarms that hold or did until a short while ago."""
        return tuple(self._read("alarms", AlarmList).alarms)

    def acknowledge(self, alarm: str, *, note: str = "", by: str | None = None) -> AlarmAnswer:
        """Let people know that somebody knows of an alarm."""
        body = {"note": note, "by": by}
        return _validated(AlarmAnswer, self._sent(f"alarms/{_part(alarm)}/acknowledge", body))

    # --- predictions --------------------------------------------------------------------------

    def predict(self, structure: str, *, timeout_s: float = 600.0, **more: Any) -> dict[str, Any]:
        """Let the server predict spectra of a crystal, and wait for them.

        Parameters
        ----------
        structure : str
            Name of a builtin crystal, or the text of a POSCAR, CIF or phonopy.yaml.
        timeout_s : float
        **more
            Further fields: ``instrument``, ``ei_meV``, ``temperature_K``, ``quantity``, ``route``.

        Returns
        -------
        dict
            As :func:`beamsteer.predict`, with lists for arrays.
        """
        given = {"structure": structure, "time_limit_s": timeout_s, **more}
        body = {name: value for name, value in given.items() if value is not None}
        answer = self._asked("POST", "predict", json=body, timeout=timeout_s + POLL_SECONDS)
        _refuse(answer)
        until = time.monotonic() + timeout_s + POLL_SECONDS
        while answer.status_code == httpx.codes.ACCEPTED:
            job = _part(str(_json(answer.content)["id"]))
            if time.monotonic() > until:
                self._asked("DELETE", f"jobs/{job}")
                raise ConnectionError(
                    f"the prediction took longer than {timeout_s:g} s and was cancelled; expected "
                    "it sooner. Give more timeout_s."
                )
            time.sleep(POLL_SECONDS)
            answer = self._asked("GET", f"jobs/{job}/result")
            if answer.status_code == httpx.codes.CONFLICT:  # it has not ended
                answer = httpx.Response(httpx.codes.ACCEPTED, json={"id": job})
            _refuse(answer)
        return _json(answer.content)

    # --- answers -----------------------------------------------------------------------------

    def _pages(self, path: str, model: type[Model]) -> Iterator[Model]:
        following: str | None = f"{path}?limit={PAGE}"
        while following is not None:
            page = self._read(following, model)
            yield page
            after = getattr(page, "next", None)
            following = None if after is None else after.removeprefix("/v1/")

    def _read(self, path: str, model: type[Model]) -> Model:
        return _validated(model, _json(self._content(path)))

    def _content(self, path: str) -> bytes:
        kept = self._kept.pop(path, None)
        headers = {} if kept is None else {"If-None-Match": kept[0]}
        answer = self._asked("GET", path, headers=headers)
        if kept is not None and answer.status_code == 304:
            self._kept[path] = kept
            return kept[1]
        _refuse(answer)
        tag = answer.headers.get("etag")
        if tag is not None:
            self._kept[path] = (tag, answer.content)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return answer.content

    def _sent(self, path: str, body: Mapping[str, Any], **options: Any) -> Any:
        given = {name: value for name, value in body.items() if value is not None}
        answer = self._asked("POST", path, json=given, **options)
        _refuse(answer)
        return _json(answer.content)

    def _asked(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.UnsupportedProtocol as error:
            raise InputError(
                f"url is {self._url!r}; expected one as http://127.0.0.1:8080. Correct it."
            ) from error
        except httpx.HTTPError as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"{self._url} does not answer ({error or type(error).__name__}); expected `beamsteer "
            "serve` there. Start it, or correct the address."
        )


def _part(text: str) -> str:
    """A name as one part of a path."""
    return quote(text, safe="")


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(
            f"the answer is no JSON ({error}); expected a server of Beamsteer. Correct the address."
        ) from error


def _refuse(answer: httpx.Response) -> None:
    """Raise for an answer that is a problem."""
    if answer.is_success:
        return
    told = _json(answer.content) if "json" in answer.headers.get("content-type", "") else {}
    detail = str(told.get("detail") or f"the server answered {answer.status_code}.")
    if answer.status_code == 409:
        raise ConflictError(detail)
    if answer.status_code in PASSING:
        raise ConnectionError(detail)
    if answer.status_code >= 500:
        raise RuntimeError(detail)
    raise InputError(detail)


def _validated(model: type[Model], plain: Any) -> Model:
    """An answer as its model; a figure that was not finite came as null, and is NaN again.

    What a newer server says beside it is left out.
    """
    adapter = TypeAdapter(model)
    try:
        return adapter.validate_python(plain, extra="ignore")
    except ValidationError as error:
        unknown = [one for one in error.errors() if one["type"] == "float_type"]
        nulls = [one["loc"] for one in unknown if one["input"] is None]
        if len(nulls) < error.error_count():
            raise InputError(
                f"the answer is no {model.__name__} ({error}); expected a server of this version. "
                "Ask with the version of Beamsteer that serves."
            ) from error
        for place in nulls:
            _set_nan(plain, place)
        return adapter.validate_python(plain, extra="ignore")


def _set_nan(plain: Any, place: tuple[int | str, ...]) -> None:
    for part in place[:-1]:
        plain = plain[part]
    plain[place[-1]] = math.nan
