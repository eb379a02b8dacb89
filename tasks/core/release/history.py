"""Which release serves, which ones there are, and how a damaged pointer or a ledger one move behind is restored."""

from __future__ import annotations

import logging

from tasks.core.base.errors import Damaged, Mismatch, NightshiftError, Unreachable
from tasks.core.base.receipts import Release
from tasks.core.base.settings import Settings
from tasks.core.release.ledger import Ledger, open_ledger
from tasks.core.release.publisher import Pointer, Publisher
from tasks.core.release.recovery import read_manifest, recover
from tasks.core.release.vector_stores import open_publisher

log = logging.getLogger("nightshift.release")


def serving(settings: Settings, publisher: Publisher | None = None) -> tuple[Release | None, int]:
    """The release that the pointer names, and the epoch: how often the pointer has moved. (None, 0) before the first.

    What a crash left half done is mended first. None too when no release is left that loads: a night makes a new one.

    Raises Unreachable: Milvus does not answer; NightshiftError: the pointer names what no night of this home made.
    """
    with open_ledger(settings) as ledger, ledger.exclusive():
        return reconcile(ledger, publisher or open_publisher(settings))


def list_releases(settings: Settings) -> list[Release]:
    """Every release that ever served, newest first; `pruned` where only its figures are left."""
    serving(settings)
    with open_ledger(settings) as ledger:
        return ledger.releases()


def known_releases(settings: Settings) -> list[Release]:
    """Every release in the ledger, newest first. Only reads, unless the ledger knows none and is made again first."""
    with open_ledger(settings) as ledger:
        known = ledger.releases()
    return known or list_releases(settings)


def reconcile(ledger: Ledger, publisher: Publisher) -> tuple[Release | None, int]:
    """`serving`, inside the caller's transaction.

    A crash between the pointer's move and the ledger's commit leaves them apart: the pointer wins if its release
    loads; if not, it goes back to the last release of the ledger. So does a pointer that cannot be read.
    """
    pointer = _pointer(publisher)
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
    for name, why in ((pointer and pointer.release, pointer and pointer.why), (last and last.release, "mended")):
        release = (known.get(name) or read_manifest(ledger.home / Release.shelf / name)) if name else None
        if release is not None and _loads(release, publisher):
            log.warning("pointer and ledger disagreed: release %s serves", release.release)
            point_to(ledger, publisher, release, epoch, why or "mended")
            return release, epoch
    log.error(
        "neither the release that the pointer names (%s) nor the last one in the ledger (%s) loads: none serves; "
        "`nightshift rollback --to` takes an older one, `nightshift run` makes a new one",
        pointer and pointer.release,
        last and last.release,
    )
    return None, last.epoch if last else 0


def point_to(ledger: Ledger, publisher: Publisher, release: Release, epoch: int, why: str) -> None:
    """Record a release and move the pointer to it, inside the caller's transaction.

    The pointer moves last but for the commit: what a crash in between leaves is mended by `reconciled`.
    """
    ledger.record(release)
    ledger.move(epoch, release.release, why)
    publisher.flip(
        Pointer(
            release=release.release,
            epoch=epoch,
            collection=release.collection,
            fingerprint=release.fingerprint,
            why=why,
        )
    )
    log.info("release %s is live (epoch %d, %s)", release.release, epoch, why)


def check_loads(release: Release, publisher: Publisher) -> None:
    """Open and load the release's collection. Raises Mismatch when it is not that release's, whole."""
    reader = publisher.open(release.collection)
    try:
        found = (reader.identity.release, reader.identity.fingerprint, reader.count())
    finally:
        reader.close()
    wanted = (release.release, release.fingerprint, release.rows)
    if found != wanted:
        raise Mismatch(f"collection {release.collection}: (release, fingerprint, rows) {found}, recorded were {wanted}")


def _loads(release: Release, publisher: Publisher) -> bool:
    try:
        check_loads(release, publisher)
    except Unreachable:
        raise  # it says nothing about the release
    except NightshiftError as error:
        log.warning("release %s does not load: %s", release.release, error)
        return False
    return True


def _pointer(publisher: Publisher) -> Pointer | None:
    """The pointer; None too when it is damaged, and set aside."""
    try:
        return publisher.serving()
    except Damaged as error:
        publisher.set_pointer_aside(error)
        return None
