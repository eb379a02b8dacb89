"""Ids, scores, titles, splits, and columns mean the same in every format; files of other programs are skipped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_collection import Collection, ids, quarantine_of
from source_forms import FORMS, beir, dpr, jsonl, msmarco, put, rows, tevatron, values

from tasks.core.base.errors import BadInput
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest
from tasks.core.sources.split_names import known_split, split_of


def put_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def put_qrels(root: Path, lines: str, name: str = "qrels/train.tsv") -> None:
    beir(root)
    for file in (root / "qrels").iterdir():
        file.unlink()
    put(root, name, lines)


def test_numbers_as_ids_titles_and_whole_scores_are_read_alike_from_every_format(tmp_path: Path) -> None:
    passage = {"title": 1984, "text": "Owls hunt at night."}
    put(tmp_path / "beir", "corpus.jsonl", jsonl([{"_id": 7, **passage}]))
    put(tmp_path / "beir", "queries.jsonl", jsonl([{"_id": 3, "text": "when do owls hunt"}]))
    put(tmp_path / "beir", "qrels/train.tsv", "query-id\tcorpus-id\tscore\n3\t7\t1.0\n")
    put_parquet(tmp_path / "parquet" / "corpus.parquet", [{"id": 7, **passage, "title": 1984.0}])
    put_parquet(tmp_path / "parquet" / "queries.parquet", [{"qid": 3, "query": "when do owls hunt"}])
    put_parquet(tmp_path / "parquet" / "qrels" / "train.parquet", [{"qid": 3, "pid": 7, "score": 1.0}])
    record = {"query_id": 3, "query": "when do owls hunt", "positive_passages": [{"docid": 7, **passage}]}
    put(tmp_path / "tevatron", "train.jsonl", jsonl([{**record, "label": 1.0}]))
    expected = {
        "passages": {("7", "1984", "Owls hunt at night.")},
        "queries": {("3", "when do owls hunt")},
        "qrels": {("3", "7", "train", 1, None)},
    }
    for form in ("beir", "parquet", "tevatron"):
        assert values(rows(form, tmp_path / form, tmp_path / f"{form}-scratch")) == expected, form


def test_a_fraction_as_a_score_is_refused_with_the_rule_in_every_format(tmp_path: Path) -> None:
    put_qrels(tmp_path / "beir", "q1\tp1\t0.5\n")
    msmarco(tmp_path / "msmarco")
    put(tmp_path / "msmarco", "qrels.train.tsv", "q1\t0\tp1\t0.5\n")
    FORMS["parquet"][1](tmp_path / "parquet")
    put_parquet(tmp_path / "parquet/qrels/train.parquet", [{"query-id": "q1", "corpus-id": "p1", "score": 0.5}])
    for form in ("beir", "msmarco", "parquet"):
        rows_read = rows(form, tmp_path / form, tmp_path)["qrels"]
        (row,) = [row for row in rows_read if row["fault"]]
        assert (row["fault"], "has a fraction; write judgments as whole numbers" in row["fault_detail"]) == (
            "bad_score", True,
        ), form  # fmt: skip


def test_qrels_may_have_trec_columns_a_header_in_any_order_or_no_header(tmp_path: Path) -> None:
    expected = {("q1", "p1", "train", 1), ("q2", "p2", "train", 2)}
    written = [
        "q1 0 p1 1\nq2 0 p2 2\n",
        "q1\tQ0\tp1\t1\nq2\tQ0\tp2\t2\n",
        "q1\tp1\t1\nq2\tp2\t2.0\n",
        "corpus-id\tscore\tquery-id\np1\t1\tq1\np2\t2\tq2\n",
        "query_id iteration docid relevance\nq1 0 p1 1\nq2 0 p2 2\n",
    ]
    for number, lines in enumerate(written):
        put_qrels(tmp_path / f"beir{number}", lines)
        msmarco(tmp_path / f"msmarco{number}")
        put(tmp_path / f"msmarco{number}", "qrels.train.tsv", lines)
        for form in ("beir", "msmarco"):
            rows_read = rows(form, tmp_path / f"{form}{number}", tmp_path)["qrels"]
            train = {(row["query_id"], row["passage_id"], row["split"], row["relevance"]) for row in rows_read}
            assert {qrel for qrel in train if qrel[2] == "train"} == expected, (form, lines)


def test_the_error_for_a_missing_column_names_the_file_and_the_expected_columns(tmp_path: Path) -> None:
    put_qrels(tmp_path, "query-id\tdocument\tscore\nq1\tp1\t1\n")
    expected = r"qrels/train\.tsv: header is query-id, document, score; expected query-id, corpus-id, score"
    with pytest.raises(BadInput, match=expected):
        rows("beir", tmp_path, tmp_path)


def test_qrels_without_a_split_in_their_name_are_the_train_split_and_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_qrels(tmp_path / "beir", "q1\tp1\t1\n", "qrels.tsv")
    msmarco(tmp_path / "msmarco")
    for split in ("train", "dev", "test"):
        (tmp_path / "msmarco" / f"qrels.{split}.tsv").unlink()
    put(tmp_path / "msmarco", "qrels.tsv", "q1\tp1\t1\n")
    FORMS["parquet"][1](tmp_path / "parquet")
    for file in (tmp_path / "parquet" / "qrels").iterdir():
        file.unlink()
    put_parquet(tmp_path / "parquet" / "qrels.parquet", [{"query-id": "q1", "corpus-id": "p1", "score": 1}])
    for form in ("beir", "msmarco", "parquet"):
        caplog.clear()
        with caplog.at_level("INFO", "nightshift.ingest"):
            rows_read = rows(form, tmp_path / form, tmp_path)["qrels"]
        assert [row["split"] for row in rows_read] == ["train"], form
        assert "read as the train split, because its name has no split" in caplog.text, form


def test_dev_and_validation_in_any_case_are_the_same_split_in_every_format(tmp_path: Path) -> None:
    for name in ("dev", "Dev", "validation", "Valid", "VAL"):
        assert (known_split(name), split_of(f"nq-{name}-00000-of-00001.parquet")) == ("dev", "dev")
    assert (known_split("Train"), known_split("held-out")) == ("train", "held-out")
    beir(tmp_path / "beir")
    (tmp_path / "beir/qrels/dev.tsv").rename(tmp_path / "beir/qrels/Validation.tsv")
    (tmp_path / "beir/qrels/train.tsv").rename(tmp_path / "beir/qrels/TRAIN.tsv")
    msmarco(tmp_path / "msmarco")
    (tmp_path / "msmarco/qrels.dev.tsv").rename(tmp_path / "msmarco/qrels.valid.tsv")  # qrels of queries.dev.tsv
    tevatron(tmp_path / "tevatron")
    (tmp_path / "tevatron/dev.jsonl").rename(tmp_path / "tevatron/Valid.jsonl")
    dpr(tmp_path / "dpr")
    (tmp_path / "dpr/biencoder-small-dev.json").rename(tmp_path / "dpr/biencoder-small-VAL.json")
    FORMS["arrow files"][1](tmp_path / "parquet")
    (tmp_path / "parquet/qrels.arrow").unlink()
    judged = [
        {"query-id": f"q{n}", "corpus-id": f"p{n}", "score": 1, "split": split}
        for split, numbers in {"Train": range(20), "validation": range(20, 25), "TEST": range(25, 30)}.items()
        for n in numbers
    ]
    put_parquet(tmp_path / "parquet/qrels.parquet", judged)
    for form in ("beir", "msmarco", "tevatron", "dpr", "parquet"):
        splits = [row["split"] for row in rows(form, tmp_path / form, tmp_path / f"{form}-scratch")["qrels"]]
        assert {split: splits.count(split) for split in set(splits)} == {"train": 20, "dev": 5, "test": 5}, form


def test_files_of_other_programs_at_any_depth_are_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beir(tmp_path / "beir")
    FORMS["hub folder"][1](tmp_path / "parquet")
    dpr(tmp_path / "dpr")
    before = {form: values(rows(form, tmp_path / form, tmp_path / f"{form}-a")) for form in ("beir", "parquet", "dpr")}
    skipped = {
        "beir": ["qrels/._train.tsv", "._corpus.jsonl"],
        "parquet": [
            "corpus/.ipynb_checkpoints/corpus-00000-of-00002-checkpoint.parquet",
            "corpus/_temporary/0/part-0.parquet",
            "corpus/._corpus-00000-of-00002.parquet",
        ],
        "dpr": ["dataset_infos.json", "._biencoder-small-train.json", "_SUCCESS.json"],
    }
    whole = (tmp_path / "parquet/corpus/corpus-00000-of-00002.parquet").read_bytes()
    for form, names in skipped.items():
        for name in names:
            put(tmp_path / form, name, whole if form == "parquet" else b"\x00\x05\x16\x07Mac OS X")
        caplog.clear()
        with caplog.at_level("INFO", "nightshift.ingest"):
            assert values(rows(form, tmp_path / form, tmp_path / f"{form}-b")) == before[form]
        assert f"not data: {', '.join(sorted(names))}" in caplog.text


def test_an_id_may_contain_joiners_but_no_white_space_and_control_characters(collection: Collection) -> None:
    good = ["می\u200cخواهم", "क्\u200dष", "soft\u00adhyphen", "\ue000private"]
    bad = ["a b", "a\u2009b", "a\u0085b", "a\x1cb", "a\u2028b"]
    collection.add("corpus.jsonl", *({"_id": name, "text": f"a passage for {n}"} for n, name in enumerate(good + bad)))
    ingested, snapshot = ingest(collection.settings())
    assert set(good) < ids(snapshot)
    assert [row["rule"] for row in quarantine_of(ingested)] == ["passage_id_clean"] * len(bad)


def test_a_label_of_0_is_a_judgment_of_not_relevant(tmp_path: Path) -> None:
    passages = [f"Passage {n} describes a metal in a few words." for n in range(12)]
    records = [{"anchor": f"question {n}", "positive": passages[n], "label": n % 3} for n in range(12)]
    more = [
        ({"label": False}, 0), ({"score": 1.0}, 1), ({"label": "0"}, 0), ({"labels": [0]}, 0), ({}, 1),
        ({"score": 0.4}, "field score: score '0.4' has a fraction"),
        ({"label": None}, "field label: not a number (None)"),
        ({"label": "entailment"}, "field label: score 'entailment' is not a whole number"),
        ({"label": 0.3, "negative": "A passage that another model scored."}, 1),  # score of a teacher for a triplet
    ]  # fmt: skip
    records += [{"anchor": f"extra {n}", "positive": passages[0], **fields} for n, (fields, _) in enumerate(more)]
    put(tmp_path / "source", "train.jsonl", jsonl(records))
    rows_read = rows("tevatron", tmp_path / "source", tmp_path / "scratch")
    assert [row["relevance"] for row in rows_read["qrels"][:12]] == [n % 3 for n in range(12)]
    for row, (fields, outcome) in zip(rows_read["qrels"][12:], more, strict=True):
        assert outcome == row["relevance"] if isinstance(outcome, int) else outcome in row["fault_detail"], fields
    assert json.loads(next(row["record"] for row in rows_read["qrels"] if row["fault"]))["score"] == 0.4
    assert {row["text"] for row in rows_read["passages"]} == {*passages, "A passage that another model scored."}
    data = DataSettings(format="tevatron", path=tmp_path / "source", max_refused=0.5)
    ingested, snapshot = ingest(Settings(home=tmp_path / "home", data=data))
    assert (ingested.quarantined, snapshot.qrels, snapshot.queries) == (3, 8 + 3, 21)


def test_the_fault_of_a_record_lists_its_fields(tmp_path: Path) -> None:
    beir(tmp_path)
    put(tmp_path, "corpus.jsonl", jsonl([{"docno": "p1", "body": "no known name"}]))
    (row,) = rows("beir", tmp_path, tmp_path)["passages"]
    assert re.search(r"has no field _id or id or .*, only docno, body", row["fault_detail"])
