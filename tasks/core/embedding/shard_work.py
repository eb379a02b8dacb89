"""A shard to embed: its passages, encoder, and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.base.files import artifact_digest, partial_folder
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.embedding.stored_shards import first_row_of, shard_name


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
        """The first row."""
        return first_row_of(self.snapshot.rows, self.rank, self.world_size)

    @property
    def end(self) -> int:
        """The row after the last."""
        return first_row_of(self.snapshot.rows, self.rank + 1, self.world_size)

    @property
    def key(self) -> dict[str, object]:
        """The key of the embeddings artifact, which includes all shards."""
        key = {"fingerprint": self.encoder.passage_fingerprint, "snapshot": self.snapshot.digest}
        return {**key, "shards": self.world_size, "vectors": self.vectors}

    @property
    def digest(self) -> str:
        """The digest of the embeddings artifact."""
        return artifact_digest(Embeddings, self.key)

    @property
    def folder(self) -> Path:
        """The folder of the shards until they are sealed."""
        return partial_folder(self.home, Embeddings, self.digest)

    @property
    def file(self) -> Path:
        """The Parquet file of the shard."""
        return self.folder / shard_name(self.rank, self.world_size)

    @property
    def manifest(self) -> Path:
        """The manifest; the shard is finished when this file exists."""
        return self.file.with_name(f"{self.file.name}.json")

    @property
    def scratch(self) -> Path:
        """The folder of the plan and the finished windows while the shard is unfinished."""
        return self.folder / f".{self.rank:05d}"

    def other(self, rank: int) -> ShardWork:
        """Return another shard of the same embeddings."""
        return ShardWork(self.home, self.encoder, self.snapshot, rank, self.world_size, self.vectors)
