"""Pins: a pinned release is never pruned. Each pin is a small file, so pins survive the loss of the ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.base.files import write_text
from tasks.core.base.receipts import Release
from tasks.core.release.history import reconcile
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.ledger import open_ledger
from tasks.core.release.names import pick_name
from tasks.core.release.publisher import Publisher
from tasks.core.release.vector_stores import open_publisher

FOLDER = "pins"


def pin(settings: HomeSettings, name: str, publisher: Publisher | None = None) -> Release:
    """Protect a release from pruning.

    Args:
        settings: of the home.
        name: the release's name, or a prefix that only one release has.
        publisher: of the collections; None: the one that the settings choose.

    Returns: the pinned release.

    Raises NoSuchRelease when no release has this name, or its collection is already pruned.
    """
    with open_ledger(settings) as ledger, ledger.exclusive():  # the same transaction that pruning decides in
        reconcile(ledger, publisher or open_publisher(settings.home, settings.milvus))
        known = {release.release: release for release in ledger.releases() if not release.pruned}
        name = pick_name(name, known)
        stamp = {"release": name, "pinned": datetime.now(UTC).isoformat(timespec="seconds")}
        write_text(settings.home / FOLDER / f"{name}.json", json.dumps(stamp) + "\n")
    return known[name]


def unpin(home: Path, name: str) -> str:
    """Remove the pin of a release, so that pruning may remove it again.

    Args:
        home: folder of the pins.
        name: the release's name, or a prefix that only one pinned release has.

    Returns: the full name of the release.

    Raises NoSuchRelease when no pinned release has this name.
    """
    name = pick_name(name, sorted(pinned_releases(home)), "not pinned. Pinned releases")
    (home / FOLDER / f"{name}.json").unlink(missing_ok=True)
    return name


def pinned_releases(home: Path) -> set[str]:
    """Return the names of the pinned releases."""
    return {path.stem for path in (home / FOLDER).glob("r*.json")}
