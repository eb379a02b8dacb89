"""Several sources of one collection: ids, weights, splits, and segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_collection import Collection, build, passage, quarantine_of, query

from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.base.settings_listing import format_settings
from tasks.core.evaluation.segments import segments_of
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.snapshot_without import find_forgotten, without_rows
from tasks.core.snapshot.reader import pair_weights, qrels, queries
from tasks.core.text.tombstones import add_tombstones


def settings_of(first: Collection, second: Collection, **more: Any) -> Settings:
    sources = [
        {"name": "manual", "format": "beir", "path": first.root},
        {"name": "support", "format": "beir", "path": second.root, **more},
    ]
    return Settings.model_validate({"home": first.home, "data": {"sources": sources, "max_refused": 0.5}})


@pytest.fixture
def second(tmp_path: Path) -> Collection:
    """A collection with the same ids: passages p0 to p19 are equal, p20 has another text, all queries are others."""
    other = build(tmp_path / "second")
    for name in ("corpus.jsonl", "queries.jsonl"):
        (other.root / name).unlink()
    other.add("corpus.jsonl", *(passage(n) for n in range(20)), {**passage(20), "text": "Another text of number 20."})
    other.add("corpus.jsonl", *({**passage(n), "_id": f"x{n}"} | {"text": f"Support page {n}."} for n in range(21, 30)))
    other.add("queries.jsonl", *({**query(n), "text": f"how to repair number {n}"} for n in range(30)))
    for split, numbers in (("dev", range(20, 25)), ("test", range(25, 30))):
        (other.root / "qrels" / f"{split}.tsv").unlink()
        rows = [f"q{n}\t{'p20' if n == 20 else f'x{n}'}\t1" for n in numbers]
        other.add(f"qrels/{split}.tsv", "query-id\tcorpus-id\tscore", *rows)
    return other


def test_query_ids_do_not_collide_and_equal_passages_are_one(collection: Collection, second: Collection) -> None:
    collection.add("queries.jsonl", "no json")
    second.add("queries.jsonl", {"_id": "mine"})
    ingested, snapshot = ingest(settings_of(collection, second, weight=0.5))
    assert {(row["file"], row["row"], row["rule"]) for row in quarantine_of(ingested)} == {
        ("manual/queries.jsonl", 31, "malformed_json"),
        ("support/queries.jsonl", 31, "missing_field"),
        ("support/corpus.jsonl", 21, "passage_conflicting"),  # p20
    }
    assert snapshot.rows == 39
    assert snapshot.queries == 60
    assert snapshot.splits == {"train": 40, "dev": 5, "test": 5}  # a weight of 0.5 is too low to be held out
    table = qrels(snapshot)
    weights = dict(zip(table["source"].to_pylist(), pair_weights(table).tolist(), strict=True))
    assert weights == {"manual": 1.0, "support": 0.5}
    assert {"manual:q1", "support:q1"} <= set(queries(snapshot)["query_id"].to_pylist())


def test_a_snapshot_without_its_unsure_pairs_has_no_weights(collection: Collection, second: Collection) -> None:
    settings = settings_of(collection, second)
    file = collection.root / "qrels" / "train.tsv"
    file.write_text(
        "query-id\tcorpus-id\tscore\tweight\n" + "".join(f"q{n}\tp{n}\t1\t{1 if n else 0.5}\n" for n in range(20))
    )
    _, before = ingest(settings)
    assert "weight" in qrels(before).column_names
    tombstones = add_tombstones(collection.home, [], ["manual:q0"], [])
    made = without_rows(collection.home, before, find_forgotten(before.path, tombstones))
    _, after = ingest(settings)
    assert "weight" not in qrels(after).column_names
    assert made.digest == after.digest


def test_each_source_is_a_segment_unless_it_only_trains(collection: Collection, second: Collection) -> None:
    _, snapshot = ingest(settings_of(collection, second))
    ids = queries(snapshot, "test")["query_id"].to_pylist()
    segments = segments_of(snapshot, "test", ids, None)
    assert [key.split(":")[0] for key in ids] == ["manual"] * 5 + ["support"] * 5
    assert segments["source manual"].tolist() == [True] * 5 + [False] * 5
    assert segments["source support"].tolist() == [False] * 5 + [True] * 5
    _, snapshot = ingest(settings_of(collection, second, splits="train only"))
    assert snapshot.splits == {"train": 50, "dev": 5, "test": 5}
    assert not [name for name in segments_of(snapshot, "test", ids[:5], None) if name.startswith("source")]


def test_relative_paths_of_sources_start_at_the_settings_file(collection: Collection, tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    file.write_text('[[data.sources]]\nname = "manual"\nformat = "beir"\npath = "source"\nweight = 0.7\n')
    settings = load_settings(file)
    assert settings.data.sources[0].path == collection.root
    listed = tmp_path / "all.toml"
    listed.write_text(format_settings(settings))
    assert load_settings(listed).data == settings.data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"format": "beir", "path": "x"}, "replaces"),
        ({"path": "x"}, "replaces"),
        ({"more": "manual"}, "occurs twice"),
        ({"more": "Not/a name"}, "match pattern"),
    ],
)
def test_wrong_sources_are_refused(data: dict[str, str], message: str) -> None:
    names = ["manual", *([data.pop("more")] if "more" in data else [])]
    sources = [{"name": name, "format": "beir", "path": "x"} for name in names]
    with pytest.raises(ValidationError, match=message):
        DataSettings.model_validate({**data, "sources": sources})
