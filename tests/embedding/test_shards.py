from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.data.ingest import ingest
from tasks.core.data.snapshot import passages
from tasks.core.data.text import full_text
from tasks.core.embedding.shards import embed_shard, gather_shards, shard_name
from tasks.core.errors import Mismatch
from tasks.core.receipts import Embeddings, Encoder, Snapshot
from tasks.core.settings import Settings
from tasks.core.training.encoder import load_encoder
from tasks.core.training.trainer import base_encoder

Made = tuple[Path, Encoder, Snapshot]


@pytest.fixture
def settings(tiny_model: Path, collection: Callable[..., Path], tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        data={"format": "beir", "path": collection(more=20)},  # type: ignore[arg-type]
        encoder={"model": str(tiny_model)},  # type: ignore[arg-type]
        embedding={"precision": "fp32"},  # type: ignore[arg-type]
    )


@pytest.fixture
def made(settings: Settings) -> Made:
    snapshot = ingest(settings)[1]
    return settings.home, base_encoder(settings.home, snapshot, settings), snapshot


def table_of(embeddings: Embeddings) -> pa.Table:
    names = [shard_name(rank, embeddings.shards) for rank in range(embeddings.shards)]
    return pa.concat_tables([pq.read_table(embeddings.path / name) for name in names])


def vectors_of(table: pa.Table) -> np.ndarray:
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    return flat.reshape(table.num_rows, -1)


def test_every_passage_is_embedded_once_in_snapshot_order(made: Made) -> None:
    home, encoder, snapshot = made
    table = table_of(gather_shards(home, encoder, snapshot, 3))
    rows = [row for batch in passages(snapshot) for row in batch.to_pylist()]
    assert table["passage_id"].to_pylist() == [row["passage_id"] for row in rows]
    assert table["text_hash"].to_pylist() == [row["text_hash"] for row in rows]
    texts = [full_text(row["title"], row["text"]) for row in rows]
    np.testing.assert_allclose(vectors_of(table), load_encoder(encoder.path).encode_passages(texts), atol=1e-6)


def test_a_finished_shard_is_not_made_again_after_a_crash(made: Made) -> None:
    home, encoder, snapshot = made
    embed_shard(home, encoder, snapshot, 1, 3)
    (partial,) = (home / "embeddings").glob(".*.partial")
    manifest = partial / f"{shard_name(1, 3)}.json"
    before = manifest.stat().st_mtime_ns
    (partial / f".{shard_name(0, 3)}").write_bytes(b"half a shard")  # what a kill in the middle leaves
    embeddings = gather_shards(home, encoder, snapshot, 3)
    assert (embeddings.path / manifest.name).stat().st_mtime_ns == before
    assert embeddings.rows == snapshot.rows


def test_only_changed_passages_are_embedded_on_another_night(made: Made, settings: Settings) -> None:
    home, encoder, snapshot = made
    first = gather_shards(home, encoder, snapshot, 2)
    source = settings.data.path
    assert source is not None
    lines = (source / "corpus.jsonl").read_text().splitlines()
    lines[7] = json.dumps({"_id": "p7", "title": "", "text": "a story of one harbour"})
    (source / "corpus.jsonl").write_text("\n".join([*lines[:-1], json.dumps({"_id": "new", "text": "silent orchid"})]))
    later = ingest(settings)[1]
    second = gather_shards(home, encoder, later, 4)
    assert (first.embedded, first.avoided) == (80, 0)
    assert (second.embedded, second.avoided) == (2, 78)
    assert second.rows == 80
    kept = dict(zip(table_of(first)["passage_id"].to_pylist(), vectors_of(table_of(first)), strict=True))
    for name, vector in zip(table_of(second)["passage_id"].to_pylist(), vectors_of(table_of(second)), strict=True):
        if name not in ("p7", "new"):
            np.testing.assert_array_equal(vector, kept[name])


def test_a_shard_whose_bytes_changed_is_refused(made: Made) -> None:
    home, encoder, snapshot = made
    embed_shard(home, encoder, snapshot, 0, 2)
    (partial,) = (home / "embeddings").glob(".*.partial")
    shard = partial / shard_name(0, 2)
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(Mismatch, match="not the bytes"):
        gather_shards(home, encoder, snapshot, 2)


def test_two_runs_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    home, encoder, snapshot = made
    one = gather_shards(home, encoder, snapshot, 2)
    first = [(one.path / shard_name(rank, 2)).read_bytes() for rank in range(2)]
    shutil.rmtree(one.path)
    two = gather_shards(home, encoder, snapshot, 2)
    assert [(two.path / shard_name(rank, 2)).read_bytes() for rank in range(2)] == first


def test_more_shards_than_passages_are_fine(made: Made) -> None:
    home, encoder, snapshot = made
    assert gather_shards(home, encoder, snapshot, 100).rows == snapshot.rows
