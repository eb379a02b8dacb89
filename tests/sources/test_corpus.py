"""Passages without queries, from records and documents."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.core.base.errors import BadInput
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.source_summary import settings_text, summarize_source
from tasks.core.snapshot.reader import passages
from tasks.core.sources.source import recognize

GUIDE = """# Owls

Owls hunt at night.
They make no sound.

## Hunting of owls ##

An owl finds a mouse by its sound.
"""
ROWS = [{"id": 7, "title": "Owls", "body": "Owls hunt at night."}, {"id": "8", "body": "Larks sing at dawn."}]


def read(folder: Path, **data: object) -> list[dict[str, str]]:
    tree = {"data": {"format": "corpus", "path": folder, **data}, "synthetic": {"structure": True}}
    _, snapshot = ingest(Settings.model_validate({"home": folder.parent / "home", **tree}))
    assert snapshot.splits == {}
    return [row for batch in passages(snapshot, ["passage_id", "title", "text"]) for row in batch.to_pylist()]


def test_records_are_read_from_a_corpus_file_alone(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "not a passage of this corpus"}\n')
    expected = [
        {"passage_id": "7", "title": "Owls", "text": "Owls hunt at night."},
        {"passage_id": "8", "title": "", "text": "Larks sing at dawn."},
    ]
    assert read(folder) == expected
    summary = summarize_source(str(folder), cold=True)
    assert (summary.format, summary.passages, summary.queries, summary.warnings) == ("corpus", 2, 0, [])
    text = settings_text(summary, "var/owls")
    assert 'split = "synthetic"' in text
    assert "structure = true" in text
    assert "query_tokens" not in text


def test_documents_are_split_at_headings(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "birds").mkdir(parents=True)
    (folder / "birds" / "owls.md").write_text(GUIDE)
    (folder / "larks.txt").write_text("\n\n".join(f"Paragraph {n} " + "word " * 90 for n in range(3)))
    rows = {row["passage_id"]: row for row in read(folder)}
    assert rows["birds/owls.md#1"] == {
        "passage_id": "birds/owls.md#1",
        "title": "Owls",
        "text": "Owls hunt at night.\nThey make no sound.",
    }
    assert rows["birds/owls.md#2"]["title"] == "owls: Hunting of owls"
    assert [row["text"].count("Paragraph") for name, row in sorted(rows.items()) if "larks" in name] == [2, 1]


def test_a_column_of_any_name_can_be_the_text(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "tickets.csv").write_text("number,resolution\n1,Restart the print server.\n2,Change the paper tray.\n")
    with pytest.raises(BadInput, match=r"has no column text or passage .* Its columns: number, resolution"):
        recognize(folder, cold=True)
    assert [row["text"] for row in sorted(read(folder, passage_column="resolution"), key=lambda row: row["text"])] == [
        "Change the paper tray.",
        "Restart the print server.",
    ]


def test_a_damaged_document_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"caf\xe9 at night, and more words")
    (folder / "b.txt").write_text("Larks sing at dawn, and more words.")
    assert [row["title"] for row in read(folder, max_refused=0.5)] == ["b"]
    (quarantine,) = (tmp_path / "home").glob("ingests/[!.]*/quarantine.parquet")
    (refused,) = pq.read_table(quarantine).to_pylist()
    assert (refused["rule"], refused["file"]) == ("invalid_utf8", "a.txt")


def test_a_corpus_needs_a_way_to_make_pairs() -> None:
    with pytest.raises(ValueError, match=r"set \[synthetic\] structure = true, or \[generate\] url"):
        Settings.model_validate({"data": {"format": "corpus", "path": "x"}})
    with pytest.raises(ValueError, match="needs model and budget"):
        Settings.model_validate({"generate": {"url": "http://127.0.0.1:1/v1"}})
