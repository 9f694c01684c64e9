"""The page to log in, as it lies in the package."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def login_page() -> str:
    """Text of the page; ``<!-- said -->`` stands where something may be said."""
    page = resources.files("steering").joinpath("web", "page", "login.html")
    return page.read_text(encoding="utf-8")
