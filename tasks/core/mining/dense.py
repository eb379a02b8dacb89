"""Runs of a dense encoder: exact search over the embeddings, in the same form as a BM25 run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.embedding.exact import exact_search, passage_ids
from tasks.core.errors import Mismatch
from tasks.core.files import produce
from tasks.core.mining.runs import HITS_AT_ONCE, append_run, queries_digest, run_writer, vectors_digest
from tasks.core.receipts import Embeddings, Run

log = logging.getLogger("nightshift.mining")

VERSION = 2  # of what this file writes; a change makes new artifacts


def dense_run(
    home: Path, name: str, queries: pa.Table, query_vectors: np.ndarray, embeddings: Embeddings, depth: int
) -> Run:
    """Search every query (query_id, text) exactly for its `depth` best passages.

    `name` says what the run is for. query_vectors: float32 (queries, dimension), row i for query i; several query
    encoders may share the embeddings, so the vectors themselves name the run. Equal scores are ordered by snapshot row.

    Raises Mismatch when the vectors are not one a query, or not of the embeddings' dimension.
    """
    if len(query_vectors) != queries.num_rows:
        raise Mismatch(f"dense run {name!r}: {len(query_vectors)} vectors for {queries.num_rows} queries")
    key = {
        "retriever": name,
        "embeddings": embeddings.digest,
        "vectors": vectors_digest(query_vectors),
        "queries": queries_digest(queries),
        "depth": depth,
        "version": VERSION,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        log.info("%s: searching %d queries in %d vectors", name, queries.num_rows, embeddings.rows)
        rows, scores = exact_search(query_vectors, embeddings, depth)
        with run_writer(folder) as writer:
            written, step = 0, max(1, HITS_AT_ONCE // depth)
            for start in range(0, queries.num_rows, step):
                block = rows[start : start + step]
                hits = np.repeat(np.arange(start, start + len(block)), block.shape[1])
                ids = passage_ids(embeddings, block.ravel())
                written += append_run(writer, queries, hits, ids, scores[start : start + step].ravel())
        return {"rows": written, "queries": queries.num_rows, "depth": depth, "parents": (embeddings.digest,)}

    return produce(home, Run, key, build)
