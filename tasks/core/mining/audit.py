"""A sample of what mining did, for human eyes: the fastest way to see false negatives is to read some."""

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

QUERIES = 25  # as many as a person reads
REFUSED_A_REASON = 2  # refused candidates shown of a query, for each reason
CHARACTERS = 600  # of a passage's text that are shown


@dataclass(frozen=True)
class Outcome:
    """All that was decided about a block of queries."""

    candidates: Candidates
    verdict: np.ndarray  # int8: KEPT or a number in REASONS
    chosen: np.ndarray  # int64: numbers of candidates, hardest first within a query
    trail: Mapping[Reason, np.ndarray]  # what rules saw of the chosen, float32; NaN for nothing
    sources: list[str]


def draw_queries(count: int, seed: int) -> list[int]:
    """Rows of up to 25 of `count` training queries, ascending."""
    return sorted(np.random.default_rng(seed).choice(count, min(QUERIES, count), replace=False).tolist())


def sample_of(row: int, outcome: Outcome, facts: FilterInputs) -> dict[str, list[dict[str, Any]]]:
    """A positive of query `row`, its negatives and some of what was refused; passages by snapshot row."""
    candidates = outcome.candidates
    positives = np.flatnonzero(facts.positive_query == row)[:1]
    chosen = np.flatnonzero(candidates.query[outcome.chosen] == row)
    refused = np.flatnonzero((candidates.query == row) & (outcome.verdict != KEPT))
    shown: Counter[int] = Counter()
    some = []
    for number in refused[np.lexsort((candidates.source[refused], candidates.rank[refused]))].tolist():
        reason = int(outcome.verdict[number])
        if shown[reason] < REFUSED_A_REASON:
            some.append({**_entry(number, outcome), "reason": REASONS[reason].value})
        shown[reason] += 1
    return {
        "positives": [
            {"passage": int(facts.positive_passage[i]), "dense_score": _number(facts.positive_score[i])}
            for i in positives
        ],
        "negatives": [
            {
                **_entry(int(outcome.chosen[place]), outcome),
                "trail": {rule.value: _number(values[place]) for rule, values in outcome.trail.items()},
            }
            for place in chosen.tolist()
        ],
        "refused": some,
    }


def write_sample(
    file: Path, snapshot: Snapshot, wording: pa.Table, drawn: Mapping[int, dict[str, list[dict[str, Any]]]]
) -> None:
    """Write what was `sampled` of queries (by row) with the texts of all passages."""
    entries = [entry for one in drawn.values() for part in one.values() for entry in part]
    numbers = sorted({entry["passage"] for entry in entries})
    texts = texts_of(snapshot, np.array(numbers, np.int64))
    ids = dict(zip(numbers, ids_of([snapshot.path / PASSAGES], np.array(numbers, np.int64)).to_pylist(), strict=True))
    for entry in entries:
        number = entry.pop("passage")
        text = texts[number]
        entry["passage_id"] = ids[number]
        entry["text"] = text if len(text) <= CHARACTERS else text[:CHARACTERS] + "…"
    asked = wording.take(pa.array(list(drawn), pa.int64())).select(["query_id", "text"]).to_pylist()
    sample = [
        {"query_id": query["query_id"], "query": query["text"], **one}
        for query, one in zip(asked, drawn.values(), strict=True)
    ]
    write_json(file, sample)


def _entry(number: int, outcome: Outcome) -> dict[str, Any]:
    candidates = outcome.candidates
    return {
        "passage": int(candidates.passage[number]),
        "source": outcome.sources[candidates.source[number]],
        "rank": int(candidates.rank[number]),
        "score": _number(candidates.score[number]),
        "dense_score": _number(candidates.dense[number]),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
