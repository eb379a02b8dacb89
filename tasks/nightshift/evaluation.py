"""Evaluate an encoder or BM25 on held-out queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from nightshift.collection import Collection
from nightshift.encoders import Encoder, as_encoder
from nightshift.progress import progress_bars
from nightshift.retrieval import bm25_run, embed
from nightshift.settings import settings_for
from tasks.core.base import receipts
from tasks.core.base.ranking import DENSE
from tasks.core.evaluation.measures import NAMES
from tasks.core.evaluation.systems import System

MEASURES = {key: NAMES[key] for key in ("ndcg@10", "mrr@10", "recall@100")}


@dataclass(frozen=True)
class Evaluation:
    """Measures of one retriever on one split, as trec_eval computes them; an unanswered query counts 0."""

    receipt: receipts.Evaluation = field(repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Means over all judged queries: nDCG@10, MRR@10, Recall@100."""
        return {name: self.receipt.metrics[key] for key, name in MEASURES.items()}

    @property
    def per_query(self) -> pa.Table:
        """One row for each query: query_id, nDCG@10, MRR@10, Recall@100."""
        from tasks.core.evaluation.evaluate import read_per_query

        table = read_per_query(self.receipt).select(["query_id", *MEASURES])
        return table.rename_columns(["query_id", *MEASURES.values()])

    def __getitem__(self, measure: str) -> float:
        return self.metrics[measure]

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"Evaluation({self.receipt.system} on {self.receipt.rows:,} {self.receipt.split} queries: {figures})"


def evaluate(
    encoder: Encoder | str | Path, collection: Collection, split: str = "test", *, progress: bool = True
) -> Evaluation:
    """Rank all passages for the queries of `split` and measure the ranking (exact search, 100 passages a query).

    Args:
        encoder: an `Encoder`, a model folder or a hub id, or "bm25".
        collection: what is searched.
        split: "test", "dev", or another split of the qrels.
        progress: show progress bars.

    Raises:
        BadInput: the split has no judged query.
    """
    from tasks.core.evaluation.evaluate import evaluate_ranked, evaluate_run

    settings = settings_for(collection.home, evaluation={"split": split}).evaluation
    with progress_bars(progress):
        if encoder == System.BM25:
            run = bm25_run(collection, split, settings_for(collection.home, mining={"depth": settings.depth}).mining)
            return Evaluation(evaluate_run(collection.home, System.BM25, run, collection.snapshot, split))
        receipt = as_encoder(encoder, collection).receipt
        vectors = embed(collection, receipt)
        home, snapshot = collection.home, collection.snapshot
        return Evaluation(evaluate_ranked(home, "encoder", receipt, vectors, snapshot, DENSE, settings))
