"""Bluesky's own proxy in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PROXY = """
import sys
from pathlib import Path
from bluesky.callbacks.zmq import Proxy, ServerCurve
options = {}
if len(sys.argv) > 1:
    options[sys.argv[1]] = ServerCurve(Path(sys.argv[2]), Path(sys.argv[3]), None)
proxy = Proxy("127.0.0.1", "127.0.0.1", **options)
print(proxy.in_port, proxy.out_port, flush=True)
proxy.start()
"""


@dataclass(frozen=True, kw_only=True)
class ProxyAt:
    """Addresses of a proxy: publishers send to ``inside``, dispatchers listen at ``outside``."""

    inside: str
    outside: str


@contextmanager
def bluesky_proxy(*curve: str) -> Iterator[ProxyAt]:
    """Run the proxy.

    ``curve``: ``in_curve`` or ``out_curve`` (it cannot do both), the server's secret certificate
    and the folder of its clients' public ones.
    """
    with subprocess.Popen(
        [sys.executable, "-c", PROXY, *curve], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            inside, outside = process.stdout.readline().split()
            yield ProxyAt(inside=inside, outside=outside)
        finally:
            process.kill()
