"""Pairs in any two columns are read from JSON, CSV, TSV, and Parquet; errors list the columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_forms import jsonl, put, rows
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.base.errors import BadInput
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings_file import load_settings
from tasks.core.ingest.source_summary import summarize_source
from tasks.core.sources.source import find_source

PAIRS = [(f'what is "metal" {n}, in short', f"Metal {n}:\nit is described; here.") for n in range(12)]


def put_csv(root: Path, name: str, header: tuple[str, str], delimiter: str = ",", encoding: str = "utf-8") -> None:
    root.mkdir(parents=True, exist_ok=True)
    with (root / name).open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *PAIRS])


def put_parquet(root: Path, name: str, columns: tuple[str, str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(columns, map(list, zip(*PAIRS, strict=True)), strict=True))), root / name)


def pairs_of(path: Path) -> list[tuple[str, str, str, int]]:
    rows_read = rows("pairs", path, path.with_name(f"{path.name}-scratch"))
    assert not [row for table in rows_read.values() for row in table if row["fault"]]
    query = {row["query_id"]: row["text"] for row in rows_read["queries"]}
    passage = {row["passage_id"]: row["text"] for row in rows_read["passages"]}
    return [
        (query[row["query_id"]], passage[row["passage_id"]], row["split"], row["relevance"])
        for row in rows_read["qrels"]
    ]


def test_two_columns_with_known_names_are_recognized_in_every_file_format(tmp_path: Path) -> None:
    put(tmp_path / "jsonl", "train.jsonl", jsonl([{"question": q, "answer": p} for q, p in PAIRS]))
    put(tmp_path / "json", "faq.json", json.dumps([{"query": q, "passage": p} for q, p in PAIRS], indent=1))
    put(tmp_path / "flag", "ft.jsonl", jsonl([{"query": q, "pos": [p], "neg": ["Neither."]} for q, p in PAIRS]))
    put_csv(tmp_path / "csv", "faq.csv", ("question", "answer"))
    put_csv(tmp_path / "excel", "faq.csv", ("Question", "ANSWER"), ";", "utf-8-sig")
    put_csv(tmp_path / "tsv", "faq.tsv", ("query", "document"), "\t")
    put_parquet(tmp_path / "parquet", "any.parquet", ("anchor", "context"))
    for name in ("jsonl", "json", "flag", "csv", "excel", "tsv", "parquet"):
        summary = summarize_source(str(tmp_path / name))
        assert (summary.format, summary.passages, summary.qrels) == ("pairs", 12 + (name == "flag"), {"train": 12}), (
            name
        )
        assert pairs_of(tmp_path / name) == [(*pair, "train", 1) for pair in PAIRS], name


@pytest.mark.parametrize("header", ["Question,Answer,Label", "question,answer,LABELS", "query,answer,Relevance "])
def test_labels_are_read_in_any_case(header: str, tmp_path: Path) -> None:
    put(tmp_path, "faq.csv", f"{header}\nwhen do owls hunt,Larks sing at dawn.,0\nwhen do owls sleep,By day.,2\n")
    assert [pair[-1] for pair in pairs_of(tmp_path)] == [0, 2]
    assert summarize_source(str(tmp_path)).qrels == {"train": 1}


def test_a_file_of_any_name_is_the_train_split_unless_another_file_is(tmp_path: Path) -> None:
    records = [[{"anchor": q, "positive": p}] for q, p in PAIRS]
    put(tmp_path / "any", "my_pairs.jsonl", jsonl(records[0]))
    put(tmp_path / "any", "dev.jsonl", jsonl(records[1]))
    put(tmp_path / "named", "train.jsonl", jsonl(records[0]))
    put(tmp_path / "named", "held-out.jsonl", jsonl(records[1]))
    for name, splits in (("any", {"train", "dev"}), ("named", {"train", "held-out"})):
        rows_read = rows("tevatron", tmp_path / name, tmp_path / f"{name}-scratch")
        assert {row["split"] for row in rows_read["qrels"]} == splits


def test_init_and_the_night_read_any_two_configured_columns(tmp_path: Path) -> None:
    put_csv(tmp_path / "source", "tickets.csv", ("Subject line", "Resolution"))
    result = CliRunner().invoke(app, ["init", str(tmp_path / "source"), "--to", str(tmp_path / "night.toml")])
    assert result.exit_code == 1
    assert "no column with a known name for the query (query, anchor, question)" in result.output.replace("\n", " ")
    assert "Its columns: Subject line, Resolution. Choose with nightshift init" in result.output.replace("\n", " ")
    chosen = ["--query", "Subject line", "--passage", "Resolution", "--to", str(tmp_path / "night.toml")]
    result = CliRunner().invoke(app, ["init", str(tmp_path / "source"), *chosen])
    assert result.exit_code == 0, result.output
    data = load_settings(tmp_path / "night.toml").data
    assert (data.format, data.query_column, data.passage_column) == ("pairs", "Subject line", "Resolution")
    read = find_source(data).open(tmp_path)
    assert [text for batch in read("queries") for text in batch["text"].to_pylist()] == [query for query, _ in PAIRS]
    with pytest.raises(ValueError, match='need format = "pairs"'):
        DataSettings(format="beir", path=tmp_path, query_column="Subject line")


def test_other_columns_make_another_source(tmp_path: Path) -> None:
    put(tmp_path, "faq.jsonl", jsonl([{"question": "q", "answer": "short", "context": "long"}]))
    with pytest.raises(BadInput, match=r"several columns that could be the passage: answer, context\. Its columns"):
        summarize_source(str(tmp_path))
    first, second = (
        find_source(DataSettings(format="pairs", path=tmp_path, passage_column=column)).identity
        for column in ("answer", "context")
    )
    assert first != second


def test_a_click_log_is_reported_as_a_click_log(tmp_path: Path) -> None:
    put(tmp_path, "log.jsonl", jsonl([{"query": "owls", "shown": ["p1", "p2"], "clicked": "p2"}]))
    with pytest.raises(BadInput, match=r"log\.jsonl: looks like a click log \(its fields: query, shown, clicked\)"):
        summarize_source(str(tmp_path))


def test_a_damaged_csv_row_affects_no_other_row(tmp_path: Path) -> None:
    lines = [b"question,answer,label", b"one,1st,1", b"two,2nd", b'thr"ee,3rd,0', b'"fo"ur,4th,1', b"f\xffve,5th,1",
             b"", b'"s""ix","6th\n and a half",1']  # fmt: skip
    put(tmp_path / "source", "train.csv", b"\r\n".join(lines))
    rows_read = rows("pairs", tmp_path / "source", tmp_path / "scratch")
    assert [(row["text"], row["line"], row["fault_detail"]) for row in rows_read["queries"]] == [
        ("one", 2, None),
        (None, 3, "2 columns where the header has 3"),
        ('thr"ee', 4, None),
        (None, 5, "broken quoting: ',' expected after '\"'"),
        (None, 6, "the row has bytes that are not UTF-8"),
        ('s"ix', 9, None),
    ]
    assert [row["relevance"] for row in rows_read["qrels"]] == [1, 0, 1]


def test_an_unclosed_csv_quote_stops_the_night_and_names_the_line(tmp_path: Path) -> None:
    put(tmp_path / "source", "train.csv", 'question,answer\none,1st\ntwo,"2nd\nthree,3rd\nfour,4th\n')
    with pytest.raises(BadInput, match=r"train\.csv: a quote opens on line 3 and is not closed by line 5"):
        rows("pairs", tmp_path / "source", tmp_path / "scratch")


@pytest.mark.parametrize(
    ("encoding", "header", "expected"),
    [
        ("utf-16", "question,answer", r"faq\.csv:1: the header .* \(it looks like UTF-16; save it as UTF-8\)"),
        ("latin-1", "question,réponse", r"faq\.csv:1: the header .* \(it looks like Latin-1 or Windows-1252; save"),
        ("latin-1", "question,answer", r"faq\.csv:2: the row has bytes that are not UTF-8: .*Latin-1"),
    ],
)
def test_a_csv_file_of_another_encoding_is_refused_with_a_guess(
    encoding: str, header: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "faq.csv").write_bytes(f"{header}\noù est le café,près du marché\n".encode(encoding))
    with pytest.raises(BadInput, match=expected):
        summarize_source(str(tmp_path))


def test_an_empty_file_and_a_wrong_column_name_are_reported(tmp_path: Path) -> None:
    for content in ("", "question,answer\n"):
        put(tmp_path, "faq.csv", content)
        with pytest.raises(BadInput, match=r"faq\.csv: has no row with data\. Write column names in its first line"):
            summarize_source(str(tmp_path))
    put(tmp_path, "faq.csv", "question,answer\na,b\n")
    with pytest.raises(BadInput, match=r"faq\.csv: has no column reply\. Its columns: question, answer"):
        summarize_source(str(tmp_path), passage="reply")
