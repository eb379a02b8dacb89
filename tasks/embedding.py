"""Tasks around shards: one a shard, so that each is seen, timed and repeated by itself."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding import shards
from tasks.policy import STEP


@task(name="embed-shard", task_run_name="embed rank {rank} of {world_size}, {encoder.fingerprint}", **STEP)
def embed_shard(settings: Settings, encoder: Encoder, snapshot: Snapshot, rank: int, world_size: int) -> int:
    """Embed one slice of the passages, shown as it goes on; its rows."""
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
    """Check the shards and seal them as one artifact."""
    rules = settings.embedding
    return shards.gather_shards(settings.home, encoder, snapshot, rules.shards, vectors=rules.vectors)
