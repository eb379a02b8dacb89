"""A night that searches training queries in shards makes the same runs as an unsharded night."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.base.files import receipts_newest_first
from tasks.core.base.receipts import Embeddings, Encoder, Index, Run, Snapshot
from tasks.core.base.settings import MiningSettings
from tasks.core.retrieval.bm25 import search_bm25
from tasks.core.retrieval.searches import search_whole
from tasks.core.retrieval.training_queries import training_search
from tasks.core.snapshot.reader import judged

pytestmark = pytest.mark.xdist_group("prefect")  # all tests share one server


def test_shards_change_no_run_of_a_night(
    nightshift: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    home, again = tmp_path / "home", tmp_path / "again"
    changed = {"MINING__SHARDS": "3", "MINING__ROUNDS": "2", "TRAINING__EPOCHS": "1", "GATE__MARGIN": "1"}
    done = nightshift("run", **{f"NIGHTSHIFT_{name}": value for name, value in changed.items()})
    assert done.returncode == 0, done.stderr
    assert "BM25: shard 2 of 3: searching" in done.stderr
    assert "vectors: shard 3 of 3: searching" in done.stderr
    (snapshot,), (index,) = receipts_newest_first(home, Snapshot), receipts_newest_first(home, Index)
    mining = MiningSettings(heap_mb=256)
    _, first_round, _ = receipts_newest_first(home, Encoder)  # the second of three: trained in the first round
    vectors = next(
        vectors
        for vectors in receipts_newest_first(home, Embeddings)
        if vectors.fingerprint == first_round.passage_fingerprint
    )
    runs = {run.digest: run for run in receipts_newest_first(home, Run)}
    for whole in (
        search_bm25(again, index, judged(snapshot, "train"), mining.depth, mining),
        search_whole(training_search(again, snapshot, first_round, vectors, mining.depth)[0]),
    ):
        assert (runs[whole.digest].path / "run.parquet").read_bytes() == (whole.path / "run.parquet").read_bytes()
    assert not list(home.glob("runs/.*.partial"))
