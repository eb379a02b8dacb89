"""Training only the query encoder: passages keep their vectors, and the release gets a new name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import made
from small_training import next_passages, stories

from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.files import file_digest
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import EncoderSpec, fingerprint, load_encoder, passage_fingerprint, start_from
from tasks.core.release.publish import publish, serving
from tasks.core.search.searcher import Searcher
from tasks.core.training import trainer

TEXTS = ["a river", "the story of one golden violin"]


def named(base: Path, folder: Path, query_base: Path | None = None, **settings: object) -> tuple[str, str]:
    """Return fingerprint and passage fingerprint of an encoder with these settings."""
    folder.mkdir()
    spec = EncoderSpec.of(EncoderSettings(**settings), "fp32")  # type: ignore[arg-type]
    start_from(base, spec, folder, query_base)
    return fingerprint(folder), passage_fingerprint(folder)


def test_the_passage_fingerprint_depends_only_on_the_passage_encoder(tiny_model: Path, tmp_path: Path) -> None:
    other = made("bert", tiny_model, tmp_path / "other")
    plain = named(tiny_model, tmp_path / "plain", shared=False)
    same = [
        named(tiny_model, tmp_path / "a", shared=False, query_prompt="find: "),
        named(tiny_model, tmp_path / "b", shared=False, query_tokens=9),
        named(tiny_model, tmp_path / "c", query_base=other, shared=False),
        named(tiny_model, tmp_path / "d", shared=True),
    ]
    different = [
        named(tiny_model, tmp_path / "e", shared=False, passage_prompt="story: "),
        named(tiny_model, tmp_path / "f", shared=False, passage_tokens=9),
        named(tiny_model, tmp_path / "g", shared=False, pooling="cls"),
        named(tiny_model, tmp_path / "h", shared=False, normalize=False),
        named(tiny_model, tmp_path / "i", shared=False, dimension=8),
        named(tiny_model, tmp_path / "j", shared=False, serve_dimension=8),
        named(other, tmp_path / "k", query_base=tiny_model, shared=False),
    ]
    assert {passage for _, passage in same} == {plain[1]}
    assert plain[1] not in {passage for _, passage in different}
    assert len({pair for pair, _ in (plain, *same, *different)}) == 12


def test_each_encoder_starts_from_its_own_base_model(tiny_model: Path, tmp_path: Path) -> None:
    other = made("distilbert", tiny_model, tmp_path / "other")
    named(tiny_model, tmp_path / "two", query_base=other, shared=False)
    named(other, tmp_path / "one")
    two, single = load_encoder(tmp_path / "two"), load_encoder(tmp_path / "one")
    np.testing.assert_array_equal(two.encode_queries(TEXTS), single.encode_queries(TEXTS))
    assert not np.allclose(two.encode_passages(TEXTS), single.encode_passages(TEXTS))


def test_base_models_of_different_widths_need_a_projection(tiny_model: Path, tmp_path: Path) -> None:
    wide = made("bert", tiny_model, tmp_path / "wide", hidden=48)
    with pytest.raises(NightshiftError, match=r"48 numbers.*32.*\n?.*dimension"):
        named(tiny_model, tmp_path / "none", query_base=wide, shared=False)
    named(tiny_model, tmp_path / "both", query_base=wide, shared=False, dimension=16)
    assert load_encoder(tmp_path / "both").encode_queries(TEXTS).shape == (2, 16)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        encoder={"model": str(tiny_model), "shared": False, "train": "query", "passage_tokens": 24},  # type: ignore[arg-type]
        training={"batch_size": 8, "max_steps": 4, "learning_rate": 1e-3, "dropout": 0.1, "evaluate_every": 0},  # type: ignore[arg-type]
        milvus={"batch_rows": 20, "samples": 8},  # type: ignore[arg-type]
    )


def released(settings: Settings, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot) -> Release:
    figures = {"ndcg@10": 0.5}
    return publish(
        settings,
        encoder=encoder,
        embeddings=embeddings,
        snapshot=snapshot,
        metrics=figures,
        bm25=figures,
        base=figures,
        previous=None,
        recipe="r",
        reason="test",
        expected_epoch=serving(settings)[1],
    )


def test_training_only_the_query_encoder_embeds_no_passage(settings: Settings) -> None:
    home, snapshot = settings.home, stories(settings.home)
    negatives = next_passages(home, snapshot)
    start = trainer.base_encoder(home, snapshot, settings.encoder, settings.embedding)
    vectors = gather_shards(home, start, snapshot, 2)
    new = trainer.train(home, start, snapshot, negatives, settings)
    weights = [
        {side: file_digest(encoder.path / side / "model.safetensors") for side in ("query", "passage")}
        for encoder in (start, new)
    ]
    assert weights[0]["passage"] == weights[1]["passage"]
    assert weights[0]["query"] != weights[1]["query"]
    assert new.fingerprint != start.fingerprint
    assert new.passage_fingerprint == start.passage_fingerprint

    named_path = settings.embedding.model_copy(update={"precision": "fp32"})
    exact = settings.model_copy(update={"embedding": named_path})
    plain = trainer.base_encoder(home, snapshot, exact.encoder, exact.embedding)
    kept = trainer.train(home, plain, snapshot, negatives, settings)  # "auto" now, but the vectors are of fp32
    assert (kept.precision, kept.passage_fingerprint) == ("fp32", plain.passage_fingerprint)

    again = gather_shards(home, new, snapshot, 2)
    assert again.reused
    assert again.digest == vectors.digest
    otherwise = gather_shards(home, new, snapshot, 3)  # a new artifact that reuses existing vectors
    assert (otherwise.embedded, otherwise.avoided, otherwise.tokens) == (0, snapshot.rows, 0)

    first = released(settings, start, vectors, snapshot)
    second = released(settings, new, again, snapshot)
    assert first.embeddings == second.embeddings
    assert (first.fingerprint, second.fingerprint) == (start.fingerprint, new.fingerprint)
    with Searcher.open(settings) as searcher:
        assert searcher.release == second.release
        assert len(searcher.search("where was the golden violin seen")[0].hits) == 10
    with pytest.raises(Mismatch, match=start.fingerprint):
        Searcher.open(settings, loader=lambda folder: load_encoder(start.path))
