"""Faulty training records with inline passages are quarantined and affect no other record."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from source_forms import put, rows, tevatron

from tasks.core.base.errors import BadInput
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest

GOOD = {"docid": "new", "title": "", "text": "a passage that no other record has"}
FAULTY = [
    ({"query_id": "f0", "query": "which", "positive_passages": [7]}, "expected a passage, not int"),
    ({"query_id": "f1", "query": "which", "positive_passages": [{"docid": "x"}]}, "has a passage without text"),
    ({"query_id": "f2", "query": "which", "positive_passages": [{**GOOD, "text": {"a": 5}}]}, "the text is a dict"),
    ({"query_id": "f3", "query": "which", "positive_passages": [{**GOOD, "title": []}]}, "the title is a list"),
    ({"query_id": "f4", "query": "which", "positive_passages": [{**GOOD, "docid": True}]}, "the id is a bool"),
    ({"query_id": "f5", "query": ["no", "text"], "positive_passages": []}, "the text is a list"),
    ({"query_id": "f6", "query": "half \ud800 a pair", "positive_passages": []}, "is not a character"),
    ({"query_id": "f7", "positive_passages": []}, "has no field query or anchor or question"),
]


def test_each_faulty_record_is_reported_and_other_records_are_read(tmp_path: Path) -> None:
    tevatron(tmp_path / "source")
    with (tmp_path / "source" / "train.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record, _ in FAULTY)
    data = DataSettings(format="tevatron", path=tmp_path / "source", max_refused=0.5)
    ingested, snapshot = ingest(Settings(home=tmp_path / "home", data=data))
    assert (snapshot.rows, snapshot.queries, snapshot.qrels) == (
        30,
        30 + 5,
        30,
    )  # the query of a faulty passage is kept
    refused = pq.read_table(ingested.path / "quarantine.parquet").to_pylist()
    assert sorted(row["row"] for row in refused) == list(range(21, 21 + len(FAULTY)))
    for row, (_, reason) in zip(sorted(refused, key=lambda row: row["row"]), FAULTY, strict=True):
        assert reason in row["reason"]


def test_a_file_without_an_array_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, "train.json", json.dumps({"question": "which"}).encode(), "")
    with pytest.raises(BadInput, match=r"train\.json: does not begin with \["):
        rows("dpr", tmp_path, tmp_path / "scratch")
