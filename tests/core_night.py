"""What a night makes, without Prefect and Milvus: one artifact of each kind, in one home."""

from __future__ import annotations

from pathlib import Path

from tasks.core.base.receipts import Receipt
from tasks.core.base.settings import Settings
from tasks.core.drift.statistics import build_reference
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.evaluate import evaluate_encoder, run_of
from tasks.core.ingest.ingest import ingest
from tasks.core.mining.mine import mine
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.training_queries import training_search
from tasks.core.snapshot.reader import judged
from tasks.core.training.trainer import base_encoder, train

SHARDS = 2


def small_settings(home: Path, source: Path, model: Path) -> Settings:
    """Settings of a night that trains two steps."""
    return Settings.model_validate(
        {
            "home": home,
            "data": {"format": "beir", "path": source},
            "encoder": {"model": str(model), "passage_tokens": 24},
            "mining": {"heap_mb": 256, "threads": 1},
            "embedding": {"precision": "fp32"},
            "training": {"epochs": 1, "max_steps": 2, "batch_size": 12, "evaluate_every": 0},
        }
    )


def make_all(settings: Settings) -> list[Receipt]:
    """Make, or read again, everything that a first night needs to know before it publishes."""
    home, mining = settings.home, settings.mining
    ingested, snapshot = ingest(settings)
    index = build_index(home, snapshot, mining)
    run = search_bm25(home, index, judged(snapshot, "train"), mining.depth, mining)
    base = base_encoder(home, snapshot, settings)
    vectors = gather_shards(home, base, snapshot, SHARDS)
    _, asked = training_search(home, snapshot, base, vectors, mining.depth)
    negatives = mine(home, snapshot, [("bm25", run)], vectors, asked, 0, mining)
    encoder = train(home, base, snapshot, negatives, settings)
    embeddings = gather_shards(home, encoder, snapshot, SHARDS)
    evaluation = evaluate_encoder(home, "challenger", encoder, embeddings, snapshot, settings.evaluation)
    held_out = run_of(home, evaluation)
    reference = build_reference(home, encoder, embeddings, snapshot)
    return [
        *(ingested, snapshot, index, run, base, vectors, negatives),
        *(encoder, embeddings, evaluation, held_out, reference),
    ]
