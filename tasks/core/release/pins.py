"""Pins: a pinned release is never pruned. Each is a small file, so that a lost ledger loses none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.base.files import write_text
from tasks.core.base.receipts import Release
from tasks.core.base.settings import Settings
from tasks.core.release.history import reconcile
from tasks.core.release.ledger import open_ledger
from tasks.core.release.names import pick_name
from tasks.core.release.publisher import Publisher
from tasks.core.release.vector_stores import open_publisher

FOLDER = "pins"


def pin(settings: Settings, name: str, publisher: Publisher | None = None) -> Release:
    """Keep release `name`, or the only one that begins so, from being pruned.

    Raises NoSuchRelease when it is unknown, or was pruned already.
    """
    with open_ledger(settings) as ledger, ledger.exclusive():  # pruning decides inside the same transaction
        reconcile(ledger, publisher or open_publisher(settings))
        known = {one.release: one for one in ledger.releases() if not one.pruned}
        name = pick_name(name, known)
        stamp = {"release": name, "pinned": datetime.now(UTC).isoformat(timespec="seconds")}
        write_text(settings.home / FOLDER / f"{name}.json", json.dumps(stamp) + "\n")
    return known[name]


def unpin(settings: Settings, name: str) -> str:
    """Let retention decide about release `name`, or the only pinned one that begins so, again; its whole name.

    Raises NoSuchRelease when it is not pinned.
    """
    name = pick_name(name, sorted(pinned(settings.home)), "not pinned. Pinned are")
    (settings.home / FOLDER / f"{name}.json").unlink(missing_ok=True)
    return name


def pinned(home: Path) -> set[str]:
    """The names of the pinned releases."""
    return {path.stem for path in (home / FOLDER).glob("r*.json")}
