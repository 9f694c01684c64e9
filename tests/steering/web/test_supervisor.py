from __future__ import annotations

import socket

import pytest

from steering.web import notify


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_supervisor_hears_it_on_a_real_socket(tmp_path, kind):
    address = str(tmp_path / "notify") if kind == "path" else f"@beamsteer-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address.replace("@", "\0"))
        supervisor.settimeout(10)
        told = notify("READY=1", "STATUS=two\nlines", environment={"NOTIFY_SOCKET": address})
        assert told
        assert supervisor.recv(1000) == b"READY=1\nSTATUS=two lines"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere"}, {"NOTIFY_SOCKET": "x"}])
def test_without_a_supervisor_nothing_happens(environment):
    assert not notify("READY=1", environment=environment)
