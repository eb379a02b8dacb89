from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from pydantic import ValidationError
from release_fixtures import everywhere
from release_world import release_night, served, with_milvus

from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.base.sections.indexes import BUILD, EVERYWHERE, build_params, search_params
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.base.settings_file import load_settings
from tasks.core.release.prune import prune
from tasks.core.release.vector_stores import open_publisher

ON_GPUS = {index for index in BUILD if index.startswith("GPU_")}
SERVER = "http://127.0.0.1:19530"


def test_collections_that_milvus_lite_cannot_load_are_refused_before_the_build():
    for index in set(BUILD) - set(EVERYWHERE):
        with pytest.raises(ValidationError, match="needs a Milvus server"):
            MilvusSettings(index=index)
        assert MilvusSettings(index=index, uri=SERVER).index == index


def test_parameters_of_another_index_type_are_refused():
    with pytest.raises(ValidationError, match="nlist is no parameter of HNSW; it has M, efConstruction"):
        MilvusSettings(index="HNSW", index_params={"nlist": 8})
    with pytest.raises(ValidationError, match="ef is no parameter of FLAT; it has none"):
        MilvusSettings(search_params={"ef": 8})


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(ValidationError, match="NIGHTSHIFT_MILVUS__TOKEN") as error:
        MilvusSettings(uri="http://root:Sesame42@127.0.0.1:19530")
    assert "Sesame42" not in str(error.value.errors(include_input=False))


def test_the_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("NIGHTSHIFT_MILVUS__TOKEN", "root:Sesame42")
    milvus = load_settings().milvus
    assert milvus.token.get_secret_value() == "root:Sesame42"
    assert "Sesame42" not in repr(milvus)


def test_given_index_parameters_are_used_and_defaults_fit_the_collection():
    assert build_params("IVF_FLAT", 10_000, 384, {}) == {"nlist": 100}
    assert build_params("IVF_FLAT", 390, 384, {}) == {"nlist": 10}
    assert build_params("HNSW", 10_000, 384, {"M": 32}) == {"M": 32, "efConstruction": 200}
    assert build_params("IVF_PQ", 10_000, 100, {}) == {"nlist": 100, "m": 50, "nbits": 8}
    assert build_params("IVF_PQ", 10_000, 7, {})["m"] == 1
    assert search_params("IVF_FLAT", 10, {"nlist": 100}, {}) == {"nprobe": 25}
    assert search_params("IVF_FLAT", 10, {"nlist": 8}, {"nprobe": 64}) == {"nprobe": 8}
    assert search_params("HNSW", 100, {}, {"ef": 64}) == {"ef": 200}
    assert search_params("DISKANN", 500, {}, {}) == {"search_list": 500}
    assert build_params("GPU_CAGRA", 10_000, 384, {"graph_degree": 16}) == {
        "intermediate_graph_degree": 64,
        "graph_degree": 16,
    }
    assert search_params("GPU_CAGRA", 200, {}, {"search_width": 8}) == {"itopk_size": 200, "search_width": 8}


def test_other_index_parameters_make_another_release_of_the_same_artifacts(settings):
    coarse = release_night(with_milvus(settings, index="HNSW", index_params={"M": 8}), seed=1)
    fine = release_night(with_milvus(settings, index="HNSW", index_params={"M": 32}), seed=1)
    assert coarse.digest != fine.digest
    assert (
        open_publisher(settings.home, settings.milvus).identity(fine.collection).index_params
        == '{"M": 32, "efConstruction": 200}'
    )


@pytest.mark.parametrize("settings", ["lite"], indirect=True)
def test_an_index_that_the_server_lacks_never_goes_live(settings):
    before = release_night(settings, seed=1)
    with pytest.raises(NightshiftError):
        release_night(with_milvus(settings, index="SCANN"), seed=2)
    assert served(settings) == before.release
    assert len(prune(settings)) == 1


@pytest.mark.parametrize("settings", ["lite", pytest.param("server", marks=pytest.mark.slow)], indirect=True)
def test_a_publication_waits_longer_for_its_test_searches_than_users_wait(settings):
    hasty = with_milvus(settings, query_seconds=1e-6)
    release = release_night(hasty)
    with closing(open_publisher(hasty.home, hasty.milvus).open(release.collection)) as reader:
        assert reader.count() == release.rows
        with pytest.raises(Unreachable, match="Deadline"):
            reader.search(np.ones((2000, reader.identity.dimension), np.float32), 100)  # takes a while


@pytest.mark.slow
@pytest.mark.parametrize("index", sorted(set(BUILD) - set(EVERYWHERE) - ON_GPUS))
@pytest.mark.parametrize("settings", ["server"], indirect=True)
def test_every_index_of_a_server_serves(settings, index):
    served_by = with_milvus(settings, index=index, min_recall=0.5)
    release = release_night(served_by)
    assert (served(served_by), release.recall >= 0.5) == (release.release, True)


@everywhere
def test_a_release_that_lost_most_passages_is_refused_before_the_build(settings, monkeypatch):
    before = release_night(settings, seed=1)
    strict = with_milvus(settings, max_shrink=0)
    monkeypatch.setattr("release_world.PASSAGES", 199)
    monkeypatch.setattr("release_world.texts.__defaults__", (199, ""))
    with pytest.raises(NightshiftError, match=r"199 passages, but the serving release .* has 200"):
        release_night(strict, seed=2)
    assert served(settings) == before.release
    assert release_night(settings, seed=2).rows == 199
