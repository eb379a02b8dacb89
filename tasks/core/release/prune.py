"""Prune: remove collections that are no longer needed, including those of crashed nights. Their metrics stay.

On a server, collections that are kept for a rollback but not searched are released from memory.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.history import reconcile
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.ledger import Generation, Ledger, open_ledger
from tasks.core.release.pins import pinned_releases
from tasks.core.release.publisher import Publisher
from tasks.core.release.rollback import rollback_target
from tasks.core.release.shadow_files import remove_shadow_files
from tasks.core.release.vector_stores import open_publisher

log = logging.getLogger("nightshift.release")


def prune(settings: HomeSettings, publisher: Publisher | None = None) -> list[str]:
    """Remove the collections of generations that are no longer needed.

    Keeps the serving release, the release that a rollback would return to, the newest `[milvus] keep` releases, pinned
    releases, releases that served within the last `grace_minutes`, and generations that another process is building.
    Removes generations that never served, regardless of age. Also deletes the shadow search files of removed releases.

    Args:
        settings: of the home.
        publisher: of the collections; None: the one that the settings choose.

    Returns: the names of the removed collections.
    """
    publisher = publisher or open_publisher(settings.home, settings.milvus)
    removed = []
    with open_ledger(settings) as ledger:
        with ledger.exclusive():
            reconcile(ledger, publisher)  # adds collections that a lost ledger did not record
        present = publisher.collections()
        for generation in ledger.generations():
            if generation.collection not in present:
                continue
            with ledger.lock_generation(generation) as locked:
                if locked and _mark_if_unneeded(ledger, publisher, generation, settings.milvus):
                    publisher.drop(generation.collection)
                    removed.append(generation.collection)
                    log.info("%s: removed, no longer needed", generation.collection)
                elif locked and _is_idle(ledger, publisher, generation, settings.milvus):
                    publisher.unload(generation.collection)
        remove_shadow_files(settings.home, {release.release for release in ledger.releases() if not release.pruned})
    publisher.tidy()
    return removed


def _mark_if_unneeded(ledger: Ledger, publisher: Publisher, generation: Generation, settings: MilvusSettings) -> bool:
    """Mark an unneeded generation as dropped, in the transaction that decides: the pointer cannot move to it later."""
    with ledger.exclusive():
        current, _ = reconcile(ledger, publisher)
        live = [release.release for release in ledger.releases() if not release.pruned]
        kept = {*live[: settings.keep], current and current.release, rollback_target(ledger, current)}
        kept |= pinned_releases(ledger.home) | _served_since(ledger, settings.grace_minutes)
        if generation.release in kept:
            return False
        ledger.mark_dropped(generation.number)
        return True


def _is_idle(ledger: Ledger, publisher: Publisher, generation: Generation, settings: MilvusSettings) -> bool:
    """Return whether the release is probably not searched. A rollback or a searcher loads it again."""
    with ledger.exclusive():
        current, _ = reconcile(ledger, publisher)
        used = (
            {current and current.release} | pinned_releases(ledger.home) | _served_since(ledger, settings.grace_minutes)
        )
        return generation.release not in used


def _served_since(ledger: Ledger, minutes: float) -> set[str]:
    """Return the releases that served within the last `minutes`: queries may still be sent to them."""
    since = datetime.now(UTC) - timedelta(minutes=minutes)
    return {old.release for old, new in pairwise(ledger.moves()) if datetime.fromisoformat(new.at) > since}
