from __future__ import annotations

import logging

import pytest

from simulations.errors import InputError
from steering.alarms.sending import check_receiver, send
from steering.alarms.urls_file import Receiver, receivers_of, scrubbed
from tests.steering.alarms.receivers import mail_server, webhook

SECRET = "hunter22xyz"  # noqa: S105  of nobody


def test_a_webhook_gets_title_and_text():
    with webhook() as hook:
        receiver = Receiver(name="hook", url=hook.url())
        assert send(receiver, "Beamsteer stop (night)", "first\nsecond") is None
    (message,) = hook.messages
    assert (message["title"], message["message"]) == ("Beamsteer stop (night)", "first\nsecond")


def test_a_mail_is_taken_by_a_mail_server():
    with mail_server() as (port, mails):
        url = f"mailto://127.0.0.1:{port}/?from=beamsteer@example.org&to=night@example.org&mode=insecure"
        assert (
            send(Receiver(name="mail", url=url), "Beamsteer stop (night)", "Turn to 62\u00b0")
            is None
        )
    (mail,) = mails
    assert mail["To"] == "night@example.org"
    assert "Beamsteer stop (night)" in mail["Subject"]
    parts = [p for p in mail.walk() if p.get_content_type() == "text/plain"]
    payload = parts[0].get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert "Turn to 62\u00b0" in payload.decode()


@pytest.mark.parametrize(
    "url",
    [
        "json://user:{secret}@127.0.0.1:{port}/{secret}",
        "json://user:{secret}@127.0.0.1:1/{secret}",
        "json://{secret}.invalid/{secret}?+X-Key={secret}",
        "mailto://user:{secret}@localhost.org?smtp=127.0.0.1&mode=insecure",
        "slack://{secret}",
        "nosuch://{secret}",
        "matrix://user:{secret}@127.0.0.1:1/#room",
    ],
)
def test_why_a_message_was_not_taken_holds_no_secret(url, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with webhook() as hook:
        hook.status = 500
        receiver = Receiver(name="night", url=url.format(secret=SECRET, port=hook.port))
        fault = send(receiver, "title", "body")
        assert fault
        try:
            check_receiver(receiver)
        except InputError as error:
            fault += str(error)
    shown = capfd.readouterr()
    assert SECRET not in fault + caplog.text + shown.out + shown.err + repr(receiver)


def test_a_reason_says_what_the_receiver_answered():
    with webhook() as hook:
        hook.status = 403
        fault = send(Receiver(name="hook", url=hook.url()), "title", "body")
    assert fault is not None
    assert "403" in fault


def test_receivers_come_from_a_file_of_their_owner_and_from_the_environment(tmp_path):
    file = tmp_path / "urls"
    file.write_text("# who is told\n\nnight json://a/b\n  day   mailto://c\n")
    file.chmod(0o600)
    found = receivers_of(
        file, environment={"BEAMSTEER_ALARM_URLS": "chat json://d ; more json://e"}
    )
    assert [one.name for one in found] == ["night", "day", "chat", "more"]
    assert found[1].url == "mailto://c"


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (f"json://{SECRET}", 0o600, "line 1 is not shown"),
        (f"a json://{SECRET} more", 0o600, "line 1 is not shown"),
        (f"a {SECRET}", 0o600, "expected a name"),
        (f"a json://{SECRET}\na json://{SECRET}", 0o600, "expected every name once"),
        (f"a json://{SECRET}", 0o604, "chmod 600"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_bad_file_of_urls_is_told_without_what_is_in_it(tmp_path, text, mode, told):
    file = tmp_path / "urls"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(InputError) as error:
        receivers_of(file, environment={})
    assert told in str(error.value)
    assert SECRET not in str(error.value)


def test_scrubbing_takes_every_part_of_a_url():
    url = "slack://bot@T1AAAA/B1BBBB/Cccccc?token=Zzzz9"
    text = "POST https://hooks.example.org/t1aaaa/B1BBBB failed for Cccccc with Zzzz9"
    assert scrubbed(text, url) == "POST ... failed for ... with ..."
