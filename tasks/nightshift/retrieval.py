"""BM25 runs and dense vectors of a collection, each made once."""

from __future__ import annotations

from tasks.core.base.receipts import Embeddings, Encoder, Run
from tasks.core.base.sections.mining import MiningSettings

from nightshift.collection import Collection  # isort: skip


def bm25_run(collection: Collection, split: str, mining: MiningSettings) -> Run:
    """BM25's best passages for the queries of `split`.

    Raises:
        BadInput: the split has no judged query.
    """
    from tasks.core.retrieval.bm25 import build_index, search_bm25
    from tasks.core.snapshot.reader import judged

    queries = judged(collection.snapshot, split)
    index = build_index(collection.home, collection.snapshot, mining)
    return search_bm25(collection.home, index, queries, mining.depth, mining)


def embed(collection: Collection, encoder: Encoder) -> Embeddings:
    """The vectors of all passages under one encoder."""
    from tasks.core.embedding.shards import gather_shards

    return gather_shards(collection.home, encoder, collection.snapshot, world_size=1)
