"""Exact search for the queries of an evaluation that scores only the vectors that earlier nights did not score.

A night keeps more hits for each query than it needs. If most vectors of the passages are the same the next night, its
best hits are among the kept hits and the new vectors. A query with too few hits left is searched in all vectors. So the
hits are always those of `dense.reproducible_search`, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.files import produce, read_verified, receipts_newest_first
from tasks.core.base.receipts import Embeddings
from tasks.core.base.search_receipts import DenseHits
from tasks.core.retrieval.dense import longest_norm, reproducible_search, rounding_error
from tasks.core.retrieval.exact import score_pairs, vector_blocks
from tasks.core.retrieval.runs import vectors_digest
from tasks.core.text.shingles import expand

VERSION = 1  # of the artifacts that this module writes; raise it to rebuild them
SPARE = 64  # hits kept beyond `depth`, to replace those of removed passages
MOST_NEW = 0.2  # share of vectors that no earlier night scored; beyond it, all are scored
FRESH_AT_ONCE = 2048  # new vectors multiplied with all query vectors at once
TRIED = 8  # newest artifacts to compare
HITS, VECTORS = "hits.parquet", "vectors.u64"
_vector_hashes: dict[tuple[str, ...], np.ndarray] = {}  # of the last embeddings; two searches of a night share them
_SCHEMA = pa.schema(
    {
        "query": pa.uint64(),  # hash of its vector
        "bound": pa.float32(),  # every passage with a higher score is among the hits
        "row": pa.list_(pa.int32()),  # passages, best first; equal scores by row
        "score": pa.list_(pa.float32()),
    }
)


class _Hits(NamedTuple):
    """Hits of all queries, in order of query: three arrays (n,)."""

    query: np.ndarray  # int64
    row: np.ndarray  # int64
    score: np.ndarray  # float32


def search_carried(
    home: Path, embeddings: Embeddings, query_vectors: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `depth` passages with the largest inner product for each query.

    query_vectors: float32 (queries, dimension). Returns snapshot rows int64 and scores float32, both
    (queries, min(depth, passages)), best first; ties by lower row.

    Raises Mismatch when the dimensions differ or a vector has NaN or infinite values.
    """
    key = {
        "embeddings": embeddings.digest,
        "vectors": vectors_digest(query_vectors),
        "depth": depth,
        "version": VERSION,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        hashes = _hash_vectors(embeddings)
        table = _search(home, query_vectors, embeddings, hashes, depth)
        pq.write_table(table, folder / HITS, compression="zstd")
        hashes.tofile(folder / VECTORS)
        return {
            "rows": embeddings.rows,
            "fingerprint": embeddings.fingerprint,
            "queries": table.num_rows,
            "depth": depth,
            "parents": (embeddings.digest,),
        }

    table = pq.read_table(produce(home, DenseHits, key, build).path / HITS).combine_chunks()
    width = min(depth, embeddings.rows)
    starts = np.cumsum([0, *pc.list_value_length(table["row"]).to_pylist()])[:-1]
    places = starts[:, None] + np.arange(width)
    rows, scores = (pc.list_flatten(table[name]).to_numpy() for name in ("row", "score"))
    return rows[places].astype(np.int64), scores[places]


def _hash_vectors(embeddings: Embeddings) -> np.ndarray:
    """Return the hash of each passage vector: uint64 (rows,). A process keeps those that it computed last."""
    key = (str(embeddings.path), *embeddings.digests)
    if key not in _vector_hashes:
        parts = [hash_rows(part) for _, part in vector_blocks(embeddings)]
        _vector_hashes.clear()
        _vector_hashes[key] = np.concatenate([np.zeros(0, np.uint64), *parts])
    return _vector_hashes[key]


def hash_rows(vectors: np.ndarray) -> np.ndarray:
    """Return a hash of each vector float32 (n, dimension): uint64 (n,), Σ wᵢ·bitsᵢ mod 2⁶⁴ with fixed random odd w."""
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32).astype(np.uint64)
    weights = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    return np.asarray((bits * weights).sum(axis=1, dtype=np.uint64))


def _search(home: Path, query_vectors: np.ndarray, embeddings: Embeddings, hashes: np.ndarray, depth: int) -> pa.Table:
    """Return the table of `_SCHEMA`: at most `depth` + SPARE hits of each query."""
    count, kept = len(query_vectors), min(depth + SPARE, embeddings.rows)
    queries = hash_rows(query_vectors)
    bounds = np.full(count, np.inf, np.float32)
    hits = _Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    if (earlier := _find_earlier(home, embeddings, queries, hashes, depth)) is not None:
        hits, bounds = _carry(*earlier, queries, hashes)
        fresh = np.flatnonzero(~np.isin(hashes, earlier[1]))
        hits = _joined(hits, _score_fresh(query_vectors, embeddings, fresh, bounds))
    above = np.bincount(hits.query, minlength=count)
    pending = np.flatnonzero(above < min(depth, embeddings.rows))
    if len(pending):
        rows, scores = reproducible_search(query_vectors[pending], embeddings, kept, longest_norm(embeddings))
        hits = _Hits(*(column[~np.isin(hits.query, pending)] for column in hits))
        hits = _joined(hits, _Hits(np.repeat(pending, rows.shape[1]), rows.ravel(), scores.ravel()))
        bounds[pending] = scores[:, -1] if kept < embeddings.rows else -np.inf
    return _table(queries, bounds, hits, kept)


def _find_earlier(
    home: Path, embeddings: Embeddings, queries: np.ndarray, hashes: np.ndarray, depth: int
) -> tuple[pa.Table, np.ndarray] | None:
    """Return earlier hits of most queries in most of the vectors, and the hashes of those vectors; None without any.

    queries, hashes: hashes uint64 of the query vectors and of the passage vectors.
    """
    same = [
        receipt
        for receipt in receipts_newest_first(home, DenseHits)
        if (receipt.fingerprint, receipt.depth) == (embeddings.fingerprint, depth)
    ]
    for receipt in same[:TRIED]:
        if read_verified(receipt.path, DenseHits) is None:
            continue
        table = pq.read_table(receipt.path / HITS)
        known = np.fromfile(receipt.path / VECTORS, np.uint64)
        enough_queries = 2 * np.isin(queries, table["query"].to_numpy()).sum() >= len(queries)
        if enough_queries and np.isin(hashes, known).sum() >= (1 - MOST_NEW) * len(hashes):
            return table, known
    return None


def _carry(table: pa.Table, known: np.ndarray, queries: np.ndarray, hashes: np.ndarray) -> tuple[_Hits, np.ndarray]:
    """Return the earlier hits above the bound, at their rows of now, and the bound float32 (queries,); inf: no hits.

    known, hashes: hashes of the earlier passage vectors and of those of now.
    """
    order = np.argsort(table["query"].to_numpy(), kind="stable")
    place = np.searchsorted(table["query"].to_numpy()[order], queries)
    place = order[np.minimum(place, len(order) - 1)]
    known_queries = table["query"].to_numpy()[place] == queries
    bounds = np.where(known_queries, table["bound"].to_numpy()[place], np.float32(np.inf))
    chosen = table.take(pa.array(place[known_queries])).combine_chunks()
    lengths = pc.list_value_length(chosen["row"]).to_numpy()
    query = np.repeat(np.flatnonzero(known_queries), lengths)
    earlier_rows, score = (pc.list_flatten(chosen[name]).to_numpy() for name in ("row", "score"))
    above = score > bounds[query]
    query, wanted, score = query[above], known[earlier_rows[above]], score[above]
    by_hash = np.argsort(hashes, kind="stable")
    first, last = (np.searchsorted(hashes[by_hash], wanted, side) for side in ("left", "right"))
    copies = last - first  # rows with this vector now: none if it is gone, several of equal texts
    positions, hit = expand(first, copies)
    pairs, place = np.unique(query[hit] * len(hashes) + by_hash[positions], return_index=True)
    return _Hits(pairs // len(hashes), pairs % len(hashes), score[hit][place]), bounds


def _score_fresh(query_vectors: np.ndarray, embeddings: Embeddings, fresh: np.ndarray, bounds: np.ndarray) -> _Hits:
    """Return the hits of each query above its bound among the passages in rows `fresh`."""
    query, row = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    error_per_norm = rounding_error(query_vectors, 1.0)
    for first, block in vector_blocks(embeddings):
        start, end = np.searchsorted(fresh, (first, first + len(block)))
        for rows in np.split(fresh[start:end], range(FRESH_AT_ONCE, end - start, FRESH_AT_ONCE)):
            if not len(rows):
                continue
            vectors = block[rows - first]
            longest = float(np.linalg.norm(vectors, axis=1).max())
            error = longest * error_per_norm
            near, column = np.nonzero(query_vectors @ vectors.T >= (bounds - error)[:, None])
            query.append(near)
            row.append(rows[column])
    queries, rows = np.concatenate(query), np.concatenate(row)
    scores = score_pairs(query_vectors, embeddings, queries, rows)
    above = scores > bounds[queries]
    return _Hits(queries[above], rows[above], scores[above])


def _joined(left: _Hits, right: _Hits) -> _Hits:
    return _Hits(*(np.concatenate(columns) for columns in zip(left, right, strict=True)))


def _table(queries: np.ndarray, bounds: np.ndarray, hits: _Hits, kept: int) -> pa.Table:
    """Return at most `kept` hits of each query, best first; a list that is cut has its last score as the bound."""
    order = np.lexsort((hits.row, -hits.score, hits.query))
    query = hits.query[order]
    rank = np.arange(len(order)) - np.searchsorted(query, query)
    order, query = order[rank < kept], query[rank < kept]
    lengths = np.bincount(query, minlength=len(queries))
    ends = np.cumsum(lengths)
    cut = np.bincount(hits.query, minlength=len(queries)) > kept
    bounds[cut] = hits.score[order][ends[cut] - 1]
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(column[order])) for column in (hits.row, hits.score)]
    return pa.table([queries, bounds, *lists], names=_SCHEMA.names).cast(_SCHEMA)
