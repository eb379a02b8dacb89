"""Rebuild a ledger that is lost, damaged, or restored from an old copy, from collections and manifests.

Also rebuild the manifest of a release, from the ledger or from the properties of its collection.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.base.checksums import set_aside
from tasks.core.base.errors import Damaged, NightshiftError, Unreachable
from tasks.core.base.files import MANIFEST, read_receipt, write_json
from tasks.core.base.receipts import Encoder, Release
from tasks.core.release.ledger import Generation, Ledger, lock_names
from tasks.core.release.publisher import Identity, Pointer, Publisher, ranking_of

log = logging.getLogger("nightshift.release")


def recover(ledger: Ledger, publisher: Publisher, pointer: Pointer | None) -> None:
    """Add the collections that the ledger does not know, inside the caller's transaction.

    A collection becomes a release again if it has a folder in `releases` or the pointer names it. The others count as
    unfinished, so pruning removes them. Their numbers are never reused. If the pointer is lost too, the newest release
    serves.

    Raises NightshiftError when a collection belongs to another home: homes cannot share an alias.
    """
    present = publisher.collections()
    unknown = present - {generation.collection for generation in ledger.generations()}
    if not unknown:
        return
    log.warning("the ledger does not know %d of %d collections; adding them again", len(unknown), len(present))
    for name in sorted(unknown):
        _check_home(ledger, publisher, name)
    for name in sorted(unknown | lock_names(ledger.home)):
        ledger.adopt(Generation.from_collection(name))
    collections = {Generation.from_collection(name).release: name for name in sorted(present)}
    folders = {path.name for path in (ledger.home / Release.shelf).glob("r*") if path.is_dir()}
    if pointer is not None and pointer.collection in unknown:
        folders.add(pointer.release)
    for name in sorted(folders - {release.release for release in ledger.releases()}):
        release = _restore_manifest(ledger, publisher, name, collections.get(name))
        if release is not None:
            ledger.record_release(release)
            if release.collection not in present:
                ledger.mark_dropped(release.generation)
    if not ledger.moves():
        _rebuild_moves(ledger, pointer)


def read_manifest(folder: Path) -> Release | None:
    """Read the manifest in `folder`. Return None when it is missing or damaged; set a damaged manifest aside."""
    reason = "it cannot be read"
    try:
        release = read_receipt(folder, Release)
    except (ValueError, TypeError, NightshiftError) as error:
        release, reason = None, str(error)
    if release is None:
        set_aside(folder / MANIFEST, f"{folder / MANIFEST}: damaged, {reason}")
    return release


def restore_manifests(ledger: Ledger) -> None:
    """Restore missing and damaged manifests of releases from the ledger."""
    for release in ledger.releases():
        if read_manifest(release.path) is None:
            _write_manifest(release)
            log.warning("release %s: its manifest was lost; rebuilt from the ledger", release.release)


def _write_manifest(release: Release) -> None:
    fields = release.model_dump(mode="json", exclude={"path", "reused", "pruned"})
    write_json(release.path / MANIFEST, {**fields, "pruned": False})  # the ledger records what was pruned


def _check_home(ledger: Ledger, publisher: Publisher, name: str) -> None:
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
            "Homes may share a server, but not an alias: give this home its own [milvus] alias."
        )


def _restore_manifest(ledger: Ledger, publisher: Publisher, name: str, collection: str | None) -> Release | None:
    """Read the manifest of release `name`; rebuild a lost manifest from the properties of its collection."""
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
            "release %s: its manifest is lost and cannot be rebuilt (%s). Restore %s from a backup, or ignore this: "
            "the other releases do not need it",
            name,
            error,
            ledger.home / Release.shelf / name,
        )
        return None
    _write_manifest(release)
    log.warning("release %s: its manifest was lost; rebuilt from its collection, without metrics", name)
    return release


def _from_properties(identity: Identity, ledger: Ledger) -> Release:
    ranking = ranking_of(identity)
    return Release(
        path=ledger.home / Release.shelf / identity.release,
        parents=(identity.encoder, identity.embeddings, identity.snapshot, *filter(None, [ranking.postings])),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        generation=Generation.from_collection(identity.collection).number,
        recipe="",
        reason="made again from its collection's properties",
        metrics={},
        bm25={},
        base={},
        previous=None,
        ranking=ranking,
        **identity.model_dump(exclude={"index", "index_params", "ranking"}),
    )


def _rebuild_moves(ledger: Ledger, pointer: Pointer | None) -> None:
    """Record the likeliest history: releases served in order, and those newer than the serving one were rolled back."""
    kept = sorted((release for release in ledger.releases() if not release.pruned), key=lambda r: r.generation)
    names = [release.release for release in kept]
    if not names:
        return
    served = [(name, "rebuilt") for name in names]
    if pointer is None or pointer.release not in names:
        log.warning(
            "pointer and ledger are lost: the newest release, %s, serves now. If it had been rolled back, run "
            "`nightshift rollback` again",
            names[-1],
        )
    elif pointer.release != names[-1]:
        served.append((pointer.release, "rollback"))
    # An alias does not count its moves; the time in seconds is larger than any count.
    last = max((pointer and pointer.epoch) or int(time.time()), len(served))
    for epoch, (name, why) in enumerate(served, last - len(served) + 1):
        ledger.record_move(epoch, name, why)
