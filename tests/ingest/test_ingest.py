import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_collection import Collection, ids, passage, quarantine_of, query

from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.ingest.ingest import ingest
from tasks.core.snapshot.reader import compare, load_snapshot, passages, qrels, queries
from tasks.core.text.normalization import full_text, text_hash


def test_a_clean_collection_is_accepted_completely(collection: Collection) -> None:
    ingested, snapshot = ingest(collection.settings())
    assert (ingested.rows, ingested.accepted, ingested.quarantined) == (90, 90, 0)
    assert (snapshot.rows, snapshot.queries, snapshot.qrels) == (30, 30, 30)
    assert snapshot.splits == {"train": 20, "dev": 5, "test": 5}
    assert pq.read_table(ingested.path / "quarantine.parquet").column_names == [
        "table", "file", "row", "key", "rule", "reason", "record",
    ]  # fmt: skip


FAULTS = [
    ("corpus.jsonl", b'{"_id": "x", "title": "t", "text": "cut of', "malformed_json"),
    ("corpus.jsonl", b'{"_id": "x", "title": "t", "text": "bad \xff byte in it"}', "invalid_utf8"),
    ("corpus.jsonl", rb'{"_id": "x", "title": "t", "text": "half a pair \ud800 in it"}', "invalid_utf8"),
    ("corpus.jsonl", b'["not", "an object"]', "wrong_type"),
    ("corpus.jsonl", b'{"_id": 7.5, "text": "an id that is a fraction"}', "wrong_type"),
    ("corpus.jsonl", b'{"_id": true, "text": "an id that is no text"}', "wrong_type"),
    ("corpus.jsonl", b'{"_id": "x", "text": NaN}', "wrong_type"),
    ("corpus.jsonl", b'{"_id": "x", "title": "no text at all"}', "missing_field"),
    ("corpus.jsonl", b'{"_id": null, "text": "an id that is null"}', "passage_id_present"),
    ("corpus.jsonl", b'{"_id": "", "text": "an id that is empty"}', "passage_id_length"),
    ("corpus.jsonl", b'{"_id": "a b", "text": "an id with a space"}', "passage_id_clean"),
    ("corpus.jsonl", b'{"_id": "x", "text": null}', "passage_text_present"),
    ("corpus.jsonl", b'{"_id": "x", "title": "t", "text": ""}', "passage_text_visible"),
    ("corpus.jsonl", rb'{"_id": "x", "text": " \t\u00a0\u200b\n"}', "passage_text_visible"),
    ("corpus.jsonl", rb'{"_id": "x", "text": "binary \u0000 data in here"}', "passage_text_nuls"),
    ("corpus.jsonl", json.dumps({"_id": "x", "text": "a" * 1_000_001}).encode(), "passage_text_length"),
    (
        "corpus.jsonl",
        json.dumps({**passage(3), "text": "Another text of the same id."}).encode(),
        "passage_conflicting",
    ),
    ("queries.jsonl", b'{"text": "a query without id"}', "missing_field"),
    ("queries.jsonl", b'{"_id": "x", "text": "  "}', "query_text_visible"),
    ("queries.jsonl", json.dumps({**query(3), "text": "another question"}).encode(), "query_conflicting"),
    ("qrels/train.tsv", b"q1\tp2\tone", "bad_score"),
    ("qrels/train.tsv", b"q1\tp2\t0.5", "bad_score"),
    ("qrels/train.tsv", b"q1\tp2\t99999999999", "bad_score"),
    ("qrels/train.tsv", b"q1 p2", "malformed_row"),
    ("qrels/train.tsv", b"q1\tp\xff\t1", "invalid_utf8"),
    ("qrels/train.tsv", b"nobody\tp1\t1", "qrel_query_known"),
    ("qrels/train.tsv", b"q1\tnothing\t1", "qrel_passage_known"),
    ("qrels/train.tsv", b"q1\tp1\t2", "qrel_conflicting"),
]


def test_every_kind_of_bad_line_goes_to_quarantine_with_rule_file_row_and_raw_text(collection: Collection) -> None:
    expected = {(file, collection.add(file, line)): (rule, line) for file, line, rule in FAULTS}
    ingested, snapshot = ingest(collection.settings())
    quarantined = {(row["file"], row["row"]): row for row in quarantine_of(ingested)}
    assert {place: row["rule"] for place, row in quarantined.items()} == {
        place: rule for place, (rule, _) in expected.items()
    }
    for place, (_, line) in expected.items():
        assert quarantined[place]["record"] == line.decode("utf-8", "backslashreplace")
        assert quarantined[place]["reason"]
    assert (ingested.rows, ingested.accepted, ingested.quarantined) == (90 + len(FAULTS), 90, len(FAULTS))
    assert (snapshot.rows, snapshot.queries, snapshot.qrels) == (30, 30, 30)
    counted = Counter(rule for *_, rule in FAULTS)
    failed = {
        (rule.table, rule.rule): rule.failed for rule in ingested.rules if rule.severity == "error" and rule.failed
    }
    assert sum(failed.values()) == sum(counted.values())
    assert {rule for _, rule in failed} == set(counted)
    tables = json.loads((ingested.path / "validation.json").read_text())["tables"]
    for table in tables.values():
        assert table["read"] == table["accepted"] + table["quarantined"]
    assert sum(table["read"] for table in tables.values()) == ingested.rows


def test_a_row_that_breaks_several_rules_is_quarantined_once_with_all_reasons(collection: Collection) -> None:
    collection.add("corpus.jsonl", {"_id": "", "text": ""})
    ingested, _ = ingest(collection.settings())
    (refused,) = quarantine_of(ingested)
    assert refused["rule"] == "passage_id_length"
    assert "id is empty" in str(refused["reason"])
    assert "no visible character" in str(refused["reason"])


def test_a_conflict_names_the_row_that_came_first(collection: Collection) -> None:
    collection.add("corpus.jsonl", {**passage(3), "text": "Another text of the same id."})
    ingested, snapshot = ingest(collection.settings())
    (refused,) = quarantine_of(ingested)
    assert "corpus.jsonl:4" in str(refused["reason"])
    accepted = {row["passage_id"]: row["text"] for batch in passages(snapshot) for row in batch.to_pylist()}
    assert accepted["p3"] == passage(3)["text"]


def test_a_valid_copy_is_kept_when_the_first_copy_is_broken(collection: Collection) -> None:
    collection.add("corpus.jsonl", {"_id": "twice", "text": ""}, {"_id": "twice", "text": "The good copy of it."})
    ingested, snapshot = ingest(collection.settings())
    assert [row["rule"] for row in quarantine_of(ingested)] == ["passage_text_visible"]
    assert "twice" in ids(snapshot)


def test_a_truncated_corpus_is_named_where_qrels_lack_their_passages(collection: Collection) -> None:
    corpus = collection.root / "corpus.jsonl"
    corpus.write_bytes(corpus.read_bytes()[: corpus.stat().st_size // 2])
    with pytest.raises(
        BadInput, match=r"qrels: 1\d of 30 rows refused(?s:.*)passages has refused rows too.*corpus.jsonl:16"
    ):
        ingest(collection.settings(max_refused=0.1))


def test_a_judgment_of_a_quarantined_passage_is_dangling(collection: Collection) -> None:
    collection.add("corpus.jsonl", {"_id": "empty", "text": ""})
    collection.add("qrels/train.tsv", "q1\tempty\t1")
    ingested, _ = ingest(collection.settings())
    assert [row["rule"] for row in quarantine_of(ingested)] == ["passage_text_visible", "qrel_passage_known"]


def test_judgments_of_zero_are_accepted_and_not_positives(collection: Collection) -> None:
    collection.add("qrels/train.tsv", "q1\tp2\t0", "q1\tp3\t-1")
    ingested, snapshot = ingest(collection.settings())
    assert (ingested.rows, ingested.accepted, ingested.quarantined) == (92, 92, 0)
    assert snapshot.qrels == 30
    tables = json.loads((ingested.path / "validation.json").read_text())["tables"]
    assert tables["qrels"]["not_relevant"] == 2


def test_a_warning_counts_a_row_and_keeps_it(collection: Collection) -> None:
    collection.add("corpus.jsonl", {"_id": "short", "text": "tiny"})
    ingested, snapshot = ingest(collection.settings())
    counts = {count.rule: count for count in ingested.rules}
    assert (counts["passage_text_short"].severity, counts["passage_text_short"].failed) == ("warn", 1)
    assert "short" in ids(snapshot)
    assert ingested.quarantined == 0


def test_too_many_refused_rows_stop_the_night_and_keep_the_quarantine(collection: Collection) -> None:
    row = collection.add("corpus.jsonl", "not json", "nor this")
    with pytest.raises(
        BadInput, match=rf"passages: 2 of 32 rows refused[\s\S]*malformed_json: 2, first corpus.jsonl:{row}"
    ) as stop:
        ingest(collection.settings(max_refused=0.05))
    (folder,) = (collection.home / "refused").iterdir()
    assert str(folder / "quarantine.parquet") in str(stop.value)
    refused = pq.read_table(folder / "quarantine.parquet").to_pylist()
    assert [row["record"] for row in refused] == ["not json", "nor this"]
    assert (folder / "validation.json").is_file()
    with pytest.raises(BadInput):  # a rerun also fails
        ingest(collection.settings(max_refused=0.05))
    assert list((collection.home / "refused").iterdir()) == [folder]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", b"", "no passages"),
        ("queries.jsonl", b"", "no queries"),
        ("qrels/train.tsv", b"query-id\tcorpus-id\tscore\n", "nothing to train on: positives only in dev, test"),
        ("qrels/train.tsv", b"query-id\tcorpus-id\tscore\nq1\tp1\t0\n", "nothing to train on"),
        ("qrels/train.tsv", b"query-id\tdoc\tscore\nq1\tp1\t1\n", "header is query-id, doc, score; expected"),
    ],
)
def test_a_source_that_no_night_can_use_is_refused_with_the_reason(
    collection: Collection, file: str, content: bytes, message: str
) -> None:
    (collection.root / file).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        ingest(collection.settings(max_refused=1.0))


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl"])
def test_the_error_names_a_missing_file(collection: Collection, missing: str) -> None:
    (collection.root / missing).unlink()
    with pytest.raises(BadInput, match=missing):
        ingest(collection.settings())


def test_the_error_names_a_truncated_gzip_file(collection: Collection) -> None:
    plain = collection.root / "corpus.jsonl"
    (collection.root / "corpus.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes())[:-20])
    plain.unlink()
    with pytest.raises(BadInput, match=r"corpus\.jsonl\.gz: cannot be read to its end"):
        ingest(collection.settings())


def test_the_same_source_is_read_once(collection: Collection) -> None:
    first, snapshot = ingest(collection.settings())
    second, again = ingest(collection.settings())
    assert (first.reused, second.reused) == (False, True)
    assert second.digest == first.digest
    assert again.digest == snapshot.digest


def test_an_unchanged_source_does_not_load_great_expectations(collection: Collection) -> None:
    ingest(collection.settings())
    code = (
        "import sys; from pathlib import Path; from tasks.core.ingest.ingest import ingest; "
        "from tasks.core.base.settings import Settings, DataSettings; "
        f"ingested, _ = ingest(Settings(home=Path({str(collection.home)!r}), data=DataSettings(format='beir', "
        f"path=Path({str(collection.root)!r}), max_refused=0.5))); "
        "assert ingested.reused; assert not {'great_expectations', 'pandas', 'duckdb', 'jsonschema'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_changed_source_is_read_again(collection: Collection) -> None:
    first, before = ingest(collection.settings())
    collection.add("corpus.jsonl", passage(30))
    (collection.root / "queries.jsonl").write_bytes((collection.root / "queries.jsonl").read_bytes())
    second, after = ingest(collection.settings())
    assert first.digest != second.digest
    assert before.digest != after.digest


def test_sources_with_equal_content_make_the_same_snapshot(collection: Collection) -> None:
    _, clean = ingest(collection.settings())
    for name in ("corpus.jsonl", "queries.jsonl"):  # another order, gzipped, BOM, CRLF, blank lines, one bad line
        plain = collection.root / name
        lines = [b"oops", *reversed(plain.read_bytes().splitlines())]
        plain.with_name(f"{name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines)))
        plain.unlink()
    other, same = ingest(collection.settings())
    assert other.quarantined == 2
    assert [row["row"] for row in quarantine_of(other)] == [1, 1]
    assert same.digest == clean.digest


def test_another_split_is_another_snapshot(collection: Collection) -> None:
    _, first = ingest(collection.settings())
    (collection.root / "qrels" / "dev.tsv").rename(collection.root / "qrels" / "heldout.tsv")
    _, second = ingest(collection.settings())
    assert first.digest != second.digest
    assert second.splits["heldout"] == 5


def test_a_pruned_snapshot_is_rebuilt(collection: Collection) -> None:
    import shutil

    _, snapshot = ingest(collection.settings())
    shutil.rmtree(snapshot.path)
    ingested, again = ingest(collection.settings())
    assert again.digest == snapshot.digest
    assert again.path.is_dir()
    assert not ingested.reused


def test_readers_stream_passages_and_select_splits(collection: Collection) -> None:
    _, snapshot = ingest(collection.settings())
    batches = list(passages(snapshot, columns=["passage_id"], batch_rows=7))
    assert [batch.num_rows for batch in batches] == [7, 7, 7, 7, 2]
    assert queries(snapshot, "dev")["query_id"].to_pylist() == ["q20", "q21", "q22", "q23", "q24"]
    assert queries(snapshot).num_rows == 30
    assert set(qrels(snapshot, "test")["passage_id"].to_pylist()) == {"p25", "p26", "p27", "p28", "p29"}
    assert str(qrels(snapshot).schema.field("relevance").type) == "int32"
    assert load_snapshot(collection.home, snapshot.digest).rows == 30
    with pytest.raises(NightshiftError, match="not found"):
        load_snapshot(collection.home, "0" * 20)


def test_the_text_hash_in_a_snapshot_is_that_of_the_full_text(collection: Collection) -> None:
    collection.add("corpus.jsonl", {"_id": "bare", "text": "No title, Ünïcödé text."})
    _, snapshot = ingest(collection.settings())
    for batch in passages(snapshot):
        for row in batch.to_pylist():
            assert row["text_hash"] == text_hash(row["title"], row["text"])
    assert (full_text("A", "b"), full_text("", "b"), full_text(None, "b")) == ("A b", "b", "b")


def test_compare_counts_new_changed_and_gone_passages(collection: Collection, tmp_path: Path) -> None:
    _, old = ingest(collection.settings())
    lines = (collection.root / "corpus.jsonl").read_bytes().splitlines()
    changed = json.dumps({**passage(1), "text": "Written again, and longer."}).encode()
    added = [json.dumps(passage(n)).encode() for n in (30, 31, 32)]
    (collection.root / "corpus.jsonl").write_bytes(b"\n".join([lines[0], changed, *lines[2:-2], *added]))
    _, new = ingest(collection.settings())
    counts = compare(old, new)
    assert (counts.new, counts.changed, counts.gone, counts.same) == (3, 1, 2, 27)
