"""Checks that a collection must pass before the pointer may name it. A failed check raises Mismatch with the reason."""

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
from tasks.core.release.delta import Delta
from tasks.core.release.publisher import Identity, Reader, VectorEncoder
from tasks.core.retrieval.exact import exact_search
from tasks.core.snapshot.reader import passages
from tasks.core.snapshot.reader import queries as read_queries
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.release")

UNCHANGED = 1000  # sampled keys of a copy, in addition to the changed keys
DEPTH = 10  # hits per query when measuring recall
SLACK = 1e-3  # relative difference up to which two scores are tied: a fresh encoding differs in its last bits
MAX_DISTANCE = (
    2 * (1 - 0.999)
) ** 0.5  # between a stored and a fresh vector, relative to the length: a cosine of 0.999


@dataclass(frozen=True)
class Contents:
    """An open collection, and the texts and vectors that it must contain."""

    reader: Reader
    identity: Identity
    snapshot: Snapshot
    embeddings: Embeddings


@dataclass(frozen=True)
class Candidate(Contents):
    """An open collection, its contents, its encoder, and its settings."""

    encoder: VectorEncoder
    settings: MilvusSettings
    delta: Delta | None = None  # of a collection that was built from a copy


def verify(candidate: Candidate) -> float:
    """Run every check, cheap checks first; return the index's recall@10 against exact search.

    Raises Mismatch when properties differ from the manifest, rows are missing or foreign, a sampled passage does not
    find itself or was embedded by another encoder, or the recall is below `min_recall`.
    """
    for check in CHECKS:
        check(candidate)
        log.debug("%s: %s", candidate.identity.collection, check.__name__.replace("_", " ").removeprefix("check "))
    return check_recall_enough(candidate)


def check_identity_kept(candidate: Candidate) -> None:
    """Check that the stored properties equal the manifest, and that the encoder has the recorded fingerprint."""
    actual, expected = candidate.reader.identity, candidate.identity
    for name, value in expected.model_dump().items():
        if (stored := getattr(actual, name)) != value:
            raise Mismatch(f"collection {expected.collection}: property {name} is {stored!r}, expected {value!r}")
    encoder = candidate.encoder
    if (encoder.fingerprint, encoder.dimension) != (expected.fingerprint, expected.dimension):
        raise Mismatch(
            f"collection {expected.collection}: its vectors were made by {expected.fingerprint} (dimension "
            f"{expected.dimension}), but the encoder is {encoder.fingerprint} (dimension {encoder.dimension})"
        )


def check_count_equal(candidate: Contents) -> None:
    """Check that the row count, with strong consistency, equals the manifest."""
    counted, expected = candidate.reader.count(), candidate.identity.rows
    if counted != expected:
        raise Mismatch(f"collection {candidate.identity.collection}: {counted} rows, expected {expected}")


def check_keys_equal(candidate: Contents) -> None:
    """Check that every passage is stored once, in its row, with the snapshot's text hash."""
    first = 0
    rows = candidate.reader.keys_at_once
    for batch in passages(candidate.snapshot, columns=["passage_id", "text_hash"], batch_rows=rows):
        last = first + batch.num_rows
        columns = (batch["passage_id"].to_pylist(), batch["text_hash"].to_pylist())
        expected = list(zip(range(first, last), *columns, strict=True))
        keys = candidate.reader.keys(first, last)
        if keys != expected:
            wrong = min(set(expected) ^ set(keys), default=None)
            raise Mismatch(
                f"collection {candidate.identity.collection}: rows {first} to {last - 1} are not the snapshot's; "
                f"first difference: {wrong or 'a key that is stored twice'}"
            )
        first = last


def check_keys(candidate: Candidate) -> None:
    """Check every key of a collection; of a copy, the keys that its delta changed and a sample of the others."""
    if candidate.delta is None:
        check_keys_equal(candidate)
    else:
        check_changed_keys(candidate, candidate.delta)


def check_changed_keys(candidate: Contents, delta: Delta) -> None:
    """Check that inserted and replaced passages are stored in their rows, and that deleted passages are not.

    The other rows of a copy are in files that have the checksums of the earlier generation, whose keys were all checked
    when it was built. With the number of rows, which is checked before, no other row can be missing or foreign. A
    sample of `UNCHANGED` of them also shows that their rows are mapped correctly.
    """
    name = candidate.identity.collection
    same = np.flatnonzero(delta.same)
    sample = np.random.default_rng(0).choice(same, min(UNCHANGED, len(same)), replace=False)
    chosen = np.sort(np.concatenate([np.flatnonzero(~delta.same), sample]))
    first = 0
    for batch in passages(candidate.snapshot, columns=["passage_id", "text_hash"]):
        rows = chosen[slice(*np.searchsorted(chosen, (first, first + batch.num_rows)))]
        passages_of_batch = batch.take(pa.array(rows - first)).to_pylist()
        expected = {row: tuple(key.values()) for row, key in zip(rows.tolist(), passages_of_batch, strict=True)}
        stored = candidate.reader.fetch([key for key, _ in expected.values()], ["text_hash"]) if expected else {}
        actual = {row: (hit.passage_id, hit.fields["text_hash"]) for row, hit in stored.items()}
        if actual != expected:
            wrong = min(set(expected.items()) ^ set(actual.items()))
            raise Mismatch(f"collection {name}: changed rows are not the snapshot's; first difference: {wrong}")
        first += batch.num_rows
    if left := candidate.reader.fetch(delta.deleted, []) if delta.deleted else {}:
        raise Mismatch(f"collection {name}: {len(left)} deleted passages are stored; the first is in row {min(left)}")


def check_passages_find_themselves(candidate: Candidate) -> None:
    """Encode sampled passages again; check that each ranks first in its own search, with an equal vector and hash."""
    sample = _sample_passages(candidate)
    fresh = candidate.encoder.encode_passages([text for _, _, text in sample])
    answers = candidate.reader.search(fresh, DEPTH, ["text_hash", "vector"])
    label = f"collection {candidate.identity.collection}"
    for (row, text_hash, _), vector, hits in zip(sample, fresh, answers, strict=True):
        self_score = float(vector @ vector)
        floor = self_score - SLACK * abs(self_score)
        match = next((hit for hit in hits if hit.fields["text_hash"] == text_hash), None)
        before = hits if match is None else hits[: hits.index(match)]
        # By inner product a longer vector may rank above it, and many equal passages may push it out of the hits.
        if any(hit.score < floor for hit in before) or (match is None and len(hits) < DEPTH):
            raise Mismatch(f"{label}: the passage in row {row} does not find itself; its vector is another passage's")
        if match is not None and _distance(vector, match.fields["vector"]) > MAX_DISTANCE:
            raise Mismatch(f"{label}: the vector of row {row} is not the encoding of its text")


def check_recall_enough(candidate: Candidate) -> float:
    """Return the index's recall@10 against exact search over the shards, in [0, 1]. A tie with the tenth score counts.

    Raises Mismatch when it is below `min_recall`.
    """
    queries = _sample_queries(candidate)
    _, exact = exact_search(queries, candidate.embeddings, DEPTH)
    results = candidate.reader.search(queries, DEPTH)
    shares = []
    for hits, scores in zip(results, exact, strict=True):
        floor = scores[-1] - 1e-5 * max(1.0, abs(float(scores[-1])))
        shares.append(sum(hit.score >= floor for hit in hits) / len(scores))
    recall = float(np.mean(shares))
    log.info("%s: recall@%d against exact search %.4f", candidate.identity.collection, DEPTH, recall)
    if recall < candidate.settings.min_recall:
        raise Mismatch(
            f"collection {candidate.identity.collection}: recall@{DEPTH} of its {candidate.identity.index} index is "
            f"{recall:.3f}, below [milvus] min_recall = {candidate.settings.min_recall}; use FLAT or lower min_recall"
        )
    return recall


CHECKS: tuple[Callable[[Candidate], None], ...] = (
    check_identity_kept,
    check_count_equal,
    check_keys,
    check_passages_find_themselves,
)


def _sample_passages(candidate: Candidate) -> list[tuple[int, str, str]]:
    """Return (row, text hash, full text) of random passages; a release always gets the same sample."""
    total = candidate.identity.rows
    drawn = sorted(_random(candidate).sample(range(total), min(candidate.settings.samples, total)))
    sample, first = [], 0
    for batch in passages(candidate.snapshot, columns=["title", "text", "text_hash"]):
        here = [row for row in drawn if first <= row < first + batch.num_rows]
        places = pa.array([row - first for row in here], pa.int64())  # typed, because the list may be empty
        for row, passage in zip(here, batch.take(places).to_pylist(), strict=True):
            sample.append((row, passage["text_hash"], full_text(passage["title"], passage["text"])))
        first += batch.num_rows
    return sample


def _sample_queries(candidate: Candidate) -> np.ndarray:
    """Encode a random sample of the snapshot's queries; of its passages when it has no queries."""
    texts = read_queries(candidate.snapshot)["text"].to_pylist()
    if not texts:
        return candidate.encoder.encode_passages([text for _, _, text in _sample_passages(candidate)])
    drawn = _random(candidate).sample(texts, min(candidate.settings.samples, len(texts)))
    return candidate.encoder.encode_queries(drawn)


def _random(candidate: Candidate) -> random.Random:
    return random.Random(candidate.identity.release)  # noqa: S311  (a sample, not a secret)


def _distance(fresh: np.ndarray, stored: Sequence[float]) -> float:
    """Return the distance relative to the length of `fresh`. Unlike the cosine, it also detects a scaled vector."""
    apart = np.linalg.norm(fresh - np.asarray(stored, np.float32))
    return float(apart / max(float(np.linalg.norm(fresh)), 1e-12))
