from __future__ import annotations

import json

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_snapshot
from release_world import (
    PASSAGES,
    HashingEncoder,
    encoder_of,
    evaluated,
    release_night,
    small,
    snapshot_of,
    texts,
    vectors_of,
)
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.base.checksums import MANIFEST, write_checksums
from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.files import file_digest
from tasks.core.base.ranking import Ranking
from tasks.core.release.names import NoSuchRelease
from tasks.core.search.export import export
from tasks.core.search.searcher import Searcher


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Create a home with two releases, the second serving, and ten held-out queries."""
    settings = small(tmp_path_factory.mktemp("export") / "var")
    names = [release_night(settings, seed=seed).release for seed in (1, 2)]
    qrels = {"query_id": [f"q{n}" for n in range(10)], "passage_id": [f"p{n:04d}" for n in range(10)]}
    table = pa.table({**qrels, "relevance": pa.array([1] * 10, pa.int32()), "split": ["test"] * 10})
    snapshot = snapshot_of(settings.home, texts())
    pq.write_table(table, snapshot.path / "qrels.parquet")
    write_checksums(snapshot.path, (snapshot.path / MANIFEST).read_bytes())
    return settings, names


def vectors(settings, seed):
    return vectors_of(encoder_of(settings.home, seed), snapshot_of(settings.home, texts()))


def identity(folder):
    record = json.loads((folder / "release.json").read_text())
    assert record.pop("sha256") == {
        file.name: file_digest(file) for file in folder.iterdir() if file.name != "release.json"
    }
    return record


def test_faiss_search_of_the_export_equals_the_answers_of_the_release(world, tmp_path):
    settings, (_, second) = world
    folder = export(settings, "serving", "faiss", tmp_path / "out", loader=HashingEncoder)
    index = faiss.read_index(str(folder / "index.faiss"))
    assert (index.ntotal, index.d, index.metric_type) == (PASSAGES, 24, faiss.METRIC_INNER_PRODUCT)
    assert np.array_equal(index.reconstruct_n(0, PASSAGES), vectors(settings, 2))
    ids = pq.read_table(folder / "ids.parquet")
    assert ids["row"].to_pylist() == list(range(PASSAGES))
    encoder = encoder_of(settings.home, 2)
    scores, rows = index.search(HashingEncoder(encoder.path).encode_queries(["lamp n3"]), 5)
    with Searcher.open(settings, HashingEncoder) as searcher:
        hits = searcher.search("lamp n3", 5)[0].hits
    assert ids["passage_id"].take(rows[0]).to_pylist() == [hit.passage_id for hit in hits]
    assert scores[0] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    record = identity(folder)
    assert (record["release"], record["fingerprint"], record["metric"]) == (second, encoder.fingerprint, "IP")


def test_an_index_that_does_not_fit_into_memory_is_refused(world, tmp_path, monkeypatch):
    settings, _ = world
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    with pytest.raises(NightshiftError, match=r"needs up to 0\.0 GiB of memory, but .* Use --format parquet"):
        export(settings, "serving", "faiss", tmp_path / "out", loader=HashingEncoder)
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_export_contains_every_passage_vector_and_the_release_name(world, tmp_path):
    settings, (first, _) = world
    folder = export(settings, first, "parquet", tmp_path / "out", loader=HashingEncoder)
    table = pq.read_table(folder / "vectors.parquet")
    assert table.select(["passage_id", "title", "text"]).to_pylist() == texts()
    assert np.array_equal(np.stack(table["vector"].to_numpy()), vectors(settings, 1))
    assert table.schema.metadata[b"nightshift.release"] == first.encode()
    assert identity(folder)["release"] == first


def test_a_parquet_export_contains_texts_that_milvus_truncates_in_full(tmp_path):
    settings = small(tmp_path / "var")
    entire = "lamp river " * 7000
    snapshot = snapshot_of(settings.home, [{**texts()[0], "text": entire}, *texts()[1:]])
    release = release_night(settings, snapshot=snapshot)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher._pinned._reader.fetch([0], ["whole"])[0].fields["whole"] is False
    folder = export(settings, release.release, "parquet", tmp_path / "out", loader=HashingEncoder)
    assert pq.read_table(folder / "vectors.parquet")["text"][0].as_py() == entire


def test_a_run_export_equals_the_answers_to_the_held_out_queries(world, tmp_path):
    settings, (first, _) = world
    folder = export(settings, first, "trec", tmp_path / "out", loader=HashingEncoder)
    lines = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    assert len(lines) == 10 * settings.evaluation.depth
    assert {line[5] for line in lines} == {first}
    encoder = HashingEncoder(encoder_of(settings.home, 1).path)
    query = " ".join(texts()[4]["text"].split()[:8])
    best = np.argsort(-(vectors(settings, 1) @ encoder.encode_queries([query])[0]))[:20]
    assert [line[2] for line in lines if line[0] == "q4"][:20] == [f"p{row:04d}" for row in best]
    assert (folder / "qrels").read_text().splitlines()[0] == "q0 0 p0000 1"


def test_a_run_of_a_hybrid_release_is_the_evaluations_run_and_the_export_names_the_ranking(tmp_path):
    settings = small(tmp_path / "var")
    rows = texts()
    queries = {f"q{n}": " ".join(row["text"].split()[3:8]) for n, row in enumerate(rows[:60])}
    qrels = [(query, f"p{n:04d}", "test" if n else "train") for n, query in enumerate(queries)]
    release = release_night(
        settings, snapshot=small_snapshot.snapshot_of(settings.home, rows, queries, qrels), weight=0.5
    )
    folder = export(settings, "serving", "trec", tmp_path / "trec", loader=HashingEncoder)
    run = {}
    for line in (folder / "run.trec").read_text().splitlines():
        run.setdefault(line.split()[0], []).append(line.split()[2])
    assert run.keys() == queries.keys() - {"q0"}
    ranked = evaluated(settings.home, release, [queries[query] for query in run])
    assert list(run.values()) == [[passage for passage, _ in hits] for hits in ranked]
    for form in ("trec", "faiss", "parquet"):
        folder = export(settings, "serving", form, tmp_path / "out", force=True, loader=HashingEncoder)
        assert Ranking(**identity(folder)["ranking"]) == release.ranking


def test_an_export_replaces_only_exports_and_only_with_the_option(world, tmp_path):
    settings, (first, second) = world
    folder = export(settings, first, "faiss", tmp_path / "out", loader=HashingEncoder)
    with pytest.raises(NightshiftError, match="--force"):
        export(settings, second, "parquet", folder, loader=HashingEncoder)
    assert identity(folder)["release"] == first
    export(settings, second, "parquet", folder, force=True, loader=HashingEncoder)
    assert identity(folder)["release"] == second
    assert sorted(file.name for file in folder.iterdir()) == ["release.json", "vectors.parquet"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(NightshiftError, match="is no export"):
        export(settings, second, "parquet", mine, force=True, loader=HashingEncoder)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_failed_export_leaves_no_file(tmp_path):
    settings = small(tmp_path / "var")
    release = release_night(settings)
    shards = sorted((settings.home / "embeddings" / release.embeddings).glob("shard-*"))
    pq.write_table(pq.read_table(shards[-1]).slice(1), shards[-1])
    for form in ("faiss", "parquet"):
        with pytest.raises(Mismatch):
            export(settings, "serving", form, tmp_path / "out" / form, loader=HashingEncoder)
        assert list((tmp_path / "out").iterdir()) == []


def test_the_command_names_written_files_and_unsupported_formats(world, tmp_path):
    settings, (first, _) = world
    runner, home = CliRunner(), {"NIGHTSHIFT_HOME": str(settings.home)}
    done = runner.invoke(app, ["export", first, "--format", "faiss", "--to", str(tmp_path / "out")], env=home)
    assert done.stdout.strip() == str(tmp_path / "out")
    again = runner.invoke(app, ["export", first, "--format", "faiss", "--to", str(tmp_path / "out")], env=home)
    assert again.exit_code == 1
    assert "--force" in again.output
    with pytest.raises(NoSuchRelease, match="Available"):
        export(settings, "r9", "faiss", tmp_path / "other", loader=HashingEncoder)
    with pytest.raises(NightshiftError, match="faiss, parquet, trec"):
        export(settings, first, "hdf5", tmp_path / "other", loader=HashingEncoder)
