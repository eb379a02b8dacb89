"""On a suspect night, passages are published without the suspect queries, unless they are suspect too."""

from __future__ import annotations

import json
from pathlib import Path

from traffic import append

from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.changed_passages import explain_suspect_passages
from tasks.core.drift.new_queries import ServingRelease
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.serving_queries import combine_snapshots, sample_changed_texts
from tasks.core.snapshot.reader import passages, qrels, queries


def tonight(settings: Settings, rows: list[dict[str, str]], gone: str = "") -> Snapshot:
    """Add passages to the source, remove one, add a broken query with a judgment, and ingest it."""
    folder = settings.data.path
    assert isinstance(folder, Path)
    kept = [line for line in (folder / "corpus.jsonl").read_text().splitlines() if json.loads(line)["_id"] != gone]
    (folder / "corpus.jsonl").write_text("".join(line + "\n" for line in [*kept, *map(json.dumps, rows)]))
    append(settings, "queries.jsonl", {"_id": "broken", "text": "whree wsa hte riverr"})
    append(settings, "qrels/test.tsv", "broken\tp1\t1")
    return ingest(settings)[1]


def test_a_combined_snapshot_has_the_passages_of_tonight_and_the_judgments_of_the_release(
    settings: Settings, snapshot: Snapshot
) -> None:
    new = tonight(settings, [{"_id": "new", "text": "a silent market"}], gone="p59")
    combined = combine_snapshots(settings.home, new, snapshot)
    assert (combined.rows, combined.queries, combined.qrels) == (100, 60, 59)
    assert combined.splits == {"dev": 4, "test": 19, "train": 36}
    assert list(passages(combined)) == list(passages(new))
    assert queries(combined).equals(queries(snapshot))
    kept = [row for row in qrels(snapshot).to_pylist() if row["passage_id"] != "p59"]
    assert qrels(combined).to_pylist() == kept
    assert combine_snapshots(settings.home, new, snapshot).reused


def test_only_new_and_changed_texts_are_sampled(settings: Settings, snapshot: Snapshot) -> None:
    changed = {"_id": "p3", "title": "", "text": "another text"}
    new = tonight(settings, [{"_id": "new", "text": "a silent market"}, changed], gone="p3")
    assert set(sample_changed_texts(snapshot, new, 10)["text"].to_pylist()) == {"a silent market", "another text"}
    assert sample_changed_texts(snapshot, new, 1).num_rows == 1
    assert sample_changed_texts(new, new, 10).num_rows == 0


def test_passages_of_unknown_words_are_suspect(settings: Settings, serving: Release, snapshot: Snapshot) -> None:
    served = ServingRelease(settings.home, serving, snapshot)
    assert explain_suspect_passages(served, snapshot) == ""
    half = tonight(settings, [{"_id": "new", "text": "silent market zq1 zq2"}])
    assert explain_suspect_passages(served, half) == ""
    broken = tonight(settings, [{"_id": f"x{n}new", "text": f"zq{n} zz{n} market"} for n in range(9)])
    assert explain_suspect_passages(served, broken).startswith("64.5% of the terms of new and changed passages")
