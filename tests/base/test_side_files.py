"""Reading files that users provide next to a night: golden queries and query lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.base.errors import BadInput
from tasks.core.base.side_files import read_side_file
from tasks.core.evaluation.golden import Golden, read_golden
from tasks.core.search.shadow import read_queries

GOLDEN = '{"query": "ü \u2028 x", "passage_id": "p1"}\r\n'
MARKED = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


def test_encodings_with_a_byte_order_mark_are_read_without_the_mark(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    for encoding in MARKED:
        file.write_bytes(GOLDEN.encode(encoding))
        assert read_golden(file) == [Golden(query="ü \u2028 x", passage_id="p1")]
        assert read_queries(file) == ["ü \u2028 x"]


def test_undecodable_bytes_are_refused_with_file_line_and_next_step(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    cases = {
        b"fine\ncaf\xe9\n": "line 2: not UTF-8",
        "fine\nü".encode("utf-16-le"): "line 1: a NUL character. Is this UTF-16",
        b"\xff\xfe\n": "line 1: not UTF-16",
    }
    for content, message in cases.items():
        file.write_bytes(content)
        for read in (read_golden, read_queries):
            with pytest.raises(BadInput, match=f"golden.jsonl, {message}.*Save the file as UTF-8"):
                read(file)
    with pytest.raises(BadInput, match=r"golden queries .*: is a directory\. Give a file"):
        read_side_file(tmp_path, "golden queries")


def test_an_invalid_query_line_is_refused_with_its_number_and_reason(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    cases = {
        '{"query": "nice \\ud83d"}': "half of a character",
        '{"query": ' + "[" * 100_000 + "}": "nested too deeply",
        '{"query": 7}': "no text under",
        "{broken": "not JSON",
    }
    for line, message in cases.items():
        file.write_text(f"fine\n{line}\n")
        with pytest.raises(BadInput, match=f"queries.jsonl:2: .*{message}"):
            read_queries(file)
