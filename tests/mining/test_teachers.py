"""Teacher scores: of a blend, a cross-encoder, and another encoder; and the check that refuses a bad teacher."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import core_night
import numpy as np
import pyarrow.parquet as pq
import pytest
from small_cross_encoder import save_model
from small_models import made
from small_training import small_settings, stories
from things_and_traits import write_collection

from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Run
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.sections.mining import CrossEncoderSettings, MiningSettings, TeacherSettings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.evaluation.choose_teacher import choose_teacher
from tasks.core.mining.check_teacher import CheckedPairs, CheckedTeacher
from tasks.core.mining.mine import mine
from tasks.core.mining.teachers import ScorerOf, cross_encoder_teacher, encoder_teacher
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.training_queries import training_search
from tasks.core.snapshot.reader import judged, passages
from tasks.core.training.mine_only import mine_source
from tasks.core.training.trainer import base_encoder

BLEND = MiningSettings(heap_mb=256, threads=1, per_query=3, margin=1, teacher=TeacherSettings(source="blend"))


class Teaching:
    """A snapshot of 60 passages, an encoder with random weights, and BM25's run of the training queries."""

    def __init__(self, home: Path, model: Path) -> None:
        settings = small_settings(home, model)
        self.home, self.snapshot = home, stories(home)
        self.encoder: Encoder = base_encoder(home, self.snapshot, settings.encoder, settings.embedding)
        self.vectors: Embeddings = gather_shards(home, self.encoder, self.snapshot, 1)
        self.queries = judged(self.snapshot, "train")
        self.run: Run = search_bm25(home, build_index(home, self.snapshot, BLEND), self.queries, 50, BLEND)

    def teacher(self, mining: MiningSettings = BLEND) -> CheckedTeacher:
        teacher = choose_teacher(
            self.home, self.encoder, self.vectors, self.snapshot, mining, EvaluationSettings(ranking="dense")
        )
        assert teacher is not None
        return teacher

    def mine(self, teacher: CheckedTeacher | None, mining: MiningSettings = BLEND) -> Negatives:
        _, vectors = training_search(self.home, self.snapshot, self.encoder, self.vectors, 50)
        return mine(self.home, self.snapshot, [("bm25", self.run)], self.vectors, vectors, 0, mining, teacher)

    def texts(self) -> list[str]:
        return [text for batch in passages(self.snapshot) for text in batch["text"].to_pylist()]


@pytest.fixture(scope="module")
def teaching(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Teaching:
    return Teaching(tmp_path_factory.mktemp("teaching") / "home", tiny_model)


def test_a_blend_weighs_the_true_scores_of_both_retrievers(teaching: Teaching) -> None:
    teacher = teaching.teacher().teacher
    weight, dense_scale, lexical_scale = (teacher.key[name] for name in ("weight", "dense_scale", "lexical_scale"))
    assert weight == 0.75  # too few dev queries to tune, and [evaluation] ranking does not apply to teachers
    encoder = load_encoder(teaching.encoder.path)
    query_vectors = encoder.encode_queries(teaching.queries["text"].to_pylist())
    passage_vectors = encoder.encode_passages(teaching.texts())
    hits = pq.read_table(teaching.run.path / "run.parquet").to_pylist()
    bm25 = {(hit["query_id"], hit["passage_id"]): hit["score"] for hit in hits}
    query_ids = teaching.queries["query_id"].to_pylist()
    passage_ids = [name for batch in passages(teaching.snapshot) for name in batch["passage_id"].to_pylist()]
    pairs = [(query, passage) for query in (30, 0, 7) for passage in (59, 3, 21, 0)]
    expected = [
        0.75 * float(query_vectors[query] @ passage_vectors[passage]) / dense_scale
        + 0.25 * bm25.get((query_ids[query], passage_ids[passage]), 0.0) / lexical_scale
        for query, passage in pairs
    ]
    score = teacher.load()(teaching.queries, query_vectors)
    query_rows, passage_rows = np.array(pairs).T
    assert score(query_rows, passage_rows).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_cross_encoder_teaches_with_log_odds(teaching: Teaching, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    for classes in (1, 2):
        folder = save_model(tmp_path / f"model-{classes}", classes)
        teacher = cross_encoder_teacher(teaching.snapshot, CrossEncoderSettings(model=str(folder), tokens=16))
        score = teacher.load()(teaching.queries, np.zeros((36, 2), np.float32))
        rows = np.array([5, 2, 5]), np.array([1, 40, 7])
        texts, queries = teaching.texts(), teaching.queries["text"].to_pylist()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        expected = []
        for query, passage in zip(*(row.tolist() for row in rows), strict=True):
            with torch.inference_mode():
                encoded = tokenizer(queries[query], texts[passage], truncation=True, max_length=16, return_tensors="pt")
                logits = model(**encoded).logits[0].tolist()
            expected.append(logits[0] if classes == 1 else logits[1] - logits[0])
        assert score(*rows).tolist() == pytest.approx(expected, abs=1e-4)


def test_another_encoder_teaches_with_its_inner_products(teaching: Teaching, tiny_model: Path, tmp_path: Path) -> None:
    larger = made("bert", tiny_model, tmp_path / "larger", hidden=64)
    settings = TeacherSettings(source="encoder", model=str(larger), query_prompt="find ", passage_tokens=24)
    teacher = encoder_teacher(teaching.snapshot, settings)
    score = teacher.load()(teaching.queries, np.zeros((36, 2), np.float32))
    student = small_settings(tmp_path / "home", larger)
    encoder = student.encoder.model_copy(update={"query_prompt": "find "})
    model = load_encoder(base_encoder(tmp_path / "home", teaching.snapshot, encoder, student.embedding).path)
    rows = np.array([5, 2, 5, 5]), np.array([1, 40, 7, 1])
    queries = model.encode_queries(teaching.queries["text"].to_pylist())
    expected = (queries[rows[0]] * model.encode_passages(teaching.texts())[rows[1]]).sum(axis=1)
    assert score(*rows).tolist() == pytest.approx(expected.tolist(), abs=2e-5)
    other_prompt = encoder_teacher(teaching.snapshot, settings.model_copy(update={"query_prompt": ""}))
    assert other_prompt.key != teacher.key
    with pytest.raises(NightshiftError, match=r"\[mining.teacher\] model"):
        encoder_teacher(teaching.snapshot, settings.model_copy(update={"model": str(tmp_path)}))


def test_mining_writes_the_scores_of_a_better_teacher(teaching: Teaching, caplog: pytest.LogCaptureFixture) -> None:
    teacher = teaching.teacher()
    with caplog.at_level(logging.INFO, "nightshift.mining"):
        negatives = teaching.mine(teacher)
    check = negatives.teacher
    assert check is not None
    assert check.accepted
    assert check.accuracy == 1 > check.encoder_accuracy  # the encoder has random weights
    assert (check.split, check.queries) == ("train", 36)
    assert check.summary in caplog.messages
    mined = pq.read_table(negatives.path / "negatives.parquet")
    assert mined.num_rows > 36
    vectors = load_encoder(teaching.encoder.path).encode_queries(teaching.queries["text"].to_pylist())
    score = teacher.teacher.load()(teaching.queries, vectors)
    rows = {name: row for row, name in enumerate(teaching.queries["query_id"].to_pylist())}
    ids = [name for batch in passages(teaching.snapshot) for name in batch["passage_id"].to_pylist()]
    for file in ("negatives.parquet", "positives.parquet"):
        table = pq.read_table(negatives.path / file)
        query = np.array([rows[name] for name in table["query_id"].to_pylist()])
        passage = np.array([ids.index(name) for name in table["passage_id"].to_pylist()])
        np.testing.assert_array_equal(table["teacher_score"].to_numpy(), score(query, passage))
    positives = pq.read_table(negatives.path / "positives.parquet")
    assert positives["passage_id"].to_pylist() == ["p" + name[1:] for name in positives["query_id"].to_pylist()]
    plain = teaching.mine(None)
    assert plain.digest != negatives.digest
    assert plain.teacher is None
    untaught = pq.read_table(plain.path / "negatives.parquet")
    assert mined.drop_columns(["teacher_score"]).equals(untaught)  # a teacher chooses no negatives
    assert sorted(path.name for path in plain.path.glob("*.parquet")) == ["negatives.parquet"]


def test_mining_without_a_night_has_the_scores_of_the_teacher_too(tiny_model: Path, tmp_path: Path) -> None:
    settings = core_night.small_settings(tmp_path / "home", write_collection(tmp_path / "source", 40), tiny_model)
    _, negatives = mine_source(settings.model_copy(update={"mining": BLEND}))
    assert negatives.teacher is not None
    assert negatives.teacher.accepted
    assert pq.read_table(negatives.path / "negatives.parquet")["teacher_score"].null_count == 0


@pytest.mark.parametrize("harm", [np.negative, np.zeros_like], ids=["negated", "constant"])
def test_a_bad_teacher_does_not_teach(
    teaching: Teaching, harm: Callable[[np.ndarray], np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    good = teaching.teacher()
    scorer_of = good.teacher.load()

    def load() -> ScorerOf:
        return lambda queries, vectors: lambda *rows: harm(scorer_of(queries, vectors)(*rows))

    bad = replace(good, teacher=replace(good.teacher, load=load, key={"harm": harm.__name__}))
    negatives = teaching.mine(bad)
    check = negatives.teacher
    assert check is not None
    assert not check.accepted
    assert check.accuracy == (0.5 if harm is np.zeros_like else pytest.approx(0, abs=0.1))
    assert "does not teach" in caplog.text
    assert "teacher_score" not in pq.read_schema(negatives.path / "negatives.parquet").names
    assert not (negatives.path / "positives.parquet").exists()


def test_accuracy_and_spread_of_a_small_example() -> None:
    ranked_query, ranked_passage = np.array([0, 0, 0, 2]), np.array([5, 6, 7, 7])
    pairs = CheckedPairs.of(ranked_query, ranked_passage, np.array([0, 0, 1]), np.array([5, 9, 3]))
    assert list(zip(pairs.query.tolist(), pairs.passage.tolist(), strict=True)) == [
        *((0, 5), (0, 9), (1, 3)),  # positives; passage 5 is also ranked
        *((0, 6), (0, 7), (2, 7)),
    ]
    scores = np.array([3.0, 1.0, 0.0, 2.0, 1.0, 8.0])
    # Query 0: positive 5 beats both others; positive 9 loses to passage 6 and ties with 7. The others have no pair.
    assert len(pairs.other) == 4
    assert pairs.accuracy(scores) == (1 + 1 + 0 + 0.5) / 4
    deviations = np.array([3, 1, 2, 1]) - 7 / 4  # queries 1 and 2 have a single score
    assert pairs.spread(scores) == pytest.approx(np.sqrt((deviations**2).sum() / 6), rel=1e-3)


def test_a_teacher_needs_the_encoder_that_mines(teaching: Teaching) -> None:
    with pytest.raises(Mismatch, match="give its embeddings"):
        mine(teaching.home, teaching.snapshot, [("bm25", teaching.run)], None, None, 0, BLEND, teaching.teacher())


def test_settings_name_a_complete_teacher() -> None:
    with pytest.raises(ValueError, match=r"needs \[mining.cross_encoder\] model"):
        MiningSettings.model_validate({"teacher": {"source": "cross-encoder"}})
    with pytest.raises(ValueError, match="belong together"):
        MiningSettings.model_validate({"teacher": {"source": "encoder"}})
    with pytest.raises(ValueError, match="belong together"):
        MiningSettings.model_validate({"teacher": {"model": "folder"}})
