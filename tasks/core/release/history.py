"""Find the serving release, list releases, move the pointer, and bring pointer and ledger back into agreement."""

from __future__ import annotations

import logging
from contextlib import closing

from tasks.core.base.errors import Damaged, Mismatch, NightshiftError, Unreachable
from tasks.core.base.receipts import Release
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.ledger import Ledger, open_ledger
from tasks.core.release.publisher import Pointer, Publisher, Reader
from tasks.core.release.recovery import read_manifest, recover
from tasks.core.release.vector_stores import open_publisher

log = logging.getLogger("nightshift.release")


def serving(settings: HomeSettings, publisher: Publisher | None = None) -> tuple[Release | None, int]:
    """Return the serving release and the epoch, a number that grows with each move of the pointer.

    Returns (None, 0) before the first release. First repairs pointer and ledger after a crash, inside one ledger
    transaction. The release is also None when no release loads any more; the next night then makes a new one.

    Raises Unreachable when Milvus does not answer, NightshiftError when the alias belongs to another home.
    """
    with open_ledger(settings) as ledger, ledger.exclusive():
        return reconcile(ledger, publisher or open_publisher(settings.home, settings.milvus))


def list_releases(settings: HomeSettings) -> list[Release]:
    """Return every release that ever served, newest first. `pruned` is true where only its metrics are left."""
    serving(settings)
    with open_ledger(settings) as ledger:
        return ledger.releases()


def known_releases(settings: HomeSettings) -> list[Release]:
    """Return every release in the ledger, newest first. Only reads, unless the ledger is empty and is rebuilt first."""
    with open_ledger(settings) as ledger:
        known = ledger.releases()
    return known or list_releases(settings)


def reconcile(ledger: Ledger, publisher: Publisher) -> tuple[Release | None, int]:
    """Make pointer and ledger agree, inside the caller's transaction; return the serving release and the epoch.

    They differ after a crash between the pointer's move and the ledger's commit. If the pointer's release loads, the
    ledger follows the pointer. If it does not, or the pointer cannot be read, the pointer returns to the ledger's last
    release.

    Returns and raises as `serving` does.
    """
    pointer = _read_pointer(publisher)
    recover(ledger, publisher, pointer)
    moves = ledger.moves()
    last = moves[-1] if moves else None
    if pointer is None and last is None:
        return None, 0
    known = {release.release: release for release in ledger.releases()}
    if pointer is not None and last is not None and last.release in known:
        current = known[last.release]
        if (pointer.release, pointer.collection) == (current.release, current.collection):
            return current, last.epoch
    epoch = max(pointer.epoch if pointer else 0, last.epoch + 1 if last else 1)
    for name, why in ((pointer and pointer.release, pointer and pointer.why), (last and last.release, "repaired")):
        release = (known.get(name) or read_manifest(ledger.home / Release.shelf / name)) if name else None
        if release is not None and _loads(release, publisher):
            log.warning("pointer and ledger did not agree; release %s serves", release.release)
            move_pointer_to(ledger, publisher, release, epoch, why or "repaired")
            return release, epoch
    log.error(
        "no release serves: neither the pointer's release (%s) nor the ledger's last release (%s) loads. "
        "Serve an older one with `nightshift rollback --to`, or make a new one with `nightshift run`",
        pointer and pointer.release,
        last and last.release,
    )
    return None, last.epoch if last else 0


def move_pointer_to(ledger: Ledger, publisher: Publisher, release: Release, epoch: int, why: str) -> None:
    """Record a release and move the pointer to it, inside the caller's transaction.

    The pointer moves just before the commit. `reconcile` repairs what a crash in between leaves.
    """
    ledger.record_release(release)
    ledger.record_move(epoch, release.release, why)
    publisher.move_pointer(
        Pointer(
            release=release.release,
            epoch=epoch,
            collection=release.collection,
            fingerprint=release.fingerprint,
            why=why,
        )
    )
    log.info("release %s is live (generation %d, %s)", release.release, epoch, why)


def check_loads(release: Release, publisher: Publisher) -> None:
    """Open and load the release's collection.

    Raises Mismatch when its release, fingerprint, or row count is not the recorded one.
    """
    with closing(publisher.open(release.collection)) as reader:
        check_reader(release, reader)


def check_reader(release: Release, reader: Reader) -> None:
    """Compare an open collection with its release; raises as `check_loads` does."""
    check_stored(release, reader.identity.release, reader.identity.fingerprint, reader.count())


def check_stored(release: Release, *stored: str | int) -> None:
    """Compare release, fingerprint, and row count of a collection with its release.

    Raises Mismatch when they differ.
    """
    expected = (release.release, release.fingerprint, release.rows)
    if stored != expected:
        raise Mismatch(f"collection {release.collection}: (release, fingerprint, rows) {stored}, expected {expected}")


def _loads(release: Release, publisher: Publisher) -> bool:
    try:
        check_loads(release, publisher)
    except Unreachable:
        raise  # the release itself may be intact
    except NightshiftError as error:
        log.warning("release %s does not load: %s", release.release, error)
        return False
    return True


def _read_pointer(publisher: Publisher) -> Pointer | None:
    """Read the pointer. Set a damaged pointer aside and return None."""
    try:
        return publisher.serving()
    except Damaged as error:
        publisher.set_pointer_aside(error)
        return None
