"""Holds training queries back for dev and test where the source has no such split."""

from __future__ import annotations

import hashlib
import logging

HELD_OUT = {"dev", "test"}
_log = logging.getLogger("nightshift.ingest")


def carve(train: list[str], present: set[str], share: float, seed: int) -> dict[str, str]:
    """Which training queries (ids) move to a split of `dev` and `test` that is not among `present`.

    Each missing split gets the queries whose hash falls into its own stretch of `share`: a query keeps its split
    on every night, however the data grows. Where so few queries hash into a stretch that a split would be empty, it
    gets the next one, as long as one is left to train on.
    """
    drawn = sorted((_uniform(query, seed), query) for query in train)
    moved: dict[str, str] = {}
    for place, split in enumerate(("dev", "test")):
        if split in present:
            continue
        spare = [query for _, query in drawn if query not in moved]
        chosen = [query for u, query in drawn if share * place <= u < share * (place + 1) and query not in moved]
        chosen = (chosen or spare[:1])[: max(0, len(spare) - 1)]
        moved |= dict.fromkeys(chosen, split)
        _log.info("no %s split: held back %d of %d training queries for it", split, len(chosen), len(train))
    return moved


def _uniform(query: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{query}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
