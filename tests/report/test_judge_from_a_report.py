"""The command next to a sampled negative of a report makes sure that it never is a negative again."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from mining_world import SETTINGS, write_embeddings, write_run
from small_collection import Collection, build

from tasks.core.base.receipts import Negatives, Snapshot
from tasks.core.base.sections.mining import Shares
from tasks.core.ingest.ingest import ingest
from tasks.core.mining.mine import mine
from tasks.core.report.night import Night
from tasks.core.report.page import judge_command, write_report
from tasks.core.snapshot.reader import queries


def mine_negatives(collection: Collection, snapshot: Snapshot, folder: Path) -> tuple[Negatives, set[tuple[str, str]]]:
    """Mine with a run in which passages 20 and 21 are first for every query."""
    training = queries(snapshot, "train")["query_id"].to_pylist()
    ids = sorted(pq.read_table(snapshot.path / "passages.parquet")["passage_id"].to_pylist())
    vectors = np.tile(np.array([[0.5, 1.0]], np.float32), (len(ids), 1))
    embeddings = write_embeddings(folder / "embeddings", ids, vectors, snapshot=snapshot.digest)
    run = write_run(folder / "run", {query: ["p20", "p21"] for query in training})
    of_queries = np.tile(np.array([[1.0, 0.0]], np.float32), (len(training), 1))
    settings = SETTINGS.model_copy(update={"shares": Shares(bm25=1.0), "margin": 1.0})
    negatives = mine(collection.home, snapshot, [("bm25", run)], embeddings, of_queries, 1, settings)
    rows = pq.read_table(negatives.path / "negatives.parquet").to_pylist()
    return negatives, {(row["query_id"], row["passage_id"]) for row in rows}


def test_the_command_of_a_sampled_negative_removes_it(tmp_path: Path) -> None:
    collection = build(tmp_path / "it's here")
    collection.add("queries.jsonl", {"_id": "q-odd", "text": 'who\'s "that"? $HOME; `ls`'})
    collection.add("qrels/train.tsv", "q-odd\tp3\t1")
    ingested, snapshot = ingest(collection.settings())
    negatives, pairs = mine_negatives(collection, snapshot, tmp_path / "first")
    assert {("q-odd", "p20"), ("q1", "p20")} <= pairs
    night = Night(began=datetime(2026, 3, 1, tzinfo=UTC), reason="test", ingested=ingested, negatives=(negatives,))
    page = write_report(collection.home, night).read_text()
    commands = [html.unescape(text) for text in re.findall(r'<code class="copy">(.*?)</code>', page, re.DOTALL)]
    (command,) = (text for text in commands if "that" in text and text.endswith("p20"))
    program = tmp_path / "nightshift"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m flows.cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "recorded 1 judgment (1 relevant" in done.stdout
    ingested, snapshot = ingest(collection.settings())
    negatives, later = mine_negatives(collection, snapshot, tmp_path / "second")
    assert pairs - later == {("q-odd", "p20")}
    assert negatives.refused["known_positive"] == 1
    page = write_report(collection.home, night.having(ingested=ingested, negatives=(negatives,))).read_text()
    assert "Training pairs: 21 from the source, 1 judged by people" in page


def test_a_query_like_an_option_is_no_option() -> None:
    assert judge_command(Path("/h"), "-x", "p1") == "NIGHTSHIFT_HOME=/h nightshift judge --relevant -- -x p1"
