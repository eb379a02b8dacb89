"""Distillation on a collection whose labels miss most answers: a good teacher knows them, a bad one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_snapshot import snapshot_of
from small_training import small_settings
from things_and_traits import THINGS, TRAITS

from tasks.core.base.ranking import DENSE
from tasks.core.base.receipts import Encoder, Negatives, Snapshot
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.choose_teacher import choose_teacher
from tasks.core.evaluation.evaluate import evaluate_ranked
from tasks.core.mining.mine import mine
from tasks.core.mining.teachers import ScorerOf, Teacher
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.training_queries import training_search
from tasks.core.snapshot.reader import judged
from tasks.core.training import trainer

pytestmark = pytest.mark.slow

FORMS = ["the story of a {} {}", "{1} was seen near one {0} one", "where is a {} and {}"]
MINING = MiningSettings(heap_mb=256, threads=1, margin=1, depth=50)
STEPS = 40


class World:
    """Three passages answer each query. A test query has all three as positives, a training query one or all."""

    def __init__(self, home: Path, model: Path) -> None:
        self.home, self.settings = home, small_settings(home, model)
        self.sparse, self.complete = self.collection(labels=1), self.collection(labels=3)
        encoder, embedding = self.settings.encoder, self.settings.embedding
        self.base = trainer.base_encoder(home, self.sparse, encoder, embedding)

    def collection(self, labels: int) -> Snapshot:
        pairs = list(enumerate((trait, thing) for trait in TRAITS for thing in THINGS))
        texts = {f"p{n}-{form}": FORMS[form].format(*pair) for n, pair in pairs for form in range(3)}
        queries = {f"q{n}": f"find {' '.join(pair)}" for n, pair in pairs}
        qrels = []
        for n, _ in pairs:
            split = "train" if n % 5 < 3 else "test"
            count = labels if split == "train" else 3
            qrels += [(f"q{n}", f"p{n}-{(n + form) % 3}", split) for form in range(count)]
        return snapshot_of(self.home, texts, queries, qrels)

    def mine(self, snapshot: Snapshot, teacher: Path | None = None, *, shuffled: bool = False) -> Negatives:
        """Mine with BM25: most of its best passages are answers that the sparse labels miss."""
        home, mining = self.home, MINING
        if teacher is not None:
            section = {"source": "encoder", "model": str(teacher), "passage_tokens": 24}
            mining = MiningSettings.model_validate({**MINING.model_dump(), "teacher": section})
        run = search_bm25(home, build_index(home, snapshot, mining), judged(snapshot, "train"), mining.depth, mining)
        vectors = gather_shards(home, self.base, snapshot, 1)
        _, query_vectors = training_search(home, snapshot, self.base, vectors, mining.depth)
        checked = choose_teacher(home, self.base, vectors, snapshot, mining, EvaluationSettings())
        if shuffled and checked is not None:
            checked = replace(checked, teacher=shuffle(checked.teacher))
        return mine(home, snapshot, [("bm25", run)], vectors, query_vectors, 0, mining, checked)

    def train(self, snapshot: Snapshot, negatives: Negatives, steps: int = STEPS, **training: object) -> Encoder:
        training = {"epochs": 1000, "learning_rate": 3e-3, "hard_negatives": 8, **training}
        settings = small_settings(self.home, Path(self.settings.encoder.model), max_steps=steps, **training)
        return trainer.train(self.home, self.base, snapshot, negatives, settings)

    def ndcg(self, encoder: Encoder) -> float:
        vectors = gather_shards(self.home, encoder, self.sparse, 1)
        evaluated = evaluate_ranked(self.home, "system", encoder, vectors, self.sparse, DENSE, self.settings.evaluation)
        return evaluated.metrics["ndcg@10"]


@pytest.fixture(scope="module")
def world(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("distillation") / "home", tiny_model)


@pytest.fixture(scope="module")
def teacher(world: World) -> Encoder:
    """Train an encoder three times as long, on complete labels."""
    return world.train(world.complete, world.mine(world.complete), steps=3 * STEPS, hard_negatives=4)


@pytest.mark.parametrize(("loss", "temperature"), [("kl", 1.0), ("margin_mse", 4.0)])
def test_a_student_of_a_better_teacher_beats_a_contrastive_student(
    world: World, teacher: Encoder, loss: str, temperature: float
) -> None:
    negatives = world.mine(world.sparse, teacher.path)
    assert negatives.teacher is not None
    assert negatives.teacher.accepted
    contrastive = world.ndcg(world.train(world.sparse, negatives))
    taught = {"loss": loss, "contrastive_share": 0.2, "teacher_temperature": temperature}
    distilled = world.ndcg(world.train(world.sparse, negatives, **taught))
    assert distilled > contrastive + 0.05
    assert world.ndcg(teacher) > contrastive + 0.05


def test_a_shuffled_teacher_is_refused_and_training_is_contrastive(world: World, teacher: Encoder) -> None:
    negatives = world.mine(world.sparse, teacher.path, shuffled=True)
    assert negatives.teacher is not None
    assert not negatives.teacher.accepted
    fallback = world.train(world.sparse, negatives, loss="kl")
    contrastive = world.train(world.sparse, negatives)
    assert fallback.loss == contrastive.loss
    assert fallback.fingerprint == contrastive.fingerprint


def shuffle(teacher: Teacher) -> Teacher:
    """Return the teacher with its scores in random order."""

    def load() -> ScorerOf:
        scorer_of, random = teacher.load(), np.random.default_rng(0)
        return lambda queries, vectors: lambda *rows: random.permutation(scorer_of(queries, vectors)(*rows))

    return replace(teacher, load=load, key={**teacher.key, "shuffled": True})
