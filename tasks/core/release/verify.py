"""What must hold before a pointer may name a collection. Each check raises Mismatch with the reason it refuses."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Embeddings, Snapshot
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.publisher import Identity, Reader, VectorEncoder
from tasks.core.retrieval.exact import exact_search
from tasks.core.snapshot.reader import passages, queries
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.release")

PAGE = 8192  # keys read back at once; a Milvus server answers with at most 16,384 rows
DEPTH = 10  # of the recall against exact search
SLACK = 1e-3  # two scores this near, relative to the larger, count as a tie: a fresh encoding differs in the last bits
MAX_DISTANCE = (2 * (1 - 0.999)) ** 0.5  # between a stored vector and a fresh one, per length: a cosine of 0.999


@dataclass(frozen=True)
class Contents:
    """An opened collection, and the texts and vectors that it must hold."""

    reader: Reader
    identity: Identity
    snapshot: Snapshot
    embeddings: Embeddings


@dataclass(frozen=True)
class Candidate(Contents):
    """An opened collection and all that it must agree with."""

    encoder: VectorEncoder
    settings: MilvusSettings


def verify(candidate: Candidate) -> float:
    """Run every check, the cheap ones first; the index's recall@10 against exact search.

    Raises Mismatch: the properties are not the manifest's, rows are missing or foreign, sampled passages do not find
    themselves or were embedded by another encoder, or the index's recall against exact search is too low.
    """
    for check in CHECKS:
        check(candidate)
        log.debug("%s: %s", candidate.identity.collection, check.__name__.replace("_", " ").removeprefix("check "))
    return check_recall_enough(candidate)


def check_identity_kept(candidate: Candidate) -> None:
    """The properties read back are those that were given, and the encoder's own fingerprint is among them."""
    kept, wanted = candidate.reader.identity, candidate.identity
    for name, value in wanted.model_dump().items():
        if (found := getattr(kept, name)) != value:
            raise Mismatch(f"collection {wanted.collection}: property {name} is {found!r}, the manifest says {value!r}")
    encoder = candidate.encoder
    if (encoder.fingerprint, encoder.dimension) != (wanted.fingerprint, wanted.dimension):
        raise Mismatch(
            f"collection {wanted.collection} holds vectors of {wanted.fingerprint} (dimension {wanted.dimension}), "
            f"the encoder is {encoder.fingerprint} (dimension {encoder.dimension})"
        )


def check_count_equal(candidate: Contents) -> None:
    """As many rows as the manifest says, counted with strong consistency."""
    counted, promised = candidate.reader.count(), candidate.identity.rows
    if counted != promised:
        raise Mismatch(f"collection {candidate.identity.collection}: {counted} rows, the manifest says {promised}")


def check_keys_equal(candidate: Contents) -> None:
    """Every passage is there once, in its place, with the text hash of the snapshot."""
    first = 0
    for batch in passages(candidate.snapshot, columns=["passage_id", "text_hash"], batch_rows=PAGE):
        last = first + batch.num_rows
        columns = (batch["passage_id"].to_pylist(), batch["text_hash"].to_pylist())
        wanted = list(zip(range(first, last), *columns, strict=True))
        found = candidate.reader.keys(first, last)
        if found != wanted:
            wrong = min(set(wanted) ^ set(found), default=None)
            raise Mismatch(
                f"collection {candidate.identity.collection}: rows {first} to {last - 1} are not the snapshot's; "
                f"the first that differs: {wrong or 'a key that stands there twice'}"
            )
        first = last


def check_passages_find_themselves(candidate: Candidate) -> None:
    """Sampled passages, encoded afresh, come first in their own search, with the stored vector and text hash."""
    sample = _sampled_passages(candidate)
    fresh = candidate.encoder.encode_passages([text for _, _, text in sample])
    answers = candidate.reader.search(fresh, DEPTH, ["text_hash", "vector"])
    where = f"collection {candidate.identity.collection}"
    for (row, text_hash, _), vector, hits in zip(sample, fresh, answers, strict=True):
        own = float(vector @ vector)
        floor = own - SLACK * abs(own)
        itself = next((hit for hit in hits if hit.fields["text_hash"] == text_hash), None)
        before = hits if itself is None else hits[: hits.index(itself)]
        # Under the inner product a longer vector may rightly stand before it; and many equal ones may crowd it out.
        if any(hit.score < floor for hit in before) or (itself is None and len(hits) < DEPTH):
            raise Mismatch(f"{where}: the passage in row {row} does not find itself; its vector is another passage's")
        if itself is not None and _distance(vector, itself.fields["vector"]) > MAX_DISTANCE:
            raise Mismatch(f"{where}: the vector of row {row} is not what the encoder makes of its text")


def check_recall_enough(candidate: Candidate) -> float:
    """Recall@10 of the index against exact search over the shards, in [0, 1]; a tie with the tenth score is found."""
    asked = _sampled_queries(candidate)
    _, exact = exact_search(asked, candidate.embeddings, DEPTH)
    found = candidate.reader.search(asked, DEPTH)
    shares = []
    for hits, scores in zip(found, exact, strict=True):
        floor = scores[-1] - 1e-5 * max(1.0, abs(float(scores[-1])))
        shares.append(sum(hit.score >= floor for hit in hits) / len(scores))
    recall = float(np.mean(shares))
    log.info("%s: recall@%d against exact search %.4f", candidate.identity.collection, DEPTH, recall)
    if recall < candidate.settings.min_recall:
        raise Mismatch(
            f"collection {candidate.identity.collection}: recall@{DEPTH} of its {candidate.identity.index} index is "
            f"{recall:.3f}, below [milvus] min_recall = {candidate.settings.min_recall}; take FLAT, or lower the bar"
        )
    return recall


CHECKS: tuple[Callable[[Candidate], None], ...] = (
    check_identity_kept,
    check_count_equal,
    check_keys_equal,
    check_passages_find_themselves,
)


def _sampled_passages(candidate: Candidate) -> list[tuple[int, str, str]]:
    """(row, text hash, full text) of passages drawn at random, the same ones for the same release."""
    total = candidate.identity.rows
    drawn = sorted(_random(candidate).sample(range(total), min(candidate.settings.samples, total)))
    sample, first = [], 0
    for batch in passages(candidate.snapshot, columns=["title", "text", "text_hash"]):
        here = [row for row in drawn if first <= row < first + batch.num_rows]
        places = pa.array([row - first for row in here], pa.int64())  # typed, for there may be none
        for row, one in zip(here, batch.take(places).to_pylist(), strict=True):
            sample.append((row, one["text_hash"], full_text(one["title"], one["text"])))
        first += batch.num_rows
    return sample


def _sampled_queries(candidate: Candidate) -> np.ndarray:
    texts = queries(candidate.snapshot)["text"].to_pylist()
    if not texts:
        return candidate.encoder.encode_passages([text for _, _, text in _sampled_passages(candidate)])
    drawn = _random(candidate).sample(texts, min(candidate.settings.samples, len(texts)))
    return candidate.encoder.encode_queries(drawn)


def _random(candidate: Candidate) -> random.Random:
    return random.Random(candidate.identity.release)  # noqa: S311  (a sample, not a secret)


def _distance(fresh: np.ndarray, stored: Sequence[float]) -> float:
    """How far apart, in lengths of the fresh vector; unlike the cosine it also sees a vector that was scaled."""
    apart = np.linalg.norm(fresh - np.asarray(stored, np.float32))
    return float(apart / max(float(np.linalg.norm(fresh)), 1e-12))
