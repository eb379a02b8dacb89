"""Trains synthetic pairs without the copy of the query in their passage; see `text.synthetic_queries`."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import passages_by_id, queries
from tasks.core.text.synthetic_queries import PATTERN, trains_whole, without_query
from tasks.core.training.texts import PassageTexts

Pair = tuple[int, int]  # row of the query, row of the passage


def add_rests(
    snapshot: Snapshot, train: pa.Table, query_rows: Mapping[str, int], texts: PassageTexts
) -> dict[Pair, Pair]:
    """Add the passages of synthetic training pairs without their query to `texts`.

    Title queries would otherwise teach the encoder to match equal words. Passages that are served stay whole.

    Args:
        snapshot: of the training pairs.
        train: qrels of the training pairs.
        query_rows: query text -> row.
        texts: the passages, which has those of the training pairs.

    Returns:
        Pair of a query and its whole passage -> pair of the query and the rest. Pairs are left out if the passage does
        not contain the query, if the rest equals another passage, and for the share that `trains_whole`.
    """
    train = train.filter(pc.match_substring_regex(train["query_id"], PATTERN))
    if train.num_rows == 0:
        return {}
    text_by_id = dict(zip(*(column.to_pylist() for column in queries(snapshot).columns), strict=True))
    ids = pc.unique(train["passage_id"])
    by_id, row_by_id = passages_by_id(snapshot, ids), texts.add(snapshot, ids)
    pairs: list[Pair] = []
    rests: list[tuple[str, str]] = []
    for query_id, passage_id in zip(train["query_id"].to_pylist(), train["passage_id"].to_pylist(), strict=True):
        title, text = by_id[passage_id]
        rest = without_query(text_by_id[query_id], title or "", text)
        if rest != (title or "", text) and not trains_whole(query_id):
            pairs.append((query_rows[text_by_id[query_id]], row_by_id[passage_id]))
            rests.append(rest)
    rows = texts.add_texts(rests)
    return {pair: (pair[0], row) for pair, row in zip(pairs, rows, strict=True) if row is not None}
