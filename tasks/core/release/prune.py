"""Prune: remove collections that nothing needs any more, also those that crashed nights left. Their figures stay.

What is kept for a rollback, but not searched, gives back its memory on a server.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from tasks.core.base.sections.release import MilvusSettings
from tasks.core.base.settings import Settings
from tasks.core.release.history import reconcile
from tasks.core.release.ledger import Generation, Ledger, open_ledger
from tasks.core.release.pins import pinned
from tasks.core.release.publisher import Publisher
from tasks.core.release.rollback import rollback_target
from tasks.core.release.shadow_files import remove_shadow_files
from tasks.core.release.vector_stores import open_publisher

log = logging.getLogger("nightshift.release")


def prune(settings: Settings, publisher: Publisher | None = None) -> list[str]:
    """Remove generations that nothing needs; returns the collections removed.

    Kept are the serving release, the one that a rollback would return to, the newest `[milvus] keep` releases, pinned
    ones, those that served within the last `grace_minutes`, and what another process is building. Generations that
    never served go, whatever their age. What shadow searches noted goes with its release.
    """
    publisher = publisher or open_publisher(settings)
    removed = []
    with open_ledger(settings) as ledger:
        with ledger.exclusive():
            reconcile(ledger, publisher)  # enters what a lost ledger forgot
        present = publisher.collections()
        for generation in ledger.generations():
            if generation.collection not in present:
                continue
            with ledger.held(generation) as free:
                if free and _is_prunable(ledger, publisher, generation, settings.milvus):
                    publisher.drop(generation.collection)
                    removed.append(generation.collection)
                    log.info("%s: removed, no longer retained", generation.collection)
                elif free and _idle(ledger, publisher, generation, settings.milvus):
                    publisher.unload(generation.collection)
        remove_shadow_files(settings.home, {one.release for one in ledger.releases() if not one.pruned})
    publisher.tidy()
    return removed


def _is_prunable(ledger: Ledger, publisher: Publisher, generation: Generation, settings: MilvusSettings) -> bool:
    """Decide and record it in one transaction, so that no pointer can move to a collection that is going."""
    with ledger.exclusive():
        current, _ = reconcile(ledger, publisher)
        live = [one.release for one in ledger.releases() if not one.pruned]
        kept = {*live[: settings.keep], current and current.release, rollback_target(ledger, current)}
        kept |= pinned(ledger.home) | _served_since(ledger, settings.grace_minutes)
        if generation.release in kept:
            return False
        ledger.mark_dropped(generation.number)
        return True


def _idle(ledger: Ledger, publisher: Publisher, generation: Generation, settings: MilvusSettings) -> bool:
    """Whether nobody is likely to search it: a rollback to it, or a searcher that does, loads it again."""
    with ledger.exclusive():
        current, _ = reconcile(ledger, publisher)
        used = {current and current.release} | pinned(ledger.home) | _served_since(ledger, settings.grace_minutes)
        return generation.release not in used


def _served_since(ledger: Ledger, minutes: float) -> set[str]:
    """Releases that served until less than so many minutes ago: a query may be on its way to them."""
    since = datetime.now(UTC) - timedelta(minutes=minutes)
    return {old.release for old, new in pairwise(ledger.moves()) if datetime.fromisoformat(new.at) > since}
