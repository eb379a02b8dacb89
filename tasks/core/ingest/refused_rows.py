"""Summarizes the refused rows of the newest ingest by rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.ingest.ingest import REFUSED, last_ingest
from tasks.core.ingest.quarantine import QUARANTINE, VALIDATION, refused_by_rule

SAMPLES = 3


def newest_refusals(home: Path, samples: int = SAMPLES) -> dict[str, Any]:
    """Count the rows of each table (read, accepted, merged, quarantined, forgotten), and list the rules with refusals.

    The newest ingest is the most recently used one, or that of a later night that stopped because of its data. A row
    that broke several rules is listed under the first. Each rule has its first `samples` rows.

    Raises NightshiftError when nothing was ingested yet, Damaged when the files of the newest ingest cannot be read.
    """
    folder = _newest_folder(home)
    try:
        tables = json.loads((folder / VALIDATION).read_bytes())["tables"]
        refused = pq.read_table(folder / QUARANTINE, columns=["table", "rule", "row"])
        rows = refused_by_rule(folder, samples)
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise Damaged(
            f"{folder}: cannot be read ({error}). Remove it and read the source again: nightshift run --dry-run"
        ) from error
    counts = refused.group_by(["table", "rule"], use_threads=False).aggregate([("row", "count")]).to_pylist()
    return {
        "in": {name: tally["read"] for name, tally in tables.items()},
        "accepted": {name: tally["accepted"] for name, tally in tables.items()},
        "merged": {name: tally.get("merged", 0) for name, tally in tables.items()},  # part of the accepted rows
        "quarantined": {name: tally["quarantined"] for name, tally in tables.items()},
        "forgotten": {name: tally.get("forgotten", 0) for name, tally in tables.items()},
        "rules": [
            {
                "table": count["table"],
                "rule": count["rule"],
                "rows": count["row_count"],
                "samples": [
                    {"file": row.file, "row": row.row, "reason": row.reason}
                    for row in rows[count["table"], count["rule"]]
                ],
            }
            for count in counts
        ],
    }


def _newest_folder(home: Path) -> Path:
    ingested = last_ingest(home)
    stopped = [path for path in (home / REFUSED).glob("[!.]*") if (path / VALIDATION).is_file()]
    folders = stopped if ingested is None else [*stopped, ingested.path]
    if not folders:
        raise NightshiftError(f"nothing was ingested into {home} yet. To read the source: nightshift run --dry-run")
    return max(folders, key=lambda path: (path.stat().st_mtime_ns, path.name))
