"""Reindex: rebuild the serving collection with other index settings, or because it is damaged."""

from __future__ import annotations

from tasks.core.base.errors import NO_RELEASE, NightshiftError
from tasks.core.base.files import load
from tasks.core.base.ranking import Ranking
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
        raise NightshiftError(NO_RELEASE)
    return publish_again(settings, current, epoch, reason, loader)


def publish_again(
    settings: Settings,
    current: Release,
    epoch: int,
    reason: str,
    loader: Loader,
    *,
    snapshot: Snapshot | None = None,
    embeddings: Embeddings | None = None,
    ranking: Ranking | None = None,
    purge: bool = False,
) -> Release:
    """Publish a release again, with its figures and the current `[milvus]` settings.

    Args:
        settings: of the home.
        current: the release.
        epoch: of the pointer, from `serving`.
        reason: why, to record with the new release.
        loader: loads the encoder.
        snapshot, embeddings, ranking: other parts than those of the release.
        purge: see `publish`.

    Raises: as `publish` does.
    """
    return publish(
        settings,
        encoder=load(settings.home, Encoder, current.encoder),
        embeddings=embeddings or load(settings.home, Embeddings, current.embeddings),
        snapshot=snapshot or load(settings.home, Snapshot, current.snapshot),
        metrics=current.metrics,
        bm25=current.bm25,
        base=current.base,
        previous=current.previous,
        recipe=current.recipe,
        reason=reason,
        expected_epoch=epoch,
        ranking=ranking or current.ranking,
        dense=current.dense,
        since_training=current.since_training,
        purge=purge,
        loader=loader,
    )
