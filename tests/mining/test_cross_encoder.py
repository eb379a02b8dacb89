"""Filtering with a cross-encoder: a small model, trained to recognize texts that share a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_cross_encoder import WORDS, save_model

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.mining import CrossEncoderSettings
from tasks.core.mining.cross_encoder import CrossEncoder, cross_encoder_digest


@pytest.fixture(scope="module", params=[1, 2], ids=["one logit", "two logits"])
def trained(request, tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("cross-encoder") / "model", request.param, steps=150)


def test_scores_do_not_depend_on_the_batch(trained):
    model = CrossEncoder(trained, 16)
    pairs = [(a, " ".join([b] * repeats)) for a in WORDS for b in WORDS for repeats in (1, 3, 40)]
    together = model.probabilities(*map(list, zip(*pairs, strict=True)))
    alone = [float(model.probabilities([query], [passage])[0]) for query, passage in pairs]
    assert together.tolist() == pytest.approx(alone, abs=2e-4)
    assert all((together[row] > 0.5) == (a == b) for row, (a, b) in enumerate(pairs) if " " not in b)
    assert model.probabilities([], []).shape == (0,)


def test_candidates_scored_as_relevant_are_refused_and_the_next_is_chosen(world, trained):
    passages = {"+": "cat cat cat", "same": "cat cat", "a": "dog", "b": "owl", "c": "elk", "d": "bee"}
    settings = CrossEncoderSettings(model=str(trained), most=0.5, tokens=16)
    arguments = (
        passages, {"q": "cat"}, [("q", "+", "train")], {"bm25": {"q": ["same", "a", "+", "b", "c", "d"]}}, {"+": 1.0},
    )  # fmt: skip
    receipt, rows = world.mine(*arguments, cross_encoder=settings)
    assert [row["passage_id"] for row in rows] == ["a", "b", "c"]
    assert receipt.refused["cross_encoder"] == 1
    assert max(row["trail"]["cross_encoder"] for row in rows) <= 0.5
    assert receipt.candidates == 6 == receipt.rows + sum(receipt.refused.values()) + 1  # d was never scored
    everything, _ = world.mine(*arguments, cross_encoder=settings.model_copy(update={"most": 1.0}))
    assert everything.refused["cross_encoder"] == 0


def test_a_query_with_only_refused_candidates_gets_no_negatives(world, trained):
    settings = CrossEncoderSettings(model=str(trained), most=0.0, tokens=16)
    receipt, rows = world.mine(
        {"+": "cat", "a": "dog", "b": "owl"}, {"q": "cat"}, [("q", "+", "train")], {"bm25": {"q": ["a", "b"]}},
        {"+": 1.0}, cross_encoder=settings,
    )  # fmt: skip
    assert rows == []
    assert (receipt.starved, receipt.refused["cross_encoder"]) == (1, 2)


def test_hidden_positives_are_scored_too(world, trained):
    arguments = (
        {"one": "cat cat", "two": "cat cat cat", "n": "dog"}, {"q": "cat"},
        [("q", "one", "train"), ("q", "two", "train")], {"bm25": {"q": ["one", "n"]}}, {"one": 0.5, "two": 1.0},
    )  # fmt: skip
    settings = CrossEncoderSettings(model=str(trained), most=0.5, tokens=16)
    assert world.mine(*arguments)[0].hidden.let_through == 1
    assert world.mine(*arguments, cross_encoder=settings)[0].hidden.let_through == 0


def test_the_key_depends_on_the_weights_of_the_cross_encoder(world, trained, tmp_path_factory):
    other = save_model(tmp_path_factory.mktemp("other") / "model", 1)
    assert cross_encoder_digest(trained) != cross_encoder_digest(other)
    assert cross_encoder_digest(trained) == cross_encoder_digest(trained)


def test_a_model_without_a_classifier_is_refused(tmp_path, tiny_model, trained):
    with pytest.raises(NightshiftError, match="score at random"):
        CrossEncoder(tiny_model, 16)  # an encoder: it has no classifier
    with pytest.raises(NightshiftError, match="3 classes"):
        CrossEncoder(save_model(tmp_path / "three", 3), 16)


def test_pickled_weights_and_missing_models_are_refused(world, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(NightshiftError, match=r"mining\.cross_encoder.*safetensors"):
        world.mine(
            {"+": "p", "n": "n"}, {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": ["n"]}}, {"+": 1.0},
            cross_encoder=CrossEncoderSettings(model=str(folder)),
        )  # fmt: skip
