"""The front door to releases: publish here; `serving`, `list_releases`, `rollback`, `pin` and `prune` from beside."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from tasks.core.base.errors import Mismatch, StaleNight
from tasks.core.base.files import MANIFEST, write_json
from tasks.core.base.memory import Peak
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.resolved_settings import resolve
from tasks.core.base.settings import Settings
from tasks.core.release.generation import Parts, build, candidates, usable
from tasks.core.release.history import list_releases, point_to, reconcile, serving
from tasks.core.release.ledger import Generation, Ledger, open_ledger
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
    loader: Loader = default_loader,
    publisher: Publisher | None = None,
) -> Release:
    """Make a release of encoder, embeddings and snapshot, and move the pointer to it.

    A generation of the same parts that an earlier run left, released or not, is verified and used again instead of
    built; when it serves already, the pointer stays. `expected_epoch` is the epoch that `serving` gave when the night
    began; `metrics`, `bm25`, `base` and `previous` are the figures to record.

    Raises:
        Mismatch: parts that do not belong together, a collection that fails a check, or that lacks more passages of
            the serving release's number than `max_shrink`; the pointer is untouched.
        Unreachable: the Milvus server did not answer for too long; running it again builds a new generation.
        StaleNight: another release went live since; the generation stays as a candidate until it is pruned.
    """
    start = time.perf_counter()
    publisher = publisher or open_publisher(settings)
    parts = Parts(encoder, embeddings, snapshot, settings.milvus, loader)

    def record(generation: Generation, recall: float, peak_mb: int) -> Release:
        return Release(
            digest=parts.digest,
            path=settings.home / Release.shelf / generation.release,
            parents=(encoder.digest, embeddings.digest, snapshot.digest),
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
            **parts.identity(generation).model_dump(exclude={"digest", "index", "index_params"}),
        )

    with open_ledger(settings) as ledger:
        with ledger.exclusive():
            current, _ = reconcile(ledger, publisher)
        _check_not_shrunk(snapshot, current, settings.milvus.max_shrink)
        for generation in candidates(ledger, parts):
            with ledger.held(generation) as free:
                with Peak() as peak:
                    recall = usable(generation, parts, publisher) if free else None
                if recall is not None:
                    return _go_live(ledger, publisher, record(generation, recall, peak.mb), expected_epoch)
        with ledger.exclusive():
            generation = ledger.allocate(parts.digest)
        with ledger.held(generation):
            with Peak() as peak:
                recall = build(generation, parts, publisher)
            with ledger.exclusive():
                ledger.mark_verified(generation.number)
            log.info("%s: verified", generation.collection)
            return _go_live(ledger, publisher, record(generation, recall, peak.mb), expected_epoch)


def _check_not_shrunk(snapshot: Snapshot, current: Release | None, most: float) -> None:
    if current is not None and snapshot.rows < (1 - most) * current.rows:
        raise Mismatch(
            f"snapshot {snapshot.digest}: {snapshot.rows} passages, the serving release {current.release} has "
            f"{current.rows}. Is part of the source missing? If not, raise [milvus] max_shrink = {most}."
        )


def _go_live(ledger: Ledger, publisher: Publisher, release: Release, expected_epoch: int) -> Release:
    """Check the fence and move the pointer, as one transaction; an earlier record of this release is kept."""
    with ledger.exclusive():
        current, epoch = reconcile(ledger, publisher)
        # Another night may have published the same parts meanwhile; then its collection stays.
        same = current is not None and current.digest == release.digest
        if current is not None and same and (current.collection == release.collection or epoch != expected_epoch):
            log.info("release %s serves already", current.release)
            return current
        if epoch != expected_epoch:
            raise StaleNight(
                f"{current.release if current else 'another release'} went live while this night was under way (epoch "
                f"{epoch}, this night began at {expected_epoch}). The pointer was left alone; run the night again."
            )
        known = read_manifest(release.path)
        if known is None:
            write_json(release.path / MANIFEST, release.model_dump(mode="json", exclude={"path", "reused"}))
        point_to(ledger, publisher, known or release, epoch + 1, "publish")
    log.debug("release %s: recorded", release.release)
    return known or release
