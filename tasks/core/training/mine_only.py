"""Mine the negatives of a first night from the source of the settings, without training or publishing."""

from __future__ import annotations

from collections.abc import Callable

from tasks.core.base.receipts import Negatives, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.mine_round import mine_with_encoder
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.shuffled_qrels import check_qrels_fit
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.drawn_queries import drawn_queries
from tasks.core.training.trainer import base_encoder


def mine_source(
    settings: Settings, add_pairs: Callable[[Snapshot], Snapshot] | None = None
) -> tuple[Snapshot, Negatives]:
    """Read the source, and mine negatives as the first round of a night does; a night reuses all of it.

    `add_pairs` adds training pairs to the snapshot of the source. The base model embeds
    the passages, because the filters compare scores of negatives with those of positives.

    Raises:
        BadInput: the source breaks its contracts, has no training query, or its qrels look shuffled.
        NightshiftError: as `base_encoder`.
    """
    home, mining, pairs = settings.home, settings.mining, settings.training.pairs_used
    _, snapshot = ingest(settings)
    snapshot = snapshot if add_pairs is None else add_pairs(snapshot)
    index = build_index(home, snapshot, mining)
    drawn = drawn_queries(snapshot, pairs)
    bm25 = search_bm25(home, index, drawn.queries, mining.depth, mining)
    check_qrels_fit(bm25, drawn.qrels, settings.data.min_lift)
    base = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    vectors = gather_shards(home, base, snapshot, settings.embedding.shards, vectors=settings.embedding.vectors)
    negatives = mine_with_encoder(home, snapshot, bm25, base, vectors, 0, mining, settings.evaluation, pairs=pairs)
    return snapshot, negatives
