"""A real Chromium for the tests of the page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREENSHOTS = os.environ.get("BEAMSTEER_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(chromium), args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A fresh tab that fails the test on any script error or request to another host."""
    context = browser.new_context(
        viewport={"width": 1400, "height": 1000}, timezone_id="Europe/Berlin"
    )
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else faults.append(f"left this machine: {request.url}")
        ),
    )
    yield tab
    context.close()
    assert faults == []


def keep(page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"), full_page=True)


def table_of(page, table_id: str) -> list[list[str]]:
    """Cells of a table's body, row by row, in one step: the page may draw its rows anew anytime."""
    return page.evaluate(
        """(id) => [...document.getElementById(id).tBodies[0].rows].map(
            (row) => [...row.cells].map((cell) => cell.textContent.trim()))""",
        table_id,
    )
