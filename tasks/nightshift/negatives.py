"""Hard negatives: mine them, read them, hand them to a trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightshift.collection import Collection
from nightshift.progress import progress_bars
from nightshift.retrieval import bm25_run, embed
from nightshift.settings import settings_for
from tasks.core.base import receipts
from tasks.core.base.errors import NightshiftError
from tasks.core.snapshot.splits import Split
from tasks.core.text.normalization import full_text

if TYPE_CHECKING:
    from datasets import Dataset

    from nightshift.encoders import Encoder


class Form(StrEnum):
    """A form of training data that sentence-transformers accepts."""

    TRIPLET = "triplet"  # anchor, positive, negative: one row for each negative
    N_TUPLE = "n-tuple"  # anchor, positive, negative_1, negative_2, …: one row for each positive
    LABELED_LIST = "labeled-list"  # query, docs, labels: one row for each query, relevant passages first


@dataclass(frozen=True)
class Negatives:
    """Mined hard negatives of the training queries of one collection."""

    receipt: receipts.Negatives = field(repr=False)
    collection: Collection = field(repr=False)

    def __len__(self) -> int:
        return self.receipt.rows

    @property
    def refused(self) -> dict[str, int]:
        """Rule → candidates that it kept out, such as `known_positive`, `near_duplicate`, `above_margin`."""
        return dict(self.receipt.refused)

    def to_table(self) -> pa.Table:
        """The negatives as Arrow: query_id, passage_id, source, rank, score, dense_score (null without an encoder)."""
        columns = ["query_id", "passage_id", "source", "rank", "score", "dense_score"]
        return pq.read_table(self.receipt.path / "negatives.parquet", columns=columns)

    def to_dataset(self, form: str = "triplet") -> Dataset:
        """The training data as a `datasets.Dataset`, as `SentenceTransformerTrainer` takes it.

        Args:
            form: "triplet", "n-tuple" (as many negatives as the query with the fewest has, at least one; queries
                without any are left out), or "labeled-list".

        Raises:
            NightshiftError: the form is unknown, or no query has a negative.
        """
        from datasets import Dataset

        if form not in list(Form):
            raise NightshiftError(f"form {form!r} is unknown; use one of {', '.join(Form)}")
        if not len(self):
            raise NightshiftError("no training query has a negative: lower near_duplicate, or mine deeper")
        rows = list(_ROWS[Form(form)](self._examples()))
        return Dataset.from_list(rows)

    def _examples(self) -> list[Example]:
        mined = self.to_table()
        negatives: dict[str, list[str]] = {}
        for query, passage in zip(mined["query_id"].to_pylist(), mined["passage_id"].to_pylist(), strict=True):
            negatives.setdefault(query, []).append(passage)
        qrels = self.collection.qrels(Split.TRAIN)
        positives: dict[str, list[str]] = {}
        for query, passage in zip(qrels["query_id"].to_pylist(), qrels["passage_id"].to_pylist(), strict=True):
            if query in negatives:
                positives.setdefault(query, []).append(passage)
        wanted = {passage for ids in (*negatives.values(), *positives.values()) for passage in ids}
        texts = {
            row["passage_id"]: full_text(row["title"], row["text"])
            for row in self.collection.passages()
            if row["passage_id"] in wanted
        }
        queries = dict(
            zip(*self.collection.queries(Split.TRAIN).select(["query_id", "text"]).to_pydict().values(), strict=True)
        )
        return [
            Example(queries[query], [texts[p] for p in positives[query]], [texts[n] for n in negatives[query]])
            for query in positives
        ]

    def __repr__(self) -> str:
        fewer = f", {self.receipt.starved:,} got fewer than requested" if self.receipt.starved else ""
        return f"Negatives({len(self):,} for {self.receipt.queries:,} queries{fewer})"


@dataclass(frozen=True)
class Example:
    """The texts of one training query."""

    query: str
    positives: list[str]
    negatives: list[str]


def mine_negatives(
    collection: Collection,
    per_query: int = 8,
    *,
    encoder: Encoder | str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Negatives:
    """Mine hard negatives for the training queries of `collection`.

    Candidates are BM25's best passages; with an encoder also that encoder's own best passages. Known positives (by id,
    text or near duplicate, of any split) are never negatives. With an encoder a candidate that scores above 95 % of
    the positives' mean score is left out as well (TopK-PercPos, Moreira et al. 2024).

    Args:
        collection: what to mine from.
        per_query: negatives kept for each query; a query with fewer candidates gets fewer.
        encoder: an `Encoder`, a model folder or a hub id; None: BM25 alone, and no margin filter.
        progress: show progress bars.
        **settings: any setting of `[mining]`, such as `depth=50, margin=0.9`, or `teacher={"source": "blend"}`, which
            needs an encoder.

    Raises:
        BadInput: the collection has no training query.
        NightshiftError: a setting is not valid, a teacher is set without an encoder, or Java failed.
    """
    from tasks.core.evaluation.mine_round import mine_with_encoder
    from tasks.core.mining.candidates import Source
    from tasks.core.mining.mine import mine

    tree = settings_for(collection.home, mining={**settings, "per_query": per_query})
    mining, home, snapshot = tree.mining, collection.home, collection.snapshot
    with progress_bars(progress):
        bm25 = bm25_run(collection, Split.TRAIN, mining)
        if encoder is None:
            if mining.teacher.source != "none":
                raise NightshiftError("a teacher is compared with the encoder that mines: give an encoder")
            return Negatives(mine(home, snapshot, [(Source.BM25, bm25)], None, None, 0, mining), collection)
        from nightshift.encoders import as_encoder

        receipt = as_encoder(encoder, collection).receipt
        vectors = embed(collection, receipt)
        mined = mine_with_encoder(home, snapshot, bm25, receipt, vectors, 1, mining, tree.evaluation)
        return Negatives(mined, collection)


def _triplets(examples: list[Example]) -> Iterator[dict[str, Any]]:
    for example in examples:
        for positive in example.positives:
            for negative in example.negatives:
                yield {"anchor": example.query, "positive": positive, "negative": negative}


def _n_tuples(examples: list[Example]) -> Iterator[dict[str, Any]]:
    width = min(len(example.negatives) for example in examples)
    for example in examples:
        for positive in example.positives:
            numbered = {f"negative_{n}": text for n, text in enumerate(example.negatives[:width], start=1)}
            yield {"anchor": example.query, "positive": positive, **numbered}


def _labeled_lists(examples: list[Example]) -> Iterator[dict[str, Any]]:
    for example in examples:
        labels = [1] * len(example.positives) + [0] * len(example.negatives)
        yield {"query": example.query, "docs": example.positives + example.negatives, "labels": labels}


_ROWS = {Form.TRIPLET: _triplets, Form.N_TUPLE: _n_tuples, Form.LABELED_LIST: _labeled_lists}
