"""Checks of search requests."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.base.errors import BadUsage
from tasks.core.base.plain_text import check_text, visible

MOST = 1000  # passages per query


def check_request(queries: Sequence[str], k: int) -> None:
    """Check that every query is text and `k` is in range. Raises BadUsage otherwise."""
    if not 1 <= k <= MOST:
        raise BadUsage(f"k is {k}; it must be 1 to {MOST} passages")
    for query in queries:
        if not isinstance(query, str):
            raise BadUsage(f"the query is of type {type(query).__name__}; give text")
        if not query.strip():
            raise BadUsage("the query is empty")
        try:
            check_text(query)
        except ValueError as error:
            raise BadUsage(f"the query {visible(query)!r} cannot be searched: {error}. Give UTF-8.") from error
