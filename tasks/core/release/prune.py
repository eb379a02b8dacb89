"""Prune: remove collections that nothing needs any more. Their figures stay in the ledger."""

from __future__ import annotations

import logging
from pathlib import Path

from tasks.core.release.embedded import EmbeddedMilvus
from tasks.core.release.history import reconciled
from tasks.core.release.ledger import Generation, Ledger, held, open_ledger
from tasks.core.release.publisher import Publisher
from tasks.core.release.rollback import rollback_target

log = logging.getLogger("nightshift.release")


def prune(home: Path, keep: int, publisher: Publisher | None = None) -> list[str]:
    """Remove generations that nothing needs; returns the collections removed.

    Kept are the serving release, the one that a rollback would return to, the newest `keep` releases, and what another
    process is building. Generations that never served go, whatever their age.
    """
    publisher = publisher or EmbeddedMilvus(home)
    removed = []
    with open_ledger(home) as ledger:
        present = publisher.collections()
        for generation in ledger.generations():
            if generation.collection not in present:
                continue
            with held(home, generation) as free:
                if free and _condemned(ledger, publisher, generation, keep):
                    publisher.drop(generation.collection)
                    removed.append(generation.collection)
                    log.info("%s: removed", generation.collection)
    return removed


def _condemned(ledger: Ledger, publisher: Publisher, generation: Generation, keep: int) -> bool:
    """Decide and record it in one transaction, so that no pointer can move to a collection that is going."""
    with ledger.exclusive():
        current, _ = reconciled(ledger, publisher)
        live = [one.release for one in ledger.releases() if not one.pruned]
        kept = {*live[:keep], current and current.release, rollback_target(ledger, current)}
        if generation.release in kept:
            return False
        ledger.mark_dropped(generation.number)
        return True
