"""What must never go live: each check against a collection that breaks it, and the pointer unmoved."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
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
)

from tasks.core.errors import BadInput, Mismatch, NightshiftError
from tasks.core.release.embedded import EmbeddedMilvus
from tasks.core.release.generation import Parts
from tasks.core.release.ledger import Generation
from tasks.core.release.publisher import Identity
from tasks.core.release.rows import paired
from tasks.core.release.verify import (
    Candidate,
    check_count_equal,
    check_identity_kept,
    check_keys_equal,
    check_passages_find_themselves,
    check_recall_enough,
    verify,
)
from tasks.core.settings import MilvusSettings

GENERATION = Generation(1, "cafebabe", verified=False, dropped=False, released=False)


@contextmanager
def candidate(home, change=lambda rows: rows, **other):
    """A collection of the right rows after `change`, opened, with the manifest of the right ones."""
    encoder, snapshot = encoder_of(home), snapshot_of(home, texts())
    embeddings = embeddings_of(home, encoder, snapshot)
    settings = MilvusSettings(samples=64)
    identity = Parts(encoder, embeddings, snapshot, settings, HashingEncoder).identity(GENERATION)
    rows = pa.Table.from_batches(paired(snapshot, embeddings, 64))
    milvus = EmbeddedMilvus(home)
    milvus.build(identity, change(rows).combine_chunks().to_batches())
    with closing(milvus.open(identity.collection)) as reader:
        whole = Candidate(reader, identity, snapshot, embeddings, HashingEncoder(encoder.path), settings)
        yield replace(whole, **other)


def without_row(rows, at):
    return pa.concat_tables([rows.slice(0, at), rows.slice(at + 1)])


def with_column(rows, name, values):
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)


def vectors(rows):
    return np.stack(rows["vector"].to_numpy())


def column(matrix):
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.astype(np.float32).ravel()), matrix.shape[1])


def test_a_whole_collection_passes_every_check(home):
    with candidate(home) as whole:
        assert verify(whole) == 1  # a FLAT index misses nothing


def test_a_missing_row_is_counted(home):
    with candidate(home, lambda rows: without_row(rows, 77)) as broken:
        with pytest.raises(Mismatch, match="199 rows, the manifest says 200"):
            check_count_equal(broken)
        with pytest.raises(Mismatch, match="'p0077'"):
            check_keys_equal(broken)


def test_a_key_that_stands_there_twice_is_noticed(home):
    def doubled(rows):
        return with_column(rows, "passage_id", pa.array(["p0005" if i == 6 else f"p{i:04d}" for i in range(200)]))

    with candidate(home, doubled) as broken, pytest.raises(Mismatch):
        check_count_equal(broken)


def test_shuffled_ids_are_noticed(home):
    with candidate(home, lambda rows: with_column(rows, "passage_id", rows["passage_id"][::-1])) as b:
        check_count_equal(b)
        with pytest.raises(Mismatch, match="not the snapshot's"):
            check_keys_equal(b)


def test_vectors_of_other_passages_are_noticed(home):
    with candidate(home, lambda rows: with_column(rows, "vector", column(np.roll(vectors(rows), 1, axis=0)))) as broken:
        check_keys_equal(broken)
        with pytest.raises(Mismatch, match="does not find itself"):
            check_passages_find_themselves(broken)


def test_vectors_that_are_a_little_off_are_noticed(home):
    noise = 0.08 * np.random.default_rng(0).standard_normal((200, DIMENSION))

    def changed(rows):
        return with_column(rows, "vector", column(vectors(rows) + noise))

    with (
        candidate(home, changed) as broken,
        pytest.raises(Mismatch, match=r"not what the encoder makes of its text|does not find itself"),
    ):
        check_passages_find_themselves(broken)


def test_scaled_vectors_do_not_pass_for_the_encoders(home):
    def changed(rows):
        return with_column(rows, "vector", column(vectors(rows) * 0.5))

    with candidate(home, changed) as broken, pytest.raises(Mismatch, match="not what the encoder makes"):
        check_passages_find_themselves(broken)


def test_another_encoder_is_refused_by_its_fingerprint(home):
    other = HashingEncoder(encoder_of(home, seed=2).path)
    with candidate(home, encoder=other) as broken, pytest.raises(Mismatch, match="holds vectors of"):
        check_identity_kept(broken)


def test_a_property_that_is_not_the_manifests_is_refused(home):
    with candidate(home) as whole:
        other = replace(whole, identity=whole.identity.model_copy(update={"snapshot": "another"}))
        with pytest.raises(Mismatch, match="property snapshot"):
            check_identity_kept(other)


def test_an_index_that_finds_too_little_is_refused(home):
    # A collection of one half of the vectors, twice: exact search over the shards finds the other half.
    def halved(rows):
        return with_column(
            rows, "vector", column(np.tile(vectors(rows)[:100], (2, 1)) * np.r_[[1] * 100, [-1] * 100][:, None])
        )

    with candidate(home, halved) as broken, pytest.raises(Mismatch, match="below \\[milvus\\] min_recall"):
        check_recall_enough(broken)


def test_equal_passages_may_find_each_other(home):
    rows = texts(40)
    rows += [{**row, "passage_id": f"twin{i}"} for i, row in enumerate(rows)]
    encoder, snapshot = encoder_of(home), snapshot_of(home, rows)
    parts = Parts(encoder, embeddings_of(home, encoder, snapshot), snapshot, MilvusSettings(), HashingEncoder)
    milvus = EmbeddedMilvus(home)
    milvus.build(parts.identity(GENERATION), paired(snapshot, parts.embeddings, 64))
    with closing(milvus.open(GENERATION.collection)) as reader:
        identity = parts.identity(GENERATION)
        verify(Candidate(reader, identity, snapshot, parts.embeddings, HashingEncoder(encoder.path), parts.settings))


def test_vectors_without_unit_length_and_every_index_pass(home):
    for index in ("FLAT", "IVF_FLAT", "HNSW"):
        settings = MilvusSettings(index=index, batch_rows=64, min_recall=0.8)
        assert release_night(home, unit=False, settings=settings).release == served(home)


def lying(home, change):
    encoder, snapshot = encoder_of(home, 2), snapshot_of(home, texts())
    return embeddings_of(home, encoder, snapshot, change(vectors_of(encoder, snapshot)))


def shard(embeddings, rank=1):
    return embeddings.path / f"shard-{rank:05d}-of-00003.parquet"


def rewrite(file, change):
    pq.write_table(change(pq.read_table(file)), file)


def reversed_ids(table):
    return table.set_column(0, "passage_id", table["passage_id"][::-1])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: rewrite(file, lambda table: table.slice(1)), "row 66: passage_id 'p0067'"),
        (lambda file: rewrite(file, reversed_ids), "belong to other passages"),
        (lambda file: file.write_bytes(file.read_bytes()[:500]), "not a whole Parquet file"),
        (lambda file: file.unlink(), "2 shards, the receipt says 3"),
    ],
    ids=["missing row", "shuffled ids", "truncated shard", "missing shard"],
)
def test_broken_shards_never_go_live(home, harm, reason):
    before = release_night(home, seed=1)
    encoder, snapshot = encoder_of(home, 2), snapshot_of(home, texts())
    embeddings = embeddings_of(home, encoder, snapshot)
    harm(shard(embeddings))
    with pytest.raises(Mismatch, match=reason):
        release_night(home, seed=2, embeddings=embeddings)
    assert served(home) == before.release


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda made: np.where(np.arange(len(made))[:, None] == 150, np.nan, made),
            "row 150: the vector is not finite",
        ),
        (lambda made: made[::-1], "does not find itself"),
    ],
    ids=["NaN", "shuffled vectors"],
)
def test_wrong_vectors_never_go_live(home, change, reason):
    before = release_night(home, seed=1)
    with pytest.raises(Mismatch, match=reason):
        release_night(home, seed=2, embeddings=lying(home, change))
    assert served(home) == before.release


def test_vectors_of_another_encoder_never_go_live(home):
    before = release_night(home, seed=1)
    foreign = vectors_of(encoder_of(home, 3), snapshot_of(home, texts()))
    with pytest.raises(Mismatch, match="does not find itself"):
        release_night(home, seed=2, embeddings=lying(home, lambda made: foreign))
    with pytest.raises(Mismatch, match="embed this snapshot with this encoder"):
        release_night(home, seed=2, embeddings=embeddings_of(home, encoder_of(home, 1), snapshot_of(home, texts())))
    assert served(home) == before.release


def test_an_id_longer_than_milvus_holds_is_named(home):
    encoder = encoder_of(home)
    snapshot = snapshot_of(home, [*texts(5), {"passage_id": "é" * 32_768, "title": "", "text": "lamp"}])
    with pytest.raises(BadInput, match="row 5 of the snapshot"):
        list(paired(snapshot, embeddings_of(home, encoder, snapshot), 4))


def test_a_collection_that_is_no_release_is_refused():
    with pytest.raises(Mismatch, match="do not name a release"):
        Identity.read("other", {"owner": "someone"})


def test_a_damaged_directory_is_an_error_and_not_an_empty_answer(home):
    release = release_night(home)
    for file in (home / "milvus").rglob("schema.json"):
        file.write_text("{")
    with pytest.raises(NightshiftError, match="does not load"):
        EmbeddedMilvus(home).open(release.collection)
