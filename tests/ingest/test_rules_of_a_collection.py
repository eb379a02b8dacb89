"""Rules that compare tables or snapshots, each with a case that must not trigger it."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from small_collection import Collection, passage, quarantine_of, query

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Ingested
from tasks.core.ingest.ingest import ingest


def failed(ingested: Ingested) -> dict[str, int]:
    return {rule.rule: rule.failed for rule in ingested.rules if rule.failed}


def pointed(ingested: Ingested, rule: str) -> list[tuple[str, int]]:
    lines = pq.read_table(ingested.path / "warnings.parquet").to_pylist()
    return [(line["file"], line["row"]) for line in lines if line["rule"] == rule]


def test_a_clean_collection_passes_every_rule(collection: Collection) -> None:
    assert failed(ingest(collection.settings())[0]) == {}


def test_a_training_query_with_a_held_out_text_is_refused_and_the_held_out_query_is_kept(
    collection: Collection,
) -> None:
    collection.add("queries.jsonl", {"_id": "again", "text": "  WHAT is written\tin passage 27 ?"})
    row = collection.add("qrels/train.tsv", "again\tp27\t1")
    ingested, snapshot = ingest(collection.settings())
    (refused,) = quarantine_of(ingested)
    assert (refused["table"], refused["rule"], refused["file"]) == ("qrels", "pair_query_leaks", "qrels/train.tsv")
    assert refused["row"] == row
    assert snapshot.splits == {"train": 20, "dev": 5, "test": 5}


def test_queries_with_the_same_text_are_held_back_together(collection: Collection) -> None:
    for split in ("dev", "test"):
        (collection.root / "qrels" / f"{split}.tsv").unlink()
    collection.add("queries.jsonl", *({**query(n), "_id": f"again{n}"} for n in range(20)))
    collection.add("qrels/train.tsv", *(f"again{n}\tp{n}\t1" for n in range(20)))
    ingested, snapshot = ingest(collection.settings(dev_share=0.2))
    assert "pair_query_leaks" not in failed(ingested)
    assert "pair_query_shared" not in failed(ingested)
    assert sum(snapshot.splits.values()) == 40


def test_contradicting_judgments_are_reported(collection: Collection) -> None:
    collection.add("queries.jsonl", {"_id": "again", "text": "What is written in passage 3?"})
    zero = collection.add("qrels/train.tsv", "again\tp3\t0", "again\tp4\t0", "q3\tp5\t1")
    ingested, _ = ingest(collection.settings())
    assert pointed(ingested, "qrel_contradicted") == [("qrels/train.tsv", 5), ("qrels/train.tsv", zero)]


def test_positives_shared_with_held_out_queries_and_queries_without_positives_are_reported(
    collection: Collection,
) -> None:
    row = collection.add("qrels/train.tsv", "q3\tp27\t1")
    alone = collection.add("queries.jsonl", {"_id": "alone", "text": "nobody answers me"})
    ingested, _ = ingest(collection.settings())
    assert pointed(ingested, "pair_passage_held_out") == [("qrels/train.tsv", row)]
    assert pointed(ingested, "query_positive") == [("queries.jsonl", alone)]
    assert ingested.quarantined == 0


def test_a_passage_that_answers_every_query_is_refused(collection: Collection) -> None:
    more = range(30, 80)
    collection.add("queries.jsonl", *(query(n) for n in more))
    collection.add("qrels/train.tsv", *(f"q{n}\tp1\t1" for n in more))
    ingested, _ = ingest(collection.settings(max_refused=0.9))  # p1 answers 51 of 70: more than half, 99 % sure
    assert failed(ingested)["pair_passage_everywhere"] == 51
    assert {row["rule"] for row in quarantine_of(ingested)} == {"pair_passage_everywhere"}


def test_a_table_that_shrank_to_less_than_half_stops_the_night_unless_comparison_is_off(
    collection: Collection,
) -> None:
    _, before = ingest(collection.settings())
    corpus = collection.root / "corpus.jsonl"
    lines = corpus.read_bytes().splitlines(keepends=True)
    corpus.write_bytes(b"".join(lines[:14]))
    with pytest.raises(BadInput, match=rf"passages_shrunk: growth 0.4667, must be at least 0.5 \(.*{before.digest}"):
        ingest(collection.settings(max_refused=0.9))
    meant, after = ingest(collection.settings(max_refused=0.9, compare=False))
    assert after.rows == 14
    again, _ = ingest(collection.settings(max_refused=0.9))  # the accepted snapshot is the new comparison
    assert again.reused
    assert again.digest == meant.digest


def test_half_the_rows_pass_and_another_feed_is_not_compared(collection: Collection) -> None:
    ingest(collection.settings())
    corpus = collection.root / "corpus.jsonl"
    corpus.write_bytes(b"".join(corpus.read_bytes().splitlines(keepends=True)[:15]))
    ingest(collection.settings(max_refused=0.9))
    corpus.write_bytes(b"".join(corpus.read_bytes().splitlines(keepends=True)[:5]))
    ingest(collection.settings(max_refused=0.9, feed="another"))


def test_another_alphabet_and_another_language_are_detected(collection: Collection) -> None:
    ingest(collection.settings())

    def rewritten(words: str) -> dict[str, int]:
        rows = [{**passage(n), "text": f"{words} {n} " * 12} for n in range(30)]
        (collection.root / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return failed(ingest(collection.settings())[0])

    same = rewritten("The text of a passage, its number written again")
    assert not {"passages_script_changed", "passages_language_changed"} & set(same)
    german = rewritten("Ein ganz anderer Absatz mit seiner eigenen Nummer")
    assert "passages_language_changed" in german
    assert "passages_script_changed" not in german
    assert "passages_script_changed" in rewritten("Совсем другой текст с номером")
