"""Hits that are carried from an earlier night are those of a search in all vectors, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mining_world import write_embeddings

from tasks.core.base.files import receipts_newest_first
from tasks.core.base.receipts import Embeddings
from tasks.core.base.search_receipts import DenseHits
from tasks.core.retrieval import carried_hits
from tasks.core.retrieval.carried_hits import SPARE, hash_rows, search_carried
from tasks.core.retrieval.dense import longest_norm, reproducible_search

PASSAGES, QUERIES, DEPTH = 600, 40, 20


class Nights:
    """A home whose passages change from night to night, and the number of queries that each night searched in full."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.random, self.full = home, np.random.default_rng(3), list[int]()
        self.queries = self.random.standard_normal((QUERIES, 8)).astype(np.float32)
        self.vectors = self.random.standard_normal((PASSAGES, 8)).astype(np.float32)
        self.vectors[1::50] = self.vectors[0]  # equal texts

        def count(vectors: np.ndarray, *arguments: object) -> tuple[np.ndarray, np.ndarray]:
            self.full.append(len(vectors))
            return reproducible_search(vectors, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(carried_hits, "reproducible_search", count)

    def search(self, name: str, depth: int = DEPTH) -> int:
        """Compare a night's search with one in all vectors; return the number of queries that it searched in full."""
        ids = [f"p{row}" for row in range(len(self.vectors))]
        embeddings: Embeddings = write_embeddings(self.home / name, ids, self.vectors, name, group=100)
        self.full.clear()
        rows, scores = search_carried(self.home, embeddings, self.queries, depth)
        expected = reproducible_search(self.queries, embeddings, depth, longest_norm(embeddings))
        assert (rows.tobytes(), scores.tobytes()) == tuple(part.tobytes() for part in expected)
        searched = sum(self.full)
        again = search_carried(self.home, embeddings, self.queries, depth)
        assert [part.tobytes() for part in again] == [part.tobytes() for part in expected]
        assert sum(self.full) == searched
        return searched

    def change(self, share: float) -> None:
        """Remove, replace, and add a share of the passages each, and repeat one of them."""
        count = int(share * len(self.vectors))
        removed, replaced = self.random.permutation(len(self.vectors))[: 2 * count].reshape(2, count)
        self.vectors[replaced] = self.random.standard_normal((count, 8)).astype(np.float32)
        added = self.random.standard_normal((count, 8)).astype(np.float32)
        self.vectors = np.concatenate([np.delete(self.vectors, removed, axis=0), added, self.vectors[7:8]])


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return Nights(tmp_path, monkeypatch)


def test_a_month_of_changes_gives_the_hits_of_full_searches(nights: Nights) -> None:
    assert nights.search("first") == QUERIES
    for night in range(30):
        nights.change(0.02)
        assert nights.search(f"night{night}") < QUERIES / 4


def test_passages_in_another_order_are_not_scored_again(nights: Nights) -> None:
    nights.search("first")
    nights.vectors = nights.vectors[nights.random.permutation(PASSAGES)]
    assert nights.search("shuffled") == 0


def test_only_new_queries_and_those_that_lost_their_hits_are_searched_in_full(nights: Nights) -> None:
    nights.search("first")
    nights.queries[:3] = nights.random.standard_normal((3, 8))
    assert nights.search("new queries") == 3
    best = np.argsort(-(nights.queries[5] @ nights.vectors.T))
    nights.vectors = np.delete(nights.vectors, best[: SPARE + 1], axis=0)
    assert 1 <= nights.search("lost hits") < QUERIES


def test_many_new_passages_or_another_depth_are_searched_in_full(nights: Nights) -> None:
    nights.search("first")
    nights.change(0.3)
    assert nights.search("many") == QUERIES
    assert nights.search("deeper", DEPTH + 1) == QUERIES


def test_few_passages_and_no_query(nights: Nights) -> None:
    nights.vectors = nights.vectors[:DEPTH]
    assert nights.search("few") == QUERIES
    nights.vectors = np.concatenate([nights.vectors, nights.vectors[:2], nights.queries[:1]])
    assert nights.search("three more") == 0
    nights.queries = nights.queries[:0]
    assert nights.search("none") == 0
    kept = receipts_newest_first(nights.home, DenseHits)
    assert {(hits.queries, hits.depth) for hits in kept} == {(QUERIES, DEPTH), (0, DEPTH)}


def test_different_vectors_have_different_hashes() -> None:
    vectors = np.zeros((4097, 16), np.float32)
    vectors[np.arange(4096), np.arange(4096) % 16] = np.arange(1, 4097) * np.float32(1e-3)
    assert len(np.unique(hash_rows(vectors))) == 4097
    assert hash_rows(vectors[:1]) == hash_rows(vectors.astype(np.float64)[:1].astype(np.float32))
