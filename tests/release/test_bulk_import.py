from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from release_world import HashingEncoder, at, release_night, served, texts, with_milvus
from s3_server import refusing_server, s3_server

from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.milvus import bulk
from tasks.core.release.prune import prune
from tasks.core.release.vector_stores import open_publisher

SERVER = "http://127.0.0.1:19530"
on_a_real_server = pytest.mark.parametrize("settings", [pytest.param("server", marks=pytest.mark.slow)], indirect=True)
lite = pytest.mark.parametrize("settings", ["lite"], indirect=True)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return the folder that the server reads; every batch of 64 passages is a separate file."""
    monkeypatch.setattr(bulk, "PART_BYTES", 1)
    folder = tmp_path / "bulk"
    folder.mkdir()
    return folder


@on_a_real_server
def test_a_bulk_import_makes_the_same_release_as_inserts(settings, files, caplog):
    caplog.set_level(logging.INFO, "nightshift.release")
    inserted = release_night(settings, seed=1)
    imported = release_night(
        with_milvus(settings, bulk=str(files), index="IVF_FLAT", index_params={"nlist": 1}), seed=1
    )
    identities = [
        open_publisher(settings.home, settings.milvus).identity(release.collection) for release in (inserted, imported)
    ]
    differ = {name for name, value in identities[0] if getattr(identities[1], name) != value}
    assert differ == {"release", "digest", "collection", "index", "index_params"}
    assert contents(settings, inserted.collection) == contents(settings, imported.collection)
    assert "part-00003.parquet written, 8 passages" in caplog.text
    assert "200 of 200 passages imported (100 %); 0 files in progress" in caplog.text
    assert served(settings) == imported.release
    assert list(files.iterdir()) == []


def contents(settings, collection):
    """Return the rows of a collection, and its answers."""
    encoder = HashingEncoder(next((settings.home / "encoders").glob("[!.]*")))
    queries = encoder.encode_queries([passage["text"] for passage in texts(20)])
    with closing(open_publisher(settings.home, settings.milvus).open(collection)) as reader:
        rows = reader.fetch(range(200), ["title", "text", "text_hash", "whole", "vector"])
        results = reader.search(queries, 10)
    held = [
        (row, passage.passage_id, *(passage.fields[name] for name in ("title", "text", "text_hash", "whole")))
        for row, passage in sorted(rows.items())
    ]
    stored = np.stack([passage.fields["vector"] for _, passage in sorted(rows.items())]).astype(np.float32)
    answers = [[(hit.row, round(hit.score, 4)) for hit in hits] for hits in results]
    return held, stored.tobytes(), answers


@on_a_real_server
def test_a_rejected_file_is_reported_with_the_reason_and_nothing_goes_live(settings, files):
    before = release_night(settings, seed=1)
    importing = with_milvus(settings, bulk=str(files))

    def damage():
        (part,) = files.glob("*/part-00002.parquet")
        part.write_bytes(b"not a table")

    with (
        at("part-00002.parquet written", damage),
        pytest.raises(NightshiftError, match=r"part-00002\.parquet.*parquet"),
    ):
        release_night(importing, seed=2)
    assert served(settings) == before.release
    assert list(files.iterdir()) == []
    assert len(prune(importing)) == 1
    assert release_night(importing, seed=2).rows == 200


@on_a_real_server
def test_files_of_a_killed_import_are_removed_with_its_collection(settings, files):
    importing = with_milvus(settings, bulk=str(files))

    def die():
        raise KeyboardInterrupt

    with at("part-00001.parquet written", die), pytest.raises(KeyboardInterrupt):
        release_night(importing, seed=1)
    (name,) = open_publisher(importing.home, importing.milvus).collections()
    (files / name).mkdir()  # as a kill leaves it
    (files / name / "part-00001.parquet").write_bytes(b"half")
    release_night(importing, seed=1)
    assert prune(importing) == [name]
    assert list(files.iterdir()) == []


@on_a_real_server
def test_more_replicas_than_nodes_never_go_live(settings):
    with pytest.raises(NightshiftError):
        release_night(with_milvus(settings, replicas=3))
    assert served(settings) is None


@lite
def test_a_server_without_bulk_import_is_reported_and_no_file_remains(settings, files):
    with pytest.raises(NightshiftError, match=r"(?i)unimplemented|not implemented|not found"):
        release_night(with_milvus(settings, bulk=str(files)))
    assert served(settings) is None
    assert list(files.iterdir()) == []


def test_bulk_files_are_uploaded_and_named_by_the_paths_of_the_server(tmp_path):
    with s3_server("milvus") as options:
        folder = bulk._SharedFolder(f"s3://milvus/files?{options}", "c1")
        folder.files.create_dir(folder.path)
        with folder.files.open_output_stream(f"{folder.path}/part") as stream:
            stream.write(b"x")
        assert folder.for_server(f"{folder.path}/part") == "files/c1/part"
        folder.clear()
        assert folder.files.get_file_info("milvus/files/c1/part").size is None
        folder.clear()
    local = bulk._SharedFolder(str(tmp_path), "c1")
    assert local.for_server(f"{local.path}/part") == str(Path(tmp_path).resolve() / "c1" / "part")


@lite
def test_a_bucket_that_refuses_requests_is_reported(settings):
    with refusing_server() as (options, requests):
        refusing = with_milvus(settings, bulk=f"s3://milvus/files?{options}")
        with pytest.raises(Unreachable, match=r"\[milvus\] bulk = s3://milvus/files: "):
            release_night(refusing)
    assert requests


def test_bulk_and_replicas_require_a_server_and_an_address_without_password():
    for options in ({"bulk": "/mnt/milvus"}, {"replicas": 2}):
        with pytest.raises(ValidationError, match="need a Milvus server"):
            MilvusSettings(**options)
    with pytest.raises(ValidationError, match="password") as error:
        MilvusSettings(uri=SERVER, bulk="s3://me:Sesame42@bucket/folder")
    assert "Sesame42" not in str(error.value.errors(include_input=False))
