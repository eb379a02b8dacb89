"""Damaged files of a release are reported when it is opened, and rebuilt from intact files."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from unittest.mock import patch

import pytest
from damage_in_place import HARMS, flip, truncate
from release_fixtures import everywhere
from release_world import HashingEncoder, recorded, release_night, served, small
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.base.files import files_under
from tasks.core.base.receipts import Postings
from tasks.core.release.milvus.collection import connect
from tasks.core.release.milvus.generation_files import stored_identity
from tasks.core.release.prune import prune
from tasks.core.release.repair import repair
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

QUERIES = [f"lamp river n{n}" for n in range(40)]


def answers(settings):
    with Searcher.open(settings, HashingEncoder) as searcher:
        return [[(hit.passage_id, hit.score, hit.text) for hit in answer.hits] for answer in searcher.search(QUERIES)]


def folder_of(settings, release):
    return settings.home / "milvus" / f"{release.collection}.db"


def index_of(settings, release):
    (file,) = folder_of(settings, release).rglob("*.idx")
    return file


def test_flipped_bytes_in_an_index_are_always_refused(settings):
    release = release_night(settings)
    file = index_of(settings, release)
    whole, before = file.read_bytes(), answers(settings)
    for at in (0.1, 0.3, 0.5, 0.7, 0.9):
        flip(file, at)
        with pytest.raises(
            Damaged, match=rf"{file.name}: its content has changed.*nightshift releases repair.*nightshift rollback"
        ):
            Searcher.open(settings, HashingEncoder)
        file.write_bytes(whole)
    assert answers(settings) == before
    assert list((settings.home / "readers").iterdir()) == []


def test_damage_to_any_file_is_refused_or_changes_no_answer(settings):
    release = release_night(settings)
    folder, copy = folder_of(settings, release), settings.home / "copy"
    shutil.copytree(folder, copy)
    before, refused = answers(settings), {}
    names = [file.relative_to(folder) for file in files_under(folder)]
    for name in names:
        for harm in HARMS:
            if (folder / name).stat().st_size == 0 and harm.__name__ != "delete":
                continue
            harm(folder / name)
            try:
                assert answers(settings) == before
            except NightshiftError as error:
                refused[f"{name.name} {harm.__name__}"] = str(error)
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)
    for name in ("data_000001_000200.parquet", "data_000001_000200.vector.flat.idx", "manifest.json", "schema.json"):
        assert {f"{name} {harm.__name__}" for harm in HARMS} <= set(refused)
    assert all(str(folder) in error and "nightshift releases repair" in error for error in refused.values())
    # Without checksums, a generation is compared with its vectors. milvus-lite recreates its lock.
    assert "checksums.json delete" not in refused
    assert answers(settings) == before


def test_checksums_of_an_earlier_version_are_read(settings):
    release = release_night(settings)
    checksums, before = folder_of(settings, release) / "checksums.json", answers(settings)
    files = json.loads(checksums.read_text())["files"]
    earlier = {name: {"size": size, "sha256": digest} for name, (size, digest) in files.items()}
    checksums.write_text(json.dumps({"files": earlier}))
    assert answers(settings) == before
    flip(index_of(settings, release))
    with pytest.raises(Damaged, match="its content has changed"):
        answers(settings)


def test_a_generation_of_an_earlier_version_is_compared_with_its_vectors_once(settings, caplog):
    release = release_night(settings)
    checksums, before = folder_of(settings, release) / "checksums.json", answers(settings)
    checksums.unlink()
    with caplog.at_level("INFO"):
        assert answers(settings) == before
    assert "verified against the stored vectors" in caplog.text
    assert checksums.exists()
    checksums.unlink()
    flip(index_of(settings, release), 0.5)
    with pytest.raises(Damaged, match="recall@10 of its FLAT index"):
        answers(settings)
    assert not checksums.exists()


def test_a_generation_with_pruned_vectors_still_opens(settings, caplog):
    release = release_night(settings)
    before = answers(settings)
    (folder_of(settings, release) / "checksums.json").unlink()
    shutil.rmtree(settings.home / "embeddings")
    assert answers(settings) == before
    assert "opened unverified" in caplog.text


def test_a_damaged_collection_is_rebuilt_from_the_stored_vectors(settings):
    first = release_night(settings)
    before = answers(settings)
    assert repair(settings, HashingEncoder) == (first.model_copy(update={"reused": True}), 1)
    flip(index_of(settings, first))
    again, epoch = repair(settings, HashingEncoder)
    assert (again.digest, again.embeddings, again.metrics) == (first.digest, first.embeddings, first.metrics)
    assert (epoch, served(settings)) == (2, again.release)
    assert again.collection != first.collection
    assert f"{first.release} was damaged" in again.reason
    assert answers(settings) == before
    assert repair(settings, HashingEncoder) == (again, epoch)
    prune(settings)  # a damaged generation does not stop pruning


def test_an_undamaged_collection_is_verified_without_loading_it(settings, monkeypatch):
    release = release_night(settings)
    milvus = open_publisher(settings.home, settings.milvus)
    with closing(milvus.open(release.collection)) as reader:
        assert milvus.check_files(release.collection) == milvus.identity(release.collection) == reader.identity
    monkeypatch.setattr(type(milvus), "open", lambda *_: pytest.fail("the collection was loaded"))
    assert repair(settings, HashingEncoder)[0].release == release.release


def test_a_collection_of_another_layout_is_verified_by_loading_it(settings):
    release = release_night(settings)
    folder = settings.home / "milvus" / f"{release.collection}.db"
    assert stored_identity(folder, "another") is None
    (folder / "checksums.json").unlink()
    assert open_publisher(settings.home, settings.milvus).check_files(release.collection) is None
    assert repair(settings, HashingEncoder)[0].release == release.release


def test_a_collection_that_cannot_be_rebuilt_is_an_error_with_the_next_step(settings, caplog):
    release = release_night(settings)
    flip(index_of(settings, release))
    for shard in (settings.home / "embeddings" / release.embeddings).glob("shard-*"):
        truncate(shard)
    assert repair(settings, HashingEncoder) == (None, 1)
    assert f"release {release.release}: its collection cannot be rebuilt" in caplog.text
    assert "with `nightshift rollback`, or make a new one with `nightshift run`" in caplog.text


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_lexical_index_is_built_again_and_one_that_cannot_be_is_named_with_the_next_step(settings, weight, caplog):
    release = release_night(settings, weight=weight)
    folder, before = settings.home / Postings.shelf / release.ranking.postings, answers(settings)
    intact = (release.model_copy(update={"reused": True}), 1)
    flip(folder / "documents.i32")
    assert repair(settings, HashingEncoder) == intact
    assert answers(settings) == before
    usable = intact if weight == 1 else (None, 1)  # a dense release still serves
    shutil.rmtree(folder)
    with patch("tasks.core.retrieval.postings.anserini_version", lambda: "0.0"):
        assert repair(settings, HashingEncoder) == usable
    assert (
        f"release {release.release}: lexical index {release.ranking.postings} not rebuilt (this version" in caplog.text
    )
    shutil.rmtree(settings.home / "snapshots")
    assert repair(settings, HashingEncoder) == usable
    assert "missing, although another artifact references it" in caplog.text
    assert "with `nightshift rollback`, or make a new one with `nightshift run`" in caplog.text


@everywhere
def test_an_undamaged_collection_passes_the_background_check(settings):
    release = release_night(settings)
    with closing(open_publisher(settings.home, settings.milvus).open(release.collection)) as reader:
        reader.check()


@pytest.mark.parametrize("settings", ["lite", pytest.param("server", marks=pytest.mark.slow)], indirect=True)
def test_a_server_collection_whose_passages_do_not_find_themselves_is_refused(settings):
    release = release_night(settings)
    with closing(open_publisher(settings.home, settings.milvus).open(release.collection)) as reader:
        with closing(connect(settings.milvus.uri)) as client:
            client.delete(release.collection, filter="row == 0")
        with pytest.raises(Damaged, match=r"1 of 16 passages do not find themselves \(first: row 0"):
            reader.check()
    again, _ = repair(settings, HashingEncoder)
    assert served(settings) == again.release != release.release


def test_manifests_are_restored_from_the_ledger(settings):
    releases = [release_night(settings, seed=seed) for seed in (1, 2)]
    whole = [recorded(settings.home, release.release) for release in releases]
    for harm in HARMS:
        position = {"at": 0.0} if harm is flip else {}  # a byte flipped within a string can leave readable JSON
        for release in releases:
            harm(settings.home / "releases" / release.release / "manifest.json", **position)
        repair(settings, HashingEncoder)
        assert [recorded(settings.home, release.release) for release in releases] == whole


def test_a_home_with_another_index_type_is_checked(tmp_path):
    settings = small(tmp_path / "var", index="HNSW")
    release = release_night(settings)
    (folder_of(settings, release) / "checksums.json").unlink()
    before = answers(settings)
    assert (folder_of(settings, release) / "checksums.json").exists()
    assert answers(settings) == before


def test_the_command_reports_the_serving_release_and_its_integrity(settings):
    def command():
        return CliRunner().invoke(app, ["releases", "repair"], env={"NIGHTSHIFT_HOME": str(settings.home)})

    result = command()
    assert (result.exit_code, "`nightshift run` to make one" in result.output) == (1, True)
    release = release_night(settings)
    (settings.home / "serving.json").write_text("{")
    result = command()
    assert (result.exit_code, result.stdout) == (0, f"release {release.release} serves and is intact\n")
