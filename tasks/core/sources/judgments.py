"""Reads qrels files of text: one judgment on each line, with or without a header, in the columns of BEIR or of TREC."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice

import pyarrow as pa

from tasks.core.sources.column_names import NAMES, read_header
from tasks.core.sources.fields import judgment, relevance
from tasks.core.sources.lines import lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Fault, Values, batches
from tasks.core.sources.split_names import known_split

_log = logging.getLogger("nightshift.ingest")
_ORDER = [name for name in NAMES["qrels"] if name != "split"]

Judged = list[tuple[str, Stored]]  # split, file


def split_of_qrels(place: Location, file: Stored, name: str) -> str:
    """The split that a qrels file is of, given what its name says of it; without any it is the train split."""
    if not name:
        _log.info("%s: its name gives no split, so it is read as the train split", place.where(file))
    return known_split(name) if name else "train"


def read_judgments(place: Location, judged: Judged) -> Iterator[pa.RecordBatch]:
    """Stream the files in the schema of qrels.

    Raises BadInput for a file that cannot be read, or whose header lacks a column.
    """
    first = 0
    for split, file in judged:
        rows = lines(place, file)
        head = list(islice(rows, 1))
        header = read_header("qrels", head[0].content, place.where(file)) if head else None
        order = None if header is None else tuple(header[name] for name in _ORDER)
        for batch in batches("qrels", rows if header else chain(head, rows), partial(_qrel, split, order), first):
            first += batch.num_rows
            yield batch


def _qrel(split: str, order: tuple[int, ...] | None, content: bytes) -> Values | Fault:
    fields = judgment(content, order)
    if isinstance(fields, Fault):
        return fields
    number = relevance(fields.score, f"{fields.query_id} {fields.passage_id}")
    return number if isinstance(number, Fault) else (fields.query_id, fields.passage_id, split, number)
