import os
from pathlib import Path

import pytest

from simulations.errors import InputError
from steering import cli
from steering.cli._secret_files import MAX_BYTES, read_secret_files


@pytest.mark.parametrize("content", [b"a secret", b"a secret\n", b"a secret\r\n"])
def test_a_file_stands_for_its_variable(tmp_path, content):
    (tmp_path / "s").write_bytes(content)
    environment = {"BEAMSTEER_KAFKA_PASSWORD_FILE": str(tmp_path / "s"), "OTHER_FILE": "/none"}
    read_secret_files(environment)
    assert environment == {"BEAMSTEER_KAFKA_PASSWORD": "a secret", "OTHER_FILE": "/none"}
    read_secret_files(environment)


def test_an_empty_variable_names_no_file():
    environment = {"BEAMSTEER_TOKEN_FILE": "", "BEAMSTEER_TOKEN": "x"}
    read_secret_files(environment)
    assert list(environment.values()) == ["", "x"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"", "0 bytes"),
        (b"\n", "no secret"),
        (b"\xff\xfe", "no secret"),
        (b"a\0b", "no secret"),
        (b"x" * (MAX_BYTES + 1), "at most"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused_without_showing_it(tmp_path, content, says):
    if content is not None:
        (tmp_path / "s").write_bytes(content)
    with pytest.raises(InputError, match=says) as told:
        read_secret_files({"BEAMSTEER_TOKEN_FILE": str(tmp_path / "s")})
    assert "BEAMSTEER_TOKEN_FILE" in str(told.value)


def test_a_folder_and_a_pipe_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="no file"):
            read_secret_files({"BEAMSTEER_TOKEN_FILE": str(path)})


def test_both_forms_of_a_secret_are_refused(tmp_path):
    (tmp_path / "s").write_text("one of sixteen letters")
    given = {"BEAMSTEER_TOKEN": "x", "BEAMSTEER_TOKEN_FILE": str(tmp_path / "s")}
    with pytest.raises(InputError, match="expected one of them"):
        read_secret_files(given)


def test_serve_takes_its_token_from_a_file(tmp_path, monkeypatch, capsys):
    """Any address but loopback needs one; a short one is refused."""
    secret = tmp_path / "s"
    command = ["serve", str(tmp_path), "--host", "0.0.0.0", "--port", "0", "--check"]  # noqa: S104

    def status(content: str) -> int:
        Path(secret).write_text(content)
        monkeypatch.setenv("BEAMSTEER_TOKEN", "")  # so that it is undone
        monkeypatch.setenv("BEAMSTEER_TOKEN_FILE", str(secret))
        return cli.run(command)

    assert status("sixteen-or-more-letters\n") == 0
    assert status("short") == cli.BAD_INPUT
    assert "16" in capsys.readouterr().err
