"""Detects qrels whose ids belong to other queries or passages, for example after a join on the wrong column.

BM25 ranks a correct positive higher than the positive of another query. The mean reciprocal rank of the positives is
therefore compared with its expectation when the same positives are assigned to queries at random. The expectation is
exact, needs no random numbers, and is valid for any corpus size, even if the run covers most of the corpus.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Run

_log = logging.getLogger("nightshift.ingest")
_LEAST_QUERIES = 20  # queries with a positive; with fewer, the check is inconclusive
_LEAST_ANSWERED = 0.5  # share of queries with a hit; with less, BM25 cannot read the language
_MOST_UNANSWERED = 0.1  # share of queries without a hit; with more, a warning is logged
_BATCH_ROWS = 500_000  # hits in memory
_RUN = "run.parquet"


@dataclass(frozen=True)
class Fit:
    """How well the positives of a set of queries agree with the BM25 run."""

    queries: int  # judged queries that were searched
    pairs: int  # (query, positive) pairs
    answered: float  # share of the queries with at least one hit
    recall: float  # share of the positives within the depth of the run
    chance_recall: float  # expected recall if the positives were assigned to queries at random
    lift: float  # mean reciprocal rank of the positives, divided by its expectation at random
    highest: float  # the lift if every positive had rank 1

    @property
    def conclusive(self) -> bool:
        """Return whether there are enough queries with hits to check the qrels."""
        return self.queries >= _LEAST_QUERIES and self.answered >= _LEAST_ANSWERED

    def suspicious(self, min_lift: float) -> bool:
        """Return whether the lift is below `min_lift`.

        In a small corpus every lift is low. There, the limit is the square root of the highest possible lift.
        """
        return self.conclusive and self.lift < min(min_lift, self.highest**0.5)


def check_qrels_fit(run: Run, qrels: pa.Table, min_lift: float) -> Fit:
    """Check `qrels` (query_id, passage_id) against the BM25 run of their queries.

    Raises BadInput when the lift is below `min_lift`, which indicates that the ids of queries or passages were mixed
    up. Nothing is refused if there are too few queries, or if BM25 has hits for too few of them.
    """
    fit = qrels_fit(run, qrels)
    comparison = (
        f"BM25 ranks {fit.recall:.1%} of {fit.pairs:,} positives in its top {run.depth} "
        f"({fit.chance_recall:.1%} if they were assigned at random), {fit.lift:.1f} times as high as at random"
    )
    if fit.suspicious(min_lift):
        raise BadInput(
            f"the qrels look shuffled: {comparison} ([data] min_lift requires {min_lift:g}), although BM25 has hits "
            f"for {fit.answered:.0%} of the {fit.queries} queries.\n"
            "Their ids seem to belong to other passages or queries: check the id columns of the qrels "
            "against those of the corpus and the queries. If queries and passages share no words, "
            "as in cross-language search, set [data] min_lift = 0."
        )
    _log.info("qrels: %s%s", comparison, "" if fit.conclusive else " (too few queries with hits to check the qrels)")
    return fit


def warn_of_unanswered(fit: Fit, split: str) -> None:
    """Log a warning when BM25 has no hit for more than 10 % of the queries of a split."""
    if 1 - fit.answered > _MOST_UNANSWERED:
        count = round((1 - fit.answered) * fit.queries)
        _log.warning(
            "BM25 has no hit for %d of %d %s queries: none of their words is in any passage. BM25's scores and "
            "negatives are unreliable for such data. Check that [mining] language is the language of the texts.",
            *(count, fit.queries, split),
        )


def qrels_fit(run: Run, qrels: pa.Table) -> Fit:
    """Compute the fit of positives (query_id, passage_id) to the run of their queries; read the run in batches."""
    queries, positives = pc.unique(qrels["query_id"]), pc.unique(qrels["passage_id"])
    pair_at = pc.index_in(qrels["passage_id"], value_set=positives).to_numpy()
    pair_owner = pc.index_in(qrels["query_id"], value_set=queries).to_numpy()
    pairs = pair_owner.astype(np.int64) * len(positives) + pair_at
    answered = np.zeros(len(queries), bool)
    counts, gains_of_positives = np.zeros(len(positives), np.int64), np.zeros(len(positives))
    gains_of_pairs = [np.zeros(0)]
    with pq.ParquetFile(run.path / _RUN) as file:
        for hits in file.iter_batches(_BATCH_ROWS, columns=["query_id", "passage_id", "rank"]):
            owner = pc.fill_null(pc.index_in(hits["query_id"], value_set=queries), -1).to_numpy()
            at = pc.fill_null(pc.index_in(hits["passage_id"], value_set=positives), -1).to_numpy()
            answered[owner[owner >= 0]] = True
            wanted = (owner >= 0) & (at >= 0)
            owner, at, gains = owner[wanted], at[wanted], 1.0 / hits["rank"].to_numpy()[wanted]
            counts += np.bincount(at, minlength=len(positives))
            np.add.at(gains_of_positives, at, gains)
            gains_of_pairs.append(gains[np.isin(owner.astype(np.int64) * len(positives) + at, pairs)])
    # A passage assigned to a random query is a hit with the probability that the run of a query contains it.
    chance_recall = counts[pair_at].mean() / len(queries)
    chance_gain = gains_of_positives[pair_at].mean() / len(queries)
    gains = np.concatenate(gains_of_pairs)
    gain = gains.sum() / qrels.num_rows
    return Fit(
        queries=len(queries),
        pairs=qrels.num_rows,
        answered=float(answered.mean()),
        recall=len(gains) / qrels.num_rows,
        chance_recall=float(chance_recall),
        lift=float(gain / chance_gain) if chance_gain else 0.0,
        highest=float(1 / chance_gain) if chance_gain else np.inf,
    )
