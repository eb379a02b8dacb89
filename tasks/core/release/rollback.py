"""Rollback: point to an older release again. Takes seconds and embeds nothing."""

from __future__ import annotations

from tasks.core.base.errors import NO_RELEASE, NightshiftError
from tasks.core.base.ranking import Mode
from tasks.core.base.receipts import Release
from tasks.core.release.history import check_loads, move_pointer_to, reconcile
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.ledger import Ledger, open_ledger
from tasks.core.release.lexical import check_lexical
from tasks.core.release.names import pick_name
from tasks.core.release.publisher import Publisher
from tasks.core.release.vector_stores import open_publisher


def rollback(settings: HomeSettings, to: str | None = None, publisher: Publisher | None = None) -> Release:
    """Move the pointer back to an older release.

    Before the pointer moves, the collection must load and have the recorded number of rows, and the lexical index of a
    release that ranks with BM25 must be intact. A night in progress becomes
    stale and cannot publish.

    Args:
        settings: of the home.
        to: name of the release, or a unique prefix; None: the release that served before the current one.
        publisher: of the collections; None: the one that the settings choose.

    Returns: the release that serves now.

    Raises:
        NightshiftError: there is no older release, the release is unknown or pruned, or another process is publishing
            or removing it.
        Mismatch: its collection differs from its record, or its lexical index is missing.
    """
    publisher = publisher or open_publisher(settings.home, settings.milvus)
    with open_ledger(settings) as ledger:
        with ledger.exclusive():
            current, epoch = reconcile(ledger, publisher)
            target = _target(ledger, current, to)
        generation = next(entry for entry in ledger.generations() if entry.number == target.generation)
        with ledger.lock_generation(generation) as locked:
            if not locked:
                raise NightshiftError(
                    f"release {target.release}: another process is publishing or removing it; try again"
                )
            check_loads(target, publisher)
            if target.ranking.mode is not Mode.DENSE:
                check_lexical(settings.home, target.ranking, target.snapshot, target.rows)
            with ledger.exclusive():
                _, now = reconcile(ledger, publisher)
                if now != epoch:
                    raise NightshiftError(
                        "another release has just gone live; see `nightshift releases`, then try again"
                    )
                move_pointer_to(ledger, publisher, target, epoch + 1, "rollback")
    return target


def rollback_target(ledger: Ledger, current: Release | None) -> str | None:
    """Return the release that a rollback returns to: the last loadable release that served before `current`.

    The moves form an undo stack: a publish pushes its release, a rollback pops all releases above its target.
    """
    stack, _ = _read_undo_stack(ledger)
    excluded = {release.release for release in ledger.releases() if release.pruned}
    excluded |= {current.release} if current else set()
    return next((name for name in reversed(stack) if name not in excluded), None)


def releases_before(settings: HomeSettings, name: str) -> list[Release]:
    """Return the loadable releases that served before release `name` and were not rolled back, latest first."""
    with open_ledger(settings) as ledger:
        known = {release.release: release for release in ledger.releases() if not release.pruned}
        stack, _ = _read_undo_stack(ledger)
    return [known[other] for other in dict.fromkeys(reversed(stack)) if other != name and other in known]


def find_withdrawn(settings: HomeSettings, digest: str) -> str | None:
    """Return the release with this digest that was rolled back and has not served since; None if there is none.

    The next night must not publish again what a user has rolled back.
    """
    with open_ledger(settings) as ledger:
        names = {release.release for release in ledger.releases() if release.digest == digest}
        _, withdrawn = _read_undo_stack(ledger)
        return next((name for name in withdrawn if name in names), None)


def _read_undo_stack(ledger: Ledger) -> tuple[list[str], list[str]]:
    """Return the undo stack of releases, the serving one last, and the releases that rollbacks removed from it."""
    stack: list[str] = []
    withdrawn: list[str] = []
    for move in ledger.moves():
        if move.why == "rollback" and move.release in stack:
            while stack[-1] != move.release:
                withdrawn.append(stack.pop())
        else:
            stack.append(move.release)
        withdrawn = [name for name in withdrawn if name != move.release]
    return stack, withdrawn


def _target(ledger: Ledger, current: Release | None, to: str | None) -> Release:
    known = {release.release: release for release in ledger.releases()}
    if not known:
        raise NightshiftError(NO_RELEASE)
    name = to or rollback_target(ledger, current)
    if name is None:
        newer = [release.release for release in known.values() if not release.pruned and release != current]
        hint = f". To serve a newer one: nightshift rollback --to {newer[0]}" if newer else ""
        raise NightshiftError(f"no older release to return to: the serving release is the oldest one kept{hint}")
    name = pick_name(name, known, "unknown. Known releases")
    if known[name].pruned:
        kept = ", ".join(release.release for release in known.values() if not release.pruned)
        raise NightshiftError(f"release {name}: its collection was pruned. Available: {kept}")
    if current is not None and name == current.release:
        raise NightshiftError(f"release {name} already serves")
    return known[name]
