"""Searching shards of the queries gives the same run as one search, also after interruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mining_world import write_embeddings
from small_snapshot import snapshot_of

from tasks.core.base.receipts import Encoder
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.dual_encoder import EncoderSpec, start_from
from tasks.core.retrieval.bm25 import bm25_search, build_index
from tasks.core.retrieval.dense import dense_search
from tasks.core.retrieval.runs import LazyVectors
from tasks.core.retrieval.searches import Search, join_shards, search_shard, search_whole
from tasks.core.retrieval.training_queries import VECTORS, keep_vectors, run_search, training_search
from tasks.core.snapshot.reader import judged, queries

SETTINGS = MiningSettings(heap_mb=256, threads=1, scorer="lucene")
QUERIES, DEPTH = 7, 7


class Killed(BaseException):
    """A signal that kills the process."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Build a snapshot with many similar passages, its index, its embeddings, and its query vectors."""
    home = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    texts = {f"p{row:03d}": " ".join(f"w{word}" for word in random.zipf(1.5, 8) % 50) for row in range(600)}
    wordings = {f"q{row}": " ".join(f"w{word}" for word in random.zipf(1.5, 4) % 50) for row in range(QUERIES)}
    wordings["q2"] = wordings["q6"] = "xylophone"  # in no passage
    snapshot = snapshot_of(home, texts, wordings, [(query, "p000", "train") for query in wordings])
    vectors = random.standard_normal((600, 32)).astype(np.float32)
    vectors[300:400] = vectors[:100]
    embeddings = write_embeddings(home / "e", list(texts), vectors, snapshot=snapshot.digest, group=50)
    query_vectors = random.standard_normal((QUERIES, 32)).astype(np.float32)
    return snapshot, build_index(home, snapshot, SETTINGS), embeddings, query_vectors


def search_of(kind: str, home: Path, world, at_once: int = 3) -> Search:
    snapshot, index, embeddings, vectors = world
    if kind == "bm25":
        search = bm25_search(home, index, queries(snapshot), DEPTH, SETTINGS)
    else:
        search = dense_search(
            home, "train", queries(snapshot), LazyVectors("vectors", lambda: vectors), embeddings, DEPTH
        )
    return replace(search, at_once=at_once)


@pytest.mark.parametrize(("kind", "shards"), [("bm25", 3), ("dense", 1), ("dense", 3), ("dense", QUERIES + 2)])
def test_shards_give_the_same_bytes_as_an_unsharded_search(tmp_path, world, kind, shards):
    whole = search_whole(search_of(kind, tmp_path / "whole", world))
    search = search_of(kind, tmp_path / "shards", world)
    assert sum(search_shard(search, rank, shards) for rank in reversed(range(shards))) == QUERIES
    joined = join_shards(search, shards)
    same = {"digest", "rows", "queries", "depth", "parents"}
    assert joined.model_dump(include=same) == whole.model_dump(include=same)
    assert joined.rows == {"bm25": QUERIES - 2, "dense": QUERIES}[kind] * DEPTH
    assert (joined.path / "run.parquet").read_bytes() == (whole.path / "run.parquet").read_bytes()
    assert pq.read_metadata(joined.path / "run.parquet").num_row_groups == 3  # batches of three queries
    assert sorted(file.name for file in joined.path.iterdir()) == ["checksums.json", "manifest.json", "run.parquet"]
    assert not search.folder.exists()


def test_a_finished_run_is_reused_by_both_kinds_of_search(tmp_path, world):
    search = search_of("dense", tmp_path, world)
    search_whole(search)
    assert search_shard(search, 0, 2) == QUERIES // 2
    assert not search.folder.exists()
    assert join_shards(search, 2).reused
    assert search_whole(search).reused


def test_a_killed_search_resumes_after_its_finished_shards(tmp_path, world):
    search, answered = search_of("dense", tmp_path, world, at_once=2), []

    def killed(folder, start, end):
        if start == 6:  # in the second batch of the last shard
            raise Killed
        return search.answer(folder, start, end)

    def recorded(folder, start, end):
        answered.append((start, end))
        return search.answer(folder, start, end)

    with pytest.raises(Killed):
        join_shards(replace(search, answer=killed), 3)
    joined = join_shards(replace(search, answer=recorded), 3)
    assert answered == [(4, 6), (6, 7)]
    whole = search_whole(search_of("dense", tmp_path / "whole", world, at_once=2))
    assert (joined.path / "run.parquet").read_bytes() == (whole.path / "run.parquet").read_bytes()


def test_a_killed_search_is_completed_with_another_number_of_shards(tmp_path, world):
    runs = []
    for world_size in (4, 1):
        search = search_of("dense", tmp_path / str(world_size), world)
        search_shard(search, 0, 3)
        runs.append(join_shards(search, world_size) if world_size > 1 else search_whole(search))
        assert not list(runs[-1].path.glob("*slice*"))
    assert (runs[0].path / "run.parquet").read_bytes() == (runs[1].path / "run.parquet").read_bytes()


def test_training_queries_are_encoded_once_for_all_shards(tmp_path, world, tiny_model, monkeypatch):
    snapshot, _, embeddings, _ = world
    spec = EncoderSpec.of(EncoderSettings(query_tokens=32), "fp32")
    encoder = start_from(tiny_model, spec, tmp_path / "encoder")
    expected = encoder.encode_queries(judged(snapshot, "train")["text"].to_pylist())
    encoder = Encoder(
        digest="e", path=tmp_path / "encoder", rows=0, fingerprint="f", passage_fingerprint="f", dimension=32,
        base="tiny", steps=0, precision="fp32", fidelity=1,
    )  # fmt: skip
    single, _ = training_search(tmp_path / "whole", snapshot, encoder, embeddings, DEPTH)
    whole = search_whole(single)
    home = tmp_path / "shards"
    assert keep_vectors(*training_search(home, snapshot, encoder, embeddings, DEPTH)) == QUERIES
    monkeypatch.setattr("tasks.core.retrieval.training_queries.load_encoder", None)  # encoding again would fail
    for rank in range(2):
        search, _ = training_search(home, snapshot, encoder, embeddings, DEPTH, mapped=True)
        search_shard(search, rank, 2)
    search, vectors = training_search(home, snapshot, encoder, embeddings, DEPTH)
    run = run_search(search, vectors, 2)
    assert run.digest == whole.digest
    assert (run.path / "run.parquet").read_bytes() == (whole.path / "run.parquet").read_bytes()
    assert not (run.path / VECTORS).exists()
    assert (vectors.make() == expected).all()  # mining needs the vectors after the search
