"""Click logs: pairs corrected for position, never in the gate's split, and bad or inhuman pages in quarantine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click_world import write_log
from small_collection import Collection, build, quarantine_of

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Ingested, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest
from tasks.core.snapshot.reader import pair_weights, qrels, queries

HELD_OUT = "what is written in passage 27"  # the text of a test query of the collection


def settings_of(collection: Collection, **clicks: object) -> Settings:
    data = {"format": "clicks", "path": collection.root, "clicks": clicks}
    return Settings.model_validate({"home": collection.home, "data": data})


def click_pairs(snapshot: Snapshot) -> dict[tuple[str, str], tuple[str, float]]:
    """Return (query text, passage) -> (split, weight) of the pairs from clicks."""
    table = qrels(snapshot)
    text = dict(zip(*(queries(snapshot)[name].to_pylist() for name in ("query_id", "text")), strict=True))
    rows = zip(table.to_pylist(), pair_weights(table).tolist(), strict=True)
    return {
        (text[row["query_id"]], row["passage_id"]): (row["split"], weight)
        for row, weight in rows
        if row["source"] == "clicks"
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A log of 30 queries: the first ranks an irrelevant passage at position 1 and the relevant one at position 5."""
    collection, rng = build(tmp_path_factory.mktemp("clicks")), np.random.default_rng(1)
    rankings = {
        f"find number {n}": [rng.permutation([f"p{(n + k) % 30}" for k in range(6)]).tolist() for _ in range(3)]
        for n in range(30)
    }
    rankings["find number 0"] = [["p1", "p2", "p3", "p4", "p0"]]
    rankings[HELD_OUT] = [["p27", "p1"]]
    write_log(collection.root / "clicks.jsonl", rankings, {query: f"p{query.split()[-1]}" for query in rankings}, 120)
    return collection


@pytest.fixture(scope="module")
def corrected(world: Collection) -> tuple[Ingested, Snapshot]:
    return ingest(settings_of(world, min_weight=0))


def test_correction_prefers_the_relevant_passage_where_counting_prefers_the_one_at_the_top(
    world: Collection, corrected: tuple[Ingested, Snapshot]
) -> None:
    pages = [json.loads(line) for line in (world.root / "clicks.jsonl").read_text().splitlines()]
    top = {"p1": 40, "p0": 12}  # of 120 pages: p1 pleased 40 people at position 1, p0 half of those who got to it
    for page in pages:
        if page["query"] == "find number 0":
            page["clicked"] = [passage for passage in top if top[passage] > 0]
            top = {passage: left - 1 for passage, left in top.items()}
    lines = "".join(json.dumps(page) + "\n" for page in pages)
    planted = Collection(world.root.parent / "planted", world.home)
    if not planted.root.exists():
        build_from(world, planted.root, lines)
    weights = {}
    for name, clicks in (("corrected", {}), ("counted", {"propensity": [1.0]})):
        _, snapshot = ingest(settings_of(planted, min_weight=0, **clicks))
        weights[name] = {
            passage: weight for (query, passage), (_, weight) in click_pairs(snapshot).items() if "number 0" in query
        }
    assert weights["corrected"]["p0"] > 0.9
    assert weights["corrected"].get("p0", 0) >= weights["corrected"].get("p1", 0)
    assert weights["counted"]["p1"] > weights["counted"].get("p0", 0)


def build_from(world: Collection, root: Path, log: str) -> None:
    import shutil

    shutil.copytree(world.root, root)
    (root / "clicks.jsonl").write_text(log)


def test_pairs_of_clicks_are_true_unsure_and_only_for_training(corrected: tuple[Ingested, Snapshot]) -> None:
    ingested, snapshot = corrected
    pairs = click_pairs(snapshot)
    assert {split for split, _ in pairs.values()} == {"train"}
    assert HELD_OUT not in {query for query, _ in pairs}
    assert snapshot.splits["test"] == snapshot.splits["dev"] == 5
    best: dict[str, tuple[float, str]] = {}
    for (query, passage), (_, weight) in pairs.items():
        assert 0 < weight < 1
        best[query] = max(best.get(query, (0.0, "")), (weight, passage))
    right = [passage == f"p{query.split()[-1]}" for query, (_, passage) in best.items()]
    assert len(right) == 30
    assert sum(right) >= 28
    (looks,) = (note for note in ingested.notes if "users look at" in note)
    estimated = [float(value) for value in looks.split("proportion to ")[1].split(" (")[0].split(", ")]
    assert estimated == pytest.approx([1 / k for k in range(1, 7)], abs=0.12)


def page(**facts: Any) -> dict[str, Any]:
    time = "2026-11-03T14:00:00Z"
    return {"session": "s", "time": time, "query": "find it", "shown": ["p1", "p2"], "clicked": ["p1"], **facts}


BAD: Mapping[str, list[dict[str, Any]]] = {
    "missing_field": [{"session": "a", "time": 1, "query": "q", "shown": ["p1"]}],
    "wrong_type": [page(session="b", shown="p1"), page(session="c", time="yesterday"), page(session="d", query=7)],
    "bad_positions": [page(session="e", positions=[1]), page(session="f", positions=[2, 2])],
    "click_session_visible": [page(session=" ")],
    "click_time_plausible": [page(session="g", time=5)],
    "click_query_visible": [page(session="h", query=" ")],
    "click_shown_present": [page(session="i", shown=[], clicked=[])],
    "click_shown_once": [page(session="j", shown=["p1", "p1"])],
    "click_clicked_shown": [page(session="k", clicked=["p9"])],
    "click_page_human": [page(session="l", shown=[f"p{n}" for n in range(25)], clicked=[f"p{n}" for n in range(25)])],
    "click_session_human": [
        page(
            session="bot", query=f"query {n}", shown=[f"p{n}" for n in range(15)], clicked=[f"p{n}" for n in range(15)]
        )
        for n in range(8)
    ],
    "click_query_bounded": [page(session="again", time=f"2026-11-03T14:0{n}:00Z") for n in (3, 4)],
}


def test_bad_and_inhuman_pages_are_quarantined_with_their_rule(collection: Collection) -> None:
    good = [page(session=f"u{n}", time=1_760_000_000 + n) for n in range(60)]
    good += [
        page(session="again", query=text, time=f"2026-11-03T14:0{n}:00Z")
        for n, text in enumerate(("find it", "Find it ?", "FIND it"))
    ]
    bad = [record for records in BAD.values() for record in records]
    collection.add("clicks.jsonl", *good, good[0], "no json", *bad)
    ingested, snapshot = ingest(settings_of(collection))
    refused = Counter(str(row["rule"]) for row in quarantine_of(ingested) if row["table"] == "clicks")
    assert refused == {"malformed_json": 1, **{rule: len(records) for rule, records in BAD.items()}}
    assert ingested.merged == 1
    counts = json.loads((ingested.path / "validation.json").read_text())["tables"]["clicks"]
    assert counts["read"] == len(good) + len(bad) + 2 == counts["accepted"] + counts["quarantined"]
    assert "63 result pages in 61 sessions, 1 queries (1 with a click)" in ingested.notes[0]
    with pytest.raises(BadInput, match=r"clicks: .* rows refused .*max_refused allows 1"):
        ingest(settings_of(collection, max_refused=0.01))


def test_a_parquet_log_gives_the_snapshot_of_a_json_log(tmp_path: Path) -> None:
    pages = [page(session=f"u{n}", time=1_760_000_000 + n, positions=[1, 3]) for n in range(9)]
    digests = set()
    for name in ("clicks.jsonl", "clicks.parquet"):
        collection = build(tmp_path / name)
        if name.endswith(".jsonl"):
            collection.add(name, *pages)
        else:
            table = pa.Table.from_pylist(pages)
            times = pa.array([datetime.fromtimestamp(row["time"], UTC) for row in pages])
            pq.write_table(table.set_column(table.column_names.index("time"), "time", times), collection.root / name)
        digests.add(ingest(settings_of(collection))[1].digest)
    assert len(digests) == 1


def test_pairs_need_enough_impressions_and_a_passage_of_the_collection(collection: Collection) -> None:
    often = [page(session=f"u{n}", shown=["p1", "gone"], clicked=["p1", "gone"]) for n in range(6)]
    collection.add("clicks.jsonl", *often, *(page(session=f"v{n}", query="a rare query") for n in range(2)))
    _, snapshot = ingest(settings_of(collection, min_weight=0))
    assert set(click_pairs(snapshot)) == {("find it", "p1")}
    _, snapshot = ingest(settings_of(collection, min_weight=0, min_impressions=1))
    assert set(click_pairs(snapshot)) == {("find it", "p1"), ("a rare query", "p1")}
