"""The weight of a judgment: read from the source, kept in the snapshot, and never in dev or test if it is unsure."""

from __future__ import annotations

import json

import pytest
from small_collection import Collection, quarantine_of, query

from tasks.core.base.receipts import Snapshot
from tasks.core.ingest.ingest import ingest
from tasks.core.snapshot.reader import pair_weights, qrels


def weight_of(snapshot: Snapshot) -> dict[tuple[str, str], float]:
    table = qrels(snapshot)
    pairs = zip(table["query_id"].to_pylist(), table["split"].to_pylist(), strict=True)
    return dict(zip(pairs, pair_weights(table).tolist(), strict=True))


def test_weights_are_stored_only_if_one_differs_from_1(collection: Collection) -> None:
    _, plain = ingest(collection.settings())
    file = collection.root / "qrels" / "train.tsv"
    lines = file.read_text().splitlines()
    file.write_text("".join(f"{line}\t{'weight' if line is lines[0] else 1}\n" for line in lines))
    _, ones = ingest(collection.settings())
    assert ones.digest == plain.digest
    assert "weight" not in qrels(ones).column_names
    file.write_text("".join(f"{line}\t{'weight' if line is lines[0] else 0.5}\n" for line in lines))
    _, halves = ingest(collection.settings())
    assert halves.digest != plain.digest
    assert {split: weight for (_, split), weight in weight_of(halves).items()} == {"train": 0.5, "dev": 1, "test": 1}


def test_a_weight_outside_0_to_1_is_refused(collection: Collection) -> None:
    file = collection.root / "qrels" / "train.tsv"
    rows = [f"q1\tp{n + 2}\t1\t{weight}" for n, weight in enumerate(("0.5", "0", "1.5", "much", "nan", ""))]
    file.write_text("\n".join(["query-id\tcorpus-id\tscore\tweight", *rows]) + "\n")
    ingested, _ = ingest(collection.settings())
    assert [(row["rule"], row["row"]) for row in quarantine_of(ingested)] == [("bad_weight", n) for n in (3, 4, 5, 6)]


@pytest.mark.parametrize("limit", [1.0, 0.6])
def test_unsure_pairs_are_never_held_out(collection: Collection, limit: float) -> None:
    """Queries 0-9 are sure, 10-19 have weight 0.7; query `other` has the wording of 3 and is unsure."""
    for split in ("dev", "test", "train"):
        (collection.root / "qrels" / f"{split}.tsv").unlink()
    collection.add("queries.jsonl", {**query(3), "_id": "other"})
    rows = [f"q{n}\tp{n}\t1\t{1 if n < 10 else 0.7}" for n in range(20)]
    collection.add("qrels/train.tsv", "query-id\tcorpus-id\tscore\tweight", *rows, "other\tp4\t1\t0.1")
    ingested, snapshot = ingest(collection.settings(dev_share=0.45, held_out_weight=limit))
    held_out = {query for query, split in weight_of(snapshot) if split != "train"}
    assert ingested.quarantined == 0
    unsure = {f"q{n}" for n in range(10, 20)}
    assert bool(held_out & unsure) == (limit < 1)
    assert "q3" in held_out
    assert "other" not in {query for query, _ in weight_of(snapshot)}  # its wording is held out
    counts = json.loads((ingested.path / "validation.json").read_text())["tables"]["qrels"]
    assert counts["unsure"] == 1
