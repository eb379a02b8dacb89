from __future__ import annotations

from contextlib import closing

import pytest
from release_fixtures import everywhere
from release_world import HashingEncoder, release_night, served, with_milvus

from tasks.core.base.errors import NightshiftError
from tasks.core.release.milvus.collection import connect
from tasks.core.release.reindex import reindex
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher


@everywhere
def test_another_index_is_another_release_of_the_same_encoder_and_vectors(settings):
    first = release_night(settings, seed=1)
    other = with_milvus(settings, index="HNSW", index_params={"M": 8})
    second = reindex(other, "a quicker index", HashingEncoder)
    assert served(other) == second.release != first.release
    assert (second.encoder, second.embeddings, second.snapshot) == (first.encoder, first.embeddings, first.snapshot)
    assert (second.metrics, second.reason) == (first.metrics, "a quicker index")
    assert open_publisher(other.home, other.milvus).identity(second.collection).index == "HNSW"


def test_an_undamaged_collection_with_the_same_index_is_kept(settings):
    first = release_night(settings, seed=1)
    assert reindex(settings, "again", HashingEncoder).collection == first.collection
    assert served(settings) == first.release


@pytest.mark.parametrize("settings", ["lite", pytest.param("server", marks=pytest.mark.slow)], indirect=True)
def test_a_damaged_collection_is_replaced(settings):
    first = release_night(settings, seed=1)
    with closing(connect(settings.milvus.uri)) as client:
        client.delete(first.collection, filter="row == 3")
    second = reindex(settings, "damaged", HashingEncoder)
    assert second.collection != first.collection
    assert served(settings) == second.release
    with Searcher.open(settings, loader=HashingEncoder) as searcher:
        assert searcher.search(["lamp river"], 3)[0].release == second.release


def test_before_the_first_release_there_is_nothing_to_reindex(settings):
    with pytest.raises(NightshiftError, match="nightshift run"):
        reindex(settings, "early", HashingEncoder)
