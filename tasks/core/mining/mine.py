"""One round of mining: candidates from the runs, the rules, and the hardest that are left."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.data.snapshot import queries
from tasks.core.data.text import text_hash
from tasks.core.embedding.exact import score_pairs
from tasks.core.errors import Mismatch
from tasks.core.files import produce
from tasks.core.mining.audit import Outcome, write_sample
from tasks.core.mining.candidates import Candidates, as_candidates, known_positives, read_run
from tasks.core.mining.filters import KEPT, REASONS, Facts, judge
from tasks.core.mining.pool import Pool, look_up
from tasks.core.mining.runs import vectors_digest
from tasks.core.receipts import Embeddings, Negatives, Run, Snapshot
from tasks.core.settings import MiningSettings

log = logging.getLogger("nightshift.mining")

VERSION = 2  # of what this file writes; a change makes new artifacts
REPEATED = "repeated"  # refused because an equal text was already chosen, from this or the other source
NEGATIVES_FILE = "negatives.parquet"
NEGATIVES_SCHEMA = pa.schema(
    {
        "query_id": pa.string(),
        "passage_id": pa.string(),
        "source": pa.string(),
        "rank": pa.int32(),
        "score": pa.float32(),
        "dense_score": pa.float32(),
        "round": pa.int32(),
    }
)


def mine(
    home: Path,
    snapshot: Snapshot,
    runs: Sequence[tuple[str, Run]],
    embeddings: Embeddings,
    query_vectors: np.ndarray,
    round_number: int,
    mining: MiningSettings,
) -> Negatives:
    """Choose hard negatives for the training queries from `runs` (name of the source, such as "bm25", and its run).

    query_vectors: float32 (queries, dimension), row i for row i of `queries(snapshot, "train")`, made by the encoder
    of the embeddings. A run may hold other queries too; they are passed over. `negatives.parquet` has the queries in
    snapshot order and their negatives hardest first, the sources taking turns; `sample.json` is for human eyes.

    Every candidate is accounted for: `candidates` = `rows` + all of `refused` + those beyond `per_query`.

    Raises Mismatch when runs, embeddings, vectors and snapshot do not belong together.
    """
    _check(snapshot, embeddings)
    key = {
        "snapshot": snapshot.digest,
        "runs": [[source, run.digest] for source, run in runs],
        "embeddings": embeddings.digest,
        "vectors": vectors_digest(query_vectors),
        "round": round_number,
        "settings": mining.model_dump(include={"per_query", "margin", "skip_top", "near_duplicate", "seed"}),
        "version": VERSION,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        wording = queries(snapshot, "train")
        if len(query_vectors) != wording.num_rows:
            raise Mismatch(f"{len(query_vectors)} query vectors for {wording.num_rows} training queries")
        sources, scratch = [source for source, _ in runs], folder / "shingles"
        candidates, facts = _gather(snapshot, runs, wording, embeddings, query_vectors, scratch)
        log.info("mining round %d: %d candidates, %d queries", round_number, len(candidates), wording.num_rows)
        verdict = judge(candidates, facts, mining)
        chosen, repeated = choose(candidates, verdict, facts.pool.text, mining.per_query)
        _write(folder / NEGATIVES_FILE, candidates.take(chosen), wording, facts.pool, sources, round_number)
        outcome = Outcome(candidates, verdict, chosen, facts, sources)
        write_sample(folder / "sample.json", snapshot, wording, outcome, mining.seed)
        scratch.unlink()
        counts = {reason.value: int((verdict == number).sum()) for number, reason in enumerate(REASONS)}
        kept = np.bincount(candidates.query[chosen], minlength=wording.num_rows)
        starved = int((kept < mining.per_query).sum())
        log.info("mining round %d: %d negatives, %d queries got fewer than asked", round_number, len(chosen), starved)
        return {
            "rows": len(chosen),
            "round": round_number,
            "queries": wording.num_rows,
            "starved": starved,
            "candidates": len(candidates),
            "refused": {**counts, REPEATED: repeated},
            "parents": (snapshot.digest, embeddings.digest, *(run.digest for _, run in runs)),
        }

    return produce(home, Negatives, key, build)


def choose(candidates: Candidates, verdict: np.ndarray, text: np.ndarray, per_query: int) -> tuple[np.ndarray, int]:
    """Numbers of the candidates to keep, by query and hardest first, and how many only repeated a text.

    The best survivor of each source, then the second of each, and so on; of equal texts the first one.
    """
    left = np.flatnonzero(verdict == KEPT)
    left = left[np.lexsort((candidates.rank[left], candidates.source[left], candidates.query[left]))]
    turn = _position(candidates.query[left].astype(np.int64) * 128 + candidates.source[left])
    left = left[np.lexsort((candidates.source[left], turn, candidates.query[left]))]
    query = candidates.query[left].astype(np.int64)
    first = np.unique(query * (1 + text.max(initial=0)) + text[candidates.passage[left]], return_index=True)[1]
    distinct = left[np.sort(first)]
    return distinct[_position(candidates.query[distinct]) < per_query], len(left) - len(distinct)


def _position(groups: np.ndarray) -> np.ndarray:
    """The place of each item within its group, from 0; groups: ascending numbers."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups, "left")


def _check(snapshot: Snapshot, embeddings: Embeddings) -> None:
    if embeddings.snapshot != snapshot.digest or embeddings.rows != snapshot.rows:
        raise Mismatch(
            f"embeddings {embeddings.digest} are of snapshot {embeddings.snapshot}, not of {snapshot.digest};"
            " embed this snapshot first"
        )


def _gather(
    snapshot: Snapshot,
    runs: Sequence[tuple[str, Run]],
    wording: pa.Table,
    embeddings: Embeddings,
    query_vectors: np.ndarray,
    scratch: Path,
) -> tuple[Candidates, Facts]:
    """Read the runs and all that the rules need, and score candidates and positives in one pass over the vectors."""
    hits = [read_run(run, wording) for _, run in runs]
    positive_query, positive_ids = known_positives(snapshot, wording)
    wanted = pa.chunked_array([*(one.ids for one in hits), positive_ids], pa.string())
    pool = look_up(snapshot, pc.unique(wanted), scratch)
    bare = as_candidates(hits, pool.ids)
    positive_passage = pc.index_in(positive_ids, value_set=pool.ids).to_numpy().astype(np.int64)
    pairs = np.unique(np.stack([positive_query, positive_passage], axis=1), axis=0)
    scores = score_pairs(
        query_vectors,
        embeddings,
        np.concatenate([bare.query, pairs[:, 0]]),
        pool.rows[np.concatenate([bare.passage, pairs[:, 1]])],
    )
    hashes = pa.array([text_hash(None, text) for text in wording["text"].to_pylist()], pa.string())
    query_text = pc.fill_null(pc.index_in(hashes, value_set=pool.hashes), -1).to_numpy().astype(np.int64)
    dense = scores[: len(bare)]
    candidates = Candidates(bare.query, bare.passage, bare.source, bare.rank, bare.score, dense)
    return candidates, Facts(pool, pairs[:, 0], pairs[:, 1], scores[len(bare) :], query_text)


def _write(file: Path, kept: Candidates, wording: pa.Table, pool: Pool, sources: list[str], round_number: int) -> None:
    columns = [
        wording["query_id"].take(pa.array(kept.query)),
        pool.ids.take(pa.array(kept.passage)),
        pa.array(sources, pa.string()).take(pa.array(kept.source)),
        kept.rank,
        kept.score,
        kept.dense,
        np.full(len(kept), round_number, np.int32),
    ]
    table = pa.table(columns, names=NEGATIVES_SCHEMA.names).cast(NEGATIVES_SCHEMA)
    pq.write_table(table, file, compression="zstd")
