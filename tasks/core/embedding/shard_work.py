"""A shard in the making: which passages, under which encoder, and the files it goes through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.base.files import artifact_digest, partial_folder
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.embedding.stored_shards import rows_before, shard_name


@dataclass(frozen=True)
class ShardWork:
    """Shard `rank` of `world_size`: the snapshot's rows [start, end)."""

    home: Path
    encoder: Encoder
    snapshot: Snapshot
    rank: int
    world_size: int
    vectors: str  # "float32" or "float16"

    @property
    def start(self) -> int:
        """Its first row."""
        return rows_before(self.snapshot.rows, self.rank, self.world_size)

    @property
    def end(self) -> int:
        """The row behind its last."""
        return rows_before(self.snapshot.rows, self.rank + 1, self.world_size)

    @property
    def key(self) -> dict[str, object]:
        """What names the whole embedding, all shards of it."""
        key = {"fingerprint": self.encoder.passage_fingerprint, "snapshot": self.snapshot.digest}
        return {**key, "shards": self.world_size, "vectors": self.vectors}

    @property
    def digest(self) -> str:
        """The name of the whole embedding."""
        return artifact_digest(Embeddings, self.key)

    @property
    def folder(self) -> Path:
        """Where shards lie until they are sealed."""
        return partial_folder(self.home, Embeddings, self.digest)

    @property
    def file(self) -> Path:
        """The shard."""
        return self.folder / shard_name(self.rank, self.world_size)

    @property
    def manifest(self) -> Path:
        """Its manifest: the shard is done when this is there."""
        return self.file.with_name(f"{self.file.name}.json")

    @property
    def scratch(self) -> Path:
        """Where its plan and its finished windows lie until then."""
        return self.folder / f".{self.rank:05d}"

    def other(self, rank: int) -> ShardWork:
        """Another shard of the same embedding."""
        return ShardWork(self.home, self.encoder, self.snapshot, rank, self.world_size, self.vectors)
