"""Verify the serving release and rebuild its damaged parts."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.base.files import find_artifact, load
from tasks.core.base.ranking import Mode
from tasks.core.base.receipts import Postings, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.release.history import check_reader, check_stored, serving
from tasks.core.release.ledger import open_ledger
from tasks.core.release.publisher import Loader, Publisher, default_loader
from tasks.core.release.recovery import restore_manifests
from tasks.core.release.reindex import reindex
from tasks.core.release.vector_stores import open_publisher
from tasks.core.retrieval.postings import build_postings

log = logging.getLogger("nightshift.release")


def repair(settings: Settings, loader: Loader = default_loader) -> tuple[Release | None, int]:
    """Verify the serving release and rebuild its damaged parts.

    Rebuilds pointer, ledger, and manifests from each other and from the collections; the collection from the stored
    vectors, as a new release; the lexical index from the snapshot.

    Returns: the release that serves afterwards, and the pointer's epoch. The release is None when no release serves, or
    when its collection or the index that it ranks with cannot be rebuilt; the next night then makes a new release.

    Raises Unreachable when the Milvus server does not answer.
    """
    release, epoch = serving(settings)
    if release is None:
        return None, epoch
    with open_ledger(settings) as ledger, ledger.exclusive():
        restore_manifests(ledger)
    if not _repair_lexical(settings.home, release) and release.ranking.mode is not Mode.DENSE:
        return None, epoch
    try:
        _check_release(release, open_publisher(settings.home, settings.milvus, patient=True))
    except Unreachable:
        raise
    except NightshiftError as error:
        log.error("release %s: %s", release.release, error)
        return _rebuild_collection(settings, loader, release, epoch)
    return release, epoch


def _check_release(release: Release, publisher: Publisher) -> None:
    """Verify the collection of a release; without loading it if all of its files match their checksums.

    Such files are those that were loaded and verified before the release was published.
    """
    identity = publisher.check_files(release.collection)
    if identity is not None:
        check_stored(release, identity.release, identity.fingerprint, identity.rows)
        return
    with closing(publisher.open(release.collection)) as reader:
        check_reader(release, reader)
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


def _repair_lexical(home: Path, release: Release) -> bool:
    """Rebuild the lexical index of the release if its files are damaged or missing. Return whether it is usable."""
    ranking = release.ranking
    if not ranking.postings or find_artifact(home, Postings, ranking.postings) is not None:
        return True
    try:
        rebuilt = build_postings(home, load(home, Snapshot, release.snapshot), ranking.language, ranking.stemmer)
        if rebuilt.digest == ranking.postings:
            return True
        error: object = f"this version of Anserini builds another index, {rebuilt.digest}"
    except NightshiftError as reason:
        error = reason
    log.error(
        "release %s: lexical index %s not rebuilt (%s). Only dense search works. Serve the previous release with "
        "`nightshift rollback`, or make a new one with `nightshift run`",
        release.release,
        ranking.postings,
        error,
    )
    return False
