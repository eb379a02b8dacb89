"""Collections that must never go live: each check fails on a broken collection, and the pointer does not move."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_fixtures import everywhere
from release_world import (
    DIMENSION,
    HashingEncoder,
    embeddings_of,
    encoder_of,
    release_night,
    served,
    snapshot_of,
    texts,
    vectors_of,
    with_milvus,
)

from tasks.core.base.errors import BadInput, Mismatch, NightshiftError
from tasks.core.base.sections.indexes import EVERYWHERE
from tasks.core.release.generation import Parts
from tasks.core.release.ledger import Generation
from tasks.core.release.milvus.embedded import EmbeddedMilvus
from tasks.core.release.publisher import Identity
from tasks.core.release.rows import rows_with_vectors
from tasks.core.release.vector_stores import open_publisher
from tasks.core.release.verify import (
    Candidate,
    check_count_equal,
    check_identity_kept,
    check_keys_equal,
    check_passages_find_themselves,
    check_recall_enough,
    verify,
)
from tasks.core.snapshot.reader import passages

GENERATION = Generation(1, "cafebabe", verified=False, dropped=False)


@contextmanager
def candidate(settings, change=lambda rows: rows, **other):
    """Build a collection from rows after `change`, and open it with the identity of the unchanged rows."""
    encoder, snapshot = encoder_of(settings.home), snapshot_of(settings.home, texts())
    embeddings = embeddings_of(settings.home, encoder, snapshot)
    milvus_settings = with_milvus(settings, samples=64).milvus
    generation = GENERATION._replace(family=milvus_settings.alias)
    identity = Parts(encoder, embeddings, snapshot, milvus_settings, HashingEncoder).identity(generation)
    rows = pa.Table.from_batches(rows_with_vectors(snapshot, embeddings, 64))
    milvus = open_publisher(settings.home, settings.milvus)
    milvus.build(identity, change(rows).combine_chunks().to_batches())
    with closing(milvus.open(identity.collection)) as reader:
        whole = Candidate(reader, identity, snapshot, embeddings, HashingEncoder(encoder.path), milvus_settings)
        yield replace(whole, **other)


def without_row(rows, at):
    return pa.concat_tables([rows.slice(0, at), rows.slice(at + 1)])


def with_column(rows, name, values):
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)


def vectors(rows):
    return np.stack(rows["vector"].to_numpy())


def column(matrix):
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.astype(np.float32).ravel()), matrix.shape[1])


@everywhere
def test_an_undamaged_collection_passes_every_check(settings):
    with candidate(settings) as whole:
        assert verify(whole) == 1  # a FLAT index is exact


def test_a_batch_without_sampled_passages_is_skipped(settings, monkeypatch):
    monkeypatch.setattr("tasks.core.release.verify.passages", partial(passages, batch_rows=16))
    with candidate(settings) as whole:
        assert verify(replace(whole, settings=with_milvus(settings, samples=1).milvus)) == 1


@everywhere
def test_a_missing_row_is_refused(settings):
    with candidate(settings, lambda rows: without_row(rows, 77)) as broken:
        with pytest.raises(Mismatch, match="199 rows, expected 200"):
            check_count_equal(broken)
        with pytest.raises(Mismatch, match="'p0077'"):
            check_keys_equal(broken)


@everywhere
def test_a_duplicate_key_is_refused(settings):
    def doubled(rows):
        return with_column(rows, "passage_id", pa.array(["p0005" if i == 6 else f"p{i:04d}" for i in range(200)]))

    # Milvus versions count duplicate keys differently, so the check also compares the keys.
    with candidate(settings, doubled) as broken, pytest.raises(Mismatch):
        verify(broken)


@everywhere
def test_shuffled_ids_are_refused(settings):
    with candidate(settings, lambda rows: with_column(rows, "passage_id", rows["passage_id"][::-1])) as b:
        check_count_equal(b)
        with pytest.raises(Mismatch, match="not the snapshot's"):
            check_keys_equal(b)


@everywhere
def test_vectors_of_other_passages_are_refused(settings):
    with candidate(
        settings, lambda rows: with_column(rows, "vector", column(np.roll(vectors(rows), 1, axis=0)))
    ) as broken:
        check_keys_equal(broken)
        with pytest.raises(Mismatch, match="does not find itself"):
            check_passages_find_themselves(broken)


def test_slightly_wrong_vectors_are_refused(settings):
    noise = 0.08 * np.random.default_rng(0).standard_normal((200, DIMENSION))

    def changed(rows):
        return with_column(rows, "vector", column(vectors(rows) + noise))

    with (
        candidate(settings, changed) as broken,
        pytest.raises(Mismatch, match=r"not the encoding of its text|does not find itself"),
    ):
        check_passages_find_themselves(broken)


@everywhere
def test_scaled_vectors_are_refused(settings):
    def changed(rows):
        return with_column(rows, "vector", column(vectors(rows) * 0.5))

    with candidate(settings, changed) as broken, pytest.raises(Mismatch, match="not the encoding"):
        check_passages_find_themselves(broken)


def test_another_encoder_is_refused_by_its_fingerprint(settings):
    other = HashingEncoder(encoder_of(settings.home, seed=2).path)
    with candidate(settings, encoder=other) as broken, pytest.raises(Mismatch, match="vectors were made by"):
        check_identity_kept(broken)


def test_a_property_that_differs_from_the_manifest_is_refused(settings):
    with candidate(settings) as whole:
        other = replace(whole, identity=whole.identity.model_copy(update={"snapshot": "another"}))
        with pytest.raises(Mismatch, match="property snapshot"):
            check_identity_kept(other)


def test_an_index_with_low_recall_is_refused(settings):
    # The collection stores half of the vectors twice; exact search over the shards also returns the other half.
    def halved(rows):
        return with_column(
            rows, "vector", column(np.tile(vectors(rows)[:100], (2, 1)) * np.r_[[1] * 100, [-1] * 100][:, None])
        )

    with candidate(settings, halved) as broken, pytest.raises(Mismatch, match="below \\[milvus\\] min_recall"):
        check_recall_enough(broken)


def test_equal_passages_may_return_each_other(settings):
    rows = texts(40)
    rows += [{**row, "passage_id": f"twin{i}"} for i, row in enumerate(rows)]
    encoder, snapshot = encoder_of(settings.home), snapshot_of(settings.home, rows)
    parts = Parts(encoder, embeddings_of(settings.home, encoder, snapshot), snapshot, settings.milvus, HashingEncoder)
    milvus = EmbeddedMilvus(settings.home)
    milvus.build(parts.identity(GENERATION), rows_with_vectors(snapshot, parts.embeddings, 64))
    with closing(milvus.open(GENERATION.collection)) as reader:
        identity = parts.identity(GENERATION)
        verify(Candidate(reader, identity, snapshot, parts.embeddings, HashingEncoder(encoder.path), parts.settings))


@everywhere
def test_vectors_without_unit_length_and_every_index_pass(settings):
    for index in EVERYWHERE:
        indexed = with_milvus(settings, index=index, min_recall=0.8)
        assert release_night(indexed, unit=False).release == served(indexed)


def lying(settings, change):
    encoder, snapshot = encoder_of(settings.home, 2), snapshot_of(settings.home, texts())
    return embeddings_of(settings.home, encoder, snapshot, change(vectors_of(encoder, snapshot)))


def shard(embeddings, rank=1):
    return embeddings.path / f"shard-{rank:05d}-of-00003.parquet"


def rewrite(file, change):
    pq.write_table(change(pq.read_table(file)), file)


def reversed_ids(table):
    return table.set_column(0, "passage_id", table["passage_id"][::-1])


@everywhere
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: rewrite(file, lambda table: table.slice(1)), "row 66: passage_id 'p0067'"),
        (lambda file: rewrite(file, reversed_ids), "belong to other passages"),
        (lambda file: file.write_bytes(file.read_bytes()[:500]), "not a whole Parquet file"),
        (lambda file: file.unlink(), ": 2 shards, "),
    ],
    ids=["missing row", "shuffled ids", "truncated shard", "missing shard"],
)
def test_broken_shards_never_go_live(settings, harm, reason):
    before = release_night(settings, seed=1)
    encoder, snapshot = encoder_of(settings.home, 2), snapshot_of(settings.home, texts())
    embeddings = embeddings_of(settings.home, encoder, snapshot)
    harm(shard(embeddings))
    with pytest.raises(Mismatch, match=reason):
        release_night(settings, seed=2, embeddings=embeddings)
    assert served(settings) == before.release


@everywhere
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda vectors_made: np.where(np.arange(len(vectors_made))[:, None] == 150, np.nan, vectors_made),
            "row 150: the vector is not finite",
        ),
        (lambda vectors_made: vectors_made[::-1], "does not find itself"),
    ],
    ids=["NaN", "shuffled vectors"],
)
def test_wrong_vectors_never_go_live(settings, change, reason):
    before = release_night(settings, seed=1)
    with pytest.raises(Mismatch, match=reason):
        release_night(settings, seed=2, embeddings=lying(settings, change))
    assert served(settings) == before.release


@everywhere
def test_vectors_of_another_encoder_never_go_live(settings):
    before = release_night(settings, seed=1)
    foreign = vectors_of(encoder_of(settings.home, 3), snapshot_of(settings.home, texts()))
    with pytest.raises(Mismatch, match="does not find itself"):
        release_night(settings, seed=2, embeddings=lying(settings, lambda vectors_made: foreign))
    with pytest.raises(Mismatch, match="embed this snapshot with this encoder"):
        release_night(
            settings,
            seed=2,
            embeddings=embeddings_of(settings.home, encoder_of(settings.home, 1), snapshot_of(settings.home, texts())),
        )
    assert served(settings) == before.release


def test_an_id_beyond_the_limit_of_milvus_is_an_error_that_names_it(settings):
    encoder = encoder_of(settings.home)
    snapshot = snapshot_of(settings.home, [*texts(5), {"passage_id": "é" * 32_768, "title": "", "text": "lamp"}])
    with pytest.raises(BadInput, match="row 5 of the snapshot"):
        list(rows_with_vectors(snapshot, embeddings_of(settings.home, encoder, snapshot), 4))


def test_a_collection_that_is_no_release_is_refused():
    with pytest.raises(Mismatch, match="do not name a release"):
        Identity.read("other", {"owner": "someone"})


def test_a_damaged_collection_folder_is_an_error_and_not_an_empty_answer(settings):
    release = release_night(settings)
    for file in (settings.home / "milvus").rglob("schema.json"):
        file.write_text("{")
    with pytest.raises(NightshiftError, match=r"schema\.json: .* bytes, but"):
        EmbeddedMilvus(settings.home).open(release.collection)
