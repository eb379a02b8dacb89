"""The Python API as a user calls it: folders, dicts and tables in; negatives, an encoder, figures and answers out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import nightshift as ns

TINY = {"passage_tokens": 24, "query_tokens": 16}
SCRIPT = """
import sys

import nightshift as ns

collection = ns.read_beir("source", home="home")
negatives = ns.mine_negatives(collection, per_query=2, progress=False)
print(negatives.to_dataset("triplet").column_names)
base = ns.load_encoder(collection, sys.argv[1], passage_tokens=24, query_tokens=16)
encoder = ns.train(collection, negatives, encoder=base, epochs=1, batch_size=12, learning_rate=5e-5, progress=False)
print(ns.evaluate(encoder, collection, progress=False))
for open_release in (ns.serving, ns.Searcher.open):
    try:
        open_release()
    except ns.NightshiftError as error:
        print(error)
"""
TRAINING = {"epochs": 2, "batch_size": 12, "learning_rate": 0.003, "hard_negatives": 1}


@pytest.fixture
def beir(collection: Callable[..., Path], tmp_path: Path) -> ns.Collection:
    return ns.read_beir(collection(more=40), home=tmp_path / "home")


def test_a_collection_is_the_same_from_a_folder_dicts_pandas_and_arrow(
    beir: ns.Collection, collection: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    rows = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("corpus", "queries")
    }
    passages = {row["_id"]: {"title": row["title"], "text": row["text"]} for row in rows["corpus"]}
    queries = {row["_id"]: row["text"] for row in rows["queries"]}
    qrels: dict[str, dict[str, list[str]]] = {}
    for split in ("train", "dev", "test"):
        lines = (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]
        qrels[split] = {line.split("\t")[0]: [line.split("\t")[1]] for line in lines}
    flat = [(q, p, s) for s, judged in qrels.items() for q, ids in judged.items() for p in ids]
    table = pd.DataFrame(flat, columns=["query_id", "passage_id", "split"])
    home = tmp_path / "home"
    others = [
        ns.Collection(passages=passages, queries=queries, qrels=qrels, home=home),
        ns.Collection(passages=pd.DataFrame(rows["corpus"]), queries=rows["queries"], qrels=table, home=home),
        ns.Collection(
            passages=pa.Table.from_pylist(rows["corpus"]), queries=queries, qrels=pa.Table.from_pandas(table), home=home
        ),
    ]
    assert {other.snapshot.digest for other in others} == {beir.snapshot.digest}
    assert repr(beir) == "Collection(100 passages, 60 queries: 4 dev, 20 test, 36 train)"
    assert beir.refused == 0


def test_a_file_of_pairs_is_read_by_its_columns(tmp_path: Path) -> None:
    pairs = [(f"where is lamp {number}", f"Lamp {number} is in room {number}.") for number in range(30)]
    pd.DataFrame(pairs, columns=["Question", "Answer"]).to_csv(tmp_path / "faq.csv", index=False)
    pd.DataFrame(pairs, columns=["Subject", "Reply"]).to_parquet(tmp_path / "tickets.parquet", index=False)
    faq = ns.read_source(tmp_path / "faq.csv", home=tmp_path / "home")
    tickets = ns.read_source(tmp_path / "tickets.parquet", query="Subject", passage="Reply", home=tmp_path / "home")
    assert faq.snapshot.digest == tickets.snapshot.digest
    assert (len(faq), faq.queries().num_rows) == (30, 30)
    with pytest.raises(ns.NightshiftError, match=r"has no column Title\. Its columns: Question, Answer"):
        ns.read_source(tmp_path / "faq.csv", query="Title", home=tmp_path / "home")


def test_the_error_names_the_invalid_table(tmp_path: Path) -> None:
    with pytest.raises(ns.NightshiftError, match="passages: no column text or passage; the columns are id, body"):
        ns.Collection(passages=[{"id": "p", "body": "x"}], queries={}, qrels={}, home=tmp_path)
    with pytest.raises(ns.NightshiftError, match="queries: give an Arrow table"):
        ns.Collection(passages={"p": "text"}, queries=3, qrels={}, home=tmp_path)


def test_negatives_without_an_encoder_contain_no_positive_and_load_into_every_form(beir: ns.Collection) -> None:
    negatives = ns.mine_negatives(beir, per_query=3, progress=False)
    table, qrels = negatives.to_table(), beir.qrels("train")
    positives = set(zip(qrels["query_id"].to_pylist(), qrels["passage_id"].to_pylist(), strict=True))
    mined = set(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True))
    assert len(negatives) == len(mined) > 36
    assert not mined & positives
    assert table["dense_score"].null_count == len(negatives)
    assert negatives.refused["above_margin"] == 0
    triplets = negatives.to_dataset("triplet")
    assert triplets.column_names == ["anchor", "positive", "negative"]
    assert len(triplets) == len(negatives)
    assert negatives.to_dataset("n-tuple").column_names[:3] == ["anchor", "positive", "negative_1"]
    first = negatives.to_dataset("labeled-list")[0]
    assert first["labels"][0] == 1
    assert len(first["docs"]) == len(first["labels"])
    with pytest.raises(ns.NightshiftError, match="use one of triplet, n-tuple, labeled-list"):
        negatives.to_dataset("pairs")


def test_train_evaluate_and_load_with_sentence_transformers(beir: ns.Collection, tiny_model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    base = ns.load_encoder(beir, tiny_model, **TINY)
    negatives = ns.mine_negatives(beir, per_query=2, encoder=base, progress=False)
    assert negatives.to_table()["dense_score"].null_count == 0
    encoder = ns.train(beir, negatives, encoder=base, progress=False, **TRAINING)
    assert encoder.fingerprint != base.fingerprint
    measured = {name: ns.evaluate(name, beir, progress=False) for name in (base, encoder, "bm25")}
    assert measured[encoder]["nDCG@10"] > measured[base]["nDCG@10"]
    assert list(measured[encoder].metrics) == ["nDCG@10", "MRR@10", "Recall@100"]
    assert measured["bm25"].per_query.num_rows == 20
    mean = np.mean(measured[encoder].per_query["nDCG@10"].to_numpy())
    assert mean == pytest.approx(measured[encoder]["nDCG@10"])
    model = SentenceTransformer(str(encoder.path), device="cpu")
    theirs = model.encode_query(["where was the golden river seen"])
    assert np.allclose(theirs, encoder.encode_queries(["where was the golden river seen"]), atol=0.02)


def test_the_error_names_the_unknown_setting(beir: ns.Collection) -> None:
    with pytest.raises(ns.NightshiftError, match=r"\[mining\] dept = 5: no such setting\. Did you mean depth\?"):
        ns.mine_negatives(beir, dept=5)


def test_a_bare_script_mines_trains_and_evaluates_and_search_needs_a_release(
    tmp_path: Path, collection: Callable[..., Path], tiny_model: Path
) -> None:
    collection(more=40)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "script.py", str(tiny_model)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    columns, evaluation, *errors = done.stdout.splitlines()
    assert columns == "['anchor', 'positive', 'negative']"
    assert evaluation.startswith("Evaluation(encoder on 20 test queries: nDCG@10 0.")
    assert [error for error in errors if "`nightshift run` makes the first" not in error] == []
    assert len(errors) == 2


def test_threads_of_a_script_sleep_while_they_wait() -> None:
    program = "import nightshift, torch; print(torch.__config__.parallel_info())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["OMP_DISPLAY_ENV"] = "true"  # OpenMP prints what it has read
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


def test_a_users_own_tasks_module_does_not_break_the_import(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("raise RuntimeError('the user module was imported')\n")
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("raise RuntimeError('the user package was imported')\n")
    (tmp_path / "script.py").write_text("import nightshift as ns\nprint(ns.read_beir.__module__)\n")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "nightshift.collection\n", done.stderr
    command = [str(Path(sys.executable).with_name("nightshift")), "settings"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
