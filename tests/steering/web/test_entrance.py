"""The door over real sockets: who is shown what, and what a role may not do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml
from structlog.testing import capture_logs

from steering.web import People, add_person, create_app, serving
from steering.web.entrance import COOKIE
from tests.steering.fabricated import store
from tests.steering.web.test_acting import live_state
from tests.steering.web.test_openid import STRANGER, claims, issuer, signed

__all__ = ["issuer"]

HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def door(tmp_path):
    path = tmp_path / "people.yaml"
    tokens = {
        role: add_person(path, name=role.title(), role=role)  # type: ignore[arg-type]
        for role in ("viewer", "operator", "admin")
    }
    with serving(create_app(store(), people=People(path=path))) as url:
        yield url, tokens


def log_in(url: str, token: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}login", data={"token": token}, headers=headers or HTML, timeout=30)


def test_a_browser_is_shown_where_to_log_in_and_a_program_is_told_in_json(door):
    url, tokens = door
    page = httpx.get(url, headers=HTML)
    assert (page.status_code, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert 'action="/login"' in page.text
    assert page.headers["cache-control"] == "no-store"
    told = httpx.get(f"{url}runs")
    assert told.status_code == 401
    assert told.headers["www-authenticate"] == "Bearer"
    assert "log in at /login" in told.json()["detail"]
    moved = log_in(url, tokens["viewer"])
    assert (moved.status_code, moved.headers["location"]) == (303, "/")
    cookie = moved.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/"))
    assert "secure" not in cookie
    with httpx.Client(base_url=url, cookies={COOKIE: tokens["viewer"]}) as client:
        assert client.get("/runs").status_code == 200
        assert client.get("/me").json()["name"] == "Viewer"
        gone = client.post("/logout")
        assert gone.status_code == 303
        assert 'beamsteer_token=""' in gone.headers["set-cookie"]
        assert client.get("/logout").status_code == 405  # no picture logs anybody out
    assert httpx.get(f"{url}health").status_code == 200
    assert httpx.get(f"{url}assets/main.js").status_code == 401
    assert httpx.get(f"{url}assets/favicon.svg").status_code == 200


def test_by_tls_the_cookie_is_for_tls_alone(door):
    url, tokens = door
    moved = log_in(url, tokens["viewer"], **{"X-Forwarded-Proto": "https"})
    assert "secure" in moved.headers["set-cookie"].lower()


def test_a_form_of_another_site_logs_nobody_in(door):
    url, tokens = door
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = log_in(url, tokens["admin"], **headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_a_wrong_token_is_told_slowed_and_refused_and_who_is_in_stays_in(door):
    url, tokens = door
    viewer = {"Authorization": f"Bearer {tokens['viewer']}"}
    assert httpx.get(f"{url}runs", headers=viewer).status_code == 200
    with capture_logs() as logs:
        answers = [log_in(url, f"guess-{i}") for i in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert "not known" in answers[0].text
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert "Wait" in answers[-1].text
    assert "guess" not in str(logs) + answers[0].text
    began = time.monotonic()
    assert httpx.get(f"{url}runs", headers=viewer).status_code == 200  # at once
    assert time.monotonic() - began < 1
    late = httpx.get(f"{url}runs", headers={"Authorization": f"Bearer {tokens['admin']}"})
    assert late.status_code == 429  # whoever comes in anew waits, so guessing gains nothing
    time.sleep(int(answers[-1].headers["retry-after"]) + 0.2)
    again = httpx.get(f"{url}runs", headers={"Authorization": f"Bearer {tokens['admin']}"})
    assert again.status_code == 200


def test_guesses_at_once_are_looked_at_as_slowly(door):
    url, tokens = door
    right = {"Authorization": f"Bearer {tokens['operator']}"}

    def guess(i: int) -> int:
        headers = right if i == 30 else {"Authorization": f"Bearer guess-{i}"}
        return httpx.get(f"{url}runs", headers=headers, timeout=30).status_code

    with capture_logs() as logs, ThreadPoolExecutor(12) as beside:
        answers = list(beside.map(guess, range(60)))
    looked = [log for log in logs if log["event"] == "token_refused"]
    assert len(looked) <= 8
    assert answers[30] == 429  # right, and not even looked at
    assert answers.count(429) >= 50


def test_a_viewer_may_change_nothing_whatever_the_path(door):
    url, tokens = door
    paths = ("runs/ge-demo/actions", "alarms/1a2b3c4d/acknowledge", "runs", "", "nowhere")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in paths:
            headers = {"Authorization": f"Bearer {tokens['viewer']}"}
            answer = httpx.request(method, f"{url}{path}", headers=headers, json={})
            assert answer.status_code == 403, (method, path)
            assert "expected operator or admin" in answer.json()["detail"]
    assert httpx.post(f"{url}predict", headers=headers, json={}).status_code == 503  # it may ask


def test_a_name_that_is_not_ours_is_refused_where_names_are_given(tmp_path):
    path = tmp_path / "people.yaml"
    token = add_person(path, name="Ada", role="admin")
    app = create_app(store(), people=People(path=path), names=("beamline.example",))
    allowed = {"Authorization": f"Bearer {token}"}
    with serving(app) as url:
        for host, status in (
            ("beamline.example", 200),
            ("BEAMLINE.example:443", 200),
            ("127.0.0.1", 200),
            ("rebound.example", 421),
            ("beamline.example.evil.example", 421),
            ("beamline.example@evil.example", 421),
            ("", 421),
        ):
            answer = httpx.get(f"{url}runs", headers=allowed | {"Host": host})
            assert answer.status_code == status, host


def test_where_no_token_is_asked_for_there_is_nothing_to_log_in_to():
    with serving(create_app(store())) as url:
        assert httpx.get(f"{url}login").headers["location"] == "/"
        assert httpx.get(f"{url}me").json() == {
            "name": "local", "role": "admin", "named": False, "login": False,
            "may": httpx.get(f"{url}me").json()["may"],
        }  # fmt: skip


def test_a_token_of_the_facility_lets_in_and_acts_under_its_own_name(tmp_path, issuer):
    path = tmp_path / "people.yaml"
    section = {
        "issuer": issuer.url,
        "audience": "beamsteer",
        "role_claim": "realm.groups",
        "roles": {"operator": ["bl17"]},
    }
    path.write_text(yaml.safe_dump({"openid": section}))
    live_state(tmp_path / "state")
    app = create_app(store(), people=People(path=path), folders=[tmp_path])
    with serving(app) as url:
        shown = {"Authorization": f"Bearer {signed(claims(issuer))}"}
        asked = {"version": 0, "why": "a gap", "asked": {"what": "pin", "psi_deg": 33.0}}
        told = httpx.post(f"{url}runs/ge-demo/actions", json=asked, headers=shown).json()
        assert (told["by"], told["role"]) == ("ada", "operator")
        forged = {"Authorization": f"Bearer {signed(claims(issuer), STRANGER)}"}
        assert httpx.get(f"{url}runs", headers=forged).status_code == 401
        moved = log_in(url, signed(claims(issuer)))
        assert moved.status_code == 303
        with httpx.Client(base_url=url, cookies={COOKIE: moved.cookies[COOKIE]}) as client:
            assert client.get("/me").json()["name"] == "ada"
