"""Kinds of held-out queries that must not pay for the gain of the others."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import passages, qrels, queries


def segments_of(
    snapshot: Snapshot, split: str, query_ids: list[str], serving: Snapshot | None
) -> dict[str, np.ndarray]:
    """Name of a slice → which of `query_ids` belong to it, bool (queries,); slices of none or of all are left out.

    Long and short queries are parted at the median number of words; head and tail at the median of how often a
    query's best known passage is a positive in training; new passages are those that the serving snapshot has not,
    or has with another text.
    """
    words = {one["query_id"]: len(one["text"].split()) for one in queries(snapshot, split).to_pylist()}
    positives: dict[str, list[str]] = defaultdict(list)
    for one in qrels(snapshot, split).select(["query_id", "passage_id"]).to_pylist():
        positives[one["query_id"]].append(one["passage_id"])
    seen = Counter(qrels(snapshot, "train")["passage_id"].to_pylist())
    popular = np.array([max(seen[passage] for passage in positives[query]) for query in query_ids])
    length = np.array([words[query] for query in query_ids])
    found = {
        "short queries": length <= np.median(length),
        "long queries": length > np.median(length),
        "head: passages often asked for": popular > np.median(popular),
        "tail: passages seldom asked for": popular <= np.median(popular),
    }
    if serving is not None:
        wanted = pa.array(sorted({one for passages_ in positives.values() for one in passages_}), pa.string())
        fresh = set(_texts(snapshot, wanted)) - set(_texts(serving, wanted))
        new = {passage for passage, _ in fresh}
        found["new passages"] = np.array([any(one in new for one in positives[query]) for query in query_ids])
        found["passages served before"] = ~found["new passages"]
    return {name: chosen for name, chosen in found.items() if chosen.any() and not chosen.all()}


def _texts(snapshot: Snapshot, wanted: pa.Array) -> list[tuple[str, str]]:
    """(passage_id, text_hash) of those of `wanted` that the snapshot has."""
    found: list[tuple[str, str]] = []
    for batch in passages(snapshot, columns=["passage_id", "text_hash"]):
        here = batch.filter(pc.is_in(batch["passage_id"], value_set=wanted))
        found += zip(here["passage_id"].to_pylist(), here["text_hash"].to_pylist(), strict=True)
    return found
