"""Reads text files of qrels: one judgment per line, with or without a header, in the columns of BEIR or TREC."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice

import pyarrow as pa

from tasks.core.snapshot.splits import Split
from tasks.core.sources.column_names import NAMES, read_header
from tasks.core.sources.fields import judgment, relevance, weight_of
from tasks.core.sources.lines import lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Fault, Values, batches
from tasks.core.sources.split_names import known_split

_log = logging.getLogger("nightshift.ingest")
_ORDER = [name for name in NAMES["qrels"] if name != "split"]

Judged = list[tuple[str, Stored]]  # split, file


def split_of_qrels(location: Location, file: Stored, name: str) -> str:
    """Return the split of a qrels file from the split name in its file name; the train split if it has none."""
    if not name:
        _log.info("%s: read as the train split, because its name has no split", location.where(file))
    return known_split(name) if name else Split.TRAIN


def read_judgments(location: Location, judged: Judged) -> Iterator[pa.RecordBatch]:
    """Stream the judgments of all files in the schema of qrels.

    Raises BadInput for a file that cannot be read, or whose header lacks a column.
    """
    first = 0
    for split, file in judged:
        rows = lines(location, file)
        head = list(islice(rows, 1))
        header = read_header("qrels", head[0].content, location.where(file)) if head else None
        order = None if header is None else tuple(header[name] for name in _ORDER if name in header)
        for batch in batches("qrels", rows if header else chain(head, rows), partial(_qrel, split, order), first):
            first += batch.num_rows
            yield batch


def _qrel(split: str, order: tuple[int, ...] | None, content: bytes) -> Values | Fault:
    fields = judgment(content, order)
    if isinstance(fields, Fault):
        return fields
    key = f"{fields.query_id} {fields.passage_id}"
    number, weight = relevance(fields.score, key), weight_of(fields.weight, key)
    if isinstance(number, Fault):
        return number
    return weight if isinstance(weight, Fault) else (fields.query_id, fields.passage_id, split, number, weight)
