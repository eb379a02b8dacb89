"""Checks of search requests."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.base.errors import BadUsage
from tasks.core.base.plain_text import check_text, visible
from tasks.core.base.ranking import Mode

MOST = 1000  # passages per query


def check_mode(mode: str) -> Mode:
    """Return the mode of this name. Raises BadUsage if there is none."""
    try:
        return Mode(mode)
    except ValueError as error:
        raise BadUsage(f"mode {mode!r}: unknown. Use one of {', '.join(Mode)}") from error


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
