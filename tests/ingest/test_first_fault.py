"""The first refused row is shown with its place, its start, and the likely cause."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_collection import Collection, passage
from source_forms import PASSAGES, beir, jsonl, msmarco, pack, put, rows

from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.source_summary import summarize_source
from tasks.core.sources.first_fault import guess_cause, shorten

LINES = jsonl(PASSAGES)
WRONG = {  # the guess in the message -> wrong content of corpus.jsonl
    "UTF-16; save it as UTF-8": LINES.encode("utf-16"),
    "UTF-16": LINES.encode("utf-16-be"),
    "Latin-1 or Windows-1252": b'{"_id": "p1", "text": "caf\xe9 and more"}\n' * 9,
    "a zip archive; unpack it": b"PK\x03\x04\x14\x00\x00\x00\x08\x00 corpus",
    "a Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a web page": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
    "XML, such as the error": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n',
    "a Python dictionary": b"{'_id': 'p1', 'text': 'owls'}\n",
    "JSON over several lines": json.dumps(PASSAGES, indent=2).encode(),
    "one JSON array": json.dumps(PASSAGES).encode(),
    "a Parquet file": b"PAR1\x15\x04\x15",
    "a click log": b'{"query": "owls", "shown": ["p1"], "clicked": "p1"}\n',
}


def test_init_and_the_night_report_the_first_fault_of_a_file_in_another_format(collection: Collection) -> None:
    file = collection.root / "corpus.jsonl"
    for guess, content in WRONG.items():
        file.write_bytes(content)
        place = rf"corpus\.jsonl:1: .*\(it looks like {re.escape(guess)}"
        with pytest.raises(NightshiftError, match=rf"no row of its passages can be read\. The first: {place}"):
            summarize_source(str(collection.root))
    with pytest.raises(BadInput, match=rf"1 of 1 rows refused[\s\S]*The first refused row: {place}"):
        ingest(collection.settings())


def test_a_truncated_file_is_not_advised_to_take_the_ending_that_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["when"], "answer": ["now"]}), tmp_path / "faq.parquet")
    content = (tmp_path / "faq.parquet").read_bytes()
    for name, advised in (("faq.parquet", False), ("faq.csv", True)):
        (tmp_path / "faq.parquet").unlink(missing_ok=True)
        (tmp_path / name).write_bytes(content[:-20])
        with pytest.raises(BadInput) as refused:
            summarize_source(str(tmp_path))
        assert ("give its name the ending .parquet" in str(refused.value)) == advised, refused.value


@pytest.mark.parametrize("count", [1, 20])
def test_the_first_refused_row_is_shown_for_any_share_of_refused_rows(
    count: int, collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    line = collection.add("corpus.jsonl", *(["\x1b[31m not JSON, and rather long" + " so" * 100] * count))
    pattern = rf"corpus\.jsonl:{line}: not JSON: .*: \\x1b\[31m not JSON.* …"
    (note,) = summarize_source(str(collection.root)).notes
    assert re.match(rf"passages: {count} of {30 + count} rows \(\d+\.\d%\) cannot be read; the first: {pattern}$", note)
    with caplog.at_level(logging.WARNING, "nightshift.ingest"):
        ingest(collection.settings())
    assert re.search(rf"first refused row of passages: {pattern}", caplog.text)


def test_a_row_that_a_contract_refuses_is_shown(collection: Collection, caplog: pytest.LogCaptureFixture) -> None:
    line = collection.add("corpus.jsonl", {**passage(40), "_id": "has a space"})
    with caplog.at_level(logging.WARNING, "nightshift.ingest"):
        ingest(collection.settings())
    assert f"corpus.jsonl:{line}: the id contains white space or control characters" in caplog.text
    assert '{"_id": "has a space"' in caplog.text


def test_a_compressed_file_without_its_extension_is_read_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for ending, codec in ((".gz", "gzip"), (".zst", "zstd")):
        beir(tmp_path)
        put(tmp_path, "corpus.jsonl", pack(LINES.encode(), ending))
        with caplog.at_level(logging.INFO, "nightshift.ingest"):
            assert len(rows("beir", tmp_path, tmp_path)["passages"]) == 30
        assert f"corpus.jsonl: read as {codec}, because of its first bytes" in caplog.text


def test_a_file_whose_content_contradicts_its_extension_is_refused_with_the_detected_format(tmp_path: Path) -> None:
    pointer = WRONG["a Git-LFS pointer"]
    for form, name in (("parquet", "corpus.parquet"), ("beir", "corpus.jsonl.gz")):
        beir(tmp_path / form)
        (tmp_path / form / "corpus.jsonl").unlink()
        put(tmp_path / form, name, pointer)
        for table in ("queries.parquet", "qrels/train.parquet"):
            put(tmp_path / form, table, pointer)
        with pytest.raises(BadInput, match=r"corpus\..*It looks like a Git-LFS pointer, not the file itself"):
            rows(form, tmp_path / form, tmp_path)


def test_the_error_for_a_folder_without_a_source_lists_its_files(tmp_path: Path) -> None:
    put(tmp_path, "corpus.zip", b"PK\x03\x04")
    put(tmp_path, ".DS_Store", b"")
    with pytest.raises(BadInput, match=r"no source that Nightshift knows. It contains corpus\.zip\. Nightshift reads"):
        summarize_source(str(tmp_path))


def test_a_record_is_shown_on_one_line_without_control_characters() -> None:
    assert shorten("a\tb\x1b[0m\r\n\u202ec\x00d é界") == r"a\tb\x1b[0m\r\n\u202ec\x00d é界"
    assert shorten("x" * 500) == "x" * 160 + " …"
    assert [guess_cause(LINES), guess_cause(b""), guess_cause("plain text")] == ["", "", ""]


def test_a_header_is_not_a_row_and_consistent_csv_quoting_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    msmarco(tmp_path)
    texts = ['She called "hoot" to it', '"Owls"', "no quote at all", 'one " alone']
    written = ["pid\tpassage", *(f'p{n}\t"{text.replace(chr(34), chr(34) * 2)}"' for n, text in enumerate(texts))]
    minimal = [*written[:3], "p2\tno quote at all", written[4]]
    for lines in (written, minimal):
        caplog.clear()
        put(tmp_path, "collection.tsv", "\n".join(lines) + "\n")
        with caplog.at_level(logging.INFO, "nightshift.ingest"):
            rows_read = rows("msmarco", tmp_path, tmp_path)["passages"]
        assert [(row["passage_id"], row["text"]) for row in rows_read] == [
            (f"p{n}", text) for n, text in enumerate(texts)
        ]
        assert "the first line is a header, not a row" in caplog.text
        assert "texts are quoted as in CSV: removing quotes" in caplog.text
    put(tmp_path, "collection.tsv", "\n".join([*written[1:], 'p9\tsome "raw" quotes']) + "\n")
    with caplog.at_level(logging.WARNING, "nightshift.ingest"):
        rows_read = rows("msmarco", tmp_path, tmp_path)["passages"]
    assert rows_read[0]["text"] == '"She called ""hoot"" to it"'
    assert "3 of the first 5 texts look quoted as in CSV" in caplog.text


def test_a_header_and_quotes_change_the_name_of_a_source_and_plain_files_do_not(tmp_path: Path) -> None:
    from tasks.core.base.settings import DataSettings
    from tasks.core.sources.source import find_source

    def identity() -> dict[str, object]:
        return dict(find_source(DataSettings(format="msmarco", path=tmp_path)).identity)

    msmarco(tmp_path)
    assert set(identity()) == {"msmarco", "reader"}
    put(tmp_path, "queries.train.tsv", "qid\tquery\n" + (tmp_path / "queries.train.tsv").read_text())
    assert identity()["dialect"] == {"queries.train.tsv": {"header": {"query_id": 0, "text": 1}}}
