"""Makes candidate pairs from the passages of a snapshot, as a small collection of their own.

A candidate is a query and its passage without the query. If the query stayed in its passage, every retriever would rank
the passage first, and the consistency filter would keep everything.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import BadInput
from tasks.core.base.files import digest_of, produce
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.synthetic import SyntheticSettings
from tasks.core.snapshot.reader import CANDIDATES, PASSAGES, QRELS, QUERIES, passages, queries
from tasks.core.snapshot.splits import Split
from tasks.core.synthesis.structure import Candidate, make_candidate, structural_candidates
from tasks.core.text.normalization import text_hash
from tasks.core.text.synthetic_queries import Origin, synthetic_id
from tasks.core.text.tombstones import Tombstones, read_tombstones
from tasks.core.text.words import alphanumeric_words

log = logging.getLogger("nightshift.synthesis")

VERSION = 1  # increase when the same passages would give other candidates
SCHEMA = pa.schema([(name, pa.string()) for name in ("query_id", "passage_id", "origin", "query", "rule")])

FEW = 200  # candidates; with more of other origins, first sentences are left out

Row = tuple[str, str, Candidate]  # query id, passage id


def make_candidates(
    home: Path, snapshot: Snapshot, settings: SyntheticSettings, generated: Mapping[str, Sequence[str]]
) -> Snapshot:
    """Make the candidates of at most `max_passages` passages, those with the smallest text hashes.

    First sentences are candidates only if there are fewer than `FEW` others. They resemble queries least: in MedQuAD,
    training on them as well lost more than training on questions alone gained.

    A forgotten query is no candidate. A candidate is dropped as `ambiguous` if several passages give its query, and as
    `known_query` if the snapshot has the query already: a synthetic pair must not repeat a held-out query.

    Args:
        home: folder of the artifacts.
        snapshot: the passages, and queries with labels if there are any.
        settings: `[synthetic]`.
        generated: text hash of a passage -> queries that a language model wrote for it.

    Returns:
        A snapshot whose passages are the passages without their query, with the id of the query, and whose qrels pair
        both. Its file `candidates.parquet` has query_id, passage_id, origin, query, and rule (empty, or why the
        candidate was dropped).

    Raises:
        BadInput: no passage gives a candidate.
    """
    tombstones = read_tombstones(home)
    key = {
        "candidates": VERSION,
        "snapshot": snapshot.digest,
        "structure": settings.structure,
        "max_passages": settings.max_passages,
        "generated": digest_of({digest: list(texts) for digest, texts in generated.items()}),
        **({"forgotten": tombstones.digest} if tombstones else {}),
    }

    def build(folder: Path) -> Mapping[str, Any]:
        made = _unique(_candidates(snapshot, settings, generated))
        rows = sorted((row for row in made if not _is_forgotten(row, tombstones)), key=lambda row: row[0])
        better = [row for row in rows if row[2].origin is not Origin.SENTENCE]
        rows = better if len(better) >= FEW else rows
        rules = _rules(snapshot, rows)
        kept = [row for row, rule in zip(rows, rules, strict=True) if not rule]
        if not kept:
            raise BadInput(
                f"no training pair can be made from {snapshot.rows:,} passages: they have no title, heading, question, "
                "or first sentence with enough text after it. Set [generate] url and model, or add labeled queries."
            )
        columns = zip(*((name, passage, c.origin, c.query) for name, passage, c in rows), strict=True)
        arrays = [pa.array(column, pa.string()) for column in (*columns, rules)]
        pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), folder / CANDIDATES)
        _write_collection(folder, kept)
        return {
            "rows": len(kept), "queries": len(kept), "qrels": len(kept), "splits": {Split.TRAIN: len(kept)},
            "parents": (snapshot.digest,),
        }  # fmt: skip

    return produce(home, Snapshot, key, build)


def sampled_passages(snapshot: Snapshot, count: int) -> Iterator[dict[str, str]]:
    """Stream the `count` passages with the smallest text hashes, each text once, as dictionaries of all columns.

    A text keeps its place in the order as the collection grows, so later nights make pairs from the same passages.
    """
    hashes = [np.array([int(text[:15], 16) for text in batch["text_hash"].to_pylist()], np.int64)
              for batch in passages(snapshot, ["text_hash"])]  # fmt: skip
    ordered = np.unique(np.concatenate(hashes))
    limit = ordered[min(count, len(ordered)) - 1]
    seen: set[str] = set()
    for batch in passages(snapshot):
        for row in batch.to_pylist():
            if int(row["text_hash"][:15], 16) <= limit and row["text_hash"] not in seen:
                seen.add(row["text_hash"])
                yield row


def _candidates(
    snapshot: Snapshot, settings: SyntheticSettings, generated: Mapping[str, Sequence[str]]
) -> Iterator[Row]:
    for row in sampled_passages(snapshot, settings.max_passages):
        title, text = row["title"] or "", row["text"]
        structural = structural_candidates(title, text) if settings.structure else ()
        written = (
            candidate
            for query in generated.get(row["text_hash"], ())
            if (candidate := make_candidate(Origin.GENERATED, query, title, text)) is not None
        )
        for candidate in (*structural, *written):
            yield synthetic_id(candidate.origin, candidate.query, row["passage_id"]), row["passage_id"], candidate


def _is_forgotten(row: Row, tombstones: Tombstones) -> bool:
    query_id, _, candidate = row
    return tombstones.match_id("queries", query_id) or tombstones.match_text(candidate.query)


def _unique(rows: Iterable[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows:
        if row[0] not in seen:
            seen.add(row[0])
            yield row


def _rules(snapshot: Snapshot, rows: list[Row]) -> list[str]:
    """Return the rule that drops each candidate, or an empty string."""
    wordings = [_wording(candidate.query) for _, _, candidate in rows]
    passages_of = Counter[str]()
    passages_of.update(wording for wording, _ in {(w, row[1]) for w, row in zip(wordings, rows, strict=True)})
    known = {_wording(text) for text in queries(snapshot)["text"].to_pylist()}
    return [
        "known_query" if wording in known else "ambiguous" if passages_of[wording] > 1 else "" for wording in wordings
    ]


def _wording(query: str) -> str:
    return " ".join(alphanumeric_words(query))


def _write_collection(folder: Path, rows: list[Row]) -> None:
    ids = [query_id for query_id, _, _ in rows]
    titles, texts = [c.title for _, _, c in rows], [c.text for _, _, c in rows]
    hashes = [text_hash(title, text) for title, text in zip(titles, texts, strict=True)]
    names = {"passage_id": ids, "title": titles, "text": texts, "text_hash": hashes}
    pq.write_table(pa.table(names), folder / PASSAGES, compression="zstd", row_group_size=8192)
    pq.write_table(pa.table({"query_id": ids, "text": [c.query for _, _, c in rows]}), folder / QUERIES)
    qrels = {
        "query_id": ids,
        "passage_id": ids,
        "relevance": pa.array([1] * len(ids), pa.int32()),
        "split": [str(Split.TRAIN)] * len(ids),
    }
    pq.write_table(pa.table(qrels), folder / QRELS)


def read_candidates(candidates: Snapshot) -> pa.Table:
    """Read all candidates, ordered by query id: query_id, passage_id, origin, query, rule."""
    return pq.read_table(candidates.path / CANDIDATES)


def longest_group(candidates: Snapshot) -> int:
    """Return the largest number of candidates of a passage."""
    table = read_candidates(candidates)
    counts = table.filter(pc.equal(table["rule"], "")).group_by("passage_id").aggregate([("query_id", "count")])
    return int(pc.max(counts["query_id_count"]).as_py())
