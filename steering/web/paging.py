"""Long lists in pages: ``limit`` and ``offset``, and where the next page is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Query
from starlette.requests import Request

T = TypeVar("T")

MOST = 1000  # entries of a page

Limit = Annotated[
    int | None, Query(ge=1, le=MOST, description="entries of a page; all if it is absent")
]
Offset = Annotated[int, Query(ge=0, le=10**9, description="entries before the first of the page")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Paged(Generic[T]):
    """One page of a list."""

    entries: tuple[T, ...]
    total: int  # of the whole list
    next: str | None  # path and query of the next page; None: there is none

    @property
    def headers(self) -> dict[str, str]:
        """``Link`` to the next page, where there is one."""
        return link_to(self.next)


def link_to(following: str | None) -> dict[str, str]:
    """``Link`` to the next page, where there is one."""
    return {} if following is None else {"Link": f'<{following}>; rel="next"'}


def paged(request: Request, entries: Sequence[T], limit: int | None, offset: int) -> Paged[T]:
    """Cut a page out of a list."""
    end = len(entries) if limit is None else offset + limit
    more = urlencode({"limit": limit, "offset": end}) if end < len(entries) else None
    return Paged(
        entries=tuple(entries[offset:end]),
        total=len(entries),
        next=None if more is None else f"{request.url.path}?{more}",
    )
