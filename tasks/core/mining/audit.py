"""Sample mined negatives and refused candidates for review: reading a few is the fastest way to see false negatives."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.base.files import write_json
from tasks.core.base.receipts import Snapshot
from tasks.core.mining.candidates import Candidates
from tasks.core.mining.filters import KEPT, REASONS, FilterInputs, Reason
from tasks.core.mining.passage_texts import texts_of
from tasks.core.retrieval.exact import ids_of
from tasks.core.snapshot.reader import PASSAGES

SAMPLED_QUERIES = 25  # what a person reads in a few minutes
REFUSED_PER_REASON = 2  # refused candidates shown per query and reason
SHOWN_CHARACTERS = 600  # of each passage text


@dataclass(frozen=True)
class MinedBatch:
    """The candidates of one batch of queries and every decision about them."""

    candidates: Candidates
    refusals: np.ndarray  # int8 (candidates,): KEPT or an index into REASONS
    chosen: np.ndarray  # int64 (negatives,): candidate numbers, by query and in the order chosen
    trail: Mapping[Reason, np.ndarray]  # float32 (negatives,): what each measuring filter measured; NaN if nothing
    sources: list[str]  # names of the source numbers


def draw_queries(count: int, seed: int) -> list[int]:
    """Draw up to 25 of `count` training queries by `seed`; return their rows, ascending."""
    return sorted(np.random.default_rng(seed).choice(count, min(SAMPLED_QUERIES, count), replace=False).tolist())


def sample_query(row: int, batch: MinedBatch, inputs: FilterInputs) -> dict[str, list[dict[str, Any]]]:
    """Return a positive of query `row`, its negatives, and two refused candidates per reason, as snapshot rows."""
    candidates = batch.candidates
    positives = np.flatnonzero(inputs.positive_query == row)[:1]
    chosen = np.flatnonzero(candidates.query[batch.chosen] == row)
    refused = np.flatnonzero((candidates.query == row) & (batch.refusals != KEPT))
    shown_by_reason: Counter[int] = Counter()
    refused_entries = []
    for candidate in refused[np.lexsort((candidates.source[refused], candidates.rank[refused]))].tolist():
        reason = int(batch.refusals[candidate])
        if shown_by_reason[reason] < REFUSED_PER_REASON:
            refused_entries.append({**_entry(candidate, batch), "reason": REASONS[reason].value})
        shown_by_reason[reason] += 1
    return {
        "positives": [
            {"passage": int(inputs.positive_passage[i]), "dense_score": _float_or_none(inputs.positive_score[i])}
            for i in positives
        ],
        "negatives": [
            {
                **_entry(int(batch.chosen[position]), batch),
                "trail": {rule.value: _float_or_none(values[position]) for rule, values in batch.trail.items()},
            }
            for position in chosen.tolist()
        ],
        "refused": refused_entries,
    }


def write_sample(
    file: Path, snapshot: Snapshot, training_queries: pa.Table, samples: Mapping[int, dict[str, list[dict[str, Any]]]]
) -> None:
    """Write the samples (by row of the training query) to `file` as JSON, with ids and texts of all passages.

    training_queries: query_id and text.
    """
    entries = [entry for sample in samples.values() for group in sample.values() for entry in group]
    rows = sorted({entry["passage"] for entry in entries})
    texts = texts_of(snapshot, np.array(rows, np.int64))
    ids = dict(zip(rows, ids_of([snapshot.path / PASSAGES], np.array(rows, np.int64)).to_pylist(), strict=True))
    for entry in entries:
        row = entry.pop("passage")
        text = texts[row]
        entry["passage_id"] = ids[row]
        entry["text"] = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    sampled = training_queries.take(pa.array(list(samples), pa.int64())).select(["query_id", "text"]).to_pylist()
    write_json(
        file,
        [
            {"query_id": query["query_id"], "query": query["text"], **sample}
            for query, sample in zip(sampled, samples.values(), strict=True)
        ],
    )


def _entry(candidate: int, batch: MinedBatch) -> dict[str, Any]:
    candidates = batch.candidates
    return {
        "passage": int(candidates.passage[candidate]),
        "source": batch.sources[candidates.source[candidate]],
        "rank": int(candidates.rank[candidate]),
        "score": _float_or_none(candidates.score[candidate]),
        "dense_score": _float_or_none(candidates.dense[candidate]),
    }


def _float_or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
