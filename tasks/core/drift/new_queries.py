"""Sample queries that the serving snapshot lacks, search them, and compare them with the reference."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.core.base.files import find_artifact, load
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.sections.drift import DriftSettings
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.drift.findings import Explanation, Measurement
from tasks.core.drift.statistics import ReferenceData, build_reference, measure, recall_per_query, search_queries
from tasks.core.snapshot.reader import QUERIES, passage_texts
from tasks.core.text.words import hashed, unseen_share, vocabulary
from tasks.core.text.words import known as are_known

log = logging.getLogger("nightshift.drift")

BATCH = 8192  # queries read at once


class ServingRelease:
    """Encoder, embeddings, and reference of the serving release, loaded on first use."""

    def __init__(
        self, home: Path, release: Release, snapshot: Snapshot, embedding: EmbeddingSettings | None = None
    ) -> None:
        self.home, self.release, self.snapshot = home, release, snapshot
        self._embedding = embedding or EmbeddingSettings()

    @cached_property
    def encoder(self) -> Encoder:
        """The serving encoder."""
        return load(self.home, Encoder, self.release.encoder)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The vectors of its passages, embedded again if they are lost."""
        stored = find_artifact(self.home, Embeddings, self.release.embeddings)
        if stored is not None:
            return stored
        from tasks.core.embedding.shards import gather_shards  # imports torch

        log.warning("Embeddings of release %s are lost: embedding its passages again", self.release.release)
        settings = self._embedding
        return gather_shards(self.home, self.encoder, self.snapshot, settings.shards, vectors=settings.vectors)

    @cached_property
    def reference(self) -> ReferenceData:
        """Its drift reference, built if it is missing."""
        return ReferenceData(build_reference(self.home, self.encoder, self.embeddings, self.snapshot))


def new_queries(served: ServingRelease, snapshot: Snapshot, seen: Snapshot | None = None) -> Iterator[str]:
    """Yield the queries of `snapshot` that are neither in the serving snapshot nor in `seen`."""
    if snapshot.digest == served.release.snapshot or (seen is not None and snapshot.digest == seen.digest):
        return
    seen_hashes = np.zeros(0, np.uint64) if seen is None else np.sort(hashed(_texts(seen)))
    yield from skip_known(served.reference, _texts(snapshot), seen_hashes)


def skip_known(reference: ReferenceData, texts: Iterator[str], seen_hashes: np.ndarray) -> Iterator[str]:
    """Yield the texts that are not queries of the serving snapshot and not in `seen_hashes` (uint64, sorted)."""
    for batch in _batches(texts):
        hashes = hashed(batch)
        known = are_known(hashes, reference.queries) | are_known(hashes, seen_hashes)
        yield from (text for text, is_known in zip(batch, known, strict=True) if not is_known)


def examine(served: ServingRelease, snapshot: Snapshot, texts: list[str], settings: DriftSettings) -> Examination:
    """Search the passages of the serving release for `texts` and measure the results."""
    vectors, scores, hits = search_queries(served.encoder, served.embeddings, texts)
    recalls = recall_per_query(texts, hits, snapshot, served.embeddings)
    unseen = unseen_terms(served, snapshot, texts, settings)
    reference = served.reference
    unfamiliarity = reference.unfamiliarity(vectors, scores)
    judged, usual_low = recalls[~np.isnan(recalls)], reference.usual_low(vectors)
    measured = measure(reference.receipt, scores, usual_low, unfamiliarity, judged, unseen)
    return Examination(reference, texts, vectors, scores, measured, unfamiliarity, recalls, hits)


class Examination:
    """A sample of queries with its measurement, and an explanation computed on first use."""

    def __init__(
        self,
        reference: ReferenceData,
        texts: list[str],
        vectors: np.ndarray,
        scores: np.ndarray,
        measured: Measurement,
        unfamiliarity: np.ndarray,
        recalls: np.ndarray,
        hits: list[list[str]],
    ) -> None:
        self.reference, self.texts, self.vectors, self.scores = reference, texts, vectors, scores
        self.measured, self.unfamiliarity, self.recalls, self.hits = measured, unfamiliarity, recalls, hits

    @property
    def unfamiliar(self) -> list[tuple[str, float]]:
        """The queries that score low, with the score of their best passage, lowest first."""
        low = np.flatnonzero(self.scores < self.reference.receipt.low_score)
        return [(self.texts[row], float(self.scores[row])) for row in low[np.argsort(self.scores[low], kind="stable")]]

    @cached_property
    def explanation(self) -> Explanation:
        """Which terms and segments moved."""
        from tasks.core.drift.explain import explain  # imports scipy

        return explain(self.reference, self.texts, self.vectors, self.scores < self.reference.receipt.low_score)


def unseen_terms(served: ServingRelease, snapshot: Snapshot, texts: list[str], settings: DriftSettings) -> float:
    """Return the share of the terms of `texts` that are not in the serving corpus or its training queries.

    If that share is suspect, terms of `snapshot` count as known too: a new topic has new passages, a typo does not.
    """
    reference = served.reference
    share = unseen_share(texts, reference.terms)
    if share > reference.receipt.unseen_terms + settings.unseen_terms and snapshot.digest != served.release.snapshot:
        share = unseen_share(texts, np.union1d(reference.terms, vocabulary(passage_texts(snapshot))))
    return share


def _texts(snapshot: Snapshot) -> Iterator[str]:
    with pq.ParquetFile(snapshot.path / QUERIES) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=["text"]):
            yield from batch["text"].to_pylist()


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
