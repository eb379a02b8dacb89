"""Two rankings made into one by reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tasks.core.base.errors import NightshiftError
from tasks.core.release.publisher import Found

CONSTANT = 60  # theirs: how little the first ranks weigh more than those behind them
DEPTH = 100  # passages of each ranking that are looked at


class Ranker(Protocol):
    """Ranks the passages of one snapshot without vectors; `Lexical` for one."""

    damage: NightshiftError | None  # why it does not answer

    def search(self, queries: Sequence[str], depth: int) -> list[list[int]]:
        """The snapshot rows of the `depth` best passages for each query, best first."""

    def check(self) -> None:
        """Verify the files that it reads; `damage` holds what is wrong with them."""

    def close(self) -> None:
        """Give back what it holds."""


def reciprocal_rank(*rankings: Sequence[int]) -> list[tuple[int, float]]:
    """(row, score) by the sum over the rankings of 1 / (60 + rank), best first; of equal scores the lower row."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row] = scores.get(row, 0.0) + 1 / (CONSTANT + rank)
    return sorted(scores.items(), key=lambda one: (-one[1], one[0]))


def fused(
    dense: Sequence[Sequence[Found]],
    lexical: Sequence[Sequence[int]],
    fetch: Callable[[Sequence[int]], dict[int, Found]],
    k: int,
) -> list[list[Found]]:
    """The `k` best of both rankings for each query; `score` is that of the fusion.

    `fetch` gives the passages of rows that only BM25 found, without those that a filter refuses: these lose their
    rank to the next.
    """
    known = [{one.row: one for one in ranking} for ranking in dense]
    missing = {row for rows, have in zip(lexical, known, strict=True) for row in rows if row not in have}
    fetched = fetch(sorted(missing)) if missing else {}
    answers = []
    for ranking, rows, have in zip(dense, lexical, known, strict=True):
        both = fetched | have
        best = reciprocal_rank([one.row for one in ranking], [row for row in rows if row in both])[:k]
        answers.append([both[row]._replace(score=score) for row, score in best])
    return answers
