"""What the newest ingest refused, by rule, as a person or a program wants to read it."""

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
    """Count the rows of each table (read, accepted, of these merged, quarantined) and list the rules that refused some.

    Each rule comes with its first `samples` rows.

    The newest is the ingest that was used last, or the one of a night that its data stopped since then. A row that
    broke several rules is listed under the first. Raises NightshiftError when nothing was ever ingested, Damaged when
    the files of the newest cannot be read.
    """
    folder = _newest(home)
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
        "in": {name: one["read"] for name, one in tables.items()},
        "accepted": {name: one["accepted"] for name, one in tables.items()},
        "merged": {name: one.get("merged", 0) for name, one in tables.items()},  # of the accepted
        "quarantined": {name: one["quarantined"] for name, one in tables.items()},
        "rules": [
            {
                "table": one["table"],
                "rule": one["rule"],
                "rows": one["row_count"],
                "samples": [
                    {"file": row.file, "row": row.row, "reason": row.reason} for row in rows[one["table"], one["rule"]]
                ],
            }
            for one in counts
        ],
    }


def _newest(home: Path) -> Path:
    ingested = last_ingest(home)
    stopped = [path for path in (home / REFUSED).glob("[!.]*") if (path / VALIDATION).is_file()]
    found = stopped if ingested is None else [*stopped, ingested.path]
    if not found:
        raise NightshiftError(f"nothing was ingested into {home} yet: nightshift run --dry-run reads the source.")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
