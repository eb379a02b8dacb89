"""Mine a round with BM25 and an encoder, as the settings say: the sources of the round, own passages, and the teacher.

It is in this layer, because a blend of BM25 and the encoder is tuned as the ranking of a release is.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Run, Snapshot
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.evaluation.choose_teacher import choose_teacher
from tasks.core.mining.candidates import Source
from tasks.core.mining.mine import mine, source_shares
from tasks.core.retrieval.own_passages import leave_out_self
from tasks.core.retrieval.training_queries import run_search, training_search


def mine_with_encoder(
    home: Path,
    snapshot: Snapshot,
    bm25: Run,
    encoder: Encoder,
    embeddings: Embeddings,
    round_number: int,
    mining: MiningSettings,
    evaluation: EvaluationSettings,
    *,
    pairs: int = 0,
    shards: int = 1,
) -> Negatives:
    """Mine the negatives of a round from the sources that its schedule lists.

    The training queries are encoded at most once, and not at all if all results exist.

    Args:
        home: folder of the artifacts.
        snapshot: passages and training queries.
        bm25: run over the queries to mine for.
        encoder: the encoder that mines.
        embeddings: its passage vectors.
        round_number: 0 for the first round.
        mining: sources, filters, and the teacher.
        evaluation: `leave_out_self`, and rules to tune a blend.
        pairs: training pairs that are needed, see `drawn_queries`; 0: all.
        shards: number of query shards that were searched with the encoder; 1: search here.

    Raises:
        NightshiftError: a model cannot be used, or Java failed.
    """
    search, vectors = training_search(home, snapshot, encoder, embeddings, mining.depth, pairs=pairs)
    runs = [(Source.BM25, bm25)]
    if Source.DENSE in source_shares(round_number, mining):
        runs.append((Source.DENSE, run_search(search, vectors, shards)))
    if evaluation.leave_out_self:
        runs = [(name, leave_out_self(home, run, run.depth)) for name, run in runs]
    teacher = choose_teacher(home, encoder, embeddings, snapshot, mining, evaluation)
    return mine(home, snapshot, runs, embeddings, vectors, round_number, mining, teacher, pairs=pairs)
