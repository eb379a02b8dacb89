"""Merge dense and BM25 rankings by reciprocal rank fusion (Cormack, Clarke, and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tasks.core.base.errors import NightshiftError
from tasks.core.release.publisher import Found

CONSTANT = 60  # from the paper; a larger value reduces the advantage of the first ranks
DEPTH = 100  # passages of each ranking to merge


class Ranker(Protocol):
    """Ranks the passages of one snapshot without vectors, for example `Bm25Searcher`."""

    damage: NightshiftError | None  # why it cannot answer

    def search(self, queries: Sequence[str], depth: int) -> list[list[int]]:
        """Return the snapshot rows of the `depth` best passages for each query, best first."""

    def check(self) -> None:
        """Verify its files; set `damage` if a file is damaged."""

    def close(self) -> None:
        """Release all resources."""


def reciprocal_rank(*rankings: Sequence[int]) -> list[tuple[int, float]]:
    """Return (row, score), best first. The score is the sum over rankings of 1 / (60 + rank); ties: lower row first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row] = scores.get(row, 0.0) + 1 / (CONSTANT + rank)
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))


def fuse_rankings(
    dense: Sequence[Sequence[Found]],
    lexical: Sequence[Sequence[int]],
    fetch: Callable[[Sequence[int]], dict[int, Found]],
    k: int,
) -> list[list[Found]]:
    """Merge the rankings of each query.

    Args:
        dense: dense hits of each query, best first.
        lexical: BM25 snapshot rows of each query, best first.
        fetch: returns the passages of rows that only BM25 ranked. It omits passages that a filter excludes; the next
            passage takes their rank.
        k: passages per query.

    Returns:
        The `k` best hits of each query; `score` is the fusion score.
    """
    dense_hits = [{hit.row: hit for hit in ranking} for ranking in dense]
    missing = {row for rows, hits in zip(lexical, dense_hits, strict=True) for row in rows if row not in hits}
    fetched = fetch(sorted(missing)) if missing else {}
    answers = []
    for ranking, rows, hits in zip(dense, lexical, dense_hits, strict=True):
        passages = fetched | hits
        best = reciprocal_rank([hit.row for hit in ranking], [row for row in rows if row in passages])[:k]
        answers.append([passages[row]._replace(score=score) for row, score in best])
    return answers
