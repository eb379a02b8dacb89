"""Rollback: point to an older release again. Seconds, and nothing is embedded."""

from __future__ import annotations

from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Release
from tasks.core.base.settings import Settings
from tasks.core.release.history import check_loads, point_to, reconcile
from tasks.core.release.ledger import Ledger, open_ledger
from tasks.core.release.names import pick_name
from tasks.core.release.publisher import Publisher
from tasks.core.release.vector_stores import open_publisher


def rollback(settings: Settings, to: str | None = None, publisher: Publisher | None = None) -> Release:
    """Serve release `to`, a name or the beginning of one, again, or the one that served before the serving one came.

    The collection must open, load and count right before the pointer moves. A night under way becomes stale.

    Raises NightshiftError: no older release, an unknown or pruned one, one that another process is pointing to or
    removing; Mismatch: its collection is not what was recorded.
    """
    publisher = publisher or open_publisher(settings)
    with open_ledger(settings) as ledger:
        with ledger.exclusive():
            current, epoch = reconcile(ledger, publisher)
            target = _target(ledger, current, to)
        generation = next(one for one in ledger.generations() if one.number == target.generation)
        with ledger.held(generation) as free:
            if not free:
                raise NightshiftError(f"release {target.release}: another process is at work on it; try again")
            check_loads(target, publisher)
            with ledger.exclusive():
                _, now = reconcile(ledger, publisher)
                if now != epoch:
                    raise NightshiftError("another release went live at this moment; look at `nightshift releases`")
                point_to(ledger, publisher, target, epoch + 1, "rollback")
    return target


def rollback_target(ledger: Ledger, current: Release | None) -> str | None:
    """The release that a rollback returns to: of those still loadable, the last that served before `current` came.

    The moves are read as an undo list: a publish adds to it, a rollback takes off all that came after its release.
    """
    stack, _ = _undone(ledger)
    gone = {one.release for one in ledger.releases() if one.pruned} | {current.release if current else None}
    return next((name for name in reversed(stack) if name not in gone), None)


def releases_before(settings: Settings, name: str) -> list[Release]:
    """The loadable releases that served before release `name` came and were not taken back, the last one first."""
    with open_ledger(settings) as ledger:
        known = {release.release: release for release in ledger.releases() if not release.pruned}
        stack, _ = _undone(ledger)
    return [known[other] for other in dict.fromkeys(reversed(stack)) if other != name and other in known]


def find_withdrawn(settings: Settings, digest: str) -> str | None:
    """The release with this digest that a person rolled back from and has not pointed to since, if any.

    What was taken back by hand must not come back by itself on the next night.
    """
    with open_ledger(settings) as ledger:
        names = {one.release for one in ledger.releases() if one.digest == digest}
        return next((name for name in _undone(ledger)[1] if name in names), None)


def _undone(ledger: Ledger) -> tuple[list[str], list[str]]:
    """The moves read as an undo list: the releases one under the other, the serving one last; and those taken off."""
    stack: list[str] = []
    off: list[str] = []
    for move in ledger.moves():
        if move.why == "rollback" and move.release in stack:
            while stack[-1] != move.release:
                off.append(stack.pop())
        else:
            stack.append(move.release)
        off = [name for name in off if name != move.release]
    return stack, off


def _target(ledger: Ledger, current: Release | None, to: str | None) -> Release:
    known = {one.release: one for one in ledger.releases()}
    if not known:
        raise NightshiftError("there is no release yet; `nightshift run` makes the first")
    name = to or rollback_target(ledger, current)
    if name is None:
        raise NightshiftError("no older release to go back to: the serving one is the oldest that is kept")
    name = pick_name(name, known, "unknown. There are")
    if known[name].pruned:
        kept = ", ".join(one.release for one in known.values() if not one.pruned)
        raise NightshiftError(f"release {name}: its collection was pruned. Kept are: {kept}")
    if current is not None and name == current.release:
        raise NightshiftError(f"release {name} serves already")
    return known[name]
