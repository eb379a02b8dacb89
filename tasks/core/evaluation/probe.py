"""A cheap look before the corpus is embedded: is the challenger clearly worse on a pool of passages?

The pool holds the answers, what BM25 and the rival rank high, and passages drawn at random. It lacks the mistakes that
only the challenger would make elsewhere, which flatters the challenger: one that is clearly worse even here is worse.
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
from tasks.core.base.receipts import Encoder, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.evaluate import evaluate_encoder, read_per_query, read_run
from tasks.core.evaluation.gate import GateCheck, Probe
from tasks.core.evaluation.significance import compare_paired
from tasks.core.snapshot.reader import PASSAGES, QRELS, QUERIES, judged, passages, qrels

log = logging.getLogger("nightshift.evaluation")

VERSION = 1  # of how a pool is drawn; a change makes new artifacts


def probe(
    settings: Settings, snapshot: Snapshot, challenger: Encoder, rival: Encoder, name: str, runs: tuple[Run, ...]
) -> Probe:
    """Rank a pool of passages with the challenger and with its rival; clearly worse means rejected.

    The pool is an artifact like any snapshot, and so are its vectors: when all passages are embedded later, those of
    the pool are known already.

    Args:
        settings: the size of the pool, and the gate's margin and confidence.
        snapshot: what the pool is drawn from.
        challenger, rival: the two encoders.
        name: what the rival is called in sentences.
        runs: of BM25 and of the rival over the held-out queries; their first passages are candidates.
    """
    rules = settings.evaluation
    asked = _asked(snapshot, rules.split, rules.probe_queries, settings.gate.seed)
    chosen = _chosen(snapshot, rules.split, asked, runs, settings)
    most = int(rules.probe_share * snapshot.rows)
    why = ""
    if asked.num_rows < settings.gate.min_queries:
        why = f"{asked.num_rows} queries are too few" if asked.num_rows else "switched off"
    elif chosen.sum() > most:
        why = "the pool would be most of the corpus"
    if why:
        log.info("no probe before embedding: %s", why)
        return Probe(passages=int(chosen.sum()), of=snapshot.rows, why=why)
    pool = _pool(settings.home, snapshot, rules.split, asked, chosen)
    log.info("probe: embedding %d of %d passages for %d queries", pool.rows, snapshot.rows, asked.num_rows)
    ours, theirs = (_measured(settings, encoder, pool) for encoder in (challenger, rival))
    seen = compare_paired(name, ours, theirs, settings.gate)
    worse = seen.high < -settings.gate.margin
    log.info("probe: %s against %s", seen, name)
    words = f"clearly worse than {name} already on a pool of {pool.rows:,} of {snapshot.rows:,} passages: {seen}"
    remedy = f"a gain of {-settings.gate.margin - seen.high:.4f} nDCG@10 or more on this pool"
    finding = GateCheck(held=False, words=words, remedy=remedy) if worse else None
    return Probe(passages=pool.rows, of=snapshot.rows, comparison=seen, finding=finding)


def _measured(settings: Settings, encoder: Encoder, pool: Snapshot) -> pa.Table:
    vectors = gather_shards(settings.home, encoder, pool, 1, vectors=settings.embedding.vectors)
    return read_per_query(evaluate_encoder(settings.home, "probe", encoder, vectors, pool, settings.evaluation))


def _asked(snapshot: Snapshot, split: str, most: int, seed: int) -> pa.Table:
    """At most so many of the split's queries, drawn at random, in their order."""
    table = judged(snapshot, split)
    drawn = np.random.default_rng(seed).permutation(table.num_rows)[:most]
    return table.take(np.sort(drawn))


def _chosen(snapshot: Snapshot, split: str, asked: pa.Table, runs: tuple[Run, ...], settings: Settings) -> np.ndarray:
    """Which passages are in the pool, bool (passages,) in snapshot order."""
    answers = qrels(snapshot, split)
    wanted = [answers.filter(pc.is_in(answers["query_id"], value_set=asked["query_id"]))["passage_id"]]
    for run in runs:
        hits = read_run(run)
        near = pc.less_equal(hits["rank"], settings.evaluation.probe_depth)
        ours = pc.is_in(hits["query_id"], value_set=asked["query_id"])
        wanted.append(hits.filter(pc.and_(near, ours))["passage_id"])
    ids = pc.unique(pa.chunked_array([chunk for column in wanted for chunk in column.chunks], pa.string()))
    chosen = np.zeros(snapshot.rows, bool)
    first = 0
    for batch in passages(snapshot, columns=["passage_id"]):
        chosen[first : first + batch.num_rows] = pc.is_in(batch["passage_id"], value_set=ids).to_numpy(False)
        first += batch.num_rows
    few = min(settings.evaluation.probe_random, snapshot.rows)
    chosen[np.random.default_rng(settings.gate.seed).choice(snapshot.rows, few, replace=False)] = True
    return chosen


def _pool(home: Path, snapshot: Snapshot, split: str, asked: pa.Table, chosen: np.ndarray) -> Snapshot:
    """The chosen passages, the asked queries and their qrels, as a snapshot."""
    rows = np.flatnonzero(chosen)
    key = {
        "pool of": snapshot.digest,
        "split": split,
        "rows": rows.tolist(),
        "queries": asked["query_id"].to_pylist(),
        "version": VERSION,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        schema = pq.read_schema(snapshot.path / PASSAGES)
        first = 0
        with pq.ParquetWriter(folder / PASSAGES, schema, compression="zstd") as writer:
            for batch in passages(snapshot):
                here = chosen[first : first + batch.num_rows]
                writer.write_batch(batch.filter(pa.array(here)))
                first += batch.num_rows
        answers = qrels(snapshot, split)
        answers = answers.filter(pc.is_in(answers["query_id"], value_set=asked["query_id"]))
        pq.write_table(asked, folder / QUERIES)
        pq.write_table(answers, folder / QRELS)
        counts = {"queries": asked.num_rows, "qrels": answers.num_rows, "splits": {split: asked.num_rows}}
        return {"rows": len(rows), **counts, "parents": (snapshot.digest,)}

    return produce(home, Snapshot, key, build)
