"""The scores of both retrievers for the passages that either ranks high: from them any hybrid ranking follows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.files import produce
from tasks.core.base.ranking import DEPTH, Mode, Ranking
from tasks.core.base.receipts import ArmScores, Embeddings, Postings, Run
from tasks.core.retrieval.bm25_scorer import Bm25Scorer, Weights, open_scorer
from tasks.core.retrieval.carried_hits import search_carried
from tasks.core.retrieval.exact import passage_ids, score_pairs
from tasks.core.retrieval.fusion import fuse_scores
from tasks.core.retrieval.runs import LazyVectors, append_run, queries_digest, run_writer, vectors_of

VERSION = 2  # of the artifacts that this module writes; raise it to rebuild them
ARMS = "arms.parquet"
AT_ONCE = 4096  # queries


def score_arms(
    home: Path,
    queries: pa.Table,
    query_vectors: LazyVectors,
    embeddings: Embeddings,
    postings: Postings,
    ranking: Ranking,
    depth: int = DEPTH,
) -> ArmScores:
    """Score the `depth` best passages of each retriever with both retrievers, for each query.

    Args:
        home: folder of the artifacts.
        queries: query_id, text.
        query_vectors: float32 (queries, dimension), computed only if the artifact is missing.
        embeddings: vectors of the snapshot's passages.
        postings: lexical index of the same snapshot.
        ranking: parameters of BM25.
        depth: passages of each retriever.

    Raises:
        NightshiftError: Java is missing or fails.
    """
    key = {
        "embeddings": embeddings.digest,
        "vectors": query_vectors.name,
        "queries": queries_digest(queries),
        "postings": postings.digest,
        "bm25": [ranking.k1, ranking.b],
        "depth": depth,
        "version": VERSION,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        scorer, vectors = open_scorer(postings, ranking), vectors_of(query_vectors)
        rows = 0
        with pq.ParquetWriter(folder / ARMS, _SCHEMA, compression="zstd") as writer:
            for start in range(0, queries.num_rows, AT_ONCE):
                part = queries.slice(start, AT_ONCE)
                weights = [scorer.weights(text) for text in part["text"].to_pylist()]
                columns = _score(home, weights, vectors[start : start + AT_ONCE], embeddings, scorer, depth)
                query, passages = columns["query"], columns["row"]
                table = pa.table(
                    {
                        **columns,
                        "query": query + start,
                        "query_id": part["query_id"].take(pa.array(query)),
                        "passage_id": passage_ids(embeddings, passages),
                    }
                )
                writer.write_table(table.select(_SCHEMA.names).cast(_SCHEMA))
                rows += table.num_rows
        parents = (embeddings.digest, postings.digest)
        return {"rows": rows, "queries": queries.num_rows, "depth": depth, "parents": parents}

    return produce(home, ArmScores, key, build)


_SCHEMA = pa.schema(
    {
        "query": pa.int64(),  # row of the table of queries, ascending
        "query_id": pa.string(),
        "row": pa.int64(),  # of the passage in the snapshot, ascending
        "passage_id": pa.string(),
        "dense": pa.float32(),
        "lexical": pa.float32(),  # 0: no term in common
        "in_dense": pa.bool_(),  # among the best of the retriever
        "in_lexical": pa.bool_(),
    }
)


def _score(
    home: Path, weights: list[Weights], vectors: np.ndarray, embeddings: Embeddings, scorer: Bm25Scorer, depth: int
) -> dict[str, np.ndarray]:
    """Return the columns of the union of both retrievers' passages, ordered by query and row."""
    rows, scores = search_carried(home, embeddings, vectors, depth)
    hits = scorer.search_weighted(weights, depth)
    dense_query = np.repeat(np.arange(len(weights)), rows.shape[1])
    lexical_query = np.repeat(np.arange(len(weights)), [len(hit_rows) for hit_rows, _ in hits])
    lexical_rows = np.concatenate([hit_rows for hit_rows, _ in hits]).astype(np.int64)
    size = embeddings.rows
    dense_pairs, lexical_pairs = dense_query * size + rows.ravel(), lexical_query * size + lexical_rows
    pairs = np.union1d(dense_pairs, lexical_pairs)
    query, passages = np.divmod(pairs, size)
    dense = np.full(len(pairs), np.nan, np.float32)
    dense[np.searchsorted(pairs, dense_pairs)] = scores.ravel()
    missing = np.isnan(dense)
    dense[missing] = score_pairs(vectors, embeddings, query[missing], passages[missing])
    starts = np.searchsorted(query, np.arange(len(weights) + 1))
    lexical = [
        scorer.scores(weighted, passages[start:end])
        for weighted, start, end in zip(weights, starts[:-1], starts[1:], strict=True)
    ]
    return {
        "query": query,
        "row": passages,
        "dense": dense,
        "lexical": np.concatenate(lexical),
        "in_dense": np.isin(pairs, dense_pairs),
        "in_lexical": np.isin(pairs, lexical_pairs),
    }


class Arms:
    """The scores of `ArmScores` in memory; n rows ordered by query and passage row."""

    def __init__(self, scores: ArmScores) -> None:
        self.receipt, self.table = scores, pq.read_table(scores.path / ARMS)
        self.query = self.table["query"].to_numpy()
        self.row = self.table["row"].to_numpy()
        self._dense, self._lexical = self.table["dense"].to_numpy(), self.table["lexical"].to_numpy()

    def scales(self) -> tuple[float, float]:
        """Return the mean dense and the mean BM25 score of the best passage of a query; 1 without a positive score."""
        starts = np.flatnonzero(np.diff(self.query, prepend=-1))
        if len(starts) == 0:
            return 1.0, 1.0
        best = [np.maximum.reduceat(scores, starts).mean(dtype=np.float64) for scores in (self._dense, self._lexical)]
        dense, lexical = (float(f"{score:.4g}") if score > 0 else 1.0 for score in best)
        return dense, lexical

    def fuse(self, ranking: Ranking) -> np.ndarray:
        """Return the hybrid scores float64 (n,)."""
        return fuse_scores(ranking, self._dense, self._lexical)

    def order(self, ranking: Ranking) -> np.ndarray:
        """Return the row numbers of the ranking, best first for each query, int64 (m,); equal scores by passage row.

        With weight 1 or 0 they are the passages of one retriever only.
        """
        order = np.lexsort((self.row, -self.fuse(ranking), self.query))
        mode = ranking.mode
        if mode is Mode.HYBRID:
            return order
        kept = self.table["in_dense" if mode is Mode.DENSE else "in_lexical"].to_numpy()
        single: np.ndarray = order[kept[order]]
        return single

    def relevance(self, qrels: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the relevance float64 (n,) of each row, and the ideal DCG@10 float64 (queries,) of each query.

        qrels: query_id, passage_id, relevance; every query has a positive.
        """
        judged: dict[str, dict[str, int]] = {}
        for line in qrels.select(["query_id", "passage_id", "relevance"]).to_pylist():
            judged.setdefault(line["query_id"], {})[line["passage_id"]] = line["relevance"]
        names = zip(self.table["query_id"].to_pylist(), self.table["passage_id"].to_pylist(), strict=True)
        relevance = np.array([judged.get(query, {}).get(passage, 0) for query, passage in names], np.float64)
        ideal = np.zeros(self.receipt.queries)
        for number, query in zip(self.query, self.table["query_id"].to_pylist(), strict=True):
            if ideal[number] == 0:
                best = sorted(judged[query].values(), reverse=True)[:10]
                ideal[number] = sum(gain / np.log2(rank + 2) for rank, gain in enumerate(best))
        return relevance, ideal

    def is_own(self) -> np.ndarray:
        """Whether the passage has the id of the query: bool (n,)."""
        own: np.ndarray = pc.equal(self.table["query_id"], self.table["passage_id"]).to_numpy()
        return own


def fused_run(home: Path, scores: ArmScores, ranking: Ranking, depth: int) -> Run:
    """Rank the passages of each query by their hybrid score, and keep the `depth` best."""

    def build(folder: Path) -> Mapping[str, Any]:
        arms = Arms(scores)
        order = arms.order(ranking)
        query = arms.query[order]
        order = order[np.arange(len(order)) - np.searchsorted(query, query) < depth]
        query, fused = arms.query[order], arms.fuse(ranking)[order]
        table = arms.table.take(pa.array(order))
        ids = pa.table({"query_id": table["query_id"]})
        with run_writer(folder) as writer:
            rows = append_run(writer, ids, np.searchsorted(query, query), table["passage_id"], fused)
        return {"rows": rows, "queries": scores.queries, "depth": depth, "parents": (scores.digest,)}

    weighting = ranking.model_dump(include={"weight", "dense_scale", "lexical_scale"})
    return produce(home, Run, {"arms": scores.digest, **weighting, "depth": depth, "version": VERSION}, build)
