"""Compare a collection with the stored vectors and texts it was built from. Needs no encoder."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from tasks.core.base.errors import Damaged, Mismatch
from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Snapshot
from tasks.core.release.damage import NEXT
from tasks.core.release.publisher import Reader
from tasks.core.release.verify import DEPTH, SLACK, Contents, check_count_equal, check_keys_equal
from tasks.core.retrieval.exact import exact_search, score_pairs, vectors_of

log = logging.getLogger("nightshift.release")

SAMPLES = 256  # stored vectors used as queries
CANARIES = 16  # passages used as queries to a collection on a server
RECALL = {"FLAT": 0.999}  # an exact index misses nothing; other indexes need [milvus] min_recall


def verify_contents(home: Path, reader: Reader, min_recall: float) -> bool:
    """Compare an open collection with its snapshot and embeddings.

    Every key must be in its row, and searches with `SAMPLES` stored vectors must return the hits of exact search.

    Args:
        home: with the snapshot and the embeddings.
        reader: of the collection.
        min_recall: minimum recall@10 of an approximate index, in [0, 1].

    Returns: whether the collection was verified; false when snapshot or embeddings are missing or damaged.

    Raises Damaged when the collection differs.
    """
    identity = reader.identity
    rows = np.unique(np.linspace(0, identity.rows - 1, min(SAMPLES, identity.rows)).astype(np.int64))
    try:
        embeddings = load(home, Embeddings, identity.embeddings)
        contents = Contents(reader, identity, load(home, Snapshot, identity.snapshot), embeddings)
        queries = vectors_of(embeddings, rows)
        _, exact = exact_search(queries, embeddings, DEPTH)
    except (Mismatch, Damaged, OSError, ValueError) as error:
        log.warning("collection %s: cannot compare it with its stored vectors (%s)", identity.collection, error)
        return False
    try:
        check_count_equal(contents)
        check_keys_equal(contents)
    except Mismatch as error:
        raise Damaged(f"{error}. {NEXT}") from error
    recall = _recall(contents, queries, exact)
    if recall < RECALL.get(identity.index, min_recall):
        raise Damaged(
            f"collection {identity.collection}: damaged, recall@{DEPTH} of its {identity.index} index is {recall:.3f} "
            f"for {len(rows)} of its own vectors. {NEXT}"
        )
    return True


def _recall(contents: Contents, queries: np.ndarray, exact: np.ndarray) -> float:
    """Return recall@10, scored with the stored vectors: the index may compute its scores from damaged vectors."""
    answers = contents.reader.search(queries, DEPTH)
    pairs = [(at, hit.row) for at, hits in enumerate(answers) for hit in hits]
    at, rows = np.array(pairs, np.int64).reshape(-1, 2).T
    if len(rows) and not (rows.min() >= 0 and rows.max() < contents.identity.rows):
        return 0.0
    floor = exact[:, -1] - SLACK * np.maximum(1.0, np.abs(exact[:, -1]))
    return float((score_pairs(queries, contents.embeddings, at, rows) >= floor[at]).sum() / exact.size)


def check_canaries(reader: Reader) -> None:
    """Search with the vectors of a few passages of a collection on a server, whose files we cannot read.

    Raises Damaged when a passage is missing, or is not among the hits although a lower-scoring passage is.
    """
    identity = reader.identity
    rows = np.unique(np.linspace(0, identity.rows - 1, min(CANARIES, identity.rows)).astype(np.int64)).tolist()
    stored = reader.fetch(rows, ["vector"])
    queries = np.array([stored[row].fields["vector"] for row in rows if row in stored], np.float32)
    answers = reader.search(queries.reshape(-1, identity.dimension), DEPTH)
    lost = [row for row in rows if row not in stored]
    for row, query, hits in zip((row for row in rows if row in stored), queries, answers, strict=True):
        self_score = float(query @ query)
        if not any(hit.row == row for hit in hits) and any(
            hit.score < self_score - SLACK * abs(self_score) for hit in hits
        ):
            lost.append(row)
    if lost:
        raise Damaged(
            f"collection {identity.collection}: damaged, {len(lost)} of {len(rows)} passages do not find themselves "
            f"(first: row {lost[0]}). {NEXT}"
        )
