"""Finds and removes the collections that have forgotten rows, and waits until no process searches them."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from pathlib import Path

from tasks.core.base.errors import NightshiftError
from tasks.core.forget.contents import Contents, collection_has_forgotten
from tasks.core.release.history import known_releases, reconcile
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.ledger import open_ledger
from tasks.core.release.pins import pinned_releases
from tasks.core.release.publisher import Publisher
from tasks.core.text.tombstones import Tombstones

log = logging.getLogger("nightshift.forget")
PATIENCE = 20.0  # seconds, in addition to `notice_seconds`, for searches in progress and for closing
POLL = 0.2  # seconds


def unclean_collections(
    settings: HomeSettings, contents: Contents, tombstones: Tombstones, publisher: Publisher
) -> set[str]:
    """Return the collections that may have a forgotten row.

    The files of an embedded collection are read. A collection on a server has the rows of its release's snapshot; it
    counts if that is unclean or unknown.
    """
    snapshots = {release.collection: release.snapshot for release in known_releases(settings)}

    def is_unclean(collection: str) -> bool:
        folder = _folder(settings.home, collection)
        if folder.is_dir():
            return collection_has_forgotten(folder, tombstones)
        return not contents.is_clean(snapshots.get(collection, ""))

    return {collection for collection in publisher.collections() if is_unclean(collection)}


def pinned_among(settings: HomeSettings, collections: Collection[str]) -> list[str]:
    """Return the pinned releases of these collections."""
    pins = pinned_releases(settings.home)
    return sorted(
        release.release
        for release in known_releases(settings)
        if release.collection in collections and release.release in pins
    )


def drop_collections(settings: HomeSettings, collections: Collection[str], publisher: Publisher) -> None:
    """Remove collections that do not serve.

    Raises:
        NightshiftError: another process builds or verifies a collection, or it serves.
    """
    with open_ledger(settings) as ledger:
        for generation in ledger.generations():
            if generation.collection not in collections:
                continue
            with ledger.lock_generation(generation) as locked:
                if not locked:
                    raise NightshiftError(f"collection {generation.collection}: another process publishes it")
                with ledger.exclusive():
                    current, _ = reconcile(ledger, publisher)
                    if current is not None and current.collection == generation.collection:
                        raise NightshiftError(f"collection {generation.collection} serves and has forgotten rows")
                    ledger.mark_dropped(generation.number)
                publisher.drop(generation.collection)
                log.info("%s: removed", generation.collection)
    publisher.tidy()


def wait_for_readers(settings: HomeSettings, publisher: Publisher) -> None:
    """Wait until no process has a removed embedded collection open. Processes close it when they see the new pointer.

    Raises:
        NightshiftError: a process keeps it open.
    """
    deadline = time.monotonic() + settings.milvus.notice_seconds + PATIENCE
    while True:
        publisher.tidy()  # removes the clones of dead processes
        clones = (settings.home / "readers").glob("*/*.db")
        held = sorted({clone.stem for clone in clones if not _folder(settings.home, clone.stem).exists()})
        if not held:
            return
        if time.monotonic() > deadline:
            raise NightshiftError(
                f"a process still searches {', '.join(held)}: stop services with [service] shadow_release, and "
                "commands that compare or export releases"
            )
        time.sleep(POLL)


def _folder(home: Path, collection: str) -> Path:
    return home / "milvus" / f"{collection}.db"
