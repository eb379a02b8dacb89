from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from small_training import small_settings, stories

from tasks.core.base.files import produce
from tasks.core.base.receipts import Run, Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, start_from
from tasks.core.retrieval.runs import RUN_FILE, run_writer
from tasks.core.training.dev_evaluation import DevEvaluation, dev_evaluation
from tasks.core.training.ranks import Ranks


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path) -> DualEncoder:
    folder = tmp_path / "encoder"
    folder.mkdir()
    return start_from(tiny_model, EncoderSpec.of(small_settings(tmp_path, tiny_model).encoder, "fp32"), folder)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return stories(tmp_path / "home")


def run_of(home: Path, lines: list[tuple[str, str, int]], queries: int) -> Run:
    def build(folder: Path) -> dict[str, object]:
        with run_writer(folder) as writer:
            columns = {name: [line[place] for line in lines] for place, name in enumerate(("query_id", "passage_id"))}
            ranks = pa.array([rank for *_, rank in lines], pa.int32())
            scores = pa.array([0.0] * len(lines), pa.float32())
            writer.write_table(pa.table({**columns, "rank": ranks, "score": scores}))
        assert (folder / RUN_FILE).exists()
        return {"rows": len(lines), "queries": queries, "depth": 2}

    return produce(home, Run, {"lines": lines}, build)


def test_the_pool_has_all_positives_then_the_best_candidates_then_random_passages(
    encoder: DualEncoder, snapshot: Snapshot, tmp_path: Path
) -> None:
    settings = TrainingSettings(dev_queries=5, dev_passages=15)
    bare = dev_evaluation(snapshot, "dev", encoder, settings)
    assert bare is not None
    assert len(bare.query_ids) == 5
    answers = {f"p{query[1:]}" for query in bare.query_ids}
    assert answers < set(bare.passage_ids)
    others = [f"p{n}" for n in range(60) if f"p{n}" not in answers][:8]
    lines = [(bare.query_ids[n % 2], passage, 1 + n // 2) for n, passage in enumerate(others)]
    lines += [("q0", "p0", 1)]  # not a dev query of the sample
    run = run_of(tmp_path / "home", lines, snapshot.queries)
    full = dev_evaluation(snapshot, "dev", encoder, settings, run)
    assert full is not None
    assert answers | set(others[:5]) <= set(full.passage_ids)  # half of the ten remaining places
    assert 10 <= len(full.passage_ids) <= 15
    assert full == dev_evaluation(snapshot, "dev", encoder, settings, run)


def test_a_split_without_queries_has_no_dev_evaluation(encoder: DualEncoder, snapshot: Snapshot) -> None:
    assert dev_evaluation(snapshot, "elsewhere", encoder, TrainingSettings()) is None


def test_ndcg_is_computed_from_the_ranking_by_inner_product(encoder: DualEncoder) -> None:
    passages = ["a golden river", "the silent castle", "one falcon"]
    answers = pa.table({"query_id": ["x", "y"], "passage_id": ["p1", "p2"], "relevance": pa.array([1, 1], pa.int32())})
    at = DevEvaluation(
        ["x", "y"],
        ["p0", "p1", "p2"],
        encoder.query.tokenize(["a golden river", "one falcon"]),
        encoder.passage.tokenize(passages),
        answers,
    )
    scores = encoder.encode_queries(["a golden river"]) @ encoder.encode_passages(passages).T
    rank = 1 + int((scores[0] > scores[0, 1]).sum())  # of the positive of x; x itself ranks first
    expected = [1 / math.log2(1 + rank), 1]
    assert at.ndcg(encoder, Ranks(), nullcontext).tolist() == pytest.approx(expected)
