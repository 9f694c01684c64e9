"""Bundles of a web address, from a real server on this machine."""

import hashlib
import http.server
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from model_server.networks import Bundle, BundleError, BundleRegistry
from tests.model_server.networks.small_bundle import trained
from tests.small_disk import NoMountError, SmallDisk


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Hands out a folder, or does what a test asks for instead."""

    asked: list[str]
    instead = None

    def do_GET(self):
        self.asked.append(self.path)
        if self.instead is None or not self.instead(self):
            super().do_GET()

    def log_message(self, *_):
        pass


@contextmanager
def _served(folder, instead=None):
    handler = type("Handler", (_Handler,), {"asked": [], "instead": staticmethod(instead)})
    if instead is None:
        handler.instead = None
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trained().save(tmp_path / "web" / "small")
    return tmp_path / "web"


def _left(tmp_path):
    return [one for one in (tmp_path / "cache").rglob("*") if one.is_file()]


def test_a_bundle_is_fetched_once_and_then_needs_no_network(bundles, tmp_path):
    with _served(bundles) as (address, asked):
        found = Bundle.load(f"{address}/small")
        assert sorted(asked) == ["/small/MODEL_CARD.md", "/small/card.json",
                                 "/small/weights.safetensors"]  # fmt: skip
        registry = BundleRegistry([f"{address}/small/"])
        assert registry.entry("small").folder.is_relative_to(tmp_path / "cache")
        assert len(asked) == 3
    again = Bundle.load(f"{address}/small")  # the server is gone
    assert found.name == again.name == "small"
    assert again.card == trained().card
    for name, tensor in trained().network.tensors().items():
        assert np.array_equal(tensor, again.network.tensors()[name])


def test_an_address_may_tell_the_hash_of_the_weights(bundles, tmp_path):
    held = hashlib.sha256((bundles / "small" / "weights.safetensors").read_bytes()).hexdigest()
    with _served(bundles) as (address, _):
        with pytest.raises(BundleError, match=r"weights.safetensors has sha256 .*another version"):
            Bundle.load(f"{address}/small#sha256={'0' * 64}")
        assert not _left(tmp_path)
        Bundle.load(f"{address}/small#sha256={held.upper()}")
        with pytest.raises(BundleError, match="the bundle kept in .* remove the folder"):
            Bundle.load(f"{address}/small#sha256={'0' * 64}")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://bundles.example/small", "not encrypted"),
        ("https://bundles.example", "no address of a bundle"),
        ("https://bundles.example/..", "no address of a bundle"),
        ("https://bundles.example/small?token=1", "no address of a bundle"),
        ("https://[::1/small", "is no web address"),
        ("https://bundles.example/small#md5=1", "expected sha256="),
        ("https://me:secret@bundles.example/small", "holds a user or password"),
        ("http://127.0.0.1:9/small", "cannot be fetched"),
    ],
)
def test_what_is_no_address_of_a_bundle_is_told(address, words, bundles):
    with pytest.raises(BundleError, match=words) as told:
        Bundle.load(address)
    assert "secret" not in str(told.value)


def _missing(handler):
    handler.send_error(404)
    return True


def _elsewhere(handler):
    handler.send_response(302)
    handler.send_header("Location", "http://169.254.169.254/latest")
    handler.end_headers()
    return True


def _cut(handler):
    if handler.path.endswith("weights.safetensors"):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(b"0" * 500)
        return True
    return False


def _endless(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 2**16)
    except OSError:
        return True


def _other(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>Please log in</html>")
    return True


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        (_missing, "answers 404"),
        (_elsewhere, "leads on to http://169.254.169.254"),
        (_cut, "cannot be fetched"),
        (_endless, "more than 1,048,576 bytes"),
        (_other, "cannot be loaded"),
    ],
)
def test_a_server_that_fails_leaves_nothing_behind(instead, words, bundles, tmp_path):
    with _served(bundles, instead) as (address, _):
        with pytest.raises(BundleError, match=words):
            Bundle.load(f"{address}/small")
    assert not _left(tmp_path)
    with _served(bundles) as (address, _):
        assert Bundle.load(f"{address}/small").name == "small"


def test_a_full_disk_leaves_nothing_behind(bundles, tmp_path, monkeypatch):
    try:
        disk = SmallDisk(tmp_path / "small-disk", 64 * 1024)
    except NoMountError as error:
        pytest.skip(str(error))
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk.folder))
        (disk.folder / "filler").write_bytes(b"0" * (disk.free_bytes - 8192))
        with _served(bundles) as (address, _):
            with pytest.raises(BundleError, match="No space left.*Make room"):
                Bundle.load(f"{address}/small")
            assert [one.name for one in disk.folder.rglob("*") if one.is_file()] == ["filler"]
            (disk.folder / "filler").unlink()
            assert Bundle.load(f"{address}/small").name == "small"
    finally:
        disk.close()
