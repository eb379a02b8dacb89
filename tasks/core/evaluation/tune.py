"""Choose how a release ranks: dense, BM25, or a weighted sum of both, on queries that the gate does not use."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.core.base.ranking import Mode, Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Postings, Release, Snapshot
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.snapshot.held_out import held_out
from tasks.core.snapshot.splits import SYNTHETIC, Split

if TYPE_CHECKING:
    from tasks.core.retrieval.arms import Arms

log = logging.getLogger("nightshift.evaluation")

WEIGHTS = np.round(np.arange(0, 1.001, 0.05), 2)  # of the dense score; 0 and 1 are the single retrievers
DEFAULT_WEIGHT = 0.75  # best mean over four collections, and above both retrievers on each of them
PRIOR_QUERIES = 3.0  # strength of the pull towards the default: the error of a weight counts like these many queries
MIN_QUERIES = 20  # with fewer dev queries, the default is used
TOP = 10
FIXED = {"dense": 1.0, "lexical": 0.0}  # modes that settings may prescribe


class Tuning(BaseModel):
    """The chosen weight, and nDCG@10 of every weight on the dev queries (empty: too few of them)."""

    model_config = ConfigDict(frozen=True)

    weight: float
    why: str
    queries: int = 0
    ndcg: tuple[float, ...] = ()  # of WEIGHTS


class Tuned(NamedTuple):
    """How a release ranks, and why."""

    ranking: Ranking
    tuning: Tuning


def tune_ranking(
    home: Path,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    postings: Postings,
    mining: MiningSettings,
    settings: EvaluationSettings,
    split: str = Split.DEV,
    *,
    system: str = "encoder",
) -> Tuned:
    """Choose how a release of this encoder ranks, on the queries of a split, normally dev; see `tune`.

    `[evaluation] ranking` may fix the mode instead. `system` names the encoder in the log.
    """
    from tasks.core.evaluation.evaluate import encoder_arms
    from tasks.core.retrieval.arms import Arms  # compiles the kernel of BM25 at import

    ranking = Ranking(
        postings=postings.digest, language=mining.language, stemmer=mining.stemmer, k1=mining.k1, b=mining.b
    )
    queries = next((name for name in (split, SYNTHETIC) if snapshot.splits.get(name)), Split.TRAIN)  # for the scales
    arms = Arms(encoder_arms(home, encoder, embeddings, snapshot, queries, ranking, settings.max_queries))
    dense_scale, lexical_scale = arms.scales()
    ranking = ranking.model_copy(update={"dense_scale": dense_scale, "lexical_scale": lexical_scale})
    if settings.ranking in FIXED:
        tuning = Tuning(weight=FIXED[settings.ranking], why=f'set by [evaluation] ranking = "{settings.ranking}"')
    elif queries != split:
        tuning = Tuning(weight=DEFAULT_WEIGHT, why="there are no dev queries, so the weight is the default")
    else:
        answers = held_out(snapshot, split, settings.max_queries).qrels
        tuning = tune(arms, answers, ranking, leave_out_self=settings.leave_out_self)
    weight = DEFAULT_WEIGHT if settings.ranking == "hybrid" and tuning.weight in (0, 1) else tuning.weight
    ranking = ranking.model_copy(update={"weight": weight})
    log.info("ranking of the %s: %s: %s", system, ranking, tuning.why)
    return Tuned(ranking, tuning)


def keep_ranking(home: Path, serving: Release, snapshot: Snapshot, settings: EvaluationSettings) -> Tuned | None:
    """Return the ranking of the serving release over another snapshot, for a refresh.

    Choosing it again would let chance on the dev queries reject a refresh whose encoder did not change.

    Returns:
        None if the ranking must be chosen: `[evaluation] ranking` changed or names another mode, or the release has no
        lexical index.
    """
    from tasks.core.retrieval.postings import over_snapshot

    modes = {"dense": (Mode.DENSE,), "lexical": (Mode.LEXICAL,), "hybrid": (Mode.HYBRID,)}
    unchanged = serving.settings.get("evaluation.ranking", settings.ranking) == settings.ranking
    fits = serving.ranking.mode in modes.get(settings.ranking, tuple(Mode))
    if not (serving.ranking.postings and unchanged and fits):
        return None
    why = f"it is that of release {serving.release}, because a refresh keeps the ranking"
    return Tuned(over_snapshot(home, serving.ranking, snapshot), Tuning(weight=serving.ranking.weight, why=why))


def tune(arms: Arms, qrels: pa.Table, ranking: Ranking, *, leave_out_self: bool = False) -> Tuning:
    """Choose the weight of the dense score by nDCG@10 on dev queries.

    The hybrid weight maximizes Σ nDCG@10 − ½ · `PRIOR_QUERIES` · (weight − `DEFAULT_WEIGHT`)², a ridge penalty that
    matters for few queries only. A hybrid ranking must beat the better single retriever by more than the standard error
    of the paired difference; otherwise that retriever ranks alone.

    Args:
        arms: scores of both retrievers for the dev queries.
        qrels: query_id, passage_id, relevance of these queries.
        ranking: with the scales; its weight is ignored.
        leave_out_self: ignore the passage whose id equals the query's.
    """
    queries = arms.receipt.queries
    if queries < MIN_QUERIES:
        why = f"{queries} dev queries are too few to choose a weight ({MIN_QUERIES} are needed), so it is the default"
        return Tuning(weight=DEFAULT_WEIGHT, queries=queries, why=why)
    relevance, ideal = arms.relevance(qrels)
    if leave_out_self:
        relevance = np.where(arms.is_own(), np.nan, relevance)
    weighted = [ranking.model_copy(update={"weight": float(weight)}) for weight in WEIGHTS]
    ndcg = np.stack([_ndcg(arms, choice, relevance, ideal) for choice in weighted], axis=1)
    means = ndcg.mean(axis=0)
    penalty = 0.5 * PRIOR_QUERIES * (WEIGHTS - DEFAULT_WEIGHT) ** 2 / queries
    hybrid = 1 + int(np.argmax((means - penalty)[1:-1]))
    single = 0 if means[0] > means[-1] else len(WEIGHTS) - 1
    gain = ndcg[:, hybrid] - ndcg[:, single]
    error = float(gain.std(ddof=1) / np.sqrt(queries))
    pays = float(gain.mean()) > error
    chosen = hybrid if pays else single
    name = "BM25" if single == 0 else "dense"
    why = (
        f"nDCG@10 on {queries:,} dev queries: {means[hybrid]:.4f} hybrid, {means[-1]:.4f} dense, {means[0]:.4f} BM25; "
        f"hybrid gains {gain.mean():+.4f} (standard error {error:.4f}) over {name} alone"
    )
    return Tuning(weight=float(WEIGHTS[chosen]), queries=queries, ndcg=tuple(means.tolist()), why=why)


def _ndcg(arms: Arms, ranking: Ranking, relevance: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """Return nDCG@10 of each query with this ranking: float64 (queries,). Gains are relevances, as in trec_eval.

    relevance: float64 (n,) of each row; NaN: the row is left out. ideal: DCG@10 float64 (queries,) of the best order.
    """
    order = arms.order(ranking)
    order = order[~np.isnan(relevance[order])]
    query = arms.query[order]
    rank = np.arange(len(order)) - np.searchsorted(query, query)
    top = rank < TOP
    dcg = np.bincount(query[top], relevance[order[top]] / np.log2(rank[top] + 2), minlength=len(ideal))
    measured: np.ndarray = dcg / ideal
    return measured
