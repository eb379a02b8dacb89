"""Probe a challenger on a small pool of passages, and reject it before the corpus is embedded if it is clearly worse.

The pool contains the answers, the top passages of BM25 and of the rival, and random passages. It lacks passages that
only the challenger would wrongly rank high, which favors the challenger. A challenger that is clearly worse even on the
pool is worse on the corpus.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.files import produce
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Encoder, Run, Snapshot
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.evaluate import evaluate_ranked, read_run
from tasks.core.evaluation.gate import GateCheck, Probe
from tasks.core.evaluation.own_measures import read_measures
from tasks.core.evaluation.significance import compare_paired
from tasks.core.evaluation.tune import tune_ranking
from tasks.core.retrieval.postings import build_postings
from tasks.core.snapshot.held_out import held_out
from tasks.core.snapshot.reader import PASSAGES, QRELS, QUERIES, passages, qrels

log = logging.getLogger("nightshift.evaluation")

VERSION = 1  # of the pool; a change makes new artifacts


def probe(
    settings: Settings,
    snapshot: Snapshot,
    challenger: Encoder,
    rival: Encoder,
    name: str,
    runs: tuple[Run, ...],
    served: Ranking | None = None,
) -> Probe:
    """Rank a pool of passages with the challenger and its rival; reject the challenger if it is clearly worse.

    Rankings are those of releases: dense, BM25, or both. The weight of the challenger is the best for the pool's own
    queries, which favors the challenger again. The pool and its vectors are artifacts. When all passages are embedded
    later, the vectors of the pool are reused.

    Args:
        settings: size of the pool; margin and confidence of the gate.
        snapshot: the pool is drawn from its passages.
        challenger, rival: the two encoders.
        name: name of the rival in messages.
        runs: of BM25 and of the rival over the held-out queries; their top passages are in the pool.
        served: how the rival ranks; None: with the best weight, like the challenger.
    """
    evaluation = settings.evaluation
    drawn = _draw_queries(snapshot, evaluation, settings.gate.seed)
    chosen = _choose_passages(snapshot, drawn, runs, settings.gate.seed, evaluation)
    max_passages = int(evaluation.probe_share * snapshot.rows)
    why = ""
    if drawn.num_rows < settings.gate.min_queries:
        why = f"{drawn.num_rows} queries are too few" if drawn.num_rows else "switched off"
    elif chosen.sum() > max_passages:
        why = "the pool would be most of the corpus"
    if why:
        log.info("no probe before embedding: %s", why)
        return Probe(passages=int(chosen.sum()), of=snapshot.rows, why=why)
    pool = _build_pool(settings.home, snapshot, evaluation.split, drawn, chosen)
    log.info("probe: embedding %d of %d passages for %d queries", pool.rows, snapshot.rows, drawn.num_rows)
    challenger_measures, rival_measures = (
        _measure(settings, encoder, pool, ranked) for encoder, ranked in ((challenger, None), (rival, served))
    )
    comparison = compare_paired(name, challenger_measures, rival_measures, settings.gate)
    worse = comparison.high < -settings.gate.margin
    log.info("probe: %s against %s", comparison, name)
    words = f"clearly worse than {name} already on a pool of {pool.rows:,} of {snapshot.rows:,} passages: {comparison}"
    remedy = f"a gain of {-settings.gate.margin - comparison.high:.4f} {comparison.measure} or more on this pool"
    finding = GateCheck(held=False, words=words, remedy=remedy) if worse else None
    return Probe(passages=pool.rows, of=snapshot.rows, comparison=comparison, finding=finding)


def _measure(settings: Settings, encoder: Encoder, pool: Snapshot, served: Ranking | None) -> pa.Table:
    """Measure the ranking of an encoder on the pool. served: how it ranks; None: as is best for these queries."""
    home, evaluation = settings.home, settings.evaluation
    vectors = gather_shards(home, encoder, pool, 1, vectors=settings.embedding.vectors)
    ranking = served
    if ranking is None:
        postings = build_postings(home, pool, settings.mining.language, settings.mining.stemmer)
        ranking, _ = tune_ranking(
            home, encoder, vectors, pool, postings, settings.mining, evaluation, split=evaluation.split
        )
    measured = evaluate_ranked(home, "probe", encoder, vectors, pool, ranking, evaluation)
    return read_measures(home, measured, pool, settings.gate)


def _draw_queries(snapshot: Snapshot, settings: EvaluationSettings, seed: int) -> pa.Table:
    """Draw at most `probe_queries` of the measured queries at random; keep their order."""
    table = held_out(snapshot, settings.split, settings.max_queries).queries
    rows = np.random.default_rng(seed).permutation(table.num_rows)[: settings.probe_queries]
    return table.take(np.sort(rows))


def _choose_passages(
    snapshot: Snapshot, drawn: pa.Table, runs: tuple[Run, ...], seed: int, settings: EvaluationSettings
) -> np.ndarray:
    """Choose the passages of the pool: bool (passages,), in snapshot order."""
    answers = qrels(snapshot, settings.split)
    pooled = [answers.filter(pc.is_in(answers["query_id"], value_set=drawn["query_id"]))["passage_id"]]
    for run in runs:
        hits = read_run(run)
        in_depth = pc.less_equal(hits["rank"], settings.probe_depth)
        of_drawn = pc.is_in(hits["query_id"], value_set=drawn["query_id"])
        pooled.append(hits.filter(pc.and_(in_depth, of_drawn))["passage_id"])
    ids = pc.unique(pa.chunked_array([chunk for column in pooled for chunk in column.chunks], pa.string()))
    chosen = np.zeros(snapshot.rows, bool)
    first = 0
    for batch in passages(snapshot, columns=["passage_id"]):
        chosen[first : first + batch.num_rows] = pc.is_in(batch["passage_id"], value_set=ids).to_numpy(False)
        first += batch.num_rows
    random_count = min(settings.probe_random, snapshot.rows)
    chosen[np.random.default_rng(seed).choice(snapshot.rows, random_count, replace=False)] = True
    return chosen


def _build_pool(home: Path, snapshot: Snapshot, split: str, drawn: pa.Table, chosen: np.ndarray) -> Snapshot:
    """Write the chosen passages, the drawn queries, and their qrels as a snapshot."""
    rows = np.flatnonzero(chosen)
    key = {
        "pool of": snapshot.digest,
        "split": split,
        "rows": rows.tolist(),
        "queries": drawn["query_id"].to_pylist(),
        "version": VERSION,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        schema = pq.read_schema(snapshot.path / PASSAGES)
        first = 0
        with pq.ParquetWriter(folder / PASSAGES, schema, compression="zstd") as writer:
            for batch in passages(snapshot):
                in_batch = chosen[first : first + batch.num_rows]
                writer.write_batch(batch.filter(pa.array(in_batch)))
                first += batch.num_rows
        pool_qrels = qrels(snapshot, split)
        pool_qrels = pool_qrels.filter(pc.is_in(pool_qrels["query_id"], value_set=drawn["query_id"]))
        pq.write_table(drawn, folder / QUERIES)
        pq.write_table(pool_qrels, folder / QRELS)
        counts = {"queries": drawn.num_rows, "qrels": pool_qrels.num_rows, "splits": {split: drawn.num_rows}}
        return {"rows": len(rows), **counts, "parents": (snapshot.digest,)}

    return produce(home, Snapshot, key, build)
