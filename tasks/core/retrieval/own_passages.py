"""Remove each query's own passage from a run, for collections whose queries are also passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.files import produce
from tasks.core.base.receipts import Run
from tasks.core.retrieval.runs import RUN_FILE, RUN_SCHEMA, run_writer

LINES_AT_ONCE = 262_144


def leave_out_self(home: Path, run: Run, depth: int) -> Run:
    """Remove passages with the same id as their query, move later passages up, and cut the run at rank `depth`."""

    def build(folder: Path) -> Mapping[str, Any]:
        rows = 0
        with run_writer(folder) as writer:
            for table in _without_own(run, depth):
                writer.write_table(table)
                rows += table.num_rows
        return {"rows": rows, "queries": run.queries, "depth": depth, "parents": (run.digest,)}

    return produce(home, Run, {"run": run.digest, "left out": "the query's own passage", "depth": depth}, build)


def _without_own(run: Run, depth: int) -> Iterator[pa.Table]:
    last_query, own_seen = None, False  # last query of the previous batch; whether its own passage was seen
    for batch in pq.ParquetFile(run.path / RUN_FILE).iter_batches(LINES_AT_ONCE):
        query = batch["query_id"]
        is_own = pc.equal(query, batch["passage_id"]).to_numpy(zero_copy_only=False)
        codes = query.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        first = np.searchsorted(codes, codes, side="left")  # the lines of a query are contiguous
        own_before = np.cumsum(is_own) - is_own
        shift = own_before - own_before[first]
        if own_seen and query[0].as_py() == last_query:
            shift[codes == codes[0]] += 1
        last_query, own_seen = query[-1].as_py(), bool(shift[-1] or is_own[-1])
        rank = batch["rank"].to_numpy() - shift.astype(np.int32)
        table = pa.table([query, batch["passage_id"], rank, batch["score"]], names=RUN_SCHEMA.names).cast(RUN_SCHEMA)
        yield table.filter(pa.array(~is_own & (rank <= depth)))
