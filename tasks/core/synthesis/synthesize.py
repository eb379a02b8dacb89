"""Adds synthetic training pairs to the snapshot of a night."""

from __future__ import annotations

from tasks.core.base.receipts import Snapshot
from tasks.core.base.settings import Settings
from tasks.core.base.synthetic_receipts import Synthesis
from tasks.core.embedding.shards import gather_shards
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.dense import dense_run
from tasks.core.retrieval.query_vectors import encoder_vectors
from tasks.core.snapshot.reader import queries
from tasks.core.synthesis.candidates import make_candidates
from tasks.core.synthesis.consistency import filter_candidates, search_depth, with_synthetic_pairs
from tasks.core.synthesis.generate import generate_queries
from tasks.core.training.trainer import base_encoder


def add_synthetic_pairs(settings: Settings, snapshot: Snapshot, *, send: bool = True) -> tuple[Snapshot, Synthesis]:
    """Make pairs from the passages of a snapshot, filter them with BM25 and the base model, and add them.

    Everything is an artifact: with the same passages, settings, and generated queries, a second call does no work.

    Args:
        settings: `[synthetic]`, `[generate]`, and the settings of BM25 and the base model.
        snapshot: of the ingest.
        send: false: use only the answers that are stored already.

    Raises:
        BadInput: no pair can be made, or none is consistent.
        NightshiftError: the endpoint refuses every request, for example because of a wrong key.
    """
    home, mining, synthetic = settings.home, settings.mining, settings.synthetic
    generated = generate_queries(home, snapshot, settings.generate, synthetic.max_passages, send=send)
    candidates = make_candidates(home, snapshot, synthetic, generated)
    texts, depth = queries(candidates), search_depth(candidates, synthetic)
    bm25 = search_bm25(home, build_index(home, candidates, mining), texts, depth, mining)
    base = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    vectors = gather_shards(home, base, candidates, settings.embedding.shards, vectors=settings.embedding.vectors)
    dense = dense_run(home, "synthetic", texts, encoder_vectors(base, texts), vectors, depth)
    synthesis = filter_candidates(home, snapshot, candidates, bm25, dense, synthetic)
    return with_synthetic_pairs(home, snapshot, synthesis), synthesis
