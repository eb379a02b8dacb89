"""Publish a release. Also re-exports the other operations on releases: roll back, pin, prune, and list."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from tasks.core.base.errors import Mismatch, StaleNight
from tasks.core.base.files import MANIFEST, write_json
from tasks.core.base.memory import Peak
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.resolved_settings import resolve
from tasks.core.base.settings import Settings
from tasks.core.release.delta import Delta
from tasks.core.release.generation import Parts, build_and_verify, find_finished, plan_copy, try_copy, try_reuse
from tasks.core.release.history import list_releases, move_pointer_to, reconcile, serving
from tasks.core.release.ledger import Generation, Ledger, open_ledger
from tasks.core.release.lexical import check_lexical
from tasks.core.release.pins import pin, unpin
from tasks.core.release.prune import prune
from tasks.core.release.publisher import Loader, Publisher, default_loader
from tasks.core.release.recovery import read_manifest
from tasks.core.release.rollback import find_withdrawn, rollback
from tasks.core.release.vector_stores import open_publisher

__all__ = ["find_withdrawn", "list_releases", "pin", "prune", "publish", "rollback", "serving", "unpin"]

log = logging.getLogger("nightshift.release")


def publish(
    settings: Settings,
    *,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    metrics: Mapping[str, float],
    bm25: Mapping[str, float],
    base: Mapping[str, float],
    previous: Mapping[str, float] | None,
    recipe: str,
    reason: str,
    expected_epoch: int,
    ranking: Ranking = DENSE,
    dense: Mapping[str, float] | None = None,
    since_training: Mapping[str, float] | None = None,
    purge: bool = False,
    loader: Loader = default_loader,
    publisher: Publisher | None = None,
) -> Release:
    """Make a release of encoder, embeddings, and snapshot, and move the pointer to it.

    A small change of the serving release is built from a copy of its collection, where the vector store can do that.
    A finished generation of the same parts is verified and reused instead of building a new one. If it already serves,
    the pointer does not move.

    Args:
        settings: of the home.
        encoder: encodes the queries of this release.
        embeddings: vectors of `snapshot`, made by `encoder`.
        snapshot: the passages.
        metrics, bm25, base, previous: measures of the challenger, of BM25, of the base model, and of the previous
            release (None: there was none), to record.
        recipe: digest of the settings that shaped the release, to record.
        reason: why the release was made, to record.
        expected_epoch: the epoch that `serving` returned when the night began.
        ranking: how the release ranks; its lexical index is over `snapshot`.
        dense: measures of the challenger's dense ranking alone, to record.
        since_training: drift signals that have added up since the last training, to record; None: none.
        purge: the release replaces the serving one without forgotten rows. So it is built from nothing, even if a
            generation of the same parts exists, and may be smaller.
        loader: loads the encoder.
        publisher: stores the collection; None: the one that the settings choose.

    Returns: the serving release.

    Raises:
        Mismatch: the parts do not belong together, the collection fails a check, or the snapshot is smaller than the
            serving release by more than the share `max_shrink`. The pointer does not move.
        Unreachable: the Milvus server did not answer in time. Running the night again builds a new generation.
        StaleNight: another release went live in the meantime. The generation stays until it is pruned.
    """
    start = time.perf_counter()
    publisher = publisher or open_publisher(settings.home, settings.milvus, patient=True)
    parts = Parts(encoder, embeddings, snapshot, settings.milvus, loader, ranking)
    check_lexical(settings.home, ranking, snapshot.digest, snapshot.rows)

    def make_release(generation: Generation, recall: float, peak_mb: int) -> Release:
        return Release(
            digest=parts.digest,
            path=settings.home / Release.shelf / generation.release,
            parents=(encoder.digest, embeddings.digest, snapshot.digest, *filter(None, [ranking.postings])),
            seconds=time.perf_counter() - start,
            peak_mb=peak_mb,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            generation=generation.number,
            recipe=recipe,
            reason=reason,
            metrics=dict(metrics),
            bm25=dict(bm25),
            base=dict(base),
            previous=None if previous is None else dict(previous),
            recall=recall,
            settings=resolve(settings),
            ranking=ranking,
            dense=dict(dense or {}),
            since_training=dict(since_training or {}),
            **parts.identity(generation).model_dump(exclude={"digest", "index", "index_params", "ranking"}),
        )

    with open_ledger(settings) as ledger:
        with ledger.exclusive():
            current, _ = reconcile(ledger, publisher)
        _check_not_shrunk(snapshot, current, 1.0 if purge else settings.milvus.max_shrink)
        for generation in [] if purge else find_finished(ledger, parts):
            with ledger.lock_generation(generation) as locked:
                with Peak() as peak:
                    recall = try_reuse(generation, parts, publisher) if locked else None
                if recall is not None:
                    return _go_live(ledger, publisher, make_release(generation, recall, peak.mb), expected_epoch)
        delta = plan_copy(settings.home, current, parts) if publisher.copies and not purge else None
        while True:
            with ledger.exclusive():
                generation = ledger.allocate(parts.digest)
            with ledger.lock_generation(generation):
                with Peak() as peak:
                    recall = _build(generation, parts, publisher, delta)
                if recall is not None:
                    with ledger.exclusive():
                        ledger.mark_verified(generation.number)
                    log.info("%s: verified", generation.collection)
                    return _go_live(ledger, publisher, make_release(generation, recall, peak.mb), expected_epoch)
            delta = None  # the copy was not usable: build another generation from nothing


def _build(generation: Generation, parts: Parts, publisher: Publisher, delta: Delta | None) -> float | None:
    """Build and verify a generation; return its recall@10, or None when a copy of another one was not usable."""
    if delta is None:
        return build_and_verify(generation, parts, publisher)
    return try_copy(generation, parts, publisher, delta)


def _check_not_shrunk(snapshot: Snapshot, current: Release | None, max_shrink: float) -> None:
    if current is not None and snapshot.rows < (1 - max_shrink) * current.rows:
        raise Mismatch(
            f"snapshot {snapshot.digest}: {snapshot.rows} passages, but the serving release {current.release} has "
            f"{current.rows}. Is part of the source missing? If not, raise [milvus] max_shrink = {max_shrink}."
        )


def _go_live(ledger: Ledger, publisher: Publisher, release: Release, expected_epoch: int) -> Release:
    """Check that no other release went live and move the pointer, in one transaction. Keeps an existing manifest."""
    with ledger.exclusive():
        current, epoch = reconcile(ledger, publisher)
        # Another night may have published the same parts in the meantime; its collection stays.
        same = current is not None and current.digest == release.digest
        if current is not None and same and (current.collection == release.collection or epoch != expected_epoch):
            log.info("release %s already serves", current.release)
            return current
        if epoch != expected_epoch:
            raise StaleNight(
                f"{current.release if current else 'another release'} went live during this night (epoch {epoch}, "
                f"this night began at {expected_epoch}). The pointer was not moved; run the night again."
            )
        known = read_manifest(release.path)
        if known is None:
            write_json(release.path / MANIFEST, release.model_dump(mode="json", exclude={"path", "reused"}))
        move_pointer_to(ledger, publisher, known or release, epoch + 1, "publish")
    log.debug("release %s: recorded", release.release)
    return known or release
