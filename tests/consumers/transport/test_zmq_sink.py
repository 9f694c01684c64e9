from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zmq.auth
from event_model import compose_run

from consumers.transport.curve_keys_file import curve_client
from consumers.transport.zmq_sink import ZmqSink
from consumers.wire import pack
from tests.consumers.zmq_proxy import bluesky_proxy

DISPATCHER = """
import json, sys
import msgpack_numpy
from bluesky.callbacks.zmq import RemoteDispatcher
dispatcher = RemoteDispatcher(sys.argv[1], prefix=b"ours", deserializer=msgpack_numpy.loads)
def show(name, document):
    data = document.get("data", {}).get("spectrum")
    total = None if data is None else [str(data.dtype), list(data.shape), float(data.sum())]
    print(json.dumps([name, document.get("uid"), total]), flush=True)
dispatcher.subscribe(show)
print("ready", flush=True)
dispatcher.start()
"""


def document_headers(name: str) -> tuple[tuple[str, bytes], ...]:
    return (("document", name.encode()),)


def test_our_documents_reach_blueskys_dispatcher_through_its_proxy() -> None:
    run = compose_run(metadata={"beamsteer": {"chunk": "7"}})
    keys = {"spectrum": {"dtype": "array", "shape": [500, 400], "source": "fold"}}
    descriptor = run.compose_descriptor(name="folded", data_keys=keys)
    spectrum = np.arange(200_000, dtype=np.float64).reshape(500, 400)
    event = descriptor.compose_event(
        data={"spectrum": spectrum}, timestamps={"spectrum": time.time()}
    )
    documents = [
        ("start", run.start_doc),
        ("descriptor", descriptor.descriptor_doc),
        ("event", event),
        ("stop", run.compose_stop()),
    ]
    with bluesky_proxy() as at:
        with subprocess.Popen(
            [sys.executable, "-c", DISPATCHER, at.outside], stdout=subprocess.PIPE, text=True
        ) as dispatcher:
            assert dispatcher.stdout is not None
            try:
                assert dispatcher.stdout.readline() == "ready\n"
                with closing(ZmqSink(at.inside, prefix=b"ours")) as sink:
                    sink.wait_for_receiver(30.0)
                    # the proxy hears us; whether the dispatcher hears the proxy only shows
                    time.sleep(1.0)
                    # a dispatcher with a prefix is not troubled by messages of another one
                    with closing(ZmqSink(at.inside, prefix=b"raw")) as other:
                        other.wait_for_receiver(30.0)
                        other.send("hyspec_detector", b"no document")
                    for name, document in documents:
                        sink.send("any", pack(document), headers=document_headers(name))
                    found = [json.loads(dispatcher.stdout.readline()) for _ in documents]
            finally:
                dispatcher.kill()
    assert [name for name, _, _ in found] == ["start", "descriptor", "event", "stop"]
    assert [uid for _, uid, _ in found] == [document["uid"] for _, document in documents]
    assert found[2][2] == ["float64", [500, 400], float(spectrum.sum())]


def test_with_keys_our_sink_reaches_blueskys_proxy(tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    zmq.auth.create_certificates(tmp_path, "server")
    zmq.auth.create_certificates(tmp_path, "client")
    (tmp_path / "client.key").rename(tmp_path / "clients" / "client.key")
    (tmp_path / "client.key_secret").chmod(0o600)
    curve = curve_client(tmp_path / "client.key_secret", tmp_path / "server.key")
    secret = str(tmp_path / "server.key_secret")
    with bluesky_proxy("in_curve", secret, str(tmp_path / "clients")) as at:
        with closing(ZmqSink(at.inside, curve=curve)) as sink:
            sink.wait_for_receiver(30.0)
        with closing(ZmqSink(at.inside)) as sink:
            with pytest.raises(ConnectionError, match="nobody subscribed within 1 s"):
                sink.wait_for_receiver(1.0)


def test_waiting_for_a_receiver_ends(tmp_path: Path) -> None:
    with closing(ZmqSink(f"ipc://{tmp_path}/socket", bind=True)) as sink:
        with pytest.raises(ConnectionError, match="nobody subscribed within 0.2 s"):
            sink.wait_for_receiver(0.2)
        sink.send("t", b"nobody is there to hear this")
        sink.flush()


def test_pushing_to_nobody_is_an_error_after_a_while(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    sink = ZmqSink(address, bind=True, pattern="push", send_timeout_s=0.2)
    with closing(sink), pytest.raises(ConnectionError, match="no receiver took a message for 0.2"):
        sink.send("t", b"")


@pytest.mark.parametrize(
    ("topic", "words"), [("", "expected one word"), ("a b", "one word"), ("stop", "of a document")]
)
def test_names_that_would_break_the_frame_are_refused(
    tmp_path: Path, topic: str, words: str
) -> None:
    with closing(ZmqSink(f"ipc://{tmp_path}/socket", bind=True)) as sink:
        with pytest.raises(ValueError, match=words):
            sink.send(topic, b"")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"pattern": "req"}, "pattern is 'req'"), ({"prefix": b"a b"}, "prefix is b'a b'")],
)
def test_impossible_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ZmqSink("127.0.0.1:1", **options)  # pyright: ignore[reportArgumentType]
