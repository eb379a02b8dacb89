"""Training queries that a night searches in shards on Ray give the runs of one search."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_servers import query_server

from tasks.core.base.files import receipts_newest_first
from tasks.core.base.receipts import Embeddings, Encoder, Index, Run, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import Settings
from tasks.core.retrieval.bm25 import search_bm25
from tasks.core.retrieval.searches import search_whole
from tasks.core.retrieval.training_queries import training_search
from tasks.core.snapshot.reader import judged
from tasks.mining import query_shards


@pytest.mark.slow
def test_shards_change_no_run_of_a_night(
    nightshift: Callable[..., subprocess.CompletedProcess[str]], cluster: Any, prefect_server: str, tmp_path: Path
) -> None:
    home, again = tmp_path / "home", tmp_path / "again"
    changed = {
        "COMPUTE__ENGINE": "ray", "COMPUTE__ADDRESS": cluster.address, "MINING__SHARDS": "3", "MINING__ROUNDS": "2",
        "TRAINING__EPOCHS": "1", "GATE__MARGIN": "1",
    }  # fmt: skip
    done = nightshift("run", **{f"NIGHTSHIFT_{name}": value for name, value in changed.items()})
    assert done.returncode == 0, done.stderr
    searched = query_server(prefect_server, "task_runs", {"task_runs": {"name": {"like_": "search rank"}}})
    assert len(searched) == 2 * 3  # with BM25, and with the encoder
    (snapshot,), (index,) = receipts_newest_first(home, Snapshot), receipts_newest_first(home, Index)
    mining = MiningSettings(heap_mb=256)
    _, first_round, _ = receipts_newest_first(home, Encoder)  # the second of three: trained in the first round
    vectors = next(
        vectors
        for vectors in receipts_newest_first(home, Embeddings)
        if vectors.fingerprint == first_round.passage_fingerprint
    )
    runs = {run.digest: run for run in receipts_newest_first(home, Run)}
    shutil.copytree(home / Snapshot.shelf, again / Snapshot.shelf)  # else Lucene searches, to six decimals
    for whole in (
        search_bm25(again, index, judged(snapshot, "train"), mining.depth, mining),
        search_whole(training_search(again, snapshot, first_round, vectors, mining.depth)[0]),
    ):
        assert (runs[whole.digest].path / "run.parquet").read_bytes() == (whole.path / "run.parquet").read_bytes()
    assert not list(home.glob("runs/.*.partial"))


@pytest.mark.parametrize(("engine", "shards"), [("local", 1), ("ray", 3)])
def test_only_ray_searches_in_shards(engine: str, shards: int, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, compute={"engine": engine}, mining={"shards": 3})
    assert query_shards(settings) == shards
