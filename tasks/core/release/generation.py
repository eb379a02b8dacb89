"""Build and verify a generation: one attempt to build the collection of a release."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tasks.core.base.errors import Mismatch, NightshiftError, Unreachable
from tasks.core.base.files import digest_of, find_artifact
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.sections.indexes import build_params
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.delta import Delta, NotCopied, plan_delta
from tasks.core.release.ledger import Generation, Ledger
from tasks.core.release.milvus.collection import METRIC
from tasks.core.release.publisher import Identity, Loader, Publisher
from tasks.core.release.rows import rows_with_vectors
from tasks.core.release.verify import Candidate, verify

log = logging.getLogger("nightshift.release")


@dataclass(frozen=True)
class Parts:
    """The parts of a release. Raises Mismatch when they do not belong together."""

    encoder: Encoder
    embeddings: Embeddings
    snapshot: Snapshot
    settings: MilvusSettings
    loader: Loader
    ranking: Ranking = DENSE

    def __post_init__(self) -> None:
        encoder, embeddings, snapshot = self.encoder, self.embeddings, self.snapshot
        expected = (encoder.passage_fingerprint, encoder.dimension, snapshot.digest, snapshot.rows)
        embedded = (embeddings.fingerprint, embeddings.dimension, embeddings.snapshot, embeddings.rows)
        if expected != embedded:
            raise Mismatch(
                f"embeddings {embeddings.digest}: (passage fingerprint, dimension, snapshot, rows) {embedded}, "
                f"expected {expected}; embed this snapshot with this encoder"
            )

    @property
    def digest(self) -> str:
        """Digest of the release: equal parts and index settings give an equal digest."""
        index_params = sorted(self.settings.index_params.items())
        parts = (self.encoder.fingerprint, self.embeddings.digest, self.snapshot.digest, self.settings.index, METRIC)
        ranking = {"ranking": self.ranking.model_dump()} if self.ranking != DENSE else {}
        return digest_of({"kind": "Release", "parts": (*parts, *index_params), **ranking})

    def identity(self, generation: Generation) -> Identity:
        """Return the identity of the collection of `generation`."""
        return Identity(
            release=generation.release,
            digest=self.digest,
            collection=generation.collection,
            fingerprint=self.encoder.fingerprint,
            dimension=self.encoder.dimension,
            metric=METRIC,
            index=self.settings.index,
            index_params=json.dumps(
                build_params(
                    self.settings.index, self.snapshot.rows, self.encoder.dimension, self.settings.index_params
                )
            ),
            rows=self.snapshot.rows,
            encoder=self.encoder.digest,
            embeddings=self.embeddings.digest,
            snapshot=self.snapshot.digest,
            ranking=self.ranking.model_dump_json() if self.ranking != DENSE else "",
        )


def find_finished(ledger: Ledger, parts: Parts) -> list[Generation]:
    """Return the verified generations of the same parts, newest first, whether they were released or not."""
    same = [entry for entry in ledger.generations() if entry.digest == parts.digest and not entry.dropped]
    for generation in same:
        if not generation.verified:
            log.info("generation %d: left unfinished by an earlier run; not reused", generation.number)
    return [generation for generation in same if generation.verified]


def plan_copy(home: Path, current: Release | None, parts: Parts) -> Delta | None:
    """Compare with the serving release; return None if the generation must be built from nothing.

    That is so if the vectors of the serving release are of another passage encoder, if it has the same parts (it is
    rebuilt because it may be damaged), or if too many passages changed; see `plan_delta`. The publisher adds its own
    conditions.
    """
    if current is None or (current.encoder, current.snapshot) == (parts.encoder.digest, parts.snapshot.digest):
        return None
    vectors = find_artifact(home, Embeddings, current.embeddings)
    before = find_artifact(home, Snapshot, current.snapshot)
    if before is None or vectors is None or vectors.fingerprint != parts.embeddings.fingerprint:
        return None
    return plan_delta(before, parts.snapshot, current.collection)


def build_and_verify(generation: Generation, parts: Parts, publisher: Publisher, delta: Delta | None = None) -> float:
    """Build the generation's collection, open it again, and verify it; return its recall@10, in [0, 1].

    Raises Mismatch as `rows_with_vectors` and `verify` do.
    """
    log.info("%s: building generation %d", generation.collection, generation.number)
    batches = rows_with_vectors(parts.snapshot, parts.embeddings, parts.settings.batch_rows)
    publisher.build(parts.identity(generation), batches, delta)
    return verify_generation(generation, parts, publisher, delta)


def try_copy(generation: Generation, parts: Parts, publisher: Publisher, delta: Delta) -> float | None:
    """Build the generation from a copy and verify it; return its recall@10, or None if it must be built from nothing.

    Raises Unreachable when the Milvus server does not answer.
    """
    try:
        return build_and_verify(generation, parts, publisher, delta)
    except Unreachable:
        raise
    except NotCopied as reason:
        log.info("generation %d: not built from a copy: %s", generation.number, reason)
    except NightshiftError as error:
        log.warning("generation %d: built from a copy, but not usable: %s", generation.number, error)
    return None


def try_reuse(generation: Generation, parts: Parts, publisher: Publisher) -> float | None:
    """Verify a finished generation again; return its recall@10, or None when it fails a check."""
    try:
        recall = verify_generation(generation, parts, publisher)
    except NightshiftError as error:
        log.warning("generation %d: not reused: %s", generation.number, error)
        return None
    log.info("generation %d: verified again, nothing to build", generation.number)
    return recall


def verify_generation(generation: Generation, parts: Parts, publisher: Publisher, delta: Delta | None = None) -> float:
    """Open the generation's collection and run every check of `verify`; return its recall@10.

    delta: with which it was built from a copy just now.

    Raises Mismatch when a check fails.
    """
    encoder = parts.loader(parts.encoder.path)
    with closing(publisher.open(generation.collection)) as reader:
        identity = parts.identity(generation)
        return verify(Candidate(reader, identity, parts.snapshot, parts.embeddings, encoder, parts.settings, delta))
