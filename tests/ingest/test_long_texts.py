"""Long texts are stored separately during validation and read back unchanged."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_collection import Collection, passage, quarantine_of, query

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Snapshot
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.long_texts import LongTextReader, LongTextWriter, split_by_size
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.text.content_digest import ContentDigest


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.none() | st.text(max_size=9), max_size=6), max_size=4), st.randoms(use_true_random=False))
def test_texts_are_read_from_any_offset(
    tmp_path_factory: pytest.TempPathFactory, lists: list, order: random.Random
) -> None:
    file = tmp_path_factory.mktemp("long") / "texts"
    with LongTextWriter(file) as writer:
        places = [writer.add(pa.array(["cut off", *texts], pa.string()).slice(1)) for texts in lists]
    at = [start for starts, _ in places for start in starts.to_pylist()]
    sizes = [size for _, column in places for size in column.to_pylist()]
    wanted = [text for texts in lists for text in texts]
    shuffled = order.sample(range(len(wanted)), len(wanted))
    with LongTextReader(file) as reader:
        refused_rows = reader.read(
            pa.array([at[n] for n in shuffled], pa.int64()), pa.array([sizes[n] for n in shuffled], pa.int64())
        )
    assert [None if text is None else text.decode() for text in refused_rows.to_pylist()] == [
        wanted[n] for n in shuffled
    ]


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(0, 50), max_size=20), st.integers(1, 60))
def test_batches_hold_all_rows_within_the_size_limit(sizes: list[int | None], limit: int) -> None:
    batch = pa.record_batch({"size": pa.array(sizes, pa.int64())})
    parts = [part["size"].to_pylist() for part in split_by_size(batch, "size", limit)]
    assert [size for part in parts for size in part] == sizes
    assert all(sum(size or 0 for size in part[1:]) <= limit for part in parts)


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | st.text(max_size=4), st.integers(-9, 9)), max_size=12), st.integers(1, 12))
def test_a_content_digest_depends_on_values_and_not_on_batches(rows: list, cut: int) -> None:
    def digest(rows: list, cuts: list[int]) -> str:
        content_digest = ContentDigest()
        for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            content_digest.add("text", pa.array([text for text, _ in rows], pa.string()).slice(start, end - start))
            content_digest.add("number", pa.array([number for _, number in rows], pa.int32()).slice(start, end - start))
        return content_digest.hexdigest()

    assert digest(rows, []) == digest(rows, [min(cut, len(rows))])
    assert digest(rows, []) != digest([*rows, ("", 0)], [])
    assert digest([("ab", 1), ("c", 1)], []) != digest([("a", 1), ("bc", 1)], [])
    assert digest([(None, 1)], []) != digest([("", 1)], [])


def test_a_refused_row_of_a_parquet_file_is_kept_as_its_json(collection: Collection, tmp_path: Path) -> None:
    """Keep the JSON of the file where staged values differ: a null title, a floating-point score."""
    root = tmp_path / "columnar"
    root.mkdir()
    bad = [
        {"docid": "a b", "title": None, "contents": 'reads "no"\\ and\n\x0b é 界'},
        {"docid": "p1", "title": "T\t1", "contents": "another text of p1"},
        {"docid": "empty", "title": "", "contents": ""},
        {"docid": None, "title": "none", "contents": "no id at all"},
    ]
    good = [{"docid": f"p{n}", "title": f"T{n}", "contents": f"The text of passage {n}."} for n in range(30)]
    pq.write_table(pa.Table.from_pylist([*good, *bad]), root / "corpus.parquet")
    null_queries = [{"qid": 7, "query": None}]
    whole = [{"qid": n + 100, "query": f"question {n}"} for n in range(30)]
    pq.write_table(pa.Table.from_pylist([*whole, *null_queries]), root / "queries.parquet")
    kinds = {"train": pa.int64(), "dev": pa.float64(), "test": pa.string()}
    lost = {}
    for place, (split, kind) in enumerate(kinds.items()):
        scores = pa.array([1, 1, 2], pa.int64()).cast(kind)
        ids = {"query_id": [str(100 + place), str(110 + place), "nobody"], "passage_id": ["p0", "p1", "p2"]}
        pq.write_table(pa.table({**ids, "label": scores}), root / f"qrels-{split}.parquet")
        lost[split] = {"query_id": "nobody", "passage_id": "p2", "label": 2.0 if split == "dev" else "2"}
    ingested, _ = ingest(collection.settings(format="parquet", path=root))
    refused_rows = quarantine_of(ingested)
    of = {
        table: [json.loads(str(row["record"])) for row in refused_rows if row["table"] == table]
        for table in ("passages", "queries")
    }
    assert of["passages"] == bad
    assert of["queries"] == [{"qid": "7", "query": None}]
    for split, record in lost.items():
        (row,) = [
            row
            for row in refused_rows
            if str(row["file"]) == f"qrels-{split}.parquet" and row["rule"] == "qrel_query_known"
        ]
        assert row["record"] == json.dumps(record, ensure_ascii=False)
    assert [row["record"] for row in refused_rows if row["table"] == "passages"] == [
        json.dumps(row, ensure_ascii=False) for row in bad
    ]


def test_rows_in_another_order_make_the_same_snapshot_to_the_byte(collection: Collection, tmp_path: Path) -> None:
    lines = {
        file: (collection.root / file).read_bytes().splitlines(keepends=True)
        for file in ("corpus.jsonl", "queries.jsonl")
    }
    _, first = ingest(collection.settings())
    before = _files(first)
    for file, several in lines.items():
        (collection.root / file).write_bytes(b"".join(random.Random(3).sample(several, len(several))))
    collection.home = tmp_path / "another home"
    _, second = ingest(collection.settings())
    assert (second.digest, _files(second)) == (first.digest, before)
    ids = [row for batch in passages(second) for row in batch["passage_id"].to_pylist()]
    assert ids == sorted(passage(n)["_id"] for n in range(30))
    assert queries(second)["query_id"].to_pylist() == sorted(query(n)["_id"] for n in range(30))
    assert qrels(second).num_rows == 30


def test_the_message_of_a_reader_reaches_the_user_unchanged(collection: Collection) -> None:
    """DuckDB reads the rows on demand."""
    (collection.root / "qrels/dev.tsv").write_text("query-id\tdocument\tscore\nq1\tp1\t1\n")
    with pytest.raises(BadInput, match=re.escape("qrels/dev.tsv: header is")):
        ingest(collection.settings())


def _files(snapshot: Snapshot) -> list[bytes]:
    return [(snapshot.path / name).read_bytes() for name in ("passages.parquet", "queries.parquet", "qrels.parquet")]
