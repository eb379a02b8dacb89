"""Verify the serving release and rebuild its damaged parts."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from tasks.core.base.checksums import set_aside
from tasks.core.base.errors import Damaged, NightshiftError, Unreachable
from tasks.core.base.files import load
from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import MiningSettings, Settings
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
    """Verify the serving release and rebuild its damaged parts.

    Rebuilds pointer, ledger, and manifests from each other and from the collections; the collection from the stored
    vectors, as a new release; the BM25 index from the snapshot.

    Returns: the release that serves afterwards, and the pointer's epoch. The release is None when no release serves or
    the collection cannot be rebuilt; the next night then makes a new release.

    Raises Unreachable when the Milvus server does not answer.
    """
    release, epoch = serving(settings)
    if release is None:
        return None, epoch
    with open_ledger(settings) as ledger, ledger.exclusive():
        restore_manifests(ledger)
    _repair_bm25(settings.home, release, settings.mining)
    try:
        _check_release(release, open_publisher(settings.home, settings.milvus))
    except Unreachable:
        raise
    except NightshiftError as error:
        log.error("release %s: %s", release.release, error)
        return _rebuild_collection(settings, loader, release, epoch)
    return release, epoch


def _check_release(release: Release, publisher: Publisher) -> None:
    check_loads(release, publisher)
    with closing(publisher.open(release.collection)) as reader:
        reader.check()


def _rebuild_collection(settings: Settings, loader: Loader, damaged: Release, epoch: int) -> tuple[Release | None, int]:
    try:
        release = reindex(settings, f"{damaged.release} was damaged", loader)
    except Unreachable:
        raise
    except NightshiftError as error:
        log.error(
            "release %s: its collection cannot be rebuilt (%s). Serve the previous release with `nightshift rollback`, "
            "or make a new one with `nightshift run`",
            damaged.release,
            error,
        )
        return None, epoch
    log.warning("release %s: damaged; release %s, from the same vectors, serves now", damaged.release, release.release)
    return serving(settings)


def _repair_bm25(home: Path, release: Release, settings: MiningSettings) -> None:
    """Rebuild the BM25 index of the release's snapshot if its files are damaged."""
    index = find_index(home, release.snapshot, settings)
    if index is None and not damaged_indexes(home):
        return
    if index is not None:
        try:
            check_lucene(index.path / "lucene")
        except Damaged as error:
            set_aside(index.path, error)
        else:
            return
    try:
        build_index(home, load(home, Snapshot, release.snapshot), settings)
    except NightshiftError as error:
        log.error("snapshot %s: BM25 index not built (%s); searching with dense vectors only", release.snapshot, error)
