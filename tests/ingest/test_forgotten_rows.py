"""Rows with tombstones are not stored, even if the source still has them."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
from file_search import files_with
from small_collection import Collection, passage, query

from tasks.core.base.receipts import Snapshot
from tasks.core.ingest.ingest import find_ingested, ingest
from tasks.core.ingest.judge import Judgment, record_judgments
from tasks.core.ingest.snapshot_without import find_forgotten, without_rows
from tasks.core.snapshot.reader import given_negatives, passages, qrels, queries
from tasks.core.sources.source import find_source
from tasks.core.text.normalization import full_text
from tasks.core.text.tombstones import FOLDER, add_tombstones, read_tombstones


def ids(snapshot: Snapshot) -> tuple[set[str], set[str]]:
    return (
        {row["passage_id"] for batch in passages(snapshot) for row in batch.to_pylist()},
        set(queries(snapshot)["query_id"].to_pylist()),
    )


def test_forgotten_rows_are_counted_and_not_stored(collection: Collection) -> None:
    settings = collection.settings()
    whole, before = ingest(settings)
    text = full_text(passage(4)["title"], passage(4)["text"])
    add_tombstones(settings.home, ["p3"], ["q5"], [text.upper()])
    ingested, snapshot = ingest(settings)
    assert ingested.digest != whole.digest
    identity = find_source(settings.data).identity
    assert find_ingested(settings.home, identity, settings.data, settings.feedback.votes) == snapshot
    assert ingested.rows == ingested.accepted + ingested.quarantined + ingested.forgotten == whole.rows
    assert ingested.forgotten == 3 + 3  # rows, and their judgments
    assert ingested.balance.endswith(" + 0 quarantined + 6 forgotten")
    tables = json.loads((ingested.path / "validation.json").read_bytes())["tables"]
    assert [tables[name]["forgotten"] for name in ("passages", "queries", "qrels")] == [2, 1, 3]
    old, new = ids(before), ids(snapshot)
    assert (old[0] - new[0], old[1] - new[1]) == ({"p3", "p4"}, {"q5"})
    assert not {"p3", "p4"} & set(qrels(snapshot)["passage_id"].to_pylist())


def test_a_snapshot_without_rows_is_the_snapshot_of_the_next_ingest(collection: Collection) -> None:
    settings = collection.settings()
    _, before = ingest(settings)
    tombstones = add_tombstones(settings.home, ["p3"], ["q5", "q29"], [])
    rows = find_forgotten(before.path, tombstones)
    assert (list(rows.passages), list(rows.queries)) == (["p3"], ["q29", "q5"])
    made = without_rows(settings.home, before, rows)
    _, snapshot = ingest(settings)
    assert (made.digest, made.rows, made.splits) == (snapshot.digest, snapshot.rows, snapshot.splits)
    assert find_forgotten(made.path, tombstones).passages == {}


def test_judgments_of_forgotten_rows_do_not_return(collection: Collection) -> None:
    settings = collection.settings()
    ingest(settings)
    judged = [
        Judgment(str(query(1)["text"]), "p2", relevant=False),
        Judgment(str(query(1)["text"]), "p3", relevant=False),
        Judgment("a private question", "p4", relevant=True),
        Judgment("another question", "p6", relevant=True),
    ]
    record_judgments(settings.home, judged, "me")
    _, before = ingest(settings)
    assert (before.given_negatives, before.queries) == (2, 32)
    tombstones = add_tombstones(settings.home, ["p3"], [], ["a private question"])
    made = without_rows(settings.home, before, find_forgotten(before.path, tombstones))
    _, snapshot = ingest(settings)
    assert (made.digest, made.given_negatives, made.queries) == (snapshot.digest, 1, 31)
    assert given_negatives(snapshot)["passage_id"].to_pylist() == ["p2"]


def test_a_refused_row_of_a_forgotten_id_is_not_quarantined(collection: Collection) -> None:
    collection.add("corpus.jsonl", json.dumps({**passage(3), "text": "another secret text of the same id"}).encode())
    collection.add("queries.jsonl", json.dumps({**query(5), "text": ""}).encode())
    settings = collection.settings()
    refused, _ = ingest(settings)
    assert refused.quarantined >= 2
    add_tombstones(settings.home, ["p3"], ["q5"], [])
    ingested, _ = ingest(settings)
    assert ingested.rows == ingested.accepted + ingested.quarantined + ingested.forgotten
    assert pq.read_table(ingested.path / "quarantine.parquet").num_rows == 0
    assert files_with(ingested.path, ["secret"]) == {}


def test_tombstones_show_no_id_and_no_text(collection: Collection) -> None:
    home = collection.settings().home
    add_tombstones(home, ["some-passage"], ["some-query"], ["some text"])
    again = add_tombstones(home, ["another"], [], [])
    stored = (home / FOLDER / "tombstones.json").read_text()
    assert not any(word in stored for word in ("some", "another"))
    assert again == read_tombstones(home)
    assert again.match_id("passages", "some-passage")
    assert not again.match_id("queries", "some-passage")
    assert (home / FOLDER / "tombstones.json").stat().st_mode & 0o077 == 0
