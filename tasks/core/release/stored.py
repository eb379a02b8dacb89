"""A collection compared with the vectors and texts that it was built from, without an encoder."""

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

SAMPLES = 256  # stored vectors that are searched for
CANARIES = 16  # passages that a collection on a server must find again
RECALL = {"FLAT": 0.999}  # an exact index misses nothing; others were accepted by [milvus] min_recall


def verify_contents(home: Path, reader: Reader, min_recall: float) -> bool:
    """Compare an opened collection with the snapshot and the embeddings that it was built from.

    Every key must be in its place, and searches for `SAMPLES` of the stored vectors must return what exact search over
    all of them does. Returns false when snapshot or embeddings are gone or damaged, so nothing can be compared.

    Raises Damaged when the collection holds anything else.
    """
    identity = reader.identity
    rows = np.unique(np.linspace(0, identity.rows - 1, min(SAMPLES, identity.rows)).astype(np.int64))
    try:
        embeddings = load(home, Embeddings, identity.embeddings)
        contents = Contents(reader, identity, load(home, Snapshot, identity.snapshot), embeddings)
        queries = vectors_of(embeddings, rows)
        _, exact = exact_search(queries, embeddings, DEPTH)
    except (Mismatch, Damaged, OSError, ValueError) as error:
        log.warning("collection %s: cannot be compared with its vectors (%s)", identity.collection, error)
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
    """Recall@10 by the scores of the stored vectors: what the index reports may be computed from damaged ones."""
    answers = contents.reader.search(queries, DEPTH)
    pairs = [(at, hit.row) for at, hits in enumerate(answers) for hit in hits]
    at, rows = np.array(pairs, np.int64).reshape(-1, 2).T
    if len(rows) and not (rows.min() >= 0 and rows.max() < contents.identity.rows):
        return 0.0
    floor = exact[:, -1] - SLACK * np.maximum(1.0, np.abs(exact[:, -1]))
    return float((score_pairs(queries, contents.embeddings, at, rows) >= floor[at]).sum() / exact.size)


def check_canaries(reader: Reader) -> None:
    """Search for the vectors of a few passages of a collection, whose files only its server can read.

    Raises Damaged when a passage is gone, or is not among the hits though a worse one is.
    """
    identity = reader.identity
    rows = np.unique(np.linspace(0, identity.rows - 1, min(CANARIES, identity.rows)).astype(np.int64)).tolist()
    stored = reader.fetch(rows, ["vector"])
    queries = np.array([stored[row].fields["vector"] for row in rows if row in stored], np.float32)
    answers = reader.search(queries.reshape(-1, identity.dimension), DEPTH)
    lost = [row for row in rows if row not in stored]
    for row, query, hits in zip((row for row in rows if row in stored), queries, answers, strict=True):
        own = float(query @ query)
        if not any(hit.row == row for hit in hits) and any(hit.score < own - SLACK * abs(own) for hit in hits):
            lost.append(row)
    if lost:
        raise Damaged(
            f"collection {identity.collection}: damaged, {len(lost)} of {len(rows)} passages do not find themselves "
            f"(row {lost[0]} is the first). {NEXT}"
        )
