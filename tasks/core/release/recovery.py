"""A ledger that was lost, or put back from an old copy, is made again from collections, manifests and the pointer."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from tasks.core.errors import NightshiftError, Unreachable
from tasks.core.files import MANIFEST, finished, write_json
from tasks.core.receipts import Encoder, Release
from tasks.core.release.ledger import Generation, Ledger, lock_names
from tasks.core.release.publisher import Identity, Pointer, Publisher

log = logging.getLogger("nightshift.release")


def recover(ledger: Ledger, publisher: Publisher, pointer: Pointer | None) -> None:
    """Enter the collections that the ledger does not know, inside the caller's transaction.

    Those with a release's manifest, and the one that the pointer names, are releases again; the others count as left
    unfinished, so that pruning removes them. Their numbers are never given again.

    Raises NightshiftError when one of them was made in another home: an alias belongs to one home alone.
    """
    present = publisher.collections()
    unknown = present - {one.collection for one in ledger.generations()}
    if not unknown:
        return
    log.warning("the ledger does not know %d of %d collections; entered again", len(unknown), len(present))
    for name in sorted(unknown):
        _check_ours(ledger, publisher, name)
    for name in sorted(unknown | lock_names(ledger.home)):
        ledger.adopt(Generation.of(name))
    if pointer is not None and pointer.collection in unknown:
        _ensure_manifest(ledger, publisher, pointer)
    known = {one.release for one in ledger.releases()}
    for path in sorted((ledger.home / Release.shelf).glob(f"*/{MANIFEST}")):
        release = finished(path.parent, Release)
        if release is not None and release.release not in known:
            ledger.record(release)
            if release.collection not in present:
                ledger.mark_dropped(release.generation)
    if pointer is not None and not ledger.moves():
        _enter_moves(ledger, pointer)


def _check_ours(ledger: Ledger, publisher: Publisher, name: str) -> None:
    try:
        identity = publisher.identity(name)
    except Unreachable:
        raise
    except NightshiftError as error:
        log.warning("%s: left unfinished (%s)", name, error)
        return
    if not (ledger.home / Encoder.shelf / identity.encoder).exists():
        raise NightshiftError(
            f"collection {name}: made in another home, its encoder {identity.encoder} is not in {ledger.home}. "
            "Two homes may share a server, but not an alias: give this one its own, [milvus] alias."
        )


def _ensure_manifest(ledger: Ledger, publisher: Publisher, pointer: Pointer) -> None:
    """Write the serving release's manifest from its collection's properties where it is lost as well."""
    path = ledger.home / Release.shelf / pointer.release
    if finished(path, Release) is not None:
        return
    release = _from_properties(publisher.identity(pointer.collection), ledger)
    write_json(path / MANIFEST, release.model_dump(mode="json", exclude={"path", "reused"}))
    log.warning("release %s: its manifest was lost; made again from its collection, without figures", release.release)


def _from_properties(identity: Identity, ledger: Ledger) -> Release:
    return Release(
        path=ledger.home / Release.shelf / identity.release,
        parents=(identity.encoder, identity.embeddings, identity.snapshot),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        generation=Generation.of(identity.collection).number,
        recipe="",
        reason="made again from its collection's properties",
        metrics={},
        bm25={},
        base={},
        previous=None,
        **identity.model_dump(exclude={"index", "index_params"}),
    )


def _enter_moves(ledger: Ledger, pointer: Pointer) -> None:
    """The likeliest history: releases served one after the other, and newer ones than the serving were rolled back."""
    kept = sorted((one for one in ledger.releases() if not one.pruned), key=lambda one: one.generation)
    at = next(place for place, one in enumerate(kept) if one.release == pointer.release)
    served = [(one.release, "rebuilt") for one in kept]
    if kept[at + 1 :]:
        served.append((pointer.release, "rollback"))
    # An alias does not say how often it moved; the clock gives a number above any count.
    last = max(pointer.epoch or int(time.time()), len(served))
    for epoch, (name, why) in enumerate(served, last - len(served) + 1):
        ledger.move(epoch, name, why)
