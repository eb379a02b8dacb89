"""A sample of what mining did, for human eyes: the fastest way to see false negatives is to read some."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.data.snapshot import passages
from tasks.core.data.text import full_text
from tasks.core.files import write_json
from tasks.core.mining.candidates import Candidates
from tasks.core.mining.filters import KEPT, REASONS, Facts
from tasks.core.receipts import Snapshot

QUERIES = 25  # as many as a person reads
REFUSED_A_REASON = 2  # refused candidates shown of a query, for each reason
CHARACTERS = 600  # of a passage's text that are shown


@dataclass(frozen=True)
class Outcome:
    """All that a round of mining decided."""

    candidates: Candidates
    verdict: np.ndarray  # int8: KEPT or a number in REASONS
    chosen: np.ndarray  # int64: numbers of candidates, hardest first within a query
    facts: Facts
    sources: list[str]


def write_sample(file: Path, snapshot: Snapshot, wording: pa.Table, outcome: Outcome, seed: int) -> None:
    """Write up to 25 training queries, drawn by `seed`, with a positive, the kept negatives and some refused."""
    count = min(QUERIES, wording.num_rows)
    rows = np.sort(np.random.default_rng(seed).choice(wording.num_rows, count, replace=False))
    drawn = [_draw(int(row), outcome) for row in rows]
    numbers = sorted({entry["passage"] for one in drawn for part in one.values() for entry in part})
    texts = _texts(snapshot, outcome.facts.pool.ids.take(pa.array(numbers, pa.int64())))
    for one in drawn:
        for entry in (entry for part in one.values() for entry in part):
            entry["passage_id"] = outcome.facts.pool.ids[entry.pop("passage")].as_py()
            entry["text"] = texts[entry["passage_id"]]
    asked = wording.take(pa.array(rows)).select(["query_id", "text"]).to_pylist()
    sample = [
        {"query_id": query["query_id"], "query": query["text"], **one} for query, one in zip(asked, drawn, strict=True)
    ]
    write_json(file, sample)


def _draw(row: int, outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    facts, candidates = outcome.facts, outcome.candidates
    positives = np.flatnonzero(facts.positive_query == row)[:1]
    chosen = outcome.chosen[candidates.query[outcome.chosen] == row]
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
            {"passage": int(facts.positive_passage[i]), "dense_score": float(facts.positive_score[i])}
            for i in positives
        ],
        "negatives": [_entry(number, outcome) for number in chosen.tolist()],
        "refused": some,
    }


def _entry(number: int, outcome: Outcome) -> dict[str, Any]:
    candidates = outcome.candidates
    return {
        "passage": int(candidates.passage[number]),
        "source": outcome.sources[candidates.source[number]],
        "rank": int(candidates.rank[number]),
        "score": float(candidates.score[number]),
        "dense_score": float(candidates.dense[number]),
    }


def _texts(snapshot: Snapshot, ids: pa.Array) -> dict[str, str]:
    texts: dict[str, str] = {}
    for batch in passages(snapshot, columns=["passage_id", "title", "text"]):
        for row in batch.filter(pc.is_in(batch["passage_id"], value_set=ids)).to_pylist():
            text = full_text(row["title"], row["text"])
            texts[row["passage_id"]] = text if len(text) <= CHARACTERS else text[:CHARACTERS] + "…"
    return texts
