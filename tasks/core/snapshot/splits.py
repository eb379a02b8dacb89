"""Holds out training queries for missing dev and test splits."""

from __future__ import annotations

import logging
from enum import StrEnum

from tasks.core.text.normalization import uniform


class Split(StrEnum):
    """Splits that the code gives a meaning. Qrels may have other splits, which are held out."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


HELD_OUT = (Split.DEV, Split.TEST)
SYNTHETIC = "synthetic"  # split of the synthetic queries that training never reads; a person judged none of them
_log = logging.getLogger("nightshift.ingest")


def carve(train: list[str], present: set[str], share: float, seed: int) -> dict[str, str]:
    """Assign training queries to the missing splits among `dev` and `test`.

    Each missing split gets the queries whose hash is in its own range of width `share`. So a query keeps its split
    as the data grows. If no hash is in the range, the split gets one query, as long as one remains for training.

    Args:
        train: Ids of the training queries.
        present: Splits that the source has.
        share: Fraction of training queries to hold out for each missing split.
        seed: Seed of the hash.

    Returns:
        Query id -> new split, for the queries that move.
    """
    drawn = sorted((uniform(f"{seed}:{query}"), query) for query in train)
    moved: dict[str, str] = {}
    for number, split in enumerate(HELD_OUT):
        if split in present:
            continue
        remaining = [query for _, query in drawn if query not in moved]
        chosen = [query for u, query in drawn if share * number <= u < share * (number + 1) and query not in moved]
        chosen = (chosen or remaining[:1])[: max(0, len(remaining) - 1)]
        moved |= dict.fromkeys(chosen, split)
        _log.info("No %s split: held out %d of %d training queries", split, len(chosen), len(train))
    return moved
