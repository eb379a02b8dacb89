"""Build the drift reference of a release, and measure new queries against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.files import produce
from tasks.core.base.receipts import Embeddings, Encoder, Reference, Snapshot
from tasks.core.drift.findings import LOW, Measurement
from tasks.core.drift.sample import Sample
from tasks.core.drift.terms import TERMS, write_terms
from tasks.core.drift.topics import nearest, shares_of, topics_of
from tasks.core.drift.unfamiliarity import TopicScores
from tasks.core.embedding.stored_shards import matrix, shard_files
from tasks.core.encoder.loading import load_encoder
from tasks.core.retrieval.carried_hits import search_carried
from tasks.core.retrieval.dense import SearchExactly
from tasks.core.retrieval.exact import exact_search, passage_ids
from tasks.core.snapshot.reader import qrels, queries
from tasks.core.snapshot.splits import Split
from tasks.core.text.words import hashed, unseen_share

DEPTH = 10  # ranks for recall
MAX_QUERIES = 5000  # held-out queries in a reference; larger sets are sampled
FORM = 4  # of the files below: increase when they change
HELD_OUT, QUERIES = "held-out.parquet", "queries.npy"
TOPICS, SHARES, SCORES = "topics.npy", "topic-shares.npy", "topic-scores.npz"


def build_reference(home: Path, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot) -> Reference:
    """Measure the held-out queries of a snapshot (all splits except train), for comparison with later queries.

    The reference is specific to encoder and snapshot, so each release has one. It also stores hashes of all terms of
    the passages and training queries, and of all queries, so later nights need not read the corpus.
    """
    key = {
        "form": FORM,
        "fingerprint": encoder.fingerprint,
        "embeddings": embeddings.digest,
        "snapshot": snapshot.digest,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        held_out = Sample(MAX_QUERIES, seed=0)
        for split in sorted(set(snapshot.splits) - {Split.TRAIN}):
            held_out.add(queries(snapshot, split)["text"].to_pylist())
        terms = write_terms(home, snapshot, folder)
        search = partial(search_carried, home, embeddings)
        vectors, scores, hits = search_queries(encoder, embeddings, held_out.texts, search)
        recalls = recall_per_query(held_out.texts, hits, snapshot, embeddings)
        recalls = recalls[~np.isnan(recalls)]
        np.save(folder / QUERIES, np.sort(hashed(queries(snapshot)["text"].to_pylist())))
        low_score = float(np.quantile(scores, LOW)) if len(scores) else 0.0
        _write_held_out(folder, held_out.texts, vectors, scores, low_score)
        return {
            "rows": len(held_out),
            "fingerprint": encoder.fingerprint,
            "snapshot": snapshot.digest,
            "embeddings": embeddings.digest,
            "low_score": low_score,
            "unseen_terms": unseen_share(held_out.texts, terms),
            "judged": len(recalls),
            "recall": float(recalls.mean()) if len(recalls) else 0.0,
            "parents": (encoder.digest, embeddings.digest, snapshot.digest),
        }

    return produce(home, Reference, key, build)


class ReferenceData:
    """The data of a reference, read from its files on first use."""

    def __init__(self, receipt: Reference) -> None:
        self.receipt = receipt

    @cached_property
    def terms(self) -> np.ndarray:
        """Sorted uint64 hashes of all terms of passages and training queries."""
        return self._array(TERMS)

    @cached_property
    def queries(self) -> np.ndarray:
        """Sorted uint64 hashes of all queries of the serving snapshot."""
        return self._array(QUERIES)

    @cached_property
    def topics(self) -> np.ndarray:
        """Topic centers of the held-out queries, float32 (topics, dimension)."""
        return self._array(TOPICS)

    def usual_low(self, vectors: np.ndarray) -> np.ndarray:
        """Return how often reference queries of the same topic score low: float64 (queries,)."""
        usual: np.ndarray = self._array(SHARES)[nearest(vectors, self.topics)]
        return usual

    def unfamiliarity(self, vectors: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return how unusually low each query scores for its topic: float64 (queries,); 1 on average here."""
        return TopicScores.load(self.receipt.path / SCORES).unfamiliarity(nearest(vectors, self.topics), scores)

    @cached_property
    def held_out(self) -> tuple[list[str], np.ndarray]:
        """The held-out queries and their vectors, float32 (queries, dimension)."""
        table = pq.read_table(self.receipt.path / HELD_OUT).combine_chunks()
        column = table["vector"].combine_chunks()
        width = len(column.flatten()) // max(1, table.num_rows)
        return table["text"].to_pylist(), matrix(column, width).astype(np.float32, copy=False)

    def _array(self, name: str) -> np.ndarray:
        loaded: np.ndarray = np.load(self.receipt.path / name, allow_pickle=False)
        return loaded


def search_queries(
    encoder: Encoder, embeddings: Embeddings, texts: Sequence[str], search: SearchExactly | None = None
) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Search all passages exactly, with `search` if given.

    Returns:
        Vectors of the queries, float32 (queries, dimension); the score of the best passage, float32 (queries,); and the
        ids of the ten best passages of each query.
    """
    if not texts:
        return np.zeros((0, embeddings.dimension), np.float32), np.zeros(0, np.float32), []
    vectors = load_encoder(encoder.path).encode_queries(texts)
    rows, scores = search(vectors, DEPTH) if search else exact_search(vectors, embeddings, DEPTH)
    ids = passage_ids(embeddings, rows.ravel()).to_pylist()
    width = rows.shape[1]
    return vectors, scores[:, 0], [ids[start : start + width] for start in range(0, len(ids), width)]


def recall_per_query(
    texts: Sequence[str], hits: Sequence[Sequence[str]], snapshot: Snapshot, embeddings: Embeddings
) -> np.ndarray:
    """Return Recall@10 of each text, float64 (texts,); NaN for texts without positives among the embedded passages.

    Positives that are not in the serving corpus are ignored: the encoder cannot retrieve them.

    Args:
        texts: queries.
        hits: ids of the ten best passages of each query.
        snapshot: has the qrels of the queries.
        embeddings: the searched passages.
    """
    wanted = set(texts)
    table = queries(snapshot)
    text_of = {
        query: text
        for query, text in zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True)
        if text in wanted
    }
    positives: dict[str, set[str]] = {}
    for batch in qrels(snapshot).select(["query_id", "passage_id"]).to_batches():
        for query, passage in zip(batch["query_id"].to_pylist(), batch["passage_id"].to_pylist(), strict=True):
            if query in text_of:
                positives.setdefault(text_of[query], set()).add(passage)
    embedded = _find_embedded(embeddings, set(chain.from_iterable(positives.values())))
    recalls = np.full(len(texts), np.nan)
    for row, (text, retrieved) in enumerate(zip(texts, hits, strict=True)):
        if answers := positives.get(text, set()) & embedded:
            recalls[row] = len(answers & set(retrieved)) / min(DEPTH, len(answers))
    return recalls


def measure(
    reference: Reference,
    scores: np.ndarray,
    usual_low: np.ndarray,
    unfamiliarity: np.ndarray,
    recalls: np.ndarray,
    unseen: float,
) -> Measurement:
    """Summarize new queries in comparison with the reference.

    Args:
        reference: of the serving release.
        scores: of the best passage of each query, float32 (queries,).
        usual_low: how often reference queries of the same topic score low, float64 (queries,).
        unfamiliarity: of each query, float64 (queries,).
        recalls: Recall@10 of the judged queries, float64 (judged,).
        unseen: share of unseen terms.
    """
    raw = float((scores < reference.low_score).mean())
    return Measurement(
        queries=len(scores),
        low=min(1.0, raw - float(usual_low.mean()) + LOW),
        raw_low=raw,
        unseen=unseen,
        held_out=reference.rows,
        usual_unseen=reference.unseen_terms,
        judged=len(recalls),
        recall=float(recalls.mean()) if len(recalls) else 0.0,
        usual_judged=reference.judged,
        usual_recall=reference.recall,
        unfamiliarity=float(unfamiliarity.mean()),
    )


def _find_embedded(embeddings: Embeddings, wanted: set[str]) -> set[str]:
    """Return the wanted passage ids that are embedded."""
    embedded: set[str] = set()
    wanted_ids = pa.array(sorted(wanted), pa.string())
    for file in shard_files(embeddings):
        for batch in pq.ParquetFile(file).iter_batches(columns=["passage_id"]):
            ids = batch["passage_id"]
            embedded.update(ids.filter(pc.is_in(ids, value_set=wanted_ids)).to_pylist())
    return embedded


def _write_held_out(folder: Path, texts: list[str], vectors: np.ndarray, scores: np.ndarray, low_score: float) -> None:
    values = pa.array(vectors.ravel(), pa.float32())
    columns = {
        "text": pa.array(texts, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]),
    }
    pq.write_table(pa.table(columns), folder / HELD_OUT, compression="zstd")
    centers = topics_of(vectors) if len(texts) else np.zeros((1, vectors.shape[1]), np.float32)
    members = nearest(vectors, centers)
    shares = shares_of(members, scores < low_score, len(centers)) if len(texts) else np.full(1, LOW)
    TopicScores.of(members, scores, len(centers)).save(folder / SCORES)
    np.save(folder / TOPICS, centers)
    np.save(folder / SHARES, shares)
