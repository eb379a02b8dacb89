"""Refuses a source that belongs to another feed than the one that the home serves."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.core.base.duckdb_session import database, one_number, quoted
from tasks.core.base.errors import BadInput
from tasks.core.base.files import find_artifact, receipts_newest_first
from tasks.core.base.receipts import Ingested, Release, Snapshot
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.toml import toml_value
from tasks.core.snapshot.reader import PASSAGES

LEAST_SHARED = 0.05  # of the texts of the smaller collection; with less, the source is another collection


def refuse_another_feed(home: Path, serving: Release | None, snapshot: Snapshot, settings: DataSettings) -> None:
    """Stop when the home serves another feed that shares almost no texts with `snapshot`.

    A moved or renamed folder has the same texts and passes. The check is skipped when the served snapshot or the
    record of its feed was pruned, and with `[data] replace_feed`.

    Raises BadInput naming both feeds and the settings that let the night continue.
    """
    if serving is None or settings.replace_feed or serving.snapshot == snapshot.digest:
        return
    served = find_artifact(home, Snapshot, serving.snapshot)
    feeds = {reading.snapshot: reading.feed for reading in reversed(receipts_newest_first(home, Ingested))}
    before = feeds.get(serving.snapshot, "")
    now = settings.feed or feeds.get(snapshot.digest, "")
    if served is None or before in ("", now) or (shared := _shared_texts(served, snapshot)) >= LEAST_SHARED:
        return
    raise BadInput(
        f"home {home.absolute()} serves {before} ({served.rows:,} passages). {now} ({snapshot.rows:,} "
        f"passages) shares {shared:.1%} of the texts with it, so it looks like another collection.\n"
        "Give it its own home (setting home, or NIGHTSHIFT_HOME). To replace the served collection, run one night "
        "with NIGHTSHIFT_DATA__REPLACE_FEED=true. If it is the same feed under another name, set [data] feed = "
        f"{toml_value(before)}."
    )


def _shared_texts(old: Snapshot, new: Snapshot) -> float:
    """Return the share of the distinct texts of the smaller snapshot that the other one contains."""
    with TemporaryDirectory() as scratch, database(Path(scratch)) as connection:
        for name, snapshot in (("old", old), ("new", new)):
            file = quoted(snapshot.path / PASSAGES)
            connection.execute(f"CREATE VIEW {name} AS SELECT DISTINCT text_hash FROM read_parquet({file})")
        common = one_number(connection, "SELECT count(*) FROM old SEMI JOIN new USING (text_hash)")
        return common / max(1, min(one_number(connection, f"SELECT count(*) FROM {name}") for name in ("old", "new")))
