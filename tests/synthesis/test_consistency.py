"""Candidates of a small collection, the consistency filter, and the snapshot with synthetic pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of
from small_training import negatives_of, small_settings

from tasks.core.base.errors import BadInput
from tasks.core.base.files import produce
from tasks.core.base.receipts import Run, Snapshot
from tasks.core.base.sections.synthetic import SyntheticSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, start_from
from tasks.core.retrieval.runs import append_run, run_writer
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.snapshot.splits import SYNTHETIC
from tasks.core.synthesis.candidates import make_candidates, read_candidates, sampled_passages
from tasks.core.synthesis.consistency import PAIRS, filter_candidates, search_depth, with_synthetic_pairs
from tasks.core.text.synthetic_queries import trains_whole
from tasks.core.training.pairs import load_pairs

STRUCTURE = SyntheticSettings(structure=True)
REST = "one story of a river and a castle near the market and the golden lantern was seen"


def collection(home: Path, count: int = 30) -> Snapshot:
    titled = [
        {"passage_id": f"p{n:02d}", "title": f"the silent falcon number {n}", "text": f"{REST} {n}"}
        for n in range(count)
    ]
    same = [{"passage_id": f"s{n}", "title": "the golden harbour", "text": f"{REST} {n} again"} for n in range(2)]
    known = [{"passage_id": "k", "title": "where is the orchid", "text": f"{REST} at last"}]
    pairs = [("q", "k", "test"), ("t", "p00", "train")]
    return snapshot_of(
        home, pa.Table.from_pylist(titled + same + known), {"q": "Where is the orchid?", "t": "a lantern"}, pairs
    )


def run_of(home: Path, name: str, candidates: Snapshot, ranked: dict[str, list[str]]) -> Run:
    """Write a run: query id -> passages, best first."""

    def build(folder: Path) -> dict[str, object]:
        hits = [(query, hit) for query, ids in ranked.items() for hit in ids]
        order = pa.table({"query_id": list(ranked)})
        rows = np.repeat(np.arange(len(ranked)), [len(ids) for ids in ranked.values()])
        with run_writer(folder) as writer:
            count = append_run(writer, order, rows, pa.chunked_array([[hit for _, hit in hits]]), -np.arange(len(hits)))
        return {"rows": count, "queries": len(ranked), "depth": 5}

    return produce(home, Run, {"run": name}, build)


def test_an_ambiguous_or_known_query_is_dropped(tmp_path: Path) -> None:
    candidates = read_candidates(make_candidates(tmp_path, collection(tmp_path), STRUCTURE, {})).to_pylist()
    rules = {row["query"]: row["rule"] for row in candidates}
    assert rules["the golden harbour"] == "ambiguous"
    assert rules["where is the orchid"] == "known_query"
    assert sum(not rule for rule in rules.values()) == 30


def test_the_sample_of_passages_grows_without_changes(tmp_path: Path) -> None:
    snapshot = collection(tmp_path)
    small, large = ({row["passage_id"] for row in sampled_passages(snapshot, count)} for count in (10, 20))
    assert len(small) == 10
    assert len(large) == 20
    assert small < large


def test_a_pair_is_kept_if_either_retriever_returns_its_passage(tmp_path: Path) -> None:
    snapshot = collection(tmp_path)
    settings = SyntheticSettings(structure=True, top=2, held_out=0.3)
    candidates = make_candidates(tmp_path, snapshot, settings, {})
    assert search_depth(candidates, settings) == 2
    ids = queries(candidates)["query_id"].to_pylist()
    first, second, third, *others = ids
    by_bm25 = {first: [others[0], first], second: [], third: [*others[:2], third]} | {
        other: [other] for other in others
    }
    by_model = {first: [], second: [second], third: []} | {other: [] for other in others}
    runs = [run_of(tmp_path, name, candidates, ranked) for name, ranked in (("bm25", by_bm25), ("model", by_model))]
    synthesis = filter_candidates(tmp_path, snapshot, candidates, *runs, settings)
    pairs = {row["query_id"]: row for row in pq.read_table(synthesis.path / PAIRS).to_pylist()}
    assert [(pairs[query]["bm25_rank"], pairs[query]["dense_rank"]) for query in (first, second, third)] == [
        (2, 0),
        (0, 1),
        (0, 0),
    ]
    assert pairs[third]["rule"] == "inconsistent"
    assert synthesis.rows == sum(synthesis.kept.values()) + sum(synthesis.dropped.values())
    assert synthesis.dropped == {"ambiguous": 2, "inconsistent": 1, "known_query": 1}

    combined = with_synthetic_pairs(tmp_path, snapshot, synthesis)
    assert combined.splits[SYNTHETIC] == synthesis.held_out > 0
    assert combined.splits["test"] == 1
    assert combined.splits["train"] == 1 + sum(synthesis.kept.values()) - synthesis.held_out
    assert list(passages(combined)) == list(passages(snapshot))
    held_out, train = (set(qrels(combined, split)["passage_id"].to_pylist()) for split in (SYNTHETIC, "train"))
    assert not held_out & (train - {"p00"})
    with pytest.raises(BadInput, match="reserved"):
        filter_candidates(tmp_path, combined, candidates, *runs, settings)


def test_a_corpus_without_structure_is_refused(tmp_path: Path) -> None:
    snapshot = snapshot_of(tmp_path, {"a": "owls hunt", "b": "larks sing"})
    with pytest.raises(BadInput, match="no training pair can be made from 2 passages"):
        make_candidates(tmp_path, snapshot, STRUCTURE, {})


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path) -> DualEncoder:
    (tmp_path / "encoder").mkdir()
    settings = small_settings(tmp_path, tiny_model)
    return start_from(tiny_model, EncoderSpec.of(settings.encoder, "fp32"), tmp_path / "encoder")


def test_training_removes_a_synthetic_query_from_its_passage(encoder: DualEncoder, tmp_path: Path) -> None:
    snapshot = collection(tmp_path)
    candidates = make_candidates(tmp_path, snapshot, STRUCTURE, {})
    ids = queries(candidates)["query_id"].to_pylist()
    run = run_of(tmp_path, "own", candidates, {query: [query] for query in ids})
    synthesis = filter_candidates(tmp_path, snapshot, candidates, run, run, STRUCTURE)
    combined = with_synthetic_pairs(tmp_path, snapshot, synthesis)
    mined = negatives_of(tmp_path, [("t", "k")])
    data = load_pairs(combined, mined, encoder, TrainingSettings())

    def text(row: int) -> str:
        words: str = encoder.passage.tokenizer.decode(data.passage_tokens[row], skip_special_tokens=True)
        return words

    train = [query for query in qrels(combined, "train")["query_id"].to_pylist() if query != "t"]
    trained = [text(passage) for _, passage in data.pairs.tolist()]
    assert sum("the silent falcon" in words for words in trained) == 1 + sum(map(trains_whole, train))
    assert all(data.cluster[passage] in data.known[query] for query, passage in data.pairs.tolist())
    stored = load_pairs(combined, mined, encoder, TrainingSettings(), stored_vectors=True)
    assert len(stored.passage_tokens) < len(data.passage_tokens)
