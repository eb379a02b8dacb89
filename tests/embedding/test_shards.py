from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of_texts

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding import progress, shards
from tasks.core.embedding.progress import Pace
from tasks.core.embedding.shards import embed_shard, find_embeddings, gather_shards
from tasks.core.embedding.stored_shards import shard_files, shard_name
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.ingest.ingest import ingest
from tasks.core.release.rows import rows_with_vectors
from tasks.core.retrieval.exact import vectors_of as exact_vectors
from tasks.core.snapshot.reader import passages
from tasks.core.text.normalization import full_text
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
    return settings.home, base_encoder(settings.home, snapshot, settings.encoder, settings.embedding), snapshot


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


def test_a_finished_shard_is_not_rebuilt_after_a_crash(made: Made) -> None:
    home, encoder, snapshot = made
    embed_shard(home, encoder, snapshot, 1, 3)
    (partial,) = (home / "embeddings").glob(".*.partial")
    manifest = partial / f"{shard_name(1, 3)}.json"
    before = manifest.stat().st_mtime_ns
    (partial / f".{shard_name(0, 3)}").write_bytes(b"half a shard")  # left behind by a kill
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


def test_a_damaged_shard_of_a_killed_embedding_is_rebuilt(made: Made) -> None:
    home, encoder, snapshot = made
    whole = gather_shards(home, encoder, snapshot, 2)
    whole.path.rename(home / "whole")
    embed_shard(home, encoder, snapshot, 0, 2)
    (partial,) = (home / "embeddings").glob(".*.partial")
    shard = partial / shard_name(0, 2)
    shard.write_bytes(shard.read_bytes()[:-8])
    again = gather_shards(home, encoder, snapshot, 2)
    assert again.digests == whole.digests
    assert len(list((home / "embeddings").glob(".*.damaged-*"))) == 1


def test_truncated_scratch_files_are_rebuilt(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    home, encoder, snapshot = made
    whole = gather_shards(home, encoder, snapshot, 1)
    for kind in ("embeddings", "tokens"):
        (made_,) = (home / kind).glob("[!.]*")
        made_.rename(home.parent / f"whole-{kind}")
    for name in ("plan.json", "source.i32", "window-000000", "00000.ids", "00000.json"):
        with monkeypatch.context() as patch:
            patch.setattr(shards, "assemble", None)  # the process dies here
            with pytest.raises(TypeError):
                embed_shard(home, encoder, snapshot, 0, 1)
        (file,) = home.rglob(name)
        file.write_bytes(file.read_bytes()[:-3])
    assert gather_shards(home, encoder, snapshot, 1).digests == whole.digests


def test_two_runs_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    home, encoder, snapshot = made
    first = gather_shards(home, encoder, snapshot, 2)
    expected = [(first.path / shard_name(rank, 2)).read_bytes() for rank in range(2)]
    shutil.rmtree(first.path)
    second = gather_shards(home, encoder, snapshot, 2)
    assert [(second.path / shard_name(rank, 2)).read_bytes() for rank in range(2)] == expected


def test_a_killed_shard_resumes_after_its_last_window(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, encoder, snapshot = made
    monkeypatch.setattr(shards, "WINDOW", 8)
    other = shutil.copytree(home, tmp_path / "other")
    straight = gather_shards(other, encoder, snapshot, 2)
    model = load_encoder(encoder.path)
    encode, windows = model.passage.encode_trunk, 0

    def interrupted(ids: list[list[int]], token_budget: int) -> np.ndarray:
        nonlocal windows
        windows += 1
        if windows == 4:
            raise KeyboardInterrupt
        return encode(ids, token_budget)

    monkeypatch.setattr(model.passage, "encode_trunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gather_shards(home, encoder, snapshot, 2)
    embeddings = gather_shards(home, encoder, snapshot, 2)
    assert windows == 80 // 8 + 1
    assert embeddings.tokens == straight.tokens
    for resumed, undisturbed in zip(shard_files(embeddings), shard_files(straight), strict=True):
        assert resumed.read_bytes() == undisturbed.read_bytes()


STORIES = [f"one story {n}" for n in range(30)]


def test_a_repeated_text_is_encoded_once(settings: Settings) -> None:
    """A fifth of the passages repeat others, within a shard and across shards, embedded in any order."""
    home = settings.home
    texts = [*STORIES[:20], "one story 3", "one story 19", *STORIES[20:], "one story 25", *STORIES[:5]]
    snapshot = snapshot_of_texts(home, texts)
    encoder = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    for rank in (3, 1, 0, 2):
        assert embed_shard(home, encoder, snapshot, rank, 4) in (9, 10)
    embeddings = gather_shards(home, encoder, snapshot, 4)
    assert (embeddings.embedded, embeddings.avoided, embeddings.repeated) == (30, 8, 8)
    assert embeddings.tokens == sum(map(len, load_encoder(encoder.path).passage.tokenize(STORIES)))
    vectors = vectors_of(table_of(embeddings))
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(vectors[row], vectors[texts.index(text)])
    in_order = shutil.copytree(home, home.parent / "in order", ignore=shutil.ignore_patterns("embeddings"))
    again = gather_shards(in_order, encoder, snapshot, 4)
    assert [file.read_bytes() for file in shard_files(again)] == [file.read_bytes() for file in shard_files(embeddings)]


def test_a_returning_text_reuses_the_vector_of_an_earlier_night(settings: Settings) -> None:
    """Three nights: deleted passages disappear, and returning ones are not encoded again."""
    home = settings.home
    nights = [STORIES[:20], STORIES[5:25], ["another one", *STORIES[:10], *STORIES[:3]]]
    snapshots = [snapshot_of_texts(home, texts) for texts in nights]
    encoder = base_encoder(home, snapshots[0], settings.encoder, settings.embedding)
    made = [gather_shards(home, encoder, snapshot, 3) for snapshot in snapshots]
    assert [(night.embedded, night.avoided, night.repeated) for night in made] == [(20, 0, 0), (5, 15, 0), (1, 13, 0)]
    assert table_of(made[1])["passage_id"].to_pylist() == [f"p{row:06d}" for row in range(20)]
    whole = load_encoder(encoder.path).encode_passages(nights[2])
    np.testing.assert_allclose(vectors_of(table_of(made[2])), whole, atol=1e-6)


def test_float16_vectors_are_read_as_float32(settings: Settings) -> None:
    home, snapshot = settings.home, snapshot_of_texts(settings.home, STORIES)
    encoder = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    half = gather_shards(home, encoder, snapshot, 2, vectors="float16")
    whole = gather_shards(home, encoder, snapshot, 2)
    assert (half.embedded, whole.embedded) == (30, 30)  # float32 vectors are never converted from float16
    assert find_embeddings(home, encoder, snapshot, 2) == whole.model_copy(update={"reused": True})
    rows = np.array([29, 3, 3, 16])
    near, exact = exact_vectors(half, rows), exact_vectors(whole, rows)
    assert near.dtype == exact.dtype == np.float32
    np.testing.assert_array_equal(near, exact.astype(np.float16).astype(np.float32))
    (batch,) = rows_with_vectors(snapshot, half, 100)
    assert batch["vector"].type == pa.list_(pa.float32(), 32)
    later = snapshot_of_texts(home, [*STORIES, "another one"])
    # float16 vectors, however, are converted from float32
    assert gather_shards(home, encoder, later, 3, vectors="float16").embedded == 1


def test_the_metadata_of_a_file_describes_its_content(made: Made) -> None:
    home, encoder, snapshot = made
    embeddings = gather_shards(home, encoder, snapshot, 2)
    for rank, file in enumerate(shard_files(embeddings)):
        metadata = {name.decode(): value.decode() for name, value in pq.read_metadata(file).metadata.items()}
        manifest = json.loads((embeddings.path / f"{file.name}.json").read_text())
        assert metadata["fingerprint"] == encoder.passage_fingerprint
        expected = {"rank": str(rank), "rows": "40", "embedded": "40", "avoided": "0"}
        assert {name: metadata[name] for name in expected} == expected
        assert metadata["content"] == manifest["content"]
        assert embeddings.digests[rank] == manifest["digest"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_altered_shard_is_refused(made: Made) -> None:
    home, encoder, snapshot = made
    embeddings = gather_shards(home, encoder, snapshot, 2)
    file = embeddings.path / shard_name(1, 2)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for read in (
        lambda: exact_vectors(embeddings, np.array([0])),
        lambda: list(rows_with_vectors(snapshot, embeddings, 100)),
    ):
        with pytest.raises(Mismatch, match=r"shard-00001.*content has changed.*embeds again"):
            read()


def test_progress_is_reported_at_intervals_and_at_the_end(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    home, encoder, snapshot = made
    monkeypatch.setattr(shards, "WINDOW", 8)
    seen: list[Pace] = []
    embed_shard(home, encoder, snapshot, 1, 2, watch=seen.append)
    (last,) = seen
    assert (last.done, last.total, last.share, last.seconds_left) == (40, 40, 1.0, 0.0)
    assert last.tokens_per_second > last.passages_per_second > 0
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    embed_shard(home, encoder, snapshot, 0, 2, watch=seen.append)
    assert [pace.done for pace in seen[1:]] == [8, 16, 24, 32, 40]
    assert [pace.share for pace in seen[1:]] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_more_shards_than_passages_are_allowed(made: Made) -> None:
    home, encoder, snapshot = made
    assert gather_shards(home, encoder, snapshot, 100).rows == snapshot.rows
