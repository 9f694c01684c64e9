"""How soon the page shows something, in a real Chromium on loopback.

No peer does the same, so figures are printed and none is compared. How large one update is, is held
by ``tests/steering/web/test_answers.py``.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from steering.run import now_ns
from steering.web import create_app, serving
from tests.steering.fabricated import snapshot, store
from tests.steering.web.conftest import FLAGS

PAINTS = 5
FIRST_PAINT = """() => new Promise(tell => new PerformanceObserver((list) => {
    for (const entry of list.getEntriesByName("first-contentful-paint")) tell(entry.startTime);
}).observe({type: "paint", buffered: true}))"""


@pytest.mark.browser
def test_page(chromium):
    from playwright.sync_api import sync_playwright

    made = replace(snapshot(), updated_ns=now_ns())
    found = {}
    with (
        serving(create_app(store(made))) as url,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=str(chromium), args=list(FLAGS)) as browser,
    ):
        for address in ("", "?wall"):
            paints = []
            for _ in range(PAINTS):
                with browser.new_context() as context:  # nothing cached
                    page = context.new_page()
                    page.goto(url + address)
                    paints.append(page.evaluate(FIRST_PAINT))
            found[address or "page"] = paints
    for name, paints in found.items():
        told = ", ".join(f"{ms:.0f}" for ms in paints)
        sys.stdout.write(f"\npage: first contentful paint of {name}: {told} ms\n")
    assert all(ms > 0 for paints in found.values() for ms in paints)
