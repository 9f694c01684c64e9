"""Tokens of a facility: an issuer on loopback with keys of its own, and whoever imitates it."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from steering.web.openid import AGAIN_SECONDS, OpenId, OpenIdSection

KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in "ab"}
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


class Issuer:
    """Publishes what an issuer does, on loopback; counts how often it is asked."""

    def __init__(self) -> None:
        issuer = self
        self.asked: list[str] = []
        self.published = ["a"]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                told = issuer.answer(self.path)
                body = json.dumps(told).encode()
                self.send_response(200 if told else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> dict[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        keys = [
            RSAAlgorithm.to_jwk(KEYS[name].public_key(), as_dict=True)
            | {"kid": name, "use": "sig", "alg": "RS256"}
            for name in self.published
        ]
        curve = ECAlgorithm.to_jwk(CURVE.public_key(), as_dict=True) | {"kid": "c", "use": "sig"}
        return {"keys": [*keys, curve]} if path == "/keys" else {}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def issuer():
    found = Issuer()
    yield found
    found.close()


def section(issuer: Issuer, **changes) -> OpenIdSection:
    document = {
        "issuer": issuer.url,
        "audience": "beamsteer",
        "role_claim": "realm.groups",
        "roles": {"viewer": ["users"], "operator": ["bl17"], "admin": ["scientists"]},
    }
    return OpenIdSection.model_validate(document | changes)


def claims(issuer: Issuer, **changes) -> dict[str, Any]:
    return {
        "iss": issuer.url,
        "aud": "beamsteer",
        "exp": int(time.time()) + 300,
        "sub": "f:1234",
        "preferred_username": "ada",
        "realm": {"groups": ["users", "bl17"]},
    } | changes


def signed(told: dict[str, Any], key: Any = KEYS["a"], kid: str = "a", alg: str = "RS256") -> str:
    return jwt.encode(
        {name: value for name, value in told.items() if value is not None},
        key, algorithm=alg, headers={"kid": kid},
    )  # fmt: skip


def test_a_token_of_the_facility_says_who_and_the_highest_role(issuer):
    known = OpenId(section(issuer))
    assert known.who(signed(claims(issuer))) == ("ada", "operator")
    both = claims(issuer, realm={"groups": ["users", "scientists", "other"]})
    assert known.who(signed(both)) == ("ada", "admin")
    assert known.who(signed(claims(issuer, realm={"groups": "users"}))) == ("ada", "viewer")
    assert known.who(signed(claims(issuer, preferred_username=None))) == ("f:1234", "operator")
    assert known.who(signed(claims(issuer, aud=["x", "beamsteer"]))) == ("ada", "operator")
    assert known.who(signed(claims(issuer), CURVE, "c", "ES256")) == ("ada", "operator")
    assert len(issuer.asked) == 2  # where the keys are, and the keys


def unsigned(issuer: Issuer) -> str:
    header = b'{"alg":"none","kid":"a"}'
    return f"{_coded(header)}.{_coded(json.dumps(claims(issuer)).encode())}."


def confused(issuer: Issuer) -> str:
    """Signed with the public key as if it were a secret that two share."""
    key = KEYS["a"].public_key()
    public = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [json.dumps({"alg": "HS256", "kid": "a"}), json.dumps(claims(issuer))]
    told = ".".join(_coded(part.encode()) for part in parts)
    return f"{told}.{_coded(hmac.digest(public, told.encode(), 'sha256'))}"


def _coded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "forged",
    [
        lambda i: signed(claims(i, iss="https://evil.example")),
        lambda i: signed(claims(i, aud="another-service")),
        lambda i: signed(claims(i, aud=None)),
        lambda i: signed(claims(i, exp=int(time.time()) - 60)),
        lambda i: signed(claims(i, exp=None)),
        lambda i: signed(claims(i, nbf=int(time.time()) + 600)),
        lambda i: signed(claims(i), STRANGER),
        lambda i: signed(claims(i), STRANGER, "unknown"),
        lambda i: signed(claims(i), alg="RS512"),  # not of the list
        lambda i: signed(claims(i))[:-4] + "AAAA",
        lambda i: signed(claims(i, realm={"groups": ["strangers"]})),
        lambda i: signed(claims(i, realm=None)),
        lambda i: signed(claims(i, realm={"groups": {"bl17": True}})),
        unsigned,
        confused,
        lambda _: "a.b.c",
        lambda _: "..",
        lambda _: "x" * 20_000,
    ],
)
def test_whoever_imitates_the_facility_is_nobody(issuer, forged):
    assert OpenId(section(issuer)).who(forged(issuer)) is None


def test_keys_that_change_are_found_and_made_up_ones_are_not_asked_for_again_and_again(issuer):
    clock = [0.0]
    known = OpenId(section(issuer), monotonic=lambda: clock[0])
    assert known.who(signed(claims(issuer))) is not None
    issuer.published = ["a", "b"]
    clock[0] += AGAIN_SECONDS + 1
    assert known.who(signed(claims(issuer), KEYS["b"], "b")) == ("ada", "operator")
    asked = len(issuer.asked)
    for i in range(50):
        assert known.who(signed(claims(issuer), STRANGER, f"made-up-{i}")) is None
    assert len(issuer.asked) <= asked + 1
    assert known.who(signed(claims(issuer))) is not None


def test_an_issuer_that_is_away_lets_nobody_in_and_is_asked_again(issuer):
    clock = [0.0]
    known = OpenId(section(issuer, jwks_url=None), monotonic=lambda: clock[0])
    url, issuer.url = issuer.url, "http://other.example"
    token = signed(claims(issuer) | {"iss": url})
    assert known.who(token) is None  # it calls itself by another name
    issuer.url = url
    assert known.who(token) is None  # asked a moment ago
    clock[0] += AGAIN_SECONDS + 1
    assert known.who(token) is not None
