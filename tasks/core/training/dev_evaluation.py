"""A small retrieval task to evaluate an encoder repeatedly during training.

Held-out queries rank a pool of passages: their positives, passages that BM25 ranks high, and random passages. The
scores are higher than over all passages, so compare them only with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tasks.core.base.receipts import Run, Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder
from tasks.core.encoder.serving import TokenIds
from tasks.core.evaluation.measures import per_query
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.text.normalization import full_text
from tasks.core.training.gradient_cache import Autocast
from tasks.core.training.ranks import Ranks

DEPTH = 10  # passages ranked per query
Encode = Callable[[TokenIds, int], np.ndarray]  # a tower's method: token ids and token budget → vectors


@dataclass(frozen=True)
class DevEvaluation:
    """Tokenized queries and passages with their ids, and their qrels."""

    query_ids: list[str]
    passage_ids: list[str]
    query_tokens: TokenIds
    passage_tokens: TokenIds
    answers: pa.Table  # query_id, passage_id, relevance
    leave_out_self: bool = False  # rank the passage whose id equals the query's id last
    trunk_vectors: np.ndarray | None = None  # of the passages, float32 (passages, width); None: encode them each time

    def with_frozen_trunk(self, encoder: DualEncoder, ranks: Ranks, autocast: Autocast) -> DevEvaluation:
        """Encode the passages with the trunk once, for a training that changes only the map after it."""
        vectors = _encode(encoder.passage.encode_trunk, self.passage_tokens, encoder.passage.device, ranks, autocast)
        return replace(self, trunk_vectors=vectors)

    def ndcg(self, encoder: DualEncoder, ranks: Ranks, autocast: Autocast) -> np.ndarray:
        """Return nDCG@10 of the encoder for each query, float64 (queries,) in [0, 1].

        The processes share the encoding work, and each returns the same values. The towers stay in eval mode.
        """
        query, passage = encoder.query, encoder.passage
        query_vectors = _encode(query.encode, self.query_tokens, query.device, ranks, autocast)
        if self.trunk_vectors is None or passage.passage_map is None:
            passage_vectors = _encode(passage.encode, self.passage_tokens, passage.device, ranks, autocast)
        else:
            passage_vectors = passage.passage_map.map_vectors(self.trunk_vectors)
        return self.ndcg_of(query_vectors, passage_vectors)

    def ndcg_of(self, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> np.ndarray:
        """Return nDCG@10 for each query, float64 (queries,).

        Args:
            query_vectors: float32 (queries, d).
            passage_vectors: float32 (passages, d).
        """
        ids, scores = np.array(self.passage_ids), query_vectors @ passage_vectors.T
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
    """Draw `dev_queries` queries of a split and a pool of `dev_passages` passages. Seeded; equal in every process.

    Args:
        snapshot: queries, passages, and qrels.
        split: "dev" or another held-out split.
        encoder: its tokenizers.
        settings: `dev_queries`, `dev_passages`, and `seed`.
        candidates: run over queries of the split. Its best passages, rank by rank, fill half of the pool that is left
            after the positives.
        leave_out_self: rank the passage whose id equals the query's id last.

    Returns:
        The task, or None if the split has no queries.
    """
    all_queries = queries(snapshot, split)
    if candidates is not None and candidates.queries < all_queries.num_rows:  # of a sample of the split
        searched = pq.read_table(candidates.path / RUN_FILE, columns=["query_id"])["query_id"]
        all_queries = all_queries.filter(pc.is_in(all_queries["query_id"], value_set=pc.unique(searched)))
    if all_queries.num_rows == 0:
        return None
    rng = np.random.default_rng([settings.seed, 3])
    chosen = np.sort(rng.permutation(all_queries.num_rows)[: settings.dev_queries])
    sample = all_queries.take(pa.array(chosen))
    answers = qrels(snapshot, split).select(["query_id", "passage_id", "relevance"])
    answers = answers.filter(pc.is_in(answers["query_id"], value_set=sample["query_id"]))
    wanted = dict.fromkeys(answers["passage_id"].to_pylist())
    left = max(0, settings.dev_passages - len(wanted))
    if candidates is not None:
        wanted |= dict.fromkeys(_best(candidates, sample, wanted, left // 2))
    left = max(0, settings.dev_passages - len(wanted))
    random = set(rng.choice(snapshot.rows, min(snapshot.rows, left), replace=False).tolist())
    ids, texts = _read(snapshot, wanted, random)
    return DevEvaluation(
        query_ids=sample["query_id"].to_pylist(),
        passage_ids=ids,
        query_tokens=encoder.query.tokenize(sample["text"].to_pylist()),
        passage_tokens=encoder.passage.tokenize(texts),
        answers=answers,
        leave_out_self=leave_out_self,
    )


def _best(run: Run, sample: pa.Table, excluded: dict[str, None], count: int) -> list[str]:
    """Return the best `count` passages of the run that are not `excluded`, rank by rank over all queries."""
    hits = pq.read_table(run.path / RUN_FILE, columns=["query_id", "passage_id", "rank"])
    hits = hits.filter(pc.is_in(hits["query_id"], value_set=sample["query_id"]))
    hits = hits.sort_by([("rank", "ascending"), ("query_id", "ascending")])
    best = dict.fromkeys(passage for passage in hits["passage_id"].to_pylist() if passage not in excluded)
    return list(best)[:count]


def _read(snapshot: Snapshot, wanted: dict[str, None], random: set[int]) -> tuple[list[str], list[str]]:
    """Read ids and texts of the wanted passages and of the snapshot rows `random`, in snapshot order."""
    ids, texts, first = [], [], 0
    for batch in passages(snapshot, columns=["passage_id", "title", "text"]):
        selected = pc.is_in(batch["passage_id"], value_set=pa.array(wanted, pa.string())).to_numpy(zero_copy_only=False)
        rows = np.array(sorted(row - first for row in random if first <= row < first + batch.num_rows), np.int64)
        selected = selected.copy()
        selected[rows] = True
        for row in batch.filter(pa.array(selected)).to_pylist():
            ids.append(row["passage_id"])
            texts.append(full_text(row["title"], row["text"]))
        first += batch.num_rows
    return ids, texts


def _encode(encode: Encode, ids: TokenIds, device: torch.device, ranks: Ranks, autocast: Autocast) -> np.ndarray:
    shards = ranks.shards([len(text) for text in ids])
    with autocast():
        local = encode([ids[row] for row in shards[ranks.rank].tolist()], 2048)
    vectors: np.ndarray = ranks.gather(torch.from_numpy(local).to(device), shards).cpu().numpy()
    return vectors
