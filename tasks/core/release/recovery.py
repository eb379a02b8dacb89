"""A ledger that was lost, damaged, or put back from an old copy is made again from collections and manifests.

So is the manifest of a release, from the ledger or from the properties of its collection.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.base.errors import Damaged, NightshiftError, Unreachable
from tasks.core.base.files import MANIFEST, read_receipt, write_json
from tasks.core.base.receipts import Encoder, Release
from tasks.core.release.damage import set_aside
from tasks.core.release.ledger import Generation, Ledger, lock_names
from tasks.core.release.publisher import Identity, Pointer, Publisher

log = logging.getLogger("nightshift.release")


def recover(ledger: Ledger, publisher: Publisher, pointer: Pointer | None) -> None:
    """Enter the collections that the ledger does not know, inside the caller's transaction.

    Those of a folder in `releases`, and the one that the pointer names, are releases again; the others count as left
    unfinished, so that pruning removes them. Their numbers are never given again. Where the pointer is lost too, the
    newest release is taken to serve.

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
    collections = {Generation.of(name).release: name for name in sorted(present)}
    folders = {path.name for path in (ledger.home / Release.shelf).glob("r*") if path.is_dir()}
    if pointer is not None and pointer.collection in unknown:
        folders.add(pointer.release)
    for name in sorted(folders - {release.release for release in ledger.releases()}):
        release = _manifest_of(ledger, publisher, name, collections.get(name))
        if release is not None:
            ledger.record(release)
            if release.collection not in present:
                ledger.mark_dropped(release.generation)
    if not ledger.moves():
        _enter_moves(ledger, pointer)


def read_manifest(folder: Path) -> Release | None:
    """The release whose manifest is in `folder`; None when there is none, or it is damaged, and set aside."""
    reason = "it cannot be read"
    try:
        release = read_receipt(folder, Release)
    except (ValueError, TypeError, NightshiftError) as error:
        release, reason = None, str(error)
    if release is None:
        set_aside(folder / MANIFEST, f"{folder / MANIFEST}: damaged, {reason}")
    return release


def restore_manifests(ledger: Ledger) -> None:
    """Write again the manifests of releases that are missing or damaged, from the ledger."""
    for release in ledger.releases():
        if read_manifest(release.path) is None:
            _write_manifest(release)
            log.warning("release %s: its manifest was lost; made again from the ledger", release.release)


def _write_manifest(release: Release) -> None:
    fields = release.model_dump(mode="json", exclude={"path", "reused", "pruned"})
    write_json(release.path / MANIFEST, {**fields, "pruned": False})  # the ledger says what was pruned since


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


def _manifest_of(ledger: Ledger, publisher: Publisher, name: str, collection: str | None) -> Release | None:
    """The manifest of release `name`, made again from its collection's properties where it is lost as well."""
    release = read_manifest(ledger.home / Release.shelf / name)
    if release is not None:
        return release
    try:
        if collection is None:
            raise Damaged("its collection was pruned")
        release = _from_properties(publisher.identity(collection), ledger)
    except Unreachable:
        raise
    except NightshiftError as error:
        log.error(
            "release %s: its manifest is lost and cannot be made again (%s). Restore %s from a backup, or leave it: "
            "the other releases do not need it",
            name,
            error,
            ledger.home / Release.shelf / name,
        )
        return None
    _write_manifest(release)
    log.warning("release %s: its manifest was lost; made again from its collection, without figures", name)
    return release


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


def _enter_moves(ledger: Ledger, pointer: Pointer | None) -> None:
    """The likeliest history: releases served one after the other, and newer ones than the serving were rolled back."""
    kept = sorted((one for one in ledger.releases() if not one.pruned), key=lambda one: one.generation)
    names = [release.release for release in kept]
    if not names:
        return
    served = [(name, "rebuilt") for name in names]
    if pointer is None or pointer.release not in names:
        log.warning(
            "pointer and ledger are lost: the newest release, %s, is taken to serve; if it had been taken back: "
            "`nightshift rollback`",
            names[-1],
        )
    elif pointer.release != names[-1]:
        served.append((pointer.release, "rollback"))
    # An alias does not say how often it moved; the clock gives a number above any count.
    last = max((pointer and pointer.epoch) or int(time.time()), len(served))
    for epoch, (name, why) in enumerate(served, last - len(served) + 1):
        ledger.move(epoch, name, why)
