"""Publishes the serving release again without forgotten rows: same encoder, same vectors, nothing embedded."""

from __future__ import annotations

import logging

from tasks.core.base.files import find_artifact, load, receipts_newest_first
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.statistics import build_reference
from tasks.core.embedding.shards import gather_shards
from tasks.core.ingest.snapshot_without import Rows, without_rows
from tasks.core.release.publisher import Loader
from tasks.core.release.reindex import publish_again
from tasks.core.retrieval.postings import over_snapshot

log = logging.getLogger("nightshift.forget")
REASON = "forget"


def publish_without(settings: Settings, current: Release, epoch: int, rows: Rows, loader: Loader) -> int:
    """Publish the serving release without `rows`. Nothing of its collection is copied, not even a file.

    All embeddings of its snapshot are carried over, so that the next night embeds nothing again either.

    Args:
        settings: of the home.
        current: the serving release.
        epoch: of the pointer, from `serving`.
        rows: to leave out; none if only the files of the collection have them.
        loader: loads the encoder.

    Returns: the number of passages that were encoded; 0 unless vectors were missing.

    Raises: as `publish` does.
    """
    home = settings.home
    old = load(home, Snapshot, current.snapshot)
    new = without_rows(home, old, rows) if rows else old
    log.info("snapshot %s: %d of %d passages stay", new.digest, new.rows, old.rows)
    embeddings, embedded = _carry_over(settings, current, old, new)
    build_reference(home, load(home, Encoder, current.encoder), embeddings, new)
    ranking = over_snapshot(home, current.ranking, new)
    publish_again(
        settings, current, epoch, REASON, loader, embeddings=embeddings, snapshot=new, ranking=ranking, purge=True
    )
    return embedded


def _carry_over(settings: Settings, current: Release, old: Snapshot, new: Snapshot) -> tuple[Embeddings, int]:
    """Return the embeddings of the release over the new snapshot, and how many passages were encoded for all."""
    made: dict[str, Embeddings] = {}
    for receipt in receipts_newest_first(settings.home, Embeddings):
        encoders = (find_artifact(settings.home, Encoder, parent) for parent in receipt.parents)
        encoder = next(filter(None, encoders), None)
        if receipt.snapshot == old.digest and encoder is not None:
            made[receipt.digest] = gather_shards(settings.home, encoder, new, receipt.shards, vectors=receipt.vectors)
    if current.embeddings not in made:
        encoder = load(settings.home, Encoder, current.encoder)
        made[current.embeddings] = gather_shards(
            settings.home, encoder, new, settings.embedding.shards, vectors=settings.embedding.vectors
        )
    return made[current.embeddings], sum(embeddings.embedded for embeddings in made.values())
