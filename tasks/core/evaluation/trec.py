"""Write runs and qrels in TREC format, which trec_eval and similar tools read."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_text
from tasks.core.base.receipts import Run, Snapshot
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.reader import qrels


def write_trec(run: Run, file: Path, tag: str = "nightshift") -> None:
    """Write `query Q0 passage rank score tag` lines in the order of the run.

    trec_eval sorts by score and breaks ties by passage id. To keep the ranking, each tied score is written as the next
    smaller float32.

    Raises:
        NightshiftError: an id contains white space, which the format cannot quote.
    """
    hits = pq.read_table(run.path / RUN_FILE).to_pydict()
    lines = []
    last = np.float32(0)
    columns = (hits["query_id"], hits["passage_id"], hits["rank"], hits["score"])
    for query, passage, rank, score in zip(*columns, strict=True):
        below = np.nextafter(last, np.float32(-np.inf))
        last = np.float32(score) if rank == 1 else min(np.float32(score), below)
        lines.append(f"{_word(query)} Q0 {_word(passage)} {rank} {last:.9g} {_word(tag)}\n")
    write_text(file, "".join(lines))


def write_trec_qrels(snapshot: Snapshot, split: str, file: Path, measured: Collection[str] | None = None) -> None:
    """Write the qrels of a split, or only those of the queries `measured`, as lines `query 0 passage relevance`."""
    pairs = qrels(snapshot, split).select(["query_id", "passage_id", "relevance"])
    if measured is not None:
        pairs = pairs.filter(pc.is_in(pairs["query_id"], value_set=pa.array(measured, pa.string())))
    table = pairs.to_pydict()
    rows = zip(*table.values(), strict=True)
    write_text(file, "".join(f"{_word(query)} 0 {_word(passage)} {relevance}\n" for query, passage, relevance in rows))


def _word(value: str) -> str:
    if not value or re.search(r"\s", value):
        raise NightshiftError(f"{value!r}: TREC files separate fields by white space, so an id must not contain any")
    return value
