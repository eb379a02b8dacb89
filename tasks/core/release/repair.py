"""What serves, verified, with everything made again that is damaged and can be."""

from __future__ import annotations

import logging
from contextlib import closing

from tasks.core.base.errors import Damaged, NightshiftError, Unreachable
from tasks.core.base.files import load
from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.release.damage import set_aside
from tasks.core.release.history import check_loads, serving
from tasks.core.release.ledger import open_ledger
from tasks.core.release.publisher import Loader, Publisher, default_loader
from tasks.core.release.recovery import restore_manifests
from tasks.core.release.reindex import reindex
from tasks.core.release.vector_stores import open_publisher
from tasks.core.retrieval.bm25 import build_index, find_index
from tasks.core.retrieval.lucene_files import check_lucene, damaged_indexes

log = logging.getLogger("nightshift.release")


def repair(settings: Settings, loader: Loader = default_loader) -> tuple[Release | None, int]:
    """Verify the serving release and rebuild its damaged parts; returns what serves then, and the pointer's epoch.

    Pointer, ledger and manifests are made again from each other and from the collections, the collection from the
    stored vectors as a new release, the BM25 index from the snapshot. (None, epoch) when nothing serves, or when the
    collection cannot be made again: a night then makes a new release.

    Raises Unreachable when the Milvus server does not answer.
    """
    release, epoch = serving(settings)
    if release is None:
        return None, epoch
    with open_ledger(settings) as ledger, ledger.exclusive():
        restore_manifests(ledger)
    _repair_lexical(settings, release)
    try:
        _check(release, open_publisher(settings))
    except Unreachable:
        raise
    except NightshiftError as error:
        log.error("release %s: %s", release.release, error)
        return _rebuilt(settings, loader, release, epoch)
    return release, epoch


def _check(release: Release, publisher: Publisher) -> None:
    check_loads(release, publisher)
    with closing(publisher.open(release.collection)) as reader:
        reader.check()


def _rebuilt(settings: Settings, loader: Loader, damaged: Release, epoch: int) -> tuple[Release | None, int]:
    try:
        release = reindex(settings, f"{damaged.release} was damaged", loader)
    except Unreachable:
        raise
    except NightshiftError as error:
        log.error(
            "release %s: its collection cannot be made again (%s). `nightshift rollback` serves the release before, "
            "`nightshift run` makes a new one",
            damaged.release,
            error,
        )
        return None, epoch
    log.warning("release %s: damaged; release %s, of the same vectors, serves", damaged.release, release.release)
    return serving(settings)


def _repair_lexical(settings: Settings, release: Release) -> None:
    """Build the BM25 index of the release's snapshot again when its files are damaged."""
    index = find_index(settings.home, release.snapshot, settings.mining)
    if index is None and not damaged_indexes(settings.home):
        return
    if index is not None:
        try:
            check_lucene(index.path / "lucene")
        except Damaged as error:
            set_aside(index.path, error)
        else:
            return
    try:
        build_index(settings.home, load(settings.home, Snapshot, release.snapshot), settings.mining)
    except NightshiftError as error:
        log.error("snapshot %s: BM25 index not built (%s); dense search does without", release.snapshot, error)
