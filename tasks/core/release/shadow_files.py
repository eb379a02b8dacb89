"""The files in which a shadow search records live queries: where they are, and when they are deleted."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

FOLDER = "shadow"  # below home; named <release>-<day>.jsonl
DAYS = 30  # the files contain queries of users


def remove_shadow_files(home: Path, kept: Collection[str]) -> None:
    """Delete the files of releases other than `kept`, and files older than `DAYS` days."""
    oldest = datetime.now(UTC).date() - timedelta(days=DAYS)
    for file in (home / FOLDER).glob("r*-*-????-??-??.jsonl"):
        release, day = file.stem[:-11], date.fromisoformat(file.stem[-10:])
        if release not in kept or day < oldest:
            file.unlink(missing_ok=True)
