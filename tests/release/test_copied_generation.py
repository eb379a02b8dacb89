"""A refresh builds the new generation from a copy of the serving one, which stays untouched."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from file_damage import flip
from release_world import HashingEncoder, embeddings_of, encoder_of, release_night, snapshot_of, texts, with_milvus

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import file_digest, files_under, load, produce
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.release.delta import plan_delta
from tasks.core.release.history import serving
from tasks.core.release.milvus.slots import FILE, Slots
from tasks.core.release.publish import publish
from tasks.core.release.reindex import reindex
from tasks.core.release.vector_stores import open_publisher
from tasks.core.release.verify import Contents, check_changed_keys
from tasks.core.search.searcher import Searcher

QUERIES = ["lamp river n3", "violin harbour n8", "fresh copper n501", "entry 40 copper"]


def changed_rows(night=1):
    """Return the passages of a later night: some new, in between and behind the others, some changed, some gone."""
    rows = {row["passage_id"]: row for row in texts()}
    for earlier in range(1, night + 1):
        for number in range(500, 504):
            new = {"passage_id": f"p0{earlier}{number}", "title": "fresh", "text": f"fresh copper n{number} {earlier}"}
            rows[new["passage_id"]] = new
        rows[f"z{earlier}"] = {"passage_id": f"z{earlier}", "title": "", "text": f"last meadow {earlier}"}
        rows[f"p{10 * earlier:04d}"] |= {"text": f"changed violin n{earlier}"}
        rows[f"p{10 * earlier + 1:04d}"] |= {"title": f"another title {earlier}"}
        rows.pop(f"p{10 * earlier + 2:04d}", None)
    return sorted(rows.values(), key=lambda row: row["passage_id"])


def refresh(settings, night=1):
    return release_night(settings, snapshot=snapshot_of(settings.home, changed_rows(night)), weight=0.6)


def folder_of(settings, release):
    return settings.home / "milvus" / f"{release.collection}.db"


def digests(settings, release):
    folder = folder_of(settings, release)
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files_under(folder)}


def content(settings, release):
    """Return all rows of a release, as its reader returns them."""
    with closing(open_publisher(settings.home, settings.milvus).open(release.collection)) as reader:
        stored = reader.fetch(list(range(release.rows)), ["title", "text", "text_hash", "whole", "vector"])
        rows = [
            (row, hit.passage_id, *(hit.fields[name] for name in ("title", "text", "text_hash", "whole")))
            for row, hit in sorted(stored.items())
        ]
        vectors = np.array([stored[row].fields["vector"] for row in sorted(stored)], np.float32)
        ids = [passage_id for _, passage_id, *_ in rows]
        assert np.array_equal(reader.vectors([row for row, *_ in rows], ids), vectors)
        keys = reader.keys(0, release.rows)
        assert keys == [(row, passage_id, text_hash) for row, passage_id, _, _, text_hash, _ in rows]
        assert reader.keys(30, 60) == keys[30:60]
        assert reader.count() == release.rows == len(rows)
        hits = [(hit.row, hit.passage_id, round(hit.score, 5)) for hit in reader.search(vectors[:1], 20)[0]]
    return rows, vectors.tolist(), hits


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "nightshift.release")
    return lambda: [record.getMessage() for record in caplog.records]


def was_copied(lines):
    return any("deleted in a copy" in line for line in lines())


def test_a_refresh_copies_the_serving_generation_and_equals_a_rebuilt_one(settings, lines, tmp_path):
    first = release_night(settings, weight=0.6)
    for night in (1, 2):  # a copy, and a copy of the copy
        serving_release, _ = serving(settings)
        before = digests(settings, serving_release)
        refreshed = refresh(settings, night)
        assert any(f"{refreshed.collection}: 7 passages inserted and 1 deleted in a copy" in line for line in lines())
        assert digests(settings, serving_release) == before  # never touched
        assert serving(settings)[0].release == refreshed.release
        assert (folder_of(settings, refreshed) / FILE).exists()

    alone = settings.model_copy(update={"home": tmp_path / "rebuilt"})
    rebuilt = refresh(alone, night=2)  # the first release of its home
    assert rebuilt.digest == refreshed.digest
    assert not (folder_of(alone, rebuilt) / FILE).exists()
    assert content(settings, refreshed) == content(alone, rebuilt)
    for mode in ("dense", "lexical", "hybrid"):
        answers = []
        for home in (settings, alone):
            with Searcher.open(home, HashingEncoder) as searcher:
                results = searcher.search(QUERIES, 10, mode=mode)
            answers.append(
                [[(hit.passage_id, round(hit.score, 5), hit.text) for hit in answer.hits] for answer in results]
            )
        assert answers[0] == answers[1], mode
    assert first.rows == 200


def test_a_copy_outlives_the_generation_that_it_was_made_from(settings, lines):
    first = release_night(settings, weight=0.6)
    refreshed = refresh(settings)
    before = content(settings, refreshed)
    shutil.rmtree(folder_of(settings, first))
    assert content(settings, refreshed) == before
    assert was_copied(lines)


@pytest.mark.parametrize(
    "changes", [{"seed": 2}, {"index": "HNSW"}, {"rows": 60}], ids=["encoder", "index", "many changes"]
)
def test_another_encoder_or_index_and_many_changes_are_built_from_nothing(settings, lines, changes):
    release_night(settings, weight=0.6)
    rows = changed_rows()
    for row in rows[: changes.get("rows", 0)]:
        row["text"] += " stone"
    if "index" in changes:
        settings = with_milvus(settings, index=changes["index"])
    release = release_night(settings, seed=changes.get("seed", 1), snapshot=snapshot_of(settings.home, rows))
    assert not was_copied(lines)
    assert serving(settings)[0].release == release.release


def test_an_approximate_index_is_copied_only_if_no_stored_row_dies(settings, lines):
    settings = with_milvus(settings, index="HNSW")
    release_night(settings)
    added = [*texts(), {"passage_id": "p0100x", "title": "", "text": "fresh copper n501"}]
    release_night(settings, snapshot=snapshot_of(settings.home, added))
    assert was_copied(lines)
    release = release_night(settings, snapshot=snapshot_of(settings.home, added[1:]))
    assert any("1 of 201 stored rows would be replaced or deleted ones (HNSW index)" in line for line in lines())
    assert serving(settings)[0].release == release.release


def test_rows_die_until_a_night_builds_from_nothing(settings, lines):
    release_night(settings)
    for night in range(4):
        rows = texts()
        for row in rows[:10]:
            row["text"] += f" night {night}"
        release = release_night(settings, snapshot=snapshot_of(settings.home, rows))
    copied = ["deleted in a copy" in line for line in lines()].count(True)
    assert copied == 3
    assert any("stored rows would be replaced or deleted ones (FLAT index)" in line for line in lines())
    assert len(content(settings, release)[0]) == 200


def test_a_new_query_encoder_copies_all_passages(settings, lines):
    first = release_night(settings)
    encoder, snapshot = encoder_of(settings.home), load(settings.home, Snapshot, first.snapshot)

    def build(folder):  # the same vectors, another fingerprint
        (folder / "weights.json").write_text(json.dumps([1, encoder.dimension, True], indent=1))
        fields = encoder.model_dump(include={"rows", "passage_fingerprint", "dimension", "base", "steps", "precision"})
        return {**fields, "fingerprint": HashingEncoder(folder).fingerprint, "fidelity": 1.0}

    queries_only = produce(settings.home, Encoder, {"queries": "only"}, build)
    release = publish(
        settings,
        encoder=queries_only,
        embeddings=embeddings_of(settings.home, encoder, snapshot),
        snapshot=snapshot,
        metrics={},
        bm25={},
        base={},
        previous=None,
        recipe="",
        reason="queries only",
        expected_epoch=1,
        loader=HashingEncoder,
    )
    assert any("0 passages inserted and 0 deleted in a copy" in line for line in lines())
    assert (release.rows, release.fingerprint) == (first.rows, queries_only.fingerprint)
    assert release.fingerprint != first.fingerprint
    assert content(settings, release) == content(settings, first)


def test_a_passage_with_another_vector_is_replaced_although_its_text_is_the_same(settings, lines):
    first = release_night(settings)
    encoder = encoder_of(settings.home)
    snapshot = snapshot_of(settings.home, texts()[1:])
    vectors = HashingEncoder(encoder.path).encode_passages([f"{row['title']} {row['text']}" for row in texts()[1:]])
    vectors[7] *= np.float32(1 + 1e-6)
    release = release_night(
        settings, snapshot=snapshot, embeddings=embeddings_of(settings.home, encoder, snapshot, vectors)
    )
    assert any("1 passages inserted and 1 deleted in a copy" in line for line in lines())
    assert np.array_equal(np.float32(content(settings, release)[1]), vectors)
    assert first.rows == release.rows + 1


def test_damage_in_the_serving_generation_never_reaches_a_copy(settings, lines):
    first = release_night(settings)
    file = next(folder_of(settings, first).glob("collections/*/partitions/*/data/*.parquet"))
    flip(file)
    refreshed = refresh(settings)
    assert not was_copied(lines)
    assert any("not usable" in line and f"{file}: its content has changed" in line for line in lines())
    assert len(content(settings, refreshed)[0]) == refreshed.rows


def test_a_copy_with_a_wrong_key_is_refused(settings):
    first = release_night(settings)
    refreshed = refresh(settings)
    before, now = (load(settings.home, Snapshot, release.snapshot) for release in (first, refreshed))
    delta = plan_delta(before, now, first.collection)
    embeddings = load(settings.home, Embeddings, refreshed.embeddings)
    with closing(open_publisher(settings.home, settings.milvus).open(refreshed.collection)) as reader:
        copy = Contents(reader, reader.identity, now, embeddings)
        check_changed_keys(copy, delta)
        with pytest.raises(Mismatch, match="1 deleted passages are stored"):
            check_changed_keys(copy, replace(delta, deleted=[*delta.deleted, "p0050"]))
        later = snapshot_of(settings.home, changed_rows(2))
        with pytest.raises(Mismatch, match="first difference"):
            check_changed_keys(replace(copy, snapshot=later), plan_delta(before, later, first.collection))
        slots = reader._slots.of_rows.copy()
        unchanged = np.flatnonzero(delta.same)[:2]
        slots[unchanged] = slots[unchanged[::-1]]
        reader._slots = Slots(slots)
        with pytest.raises(Mismatch, match="first difference"):
            check_changed_keys(copy, delta)


def test_reindex_of_a_copy_builds_from_nothing(settings, lines):
    release_night(settings)
    refreshed = refresh(settings)
    before = content(settings, refreshed)
    (folder_of(settings, refreshed) / FILE).unlink()
    reindexed = reindex(settings, "the slots are lost", HashingEncoder)
    assert reindexed.collection != refreshed.collection
    assert not (folder_of(settings, reindexed) / FILE).exists()
    assert content(settings, reindexed) == before
    assert load(settings.home, Snapshot, reindexed.snapshot).rows == reindexed.rows


def test_slots_map_rows_both_ways():
    slots = Slots(np.array([0, 300, 1, 2, 301, 400], np.int64))
    assert [slots.row(slot) for slot in (0, 1, 300, 400, 5, 401, -1)] == [0, 2, 1, 5, -1, -1, -1]
    assert slots.end == 401
    assert slots.select([1, 5, 9]) == [300, 400]
    assert slots.ranges(0, 6) == [(0, 3), (300, 302), (400, 401)]
    assert slots.ranges(2, 4) == [(1, 3)]
    assert slots.ranges(3, 3) == []
