"""Tokens for OAUTHBEARER: given ones, or fetched with a client's id and secret (RFC 6749, 4.4)."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Callable
from urllib.parse import quote, urlencode

from kafka.net.sasl.oauth import AbstractTokenProvider

ANSWER_S = 10.0
LARGEST_ANSWER = 2**20  # bytes
RENEWED_AT = 0.8  # of a token's life


class GivenToken(AbstractTokenProvider):
    """A token that somebody else fetched."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def token(self) -> str:
        """The token."""
        return self._token


class FetchedToken(AbstractTokenProvider):
    """Fetches tokens, and a new one before the old one ends.

    Parameters
    ----------
    url : str
        Token endpoint.
    client, secret : str
        Who asks.
    scope : str, optional
        What for.
    clock : callable
        Monotonic seconds.

    Raises
    ------
    ConnectionError
        If the endpoint gives none; here and from ``token``.
    """

    def __init__(
        self,
        url: str,
        client: str,
        secret: str,
        *,
        scope: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._url, self._scope, self._clock = url, scope, clock
        pair = f"{quote(client, safe='')}:{quote(secret, safe='')}".encode()
        self._login = base64.b64encode(pair).decode("ascii")
        self._token, self._renew_at = "", 0.0
        self.token()

    def token(self) -> str:
        """One that has not expired."""
        if not self._token or self._clock() >= self._renew_at:
            self._fetch()
        return self._token

    def _fetch(self) -> None:
        asked = {"grant_type": "client_credentials"}
        if self._scope is not None:
            asked["scope"] = self._scope
        request = urllib.request.Request(  # noqa: S310 - the settings allow https, http on loopback
            self._url,
            data=urlencode(asked).encode("ascii"),
            headers={"Authorization": f"Basic {self._login}", "Accept": "application/json"},
        )
        began = self._clock()
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
                told = json.loads(answer.read(LARGEST_ANSWER))
            token, life_s = told["access_token"], float(told.get("expires_in", 300))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConnectionError(
                f"kafka.token_url is {self._url}, which gives no token ({error}); expected JSON "
                "with access_token for kafka.user and the secret of kafka.password_variable. "
                "Correct them, or ask who runs it."
            ) from error
        self._token, self._renew_at = str(token), began + RENEWED_AT * life_s
