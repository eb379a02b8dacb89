"""New queries: those that the serving snapshot does not have, sampled, asked, and held against the reference."""

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
from tasks.core.drift.explain import explain
from tasks.core.drift.findings import Explanation, Measurement
from tasks.core.drift.statistics import ReferenceData, build_reference, held_out_queries, measure, recall_of
from tasks.core.embedding.shards import gather_shards
from tasks.core.snapshot.reader import QUERIES, passage_texts
from tasks.core.text.words import hashed, unseen_share, vocabulary
from tasks.core.text.words import known as are_known

log = logging.getLogger("nightshift.drift")

BATCH = 8192  # queries read at once


class ServingRelease:
    """What serves: encoder, embeddings and reference of the serving release, opened when they are needed."""

    def __init__(
        self, home: Path, release: Release, snapshot: Snapshot, embedding: EmbeddingSettings | None = None
    ) -> None:
        self.home, self.release, self.snapshot = home, release, snapshot
        self._embedding = embedding or EmbeddingSettings()

    @cached_property
    def encoder(self) -> Encoder:
        """Its encoder."""
        return load(self.home, Encoder, self.release.encoder)

    @cached_property
    def embeddings(self) -> Embeddings:
        """Its passages' vectors, embedded again where they are lost."""
        found = find_artifact(self.home, Embeddings, self.release.embeddings)
        if found is not None:
            return found
        log.warning("embeddings of release %s are lost: embedding its passages again", self.release.release)
        rules = self._embedding
        return gather_shards(self.home, self.encoder, self.snapshot, rules.shards, vectors=rules.vectors)

    @cached_property
    def known(self) -> ReferenceData:
        """Its reference, made now if it is not there."""
        return ReferenceData(build_reference(self.home, self.encoder, self.embeddings, self.snapshot))


def new_queries(served: ServingRelease, snapshot: Snapshot, seen: Snapshot | None = None) -> Iterator[str]:
    """The queries of `snapshot` that the serving snapshot does not have, nor `seen`, as a stream."""
    if snapshot.digest == served.release.snapshot or (seen is not None and snapshot.digest == seen.digest):
        return
    had = np.zeros(0, np.uint64) if seen is None else np.sort(hashed(_texts(seen)))
    yield from unknown(served.known, _texts(snapshot), had)


def unknown(known: ReferenceData, texts: Iterator[str], had: np.ndarray) -> Iterator[str]:
    """Those of `texts` that neither the serving snapshot's queries nor `had`, sorted hashes uint64, have."""
    for batch in _batches(texts):
        hashes = hashed(batch)
        old = are_known(hashes, known.queries) | are_known(hashes, had)
        yield from (text for text, one in zip(batch, old, strict=True) if not one)


def examine(served: ServingRelease, snapshot: Snapshot, texts: list[str], settings: DriftSettings) -> Examination:
    """Ask the serving release's passages and measure."""
    vectors, scores, found = held_out_queries(served.encoder, served.embeddings, texts)
    recalls = recall_of(texts, found, snapshot, served.embeddings)
    unseen = unseen_terms(served, snapshot, texts, settings)
    measured = measure(served.known.receipt, scores, served.known.usual_low(vectors), recalls, unseen)
    return Examination(served.known, texts, vectors, scores, measured)


class Examination:
    """Measured queries, and on request what explains them."""

    def __init__(
        self, known: ReferenceData, texts: list[str], vectors: np.ndarray, scores: np.ndarray, measured: Measurement
    ) -> None:
        self.known, self.texts, self.vectors, self.scores, self.measured = known, texts, vectors, scores, measured

    @property
    def unfamiliar(self) -> list[tuple[str, float]]:
        """The queries that score low, each with the score of its best passage, the lowest first."""
        low = np.flatnonzero(self.scores < self.known.receipt.low_score)
        return [(self.texts[row], float(self.scores[row])) for row in low[np.argsort(self.scores[low], kind="stable")]]

    @cached_property
    def explanation(self) -> Explanation:
        """What moved."""
        return explain(self.known, self.texts, self.vectors, self.scores < self.known.receipt.low_score)


def unseen_terms(served: ServingRelease, snapshot: Snapshot, texts: list[str], settings: DriftSettings) -> float:
    """Share of the terms of `texts` that the serving corpus does not have, nor its training queries.

    Only where that is suspect is `snapshot` read through too: a new topic comes with new passages, a typo does not.
    """
    known = served.known
    share = unseen_share(texts, known.terms)
    if share > known.receipt.unseen_terms + settings.unseen_terms and snapshot.digest != served.release.snapshot:
        share = unseen_share(texts, np.union1d(known.terms, vocabulary(passage_texts(snapshot))))
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
