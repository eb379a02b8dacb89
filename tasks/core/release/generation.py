"""A generation: one try at building the collection of a release, before anyone may see it."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import dataclass

from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.files import digest_of
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.sections.indexes import build_params
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.ledger import Generation, Ledger
from tasks.core.release.milvus.collection import METRIC
from tasks.core.release.publisher import Identity, Loader, Publisher
from tasks.core.release.rows import rows_with_vectors
from tasks.core.release.verify import Candidate, verify

log = logging.getLogger("nightshift.release")


@dataclass(frozen=True)
class Parts:
    """What a release is made of. Raises Mismatch when the parts do not belong together."""

    encoder: Encoder
    embeddings: Embeddings
    snapshot: Snapshot
    settings: MilvusSettings
    loader: Loader

    def __post_init__(self) -> None:
        encoder, embeddings, snapshot = self.encoder, self.embeddings, self.snapshot
        wanted = (encoder.passage_fingerprint, encoder.dimension, snapshot.digest, snapshot.rows)
        found = (embeddings.fingerprint, embeddings.dimension, embeddings.snapshot, embeddings.rows)
        if wanted != found:
            raise Mismatch(
                f"embeddings {embeddings.digest}: (passage fingerprint, dimension, snapshot, rows) {found}, "
                f"encoder and snapshot have {wanted}; embed this snapshot with this encoder"
            )

    @property
    def digest(self) -> str:
        """The same parts give the same release, however often a night is run."""
        asked = sorted(self.settings.index_params.items())
        parts = (self.encoder.fingerprint, self.embeddings.digest, self.snapshot.digest, self.settings.index, METRIC)
        return digest_of({"kind": "Release", "parts": (*parts, *asked)})

    def identity(self, generation: Generation) -> Identity:
        """Who the collection of `generation` is."""
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
        )


def candidates(ledger: Ledger, parts: Parts) -> list[Generation]:
    """Finished generations of the same parts, newest first, released or left by a run that ended before that."""
    same = [one for one in ledger.generations() if one.digest == parts.digest and not one.dropped]
    for one in same:
        if not one.verified:
            log.info("generation %d: left unfinished by an earlier run; not used again", one.number)
    return [one for one in same if one.verified]


def build(generation: Generation, parts: Parts, publisher: Publisher) -> float:
    """Build the generation's collection and verify it, opened anew; its recall, as `verify` gives it.

    Raises Mismatch as `paired` and `verify` do.
    """
    log.info("%s: building generation %d", generation.collection, generation.number)
    batches = rows_with_vectors(parts.snapshot, parts.embeddings, parts.settings.batch_rows)
    publisher.build(parts.identity(generation), batches)
    return check(generation, parts, publisher)


def usable(generation: Generation, parts: Parts, publisher: Publisher) -> float | None:
    """The recall of a generation that was verified once and still is whole; None when it is not."""
    try:
        recall = check(generation, parts, publisher)
    except NightshiftError as error:
        log.warning("generation %d: not used again: %s", generation.number, error)
        return None
    log.info("generation %d: verified again, nothing to build", generation.number)
    return recall


def check(generation: Generation, parts: Parts, publisher: Publisher) -> float:
    """Open the generation's collection and run every check of `verify`; its recall."""
    encoder = parts.loader(parts.encoder.path)
    with closing(publisher.open(generation.collection)) as reader:
        identity = parts.identity(generation)
        return verify(Candidate(reader, identity, parts.snapshot, parts.embeddings, encoder, parts.settings))
