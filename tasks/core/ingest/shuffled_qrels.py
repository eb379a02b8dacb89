"""Notices qrels whose ids belong to other queries or passages, as after a join on the wrong column.

A right positive stands higher in BM25's ranking than the positive of some other query would: its reciprocal rank is
many times what the same positives get when they are dealt out at random. That expectation is exact, needs no random
numbers, and holds in a corpus of any size, also where a run covers most of it.
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
_ENOUGH = 20  # queries with a positive, below which nothing can be said
_ANSWERED = 0.5  # share of queries with any hit, below which BM25 is no witness: it does not read this language
_UNANSWERED = 0.1  # share of queries without a hit that is worth a warning
_RUN = "run.parquet"


@dataclass(frozen=True)
class Fit:
    """How well the positives of some queries fit what BM25 finds for them."""

    queries: int  # judged queries that were searched
    pairs: int  # their positives
    answered: float  # share of the queries for which BM25 finds anything
    found: float  # share of the positives within the run's depth
    by_chance: float  # the same, if the positives were dealt out among the queries at random
    lift: float  # mean reciprocal rank of the positives, divided by that of positives dealt out at random
    highest: float  # the lift if every positive stood first

    @property
    def telling(self) -> bool:
        """Whether there is enough to go by."""
        return self.queries >= _ENOUGH and self.answered >= _ANSWERED

    def suspicious(self, min_lift: float) -> bool:
        """Whether the lift is below `min_lift`.

        In a corpus so small that all lifts are low: whether it is nearer to none than to the highest.
        """
        return self.telling and self.lift < min(min_lift, self.highest**0.5)


def check_qrels_fit(run: Run, qrels: pa.Table, min_lift: float) -> Fit:
    """Hold `qrels` (query_id, passage_id) against BM25's run over their queries.

    Raises BadInput when the positives stand less than `min_lift` times as high as positives dealt out at random, which
    says that the ids of queries or passages were mixed up. With too few queries, or queries that BM25 cannot read,
    nothing is refused.
    """
    fit = qrels_fit(run, qrels)
    told = (
        f"BM25 ranks {fit.found:.1%} of {fit.pairs:,} positives in its top {run.depth} "
        f"({fit.by_chance:.1%} if they were assigned at random), {fit.lift:.1f} times as high as at random"
    )
    if fit.suspicious(min_lift):
        raise BadInput(
            f"the qrels look shuffled: {told} ([data] min_lift asks for {min_lift:g}), though it finds something for "
            f"{fit.answered:.0%} of the {fit.queries} queries.\nTheir ids look as if they belong to other passages or "
            "queries: check the id columns of the qrels against those of the corpus and the queries. If queries and "
            "passages really share no words, as in search across languages, set [data] min_lift = 0."
        )
    _log.info("qrels: %s%s", told, "" if fit.telling else " (too few queries to check the qrels)")
    return fit


def warn_of_unanswered(fit: Fit, split: str) -> None:
    """Log a warning where BM25 has no hit at all for more than a few queries of a split."""
    if 1 - fit.answered > _UNANSWERED:
        count = round((1 - fit.answered) * fit.queries)
        _log.warning(
            "BM25 has no hit for %d of %d %s queries: none of their words is in any passage. It divides words at "
            "spaces, which some scripts do not write; its figures and negatives say little about such data.",
            *(count, fit.queries, split),
        )


def qrels_fit(run: Run, qrels: pa.Table) -> Fit:
    """Measure the fit of positives (query_id, passage_id) to a run over their queries."""
    hits = pq.read_table(run.path / _RUN, columns=["query_id", "passage_id", "rank"])
    queries = pc.unique(qrels["query_id"])
    hits = hits.filter(pc.is_in(hits["query_id"], value_set=queries))
    gains = 1.0 / hits["rank"].to_numpy()
    positives = pc.unique(qrels["passage_id"])
    place = pc.index_in(hits["passage_id"], value_set=positives)
    wanted = pc.is_valid(place).to_numpy(zero_copy_only=False)
    at = pc.fill_null(place, 0).to_numpy()[wanted]
    owner = pc.index_in(hits["query_id"], value_set=queries).to_numpy()[wanted]
    pair_at = pc.index_in(qrels["passage_id"], value_set=positives).to_numpy()
    pair_owner = pc.index_in(qrels["query_id"], value_set=queries).to_numpy()
    # A passage dealt to a random query is found with the probability that a query's run holds it.
    chance_found = np.bincount(at, minlength=len(positives))[pair_at].mean() / len(queries)
    chance_gain = np.bincount(at, gains[wanted], minlength=len(positives))[pair_at].mean() / len(queries)
    hit = np.isin(owner.astype(np.int64) * len(positives) + at, pair_owner.astype(np.int64) * len(positives) + pair_at)
    gain = gains[wanted][hit].sum() / qrels.num_rows
    return Fit(
        queries=len(queries),
        pairs=qrels.num_rows,
        answered=len(pc.unique(hits["query_id"])) / len(queries),
        found=float(hit.sum() / qrels.num_rows),
        by_chance=float(chance_found),
        lift=float(gain / chance_gain) if chance_gain else 0.0,
        highest=float(1 / chance_gain) if chance_gain else np.inf,
    )
