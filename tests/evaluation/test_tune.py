"""The weight of a release's ranking is chosen on dev queries; a hybrid ranking that does not pay is not chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_world import small_world
from mining_world import write_embeddings
from release_receipts import release_receipt
from small_snapshot import Qrel, snapshot_of
from things_and_traits import THINGS, TRAITS

from tasks.core.base.files import produce
from tasks.core.base.ranking import DENSE, Mode, Ranking
from tasks.core.base.receipts import ArmScores
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.evaluation.evaluate import read_run
from tasks.core.evaluation.measures import per_query
from tasks.core.evaluation.tune import DEFAULT_WEIGHT, MIN_QUERIES, WEIGHTS, Tuned, keep_ranking, tune, tune_ranking
from tasks.core.retrieval.arms import Arms, fused_run, score_arms
from tasks.core.retrieval.own_passages import leave_out_self
from tasks.core.retrieval.postings import build_postings
from tasks.core.retrieval.runs import LazyVectors
from tasks.core.snapshot.reader import queries

QUERIES, PASSAGES, DEPTH, GRADES = 80, 150, 25, 5


@dataclass(frozen=True)
class World:
    """Scores of random vectors and of BM25 for 80 queries. Their ids are those of the first 80 passages."""

    home: Path
    scores: ArmScores

    @property
    def arms(self) -> Arms:
        return Arms(self.scores)

    def best(self, weight: float, count: int = QUERIES) -> pa.Table:
        """Qrels of the first queries: the best passages of this weight, with relevance 5 to 1."""
        run = read_run(fused_run(self.home, self.scores, Ranking(weight=weight), GRADES))
        names = sorted(set(run["query_id"].to_pylist()))[:count]
        rows = [row for row in run.to_pylist() if row["query_id"] in names]
        relevance = [GRADES + 1 - row["rank"] for row in rows]
        columns = {name: [row[name] for row in rows] for name in ("query_id", "passage_id")}
        return pa.table({**columns, "relevance": relevance})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(tmp_path_factory.mktemp("tune"), QUERIES)


def world_in(home: Path, count: int) -> World:
    random = np.random.default_rng(0)
    ids = [f"p{number:03d}" for number in range(PASSAGES)]
    texts = {name: " ".join(f"w{word}" for word in random.integers(0, 40, 12)) for name in ids}
    wordings = {name: " ".join(f"w{word}" for word in random.integers(0, 40, 4)) for name in ids[:count]}
    snapshot = snapshot_of(home, texts, wordings)
    vectors, query_vectors = (random.standard_normal((rows, 4)).astype(np.float32) for rows in (PASSAGES, count))
    query_vectors[::3] = vectors[: len(query_vectors[::3])]
    embeddings = write_embeddings(home / "vectors", ids, vectors, snapshot.digest, group=50)
    postings = build_postings(home, snapshot, "en", "porter")
    ranking = Ranking(postings=postings.digest)
    lazy = LazyVectors("v", lambda: query_vectors)
    return World(home, score_arms(home, queries(snapshot), lazy, embeddings, postings, ranking, DEPTH))


@pytest.mark.parametrize("weight", [0.2, 0.4, 0.7])
def test_the_planted_weight_is_chosen(world: World, weight: float) -> None:
    tuning = tune(world.arms, world.best(weight), DENSE)
    assert tuning.weight == weight
    assert tuning.queries == QUERIES
    assert tuning.ndcg[list(WEIGHTS).index(weight)] == pytest.approx(1)
    assert "hybrid gains +" in tuning.why


@pytest.mark.parametrize(("weight", "mode", "name"), [(1.0, Mode.DENSE, "dense"), (0.0, Mode.LEXICAL, "BM25")])
def test_one_retriever_ranks_alone_where_the_other_is_useless(
    world: World, weight: float, mode: Mode, name: str
) -> None:
    tuning = tune(world.arms, world.best(weight), DENSE)
    assert Ranking(weight=tuning.weight).mode is mode
    assert f"over {name} alone" in tuning.why


def test_ndcg_of_every_weight_is_that_of_the_evaluation(world: World) -> None:
    qrels = world.best(0.5)
    tuning = tune(world.arms, qrels, DENSE)
    for weight, ndcg in zip(WEIGHTS, tuning.ndcg, strict=True):
        run = read_run(fused_run(world.home, world.scores, Ranking(weight=float(weight)), DEPTH))
        assert ndcg == pytest.approx(per_query(run, qrels)["ndcg@10"].to_numpy().mean(), abs=1e-12)


def test_the_own_passage_of_a_query_is_left_out_as_in_the_evaluation(world: World) -> None:
    qrels = world.best(0.5)
    own = pa.table({"query_id": [f"p{n:03d}" for n in range(QUERIES)], "relevance": [9] * QUERIES})
    qrels = pa.concat_tables([qrels, own.append_column("passage_id", own["query_id"]).select(qrels.column_names)])
    tuning = tune(world.arms, qrels, DENSE, leave_out_self=True)
    for weight, ndcg in zip(WEIGHTS[::4], tuning.ndcg[::4], strict=True):
        run = leave_out_self(
            world.home, fused_run(world.home, world.scores, Ranking(weight=float(weight)), DEPTH), DEPTH
        )
        assert ndcg == pytest.approx(per_query(read_run(run), qrels)["ndcg@10"].to_numpy().mean(), abs=1e-12)
    assert tuning.ndcg != tune(world.arms, qrels, DENSE).ndcg


def test_few_queries_get_the_default_weight(tmp_path: Path) -> None:
    for count in (MIN_QUERIES - 1, MIN_QUERIES):
        few = world_in(tmp_path / str(count), count)
        tuning = tune(few.arms, few.best(0.2), DENSE)
        assert tuning.queries == count
        assert (tuning.weight == DEFAULT_WEIGHT) == (count < MIN_QUERIES)
        assert ("too few" in tuning.why) == (count < MIN_QUERIES) == (tuning.ndcg == ())


def written_arms(home: Path, passages: Sequence[tuple[str, float, float]], count: int) -> Arms:
    """Store the same passages (id, dense score, BM25 score) for each of `count` queries."""

    def build(folder: Path) -> dict[str, int]:
        names, dense, lexical = zip(*passages, strict=True)
        size = len(passages)
        columns = {
            "query": np.repeat(np.arange(count), size),
            "query_id": np.repeat([f"q{number:03d}" for number in range(count)], size),
            "row": np.tile(np.arange(size), count),
            "passage_id": np.tile(names, count),
            "dense": np.tile(np.array(dense, np.float32), count),
            "lexical": np.tile(np.array(lexical, np.float32), count),
            "in_dense": np.ones(size * count, bool),
            "in_lexical": np.ones(size * count, bool),
            "bound": np.ones(size * count),
        }
        pq.write_table(pa.table(columns), folder / "arms.parquet")
        return {"rows": size * count, "queries": count, "depth": size}

    return Arms(produce(home, ArmScores, {"count": count}, build))


def judgments(count: int, passage: str) -> pa.Table:
    return pa.table(
        {
            "query_id": [f"q{number:03d}" for number in range(count)],
            "passage_id": [passage] * count,
            "relevance": [1] * count,
        }
    )


def test_the_default_is_chosen_among_equally_good_weights(tmp_path: Path) -> None:
    """Passage `both` is second for each retriever alone, and first for every hybrid weight."""
    arms = written_arms(tmp_path, [("dense", 1, 0), ("both", 0.99, 9.9), ("lexical", -1, 10)], 40)
    tuning = tune(arms, judgments(40, "both"), DENSE)
    assert set(tuning.ndcg[1:-1]) == {1.0}
    assert tuning.ndcg[0] == tuning.ndcg[-1] < 1
    assert tuning.weight == DEFAULT_WEIGHT


def test_a_hybrid_ranking_without_gain_is_not_chosen(tmp_path: Path) -> None:
    arms = written_arms(tmp_path, [("good", 1, 10), ("bad", 0, 1)], 40)
    tuning = tune(arms, judgments(40, "good"), DENSE)
    assert set(tuning.ndcg) == {1.0}
    assert Ranking(weight=tuning.weight).mode is Mode.DENSE


TEXTS = {f"p{n:02d}": f"the {trait} {thing}" for n, (trait, thing) in enumerate((t, w) for t in TRAITS for w in THINGS)}
WORDINGS = {name.replace("p", "q"): f"where was {text} seen" for name, text in TEXTS.items()}
DEV: list[Qrel] = [(f"q{n:02d}", f"p{n:02d}", "dev") for n in range(40)]
TRAIN: list[Qrel] = [("q59", "p59", "train")]
TEST: list[Qrel] = [(f"q{n:02d}", f"p{n:02d}", "test") for n in range(40, 59)]


def tuned(home: Path, model: Path, qrels: Sequence[Qrel], ranking: str = "tuned") -> Tuned:
    world = small_world(home, model, TEXTS, WORDINGS, qrels)
    mining = world.settings.mining
    postings = build_postings(home, world.snapshot, mining.language, mining.stemmer)
    settings = EvaluationSettings.model_validate({"ranking": ranking})
    result = tune_ranking(home, world.encoder, world.embeddings, world.snapshot, postings, mining, settings)
    assert result.ranking.postings == postings.digest
    assert (result.ranking.stemmer, result.ranking.k1, result.ranking.b) == (mining.stemmer, mining.k1, mining.b)
    return result


def test_a_setting_fixes_the_mode(tiny_model: Path, tmp_path: Path) -> None:
    qrels = [*TRAIN, *DEV, *TEST]
    free = tuned(tmp_path, tiny_model, qrels)
    assert free.ranking.mode is Mode.LEXICAL  # the encoder's weights are random
    for mode in Mode:
        fixed = tuned(tmp_path, tiny_model, qrels, mode.value)
        assert fixed.ranking.mode is mode
    assert "[evaluation] ranking" in tuned(tmp_path, tiny_model, qrels, "lexical").tuning.why
    assert free.tuning.ndcg[0] > free.tuning.ndcg[-1] + 0.2


def test_the_test_split_is_never_read(tiny_model: Path, tmp_path: Path) -> None:
    whole = tuned(tmp_path / "whole", tiny_model, [*TRAIN, *DEV, *TEST])
    without = tuned(tmp_path / "without", tiny_model, [*TRAIN, *DEV])
    wrong = [(query, "p00", "test") for query, *_ in TEST]
    other = tuned(tmp_path / "other", tiny_model, [*TRAIN, *DEV, *wrong])
    assert whole.tuning == without.tuning == other.tuning


def test_without_dev_queries_the_weight_is_the_default(tiny_model: Path, tmp_path: Path) -> None:
    result = tuned(tmp_path, tiny_model, [*TRAIN, *TEST])
    assert result.ranking.weight == result.tuning.weight == DEFAULT_WEIGHT
    assert "no dev queries" in result.tuning.why


def test_a_refresh_keeps_the_ranking_until_the_settings_require_another(tmp_path: Path) -> None:
    before, after = (snapshot_of(tmp_path, {"p0": "a fox", "p1": text}, {"q0": "fox"}) for text in ("a dog", "a cat"))
    ranking = Ranking(postings=build_postings(tmp_path, before, "en", "porter").digest, weight=0.35, dense_scale=2)
    hybrid, free = (EvaluationSettings.model_validate({"ranking": name}) for name in ("hybrid", "tuned"))
    recorded = {"evaluation.ranking": "tuned"}

    def kept(served: Ranking, settings: dict[str, object], wanted: EvaluationSettings) -> Tuned | None:
        return keep_ranking(tmp_path, release_receipt(ranking=served, settings=settings), after, wanted)

    for settings in (recorded, {}):  # releases of earlier versions have no settings
        same = kept(ranking, settings, free)
        assert same is not None
        new_postings = build_postings(tmp_path, after, "en", "porter").digest
        assert same.ranking == ranking.model_copy(update={"postings": new_postings}) != ranking
        assert (same.tuning.weight, same.tuning.ndcg) == (0.35, ())
        assert "r0001" in same.tuning.why
    assert kept(ranking, recorded, hybrid) is None  # the setting changed
    assert kept(ranking.model_copy(update={"weight": 1.0}), {}, hybrid) is None  # another mode
    assert kept(DENSE, recorded, free) is None  # no lexical index
