"""Segments of held-out queries that the gate compares separately: a gain elsewhere must not hide their loss."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.snapshot.splits import Split


def segments_of(
    snapshot: Snapshot, split: str, query_ids: list[str], serving: Snapshot | None
) -> dict[str, np.ndarray]:
    """Map segment names to the queries in the segment, bool (queries,); omit segments with no or all queries.

    Short and long queries are split at the median number of words. Head and tail are split at the median of how often
    the most frequent positive of a query is a positive in training. New passages are those that the serving snapshot
    lacks or has with a different text. If the collection has several sources, each source is a segment.
    """
    words = {row["query_id"]: len(row["text"].split()) for row in queries(snapshot, split).to_pylist()}
    positives: dict[str, list[str]] = defaultdict(list)
    for row in qrels(snapshot, split).select(["query_id", "passage_id"]).to_pylist():
        positives[row["query_id"]].append(row["passage_id"])
    train_count = Counter(qrels(snapshot, Split.TRAIN)["passage_id"].to_pylist())
    popularity = np.array([max(train_count[passage] for passage in positives[query]) for query in query_ids])
    length = np.array([words[query] for query in query_ids])
    segments = {
        "short queries": length <= np.median(length),
        "long queries": length > np.median(length),
        "head: frequently requested passages": popularity > np.median(popularity),
        "tail: rarely requested passages": popularity <= np.median(popularity),
    }
    if serving is not None:
        wanted = pa.array(sorted({passage for ids in positives.values() for passage in ids}), pa.string())
        fresh = set(_text_hashes(snapshot, wanted)) - set(_text_hashes(serving, wanted))
        new = {passage for passage, _ in fresh}
        segments["new passages"] = np.array(
            [any(passage in new for passage in positives[query]) for query in query_ids]
        )
        segments["passages served before"] = ~segments["new passages"]
    segments |= _sources(snapshot, split, query_ids)
    return {name: members for name, members in segments.items() if members.any() and not members.all()}


def _sources(snapshot: Snapshot, split: str, query_ids: list[str]) -> dict[str, np.ndarray]:
    """Map "source <name>" to the queries with a positive from that source; empty for a single source."""
    positives = qrels(snapshot, split)
    if "source" not in positives.column_names:
        return {}
    queries_of = defaultdict(set)
    for query, source in zip(positives["query_id"].to_pylist(), positives["source"].to_pylist(), strict=True):
        queries_of[source].add(query)
    return {
        f"source {source}": np.array([query in members for query in query_ids])
        for source, members in sorted(queries_of.items())
    }


def _text_hashes(snapshot: Snapshot, wanted: pa.Array) -> list[tuple[str, str]]:
    """Return (passage_id, text_hash) of the wanted passages in the snapshot."""
    hashes: list[tuple[str, str]] = []
    for batch in passages(snapshot, columns=["passage_id", "text_hash"]):
        matches = batch.filter(pc.is_in(batch["passage_id"], value_set=wanted))
        hashes += zip(matches["passage_id"].to_pylist(), matches["text_hash"].to_pylist(), strict=True)
    return hashes
