"""Tasks that embed passages, one task run per shard, to show, time, and retry shards separately."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding import shards
from tasks.policy import STEP


@task(name="embed-shard", task_run_name="embed rank {rank} of {world_size}, {encoder.fingerprint}", **STEP)
def embed_shard(settings: Settings, encoder: Encoder, snapshot: Snapshot, rank: int, world_size: int) -> int:
    """Embed one shard of the passages and show its progress; return its number of rows."""
    return shards.embed_shard(
        settings.home,
        encoder,
        snapshot,
        rank,
        world_size,
        vectors=settings.embedding.vectors,
        watch=report.embedding_progress(encoder),
    )


@task(name="gather-shards", task_run_name="gather shards, {encoder.fingerprint}", **STEP)
def gather_shards(settings: Settings, encoder: Encoder, snapshot: Snapshot) -> Embeddings:
    """Check the shards and combine them into one artifact."""
    embedding = settings.embedding
    return shards.gather_shards(settings.home, encoder, snapshot, embedding.shards, vectors=embedding.vectors)
