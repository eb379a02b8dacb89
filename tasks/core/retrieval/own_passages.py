"""Runs without each query's own passage, for collections whose queries are passages too."""

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
    """The run without the passages that have their query's id, cut at rank `depth`; later passages move up."""

    def build(folder: Path) -> Mapping[str, Any]:
        rows = 0
        with run_writer(folder) as writer:
            for table in _without_own(run, depth):
                writer.write_table(table)
                rows += table.num_rows
        return {"rows": rows, "queries": run.queries, "depth": depth, "parents": (run.digest,)}

    return produce(home, Run, {"run": run.digest, "left out": "the query's own passage", "depth": depth}, build)


def _without_own(run: Run, depth: int) -> Iterator[pa.Table]:
    last, seen = None, False  # the query that the batch before ended in, and whether its own passage was among it
    for batch in pq.ParquetFile(run.path / RUN_FILE).iter_batches(LINES_AT_ONCE):
        query = batch["query_id"]
        own = pc.equal(query, batch["passage_id"]).to_numpy(zero_copy_only=False)
        codes = query.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        first = np.searchsorted(codes, codes, side="left")  # a run has the lines of a query together
        before = np.cumsum(own) - own
        moved = before - before[first]
        if seen and query[0].as_py() == last:
            moved[codes == codes[0]] += 1
        last, seen = query[-1].as_py(), bool(moved[-1] or own[-1])
        rank = batch["rank"].to_numpy() - moved.astype(np.int32)
        table = pa.table([query, batch["passage_id"], rank, batch["score"]], names=RUN_SCHEMA.names).cast(RUN_SCHEMA)
        yield table.filter(pa.array(~own & (rank <= depth)))
