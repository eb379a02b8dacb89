"""Old artifacts are deleted; parts of releases, quarantined rows, and artifacts in use are kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from release_world import (
    HashingEncoder,
    embeddings_of,
    encoder_of,
    release_night,
    small,
    snapshot_of,
    texts,
    with_milvus,
)
from s3_server import s3_server

from tasks.core.base import artifact_store as store
from tasks.core.base.files import MANIFEST, find_by_key, load, produce
from tasks.core.base.receipts import Embeddings, Encoder, Ingested, Postings, Run, Snapshot
from tasks.core.embedding.text_index import build_index, index_of
from tasks.core.release.history import list_releases
from tasks.core.release.prune import prune
from tasks.core.release.reindex import reindex
from tasks.core.release.retention import DAY, DELETABLE, remove_unused
from tasks.core.release.rollback import rollback
from tasks.core.search.searcher import Searcher

LATER = time.time() + 31 * DAY


@pytest.fixture
def settings(tmp_path):
    return with_milvus(small(tmp_path / "home"), keep=2)


def folders(home):
    return {path for kind in DELETABLE for path in (home / kind.shelf).glob("*") if path.is_dir()}


def create_run(home, name):
    def build(folder):
        pq.write_table(pa.table({"query_id": [name]}), folder / "run.parquet")
        return {"rows": 1, "queries": 1, "depth": 10}

    return produce(home, Run, {"name": name}, build)


def test_artifacts_of_retained_releases_are_kept_and_still_serve(settings):
    for seed in (1, 2, 3):
        release_night(settings, seed=seed)
    prune(settings)
    retained = [release for release in list_releases(settings) if not release.pruned]
    assert len(retained) == 2
    remove_unused(settings, LATER)
    for release in retained:
        parts = ((Encoder, release.encoder), (Embeddings, release.embeddings), (Snapshot, release.snapshot))
        for kind, digest in parts:
            load(settings.home, kind, digest)
    (pruned,) = (release for release in list_releases(settings) if release.pruned)
    assert not (settings.home / Encoder.shelf / pruned.encoder).exists()
    assert not (settings.home / Embeddings.shelf / pruned.embeddings).exists()
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search(["lamp river n3"], 5)
    reindex(settings, "test", loader=HashingEncoder)


def test_an_index_is_kept_with_the_snapshot_of_a_release_and_removed_otherwise(settings):
    first = release_night(settings, seed=1)
    snapshot = load(settings.home, Snapshot, first.snapshot)
    build_index(settings.home, snapshot)
    run = create_run(settings.home, "q1")
    assert remove_unused(settings, LATER) == [run.path]
    assert index_of(settings.home, first.snapshot) is not None


def test_the_lexical_index_of_a_kept_release_stays_and_that_of_a_pruned_one_goes(settings):
    releases = [release_night(settings, seed=seed, tag=f"tag{seed}", weight=0.5) for seed in (1, 2, 3)]
    prune(settings)
    remove_unused(settings, LATER)
    folders_of = [settings.home / Postings.shelf / release.ranking.postings for release in releases]
    assert [folder.exists() for folder in folders_of] == [False, True, True]
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("lamp tag3")[0].release == releases[2].release
    rollback(settings)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("lamp tag2")[0].release == releases[1].release


def base_vectors(settings, base, snapshot):
    embeddings = embeddings_of(settings.home, base, snapshot)
    fields = embeddings.model_dump(exclude={"digest", "path", "reused"}) | {"parents": (base.digest, snapshot.digest)}
    return produce(settings.home, Embeddings, {"with parents": snapshot.digest}, lambda folder: fields)


def test_vectors_of_the_base_model_are_kept_with_the_snapshot_of_a_release(settings):
    first = release_night(settings, seed=1)
    served, other = load(settings.home, Snapshot, first.snapshot), snapshot_of(settings.home, texts(tag="other"))
    base = encoder_of(settings.home, seed=9)
    retained, lost = (base_vectors(settings, base, snapshot) for snapshot in (served, other))
    remove_unused(settings, LATER)
    assert retained.path.exists()
    assert base.path.exists()
    assert not lost.path.exists()
    assert not other.path.exists()


def test_the_last_vectors_of_the_base_model_are_kept_while_only_refreshes_are_released(settings):
    release_night(settings, seed=1)
    base, (older, newer) = encoder_of(settings.home, seed=9), (texts(tag=tag) for tag in ("older", "newer"))
    snapshots = [snapshot_of(settings.home, rows) for rows in (older, newer)]
    lost, last = (base_vectors(settings, base, snapshot) for snapshot in snapshots)
    os.utime(lost.path / MANIFEST, (1, 1))
    remove_unused(settings, LATER)
    assert [path.exists() for path in (lost.path, snapshots[0].path)] == [False, False]
    assert [path.exists() for path in (base.path, last.path, snapshots[1].path)] == [True, True, True]


def test_vectors_of_a_trunk_are_kept_as_long_as_a_release_derives_from_them(settings):
    home, snapshot = settings.home, snapshot_of(settings.home, texts())
    encoder = encoder_of(home, seed=1)
    trunk, other = (embeddings_of(home, encoder_of(home, seed), snapshot) for seed in (8, 9))
    encoded = embeddings_of(home, encoder, snapshot)

    def derive(folder):
        for file in encoded.path.glob("*.parquet"):
            (folder / file.name).write_bytes(file.read_bytes())
        fields = encoded.model_dump(exclude={"digest", "path", "reused"})
        return {**fields, "parents": (encoder.digest, snapshot.digest, trunk.digest), "derived": snapshot.rows}

    derived = produce(home, Embeddings, {"derived": trunk.digest}, derive)
    release_night(settings, seed=1, snapshot=snapshot, embeddings=derived)
    remove_unused(settings, LATER)
    assert derived.path.exists()
    assert trunk.path.exists()
    assert not other.path.exists()
    for seed in (2, 3):
        release_night(settings, seed=seed, tag=f"tag{seed}")
    prune(settings)
    remove_unused(settings, LATER)
    assert not derived.path.exists()
    assert not trunk.path.exists()


def test_use_restarts_the_retention_period_of_an_artifact(settings):
    run, other = create_run(settings.home, "q1"), create_run(settings.home, "q2")
    for artifact in (run, other):
        os.utime(artifact.path, (time.time() - 40 * DAY,) * 2)
    assert find_by_key(settings.home, Run, {"name": "q1"}) == run.model_copy(update={"reused": True})
    assert remove_unused(settings) == [other.path]
    assert remove_unused(settings) == []


def test_files_of_a_crashed_build_are_removed(settings):
    run = create_run(settings.home, "q1")
    shelf = run.path.parent
    (shelf / ".abc.partial").mkdir()
    (shelf / ".def.gone").mkdir()
    (shelf / ".def.gone" / "run.parquet").write_bytes(b"half")
    os.utime(shelf / ".abc.partial", (time.time() - 40 * DAY,) * 2)
    assert {path.name for path in remove_unused(settings)} == {".abc.partial", ".def.gone"}
    assert folders(settings.home) == {run.path}


def test_an_interrupted_removal_is_completed_and_the_artifact_can_be_rebuilt(settings):
    run = create_run(settings.home, "q1")
    run.path.rename(run.path.with_name(f".{run.digest}.gone"))  # as a kill may leave it
    again = create_run(settings.home, "q1")
    assert not again.reused
    assert {path.name for path in remove_unused(settings, LATER)} == {f".{run.digest}.gone", run.digest}
    assert folders(settings.home) == set()


def test_a_damaged_artifact_set_aside_is_removed_after_its_retention_period(settings):
    run = create_run(settings.home, "q1")
    os.utime(run.path, (time.time() - 40 * DAY,) * 2)
    (run.path / "run.parquet").write_bytes(b"")
    again = create_run(settings.home, "q1")
    assert not again.reused
    assert remove_unused(settings) == []
    (aside,) = run.path.parent.glob(f".{run.digest}.damaged-*")
    assert set(remove_unused(settings, LATER)) == {aside, again.path}
    assert folders(settings.home) == set()


def test_quarantined_rows_are_never_removed(settings):
    fields = {"source": "s", "snapshot": "none", "accepted": 0, "quarantined": 1, "rules": (), "rows": 1}
    ingested = produce(settings.home, Ingested, {}, lambda folder: fields)
    remove_unused(settings, LATER)
    assert Path(ingested.path).exists()


def test_removed_artifacts_are_fetched_from_the_store_or_rebuilt_and_uploaded_again(settings):
    with s3_server("artifacts") as options:
        url = f"s3://artifacts/nights?{options}"
        store.attach(settings.home, url, tries=1)
        create_run(settings.home, "q1")
        remove_unused(settings, LATER)
        assert create_run(settings.home, "q1").reused  # fetched from the store
        remove_unused(settings, LATER)
        files, root = fs.FileSystem.from_uri(url)
        files.delete_dir_contents(root)  # like the bucket's expiry rules
        again = create_run(settings.home, "q1")
        assert not again.reused
        assert files.get_file_info(f"{root}/runs/{again.digest}.json").is_file


def test_zero_days_keep_everything(settings):
    create_run(settings.home, "q1")
    assert remove_unused(settings.model_copy(update={"keep_days": 0}), LATER) == []
