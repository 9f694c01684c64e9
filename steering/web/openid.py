"""The facility's OpenID Connect: its tokens (JWT) are verified, nothing is stored.

Issuer, audience, expiry and signature are checked by PyJWT against the keys that the issuer
publishes. Only algorithms with a public key are taken: what everybody can read cannot sign.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, Field

from simulations.section import Section, Text, expected
from steering.run import LONGEST_NAME, ROLES, Role

if TYPE_CHECKING:
    from jwt import PyJWKClient

log = structlog.get_logger()

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "ES256", "ES384", "EdDSA"]
ASK_SECONDS = 5.0  # of patience with the issuer
KEYS_SECONDS = 300.0  # for which its keys are kept
AGAIN_SECONDS = 10.0  # between two questions for keys that are not there
LONGEST_TOKEN = 16_000


def _url(value: str) -> str:
    parts = urlsplit(value)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise expected("an https URL. Without TLS anybody could say who is who.")
    return value


Url = Annotated[Text, AfterValidator(_url)]


class OpenIdSection(Section):
    """How the facility says who is who, and what that means here."""

    issuer: Url
    audience: Text = Field(description="what tokens for this service name as theirs")
    jwks_url: Url | None = Field(
        default=None, description="where the keys are; what the issuer says by default"
    )
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    name_claim: Text = "preferred_username"
    role_claim: Text = Field(default="groups", description="dots lead into objects")
    roles: dict[Role, tuple[Text, ...]] = Field(
        description="for each role the values of the claim that give it; the highest counts"
    )
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 30.0


class OpenId:
    """Verifies tokens of one issuer; may be called from several threads.

    Parameters
    ----------
    section : OpenIdSection
    monotonic : callable
        Clock in seconds.
    """

    def __init__(
        self, section: OpenIdSection, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.section = section
        self._monotonic = monotonic
        self._client: PyJWKClient | None = None
        self._asked_s: float | None = None
        self._asking = threading.Lock()

    def who(self, token: str) -> tuple[str, Role] | None:
        """Name and role of whom a token is of; None: it is none of ours, or gives no role."""
        import jwt

        section = self.section
        if len(token) > LONGEST_TOKEN:
            return None
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in section.algorithms:
                raise jwt.InvalidAlgorithmError(f"algorithm is {header.get('alg')!r}")
            key = self._key(str(header.get("kid", "")))
            if key is None:
                raise jwt.InvalidTokenError("no key of the issuer signs it")
            claims = jwt.decode(
                token,
                key,
                algorithms=list(section.algorithms),
                audience=section.audience,
                issuer=section.issuer,
                leeway=section.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OSError) as error:
            log.info("openid_token_refused", reason=str(error)[:200])
            return None
        name, role = _name(claims, section), _role(claims, section)
        if name is None or role is None:
            missing = section.name_claim if name is None else section.role_claim
            log.info("openid_without_role", claim=missing)
            return None
        return name, role

    def _key(self, kid: str) -> Any:
        """The public key of a name, asked for at the issuer where it is not known."""
        from jwt import PyJWKClient, PyJWKSetError

        with self._asking:
            client = self._client
            if client is None:
                self._refuse_haste()
                url = self.section.jwks_url or self._discovered()
                client = PyJWKClient(url, lifespan=KEYS_SECONDS, timeout=ASK_SECONDS)
                self._client = client
            for refresh in (False, True):
                if refresh:
                    self._refuse_haste()
                try:
                    keys = client.get_signing_keys(refresh=refresh)
                except PyJWKSetError:
                    continue
                mine = [one for one in keys if one.key_id == kid or (not kid and len(keys) == 1)]
                if mine:
                    return mine[0].key
        return None

    def _refuse_haste(self) -> None:
        """Do not ask the issuer for every token that somebody makes up."""
        now = self._monotonic()
        if self._asked_s is not None and now - self._asked_s < AGAIN_SECONDS:
            raise ValueError("the issuer was asked for its keys a moment ago")
        self._asked_s = now

    def _discovered(self) -> str:
        url = self.section.issuer.rstrip("/") + "/.well-known/openid-configuration"
        with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:  # noqa: S310  https
            told = json.loads(answer.read(1_000_000))
        if told.get("issuer") != self.section.issuer:
            raise ValueError(f"the issuer calls itself {told.get('issuer')!r}")
        return _url(str(told["jwks_uri"]))


def _claim(claims: Any, dotted: str) -> Any:
    if isinstance(claims, dict) and dotted in claims:  # names of claims may hold dots
        return claims[dotted]
    for part in dotted.split("."):
        if not isinstance(claims, dict):
            return None
        claims = claims.get(part)
    return claims


def _name(claims: dict[str, Any], section: OpenIdSection) -> str | None:
    for claim in (section.name_claim, "sub"):
        name = _claim(claims, claim)
        if isinstance(name, str) and name.strip() and name.isprintable():
            return name.strip()[:LONGEST_NAME]
    return None


def _role(claims: dict[str, Any], section: OpenIdSection) -> Role | None:
    told = _claim(claims, section.role_claim)
    several = told if isinstance(told, list) else [told]
    values = {value for value in several if isinstance(value, str)}
    given: list[Role] = [role for role in ROLES if values & set(section.roles.get(role, ()))]
    return given[-1] if given else None
