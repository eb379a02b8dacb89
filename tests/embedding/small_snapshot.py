"""Make a snapshot of given texts, without queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import produce
from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import PASSAGES
from tasks.core.text.normalization import text_hash


def snapshot_of(home: Path, texts: Sequence[str], group: int = 4) -> Snapshot:
    """Return a snapshot of these texts as passages p000000, p000001, …, with `group` rows in a row group."""

    def build(folder: Path) -> dict[str, object]:
        hashes = [text_hash("", text) for text in texts]
        ids = [f"p{row:06d}" for row in range(len(texts))]
        columns = {"passage_id": ids, "title": [""] * len(texts), "text": list(texts), "text_hash": hashes}
        pq.write_table(pa.table(columns), folder / PASSAGES, row_group_size=group)
        return {"rows": len(texts), "queries": 0, "qrels": 0, "splits": {}}

    return produce(home, Snapshot, {"texts": list(texts)}, build)
