"""Collects ratios to peers; the end of the session prints them and writes build/bench.json."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RESULTS: list[dict[str, object]] = []
FILE = Path(__file__).resolve().parents[2] / "build" / "bench.json"


def pytest_configure(config: pytest.Config) -> None:
    """Let Euphonic go on beside another library's OpenMP: every peer has one thread."""
    config.addinivalue_line("filterwarnings", "ignore:More than one OpenMP library:UserWarning")


@pytest.fixture
def against() -> Callable[..., float]:
    """Time ours and a peer's callable in turn and record the ratio of the medians.

    Use as ``against("path-spectra", "euphonic", ours, peer, peer_scale=100)``; ``peer_scale``
    multiplies the peer's time when it did only a part of the work.
    """

    def measure(
        name: str,
        peer_name: str,
        ours: Callable[[], object],
        peer: Callable[[], object],
        *,
        repeats: int = 5,
        peer_scale: float = 1.0,
        threads: int = 1,
    ) -> float:
        ours()  # compile and warm up both
        peer()
        ours_s, peer_s = [], []
        for _ in range(repeats):
            ours_s.append(_seconds(ours))
            peer_s.append(_seconds(peer) * peer_scale)
        ratios = [theirs / own for own, theirs in zip(ours_s, peer_s, strict=True)]
        ratio = statistics.median(peer_s) / statistics.median(ours_s)
        RESULTS.append(
            {
                "name": name,
                "peer": peer_name,
                "ratio": ratio,
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "ours_s": statistics.median(ours_s),
                "peer_s": statistics.median(peer_s),
                "threads": threads,
            }
        )
        return ratio

    return measure


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(RESULTS, indent=2) + "\n", encoding="utf-8")
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_sep("=", "ratios (peer / ours)")
    for one in RESULTS:
        terminalreporter.write_line(
            "{name:24} {peer:16} {ratio:9.2f}  ({ratio_min:.2f} .. {ratio_max:.2f})  "
            "ours {ours_s:.4g} s, peer {peer_s:.4g} s, threads {threads}".format(**one)
        )
    if not RESULTS:
        terminalreporter.write_line("no benchmark ran")
