"""Reindex: rebuild the serving collection with other index settings, or because it is damaged."""

from __future__ import annotations

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.release.history import serving
from tasks.core.release.publish import publish
from tasks.core.release.publisher import Loader, default_loader


def reindex(settings: Settings, reason: str, loader: Loader = default_loader) -> Release:
    """Publish the serving release's encoder and vectors again with the current `[milvus]` settings. Embeds nothing.

    Keeps the collection if it already has this index and passes every check.

    Args:
        settings: of the home.
        reason: why, to record with the release.
        loader: loads the encoder.

    Returns: the serving release.

    Raises NightshiftError when there is no release yet, and as `publish` does.
    """
    current, epoch = serving(settings)
    if current is None:
        raise NightshiftError("there is no release to reindex yet; `nightshift run` makes the first one")
    return publish(
        settings,
        encoder=load(settings.home, Encoder, current.encoder),
        embeddings=load(settings.home, Embeddings, current.embeddings),
        snapshot=load(settings.home, Snapshot, current.snapshot),
        metrics=current.metrics,
        bm25=current.bm25,
        base=current.base,
        previous=current.previous,
        recipe=current.recipe,
        reason=reason,
        expected_epoch=epoch,
        ranking=current.ranking,
        dense=current.dense,
        since_training=current.since_training,
        loader=loader,
    )
