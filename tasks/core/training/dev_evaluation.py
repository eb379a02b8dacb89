"""A small retrieval task that is measured again and again while an encoder changes.

Held-out queries are ranked over a pool: their answers, what BM25 ranks high for them, and passages drawn at random.
Its figures are higher than those over all passages, and compare only with each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tasks.core.base.receipts import Run, Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder
from tasks.core.encoder.tower import TokenIds, Tower
from tasks.core.evaluation.measures import per_query
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.text.normalization import full_text
from tasks.core.training.gradient_cache import Autocast
from tasks.core.training.ranks import Ranks

DEPTH = 10  # passages ranked for a query


@dataclass(frozen=True)
class DevEvaluation:
    """Tokenised queries and passages with their ids, and who answers whom."""

    query_ids: list[str]
    passage_ids: list[str]
    query_tokens: TokenIds
    passage_tokens: TokenIds
    answers: pa.Table  # query_id, passage_id, relevance
    leave_out_self: bool = False  # rank the passage with a query's own id last

    def ndcg(self, encoder: DualEncoder, ranks: Ranks, autocast: Autocast) -> np.ndarray:
        """nDCG@10 of the encoder for each query, float64 (queries,) in [0, 1].

        The processes share the encoding, and each gets the same values. Leaves the towers in eval mode.
        """
        asked = _encode(encoder.query, self.query_tokens, ranks, autocast)
        pool = _encode(encoder.passage, self.passage_tokens, ranks, autocast)
        return self.ndcg_of(asked, pool)

    def ndcg_of(self, asked: np.ndarray, pool: np.ndarray) -> np.ndarray:
        """nDCG@10 for each query, of vectors of the queries, float32 (queries, d), and the passages, (passages, d)."""
        ids, scores = np.array(self.passage_ids), asked @ pool.T
        if self.leave_out_self:
            scores[np.array(self.query_ids)[:, None] == ids[None, :]] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        run = pa.table(
            {
                "query_id": np.repeat(self.query_ids, best.shape[1]),
                "passage_id": ids[best.ravel()],
                "rank": np.tile(np.arange(1, best.shape[1] + 1), len(best)),
            }
        )
        values: np.ndarray = per_query(run, self.answers)["ndcg@10"].to_numpy()
        return values


def dev_evaluation(
    snapshot: Snapshot,
    split: str,
    encoder: DualEncoder,
    settings: TrainingSettings,
    candidates: Run | None = None,
    *,
    leave_out_self: bool = False,
) -> DevEvaluation | None:
    """Draw `dev_queries` of a split, and `dev_passages` to rank them over; None when the split has no query.

    `candidates` is a run over queries of the split: half of the places that the answers leave are for its best
    passages, rank by rank. Seeded; equal on every process.
    """
    everyone = queries(snapshot, split)
    if everyone.num_rows == 0:
        return None
    rng = np.random.default_rng([settings.seed, 3])
    chosen = np.sort(rng.permutation(everyone.num_rows)[: settings.dev_queries])
    asked = everyone.take(pa.array(chosen))
    answers = qrels(snapshot, split).select(["query_id", "passage_id", "relevance"])
    answers = answers.filter(pc.is_in(answers["query_id"], value_set=asked["query_id"]))
    wanted = dict.fromkeys(answers["passage_id"].to_pylist())
    left = max(0, settings.dev_passages - len(wanted))
    if candidates is not None:
        wanted |= dict.fromkeys(_best(candidates, asked, wanted, left // 2))
    left = max(0, settings.dev_passages - len(wanted))
    random = set(rng.choice(snapshot.rows, min(snapshot.rows, left), replace=False).tolist())
    ids, texts = _read(snapshot, wanted, random)
    return DevEvaluation(
        query_ids=asked["query_id"].to_pylist(),
        passage_ids=ids,
        query_tokens=encoder.query.tokenize(asked["text"].to_pylist()),
        passage_tokens=encoder.passage.tokenize(texts),
        answers=answers,
        leave_out_self=leave_out_self,
    )


def _best(run: Run, asked: pa.Table, but: dict[str, None], wanted: int) -> list[str]:
    """So many passages of the run that are not among `but`, the first of all queries before the second of any."""
    hits = pq.read_table(run.path / RUN_FILE, columns=["query_id", "passage_id", "rank"])
    hits = hits.filter(pc.is_in(hits["query_id"], value_set=asked["query_id"]))
    hits = hits.sort_by([("rank", "ascending"), ("query_id", "ascending")])
    fresh = dict.fromkeys(one for one in hits["passage_id"].to_pylist() if one not in but)
    return list(fresh)[:wanted]


def _read(snapshot: Snapshot, wanted: dict[str, None], random: set[int]) -> tuple[list[str], list[str]]:
    """Ids and texts of the wanted passages and of those in the snapshot's rows `random`, in snapshot order."""
    ids, texts, first = [], [], 0
    for batch in passages(snapshot, columns=["passage_id", "title", "text"]):
        here = pc.is_in(batch["passage_id"], value_set=pa.array(wanted, pa.string())).to_numpy(zero_copy_only=False)
        rows = np.array(sorted(row - first for row in random if first <= row < first + batch.num_rows), np.int64)
        here = here.copy()
        here[rows] = True
        for row in batch.filter(pa.array(here)).to_pylist():
            ids.append(row["passage_id"])
            texts.append(full_text(row["title"], row["text"]))
        first += batch.num_rows
    return ids, texts


def _encode(tower: Tower, ids: TokenIds, ranks: Ranks, autocast: Autocast) -> np.ndarray:
    shares = ranks.shares([len(one) for one in ids])
    with autocast():
        own = tower.encode([ids[row] for row in shares[ranks.rank].tolist()], 2048)
    vectors: np.ndarray = ranks.gather(torch.from_numpy(own).to(tower.device), shares).cpu().numpy()
    return vectors
