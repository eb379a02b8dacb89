"""Equal copies of a row are merged and counted; contradicting rows are refused; homes of earlier versions stay."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_collection import Collection, passage, quarantine_of, query
from source_forms import FORMS, tables

from tasks.core.base.checksums import CHECKSUMS
from tasks.core.base.files import MANIFEST
from tasks.core.base.receipts import Ingested
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.refused_rows import newest_refusals


def test_a_corpus_under_two_split_names_is_a_single_corpus(tmp_path: Path) -> None:
    snapshots = []
    for name in ("once", "twice"):
        FORMS["parquet"][1](tmp_path / name)
        if name == "twice":
            corpus = tables()["corpus"]
            (tmp_path / name / "corpus.parquet").unlink()
            (tmp_path / name / "corpus").mkdir()
            for split in ("train", "test"):
                pq.write_table(corpus, tmp_path / name / "corpus" / f"{split}-00000-of-00001.parquet")
        data = DataSettings(format="parquet", path=tmp_path / name)
        ingested, snapshot = ingest(Settings(home=tmp_path / f"home of {name}", data=data))
        snapshots.append(snapshot.digest)
    assert snapshots[0] == snapshots[1]
    assert (ingested.rows, ingested.accepted, ingested.merged, ingested.quarantined) == (120, 120, 30, 0)
    assert ingested.balance == "120 rows read = 120 accepted (including 30 merged copies) + 0 quarantined"


def test_copies_are_merged_in_every_table_and_contradictions_are_refused(
    collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    first, clean = ingest(collection.settings())
    assert first.balance == "90 rows read = 90 accepted + 0 quarantined"
    copies = [
        ("corpus.jsonl", collection.add("corpus.jsonl", passage(3), passage(3))),
        ("queries.jsonl", collection.add("queries.jsonl", query(3))),
        ("qrels/train.tsv", collection.add("qrels/train.tsv", "q3\tp3\t1")),
    ]
    collection.add("corpus.jsonl", {**passage(3), "text": "Another text of the same id."})
    with caplog.at_level("INFO", "nightshift.ingest"):
        ingested, snapshot = ingest(collection.settings())
    assert snapshot.digest == clean.digest
    assert (ingested.rows, ingested.accepted, ingested.merged, ingested.quarantined) == (95, 94, 4, 1)
    assert [row["rule"] for row in quarantine_of(ingested)] == ["passage_conflicting"]
    assert "merged 2 equal copies in passages" in caplog.text
    pointed = pq.read_table(ingested.path / "warnings.parquet").to_pylist()
    merged = [(row["file"], row["row"]) for row in pointed if str(row["rule"]).endswith("_repeated")]
    assert merged == [copies[0], (copies[0][0], copies[0][1] + 1), *copies[1:]]
    assert {rule.severity for rule in ingested.rules if rule.rule.endswith("_repeated")} == {"merge"}
    refusals = newest_refusals(collection.home)
    assert refusals["merged"] == {"passages": 2, "queries": 1, "qrels": 1}
    for table, read in refusals["in"].items():
        assert read == refusals["accepted"][table] + refusals["quarantined"][table]


def write_old_receipt(ingested: Ingested) -> None:
    """Write the receipt of an ingest in the format of the previous version."""
    file = ingested.path / MANIFEST
    receipt = json.loads(file.read_text())
    del receipt["reading"], receipt["merged"]
    file.write_text(json.dumps(receipt))
    (ingested.path / CHECKSUMS).unlink()


def test_sources_read_by_an_earlier_version_are_read_again_only_if_their_rows_change(collection: Collection) -> None:
    collection.add("corpus.jsonl", "not JSON in any version", passage(3))
    first, _ = ingest(collection.settings())
    write_old_receipt(first)
    unchanged, _ = ingest(collection.settings())
    assert (unchanged.reused, unchanged.digest) == (True, first.digest)

    collection.add("corpus.jsonl", {"_id": True, "text": "refused by a rule that refuses less now"})
    second, _ = ingest(collection.settings())
    write_old_receipt(second)
    again, _ = ingest(collection.settings())
    assert (again.reused, again.identity) == (False, second.identity)
    for _ in range(2):
        same, _ = ingest(collection.settings())
        assert (same.reused, same.digest) == (True, again.digest)


def test_a_split_that_an_earlier_version_named_differently_is_read_again(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (collection.root / "qrels/dev.tsv").rename(collection.root / "qrels/validation.tsv")
    with monkeypatch.context() as earlier:
        earlier.setattr("tasks.core.sources.judgments.known_split", lambda name: name)
        first, before = ingest(collection.settings())
    write_old_receipt(first)
    assert "validation" in before.splits
    again, after = ingest(collection.settings())
    assert (again.reused, after.splits) == (False, {"train": 20, "dev": 5, "test": 5})
