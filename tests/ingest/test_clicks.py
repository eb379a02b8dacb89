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
from tasks.core.ingest.judge import Judgment, record_judgments
from tasks.core.snapshot.reader import given_negatives, pair_weights, qrels, queries
from tasks.core.text.tombstones import add_tombstones

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


PLANTED = "find number 0"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A log of 31 queries; PLANTED always ranks the irrelevant p1 first and the relevant p0 fifth."""
    collection, rng = build(tmp_path_factory.mktemp("clicks")), np.random.default_rng(1)
    rankings = {
        f"find number {n}": [rng.permutation([f"p{(n + k) % 30}" for k in range(6)]).tolist() for _ in range(3)]
        for n in range(1, 30)
    }
    rankings[HELD_OUT] = [["p27", "p1"]]
    write_log(collection.root / "clicks.jsonl", rankings, {query: f"p{query.split()[-1]}" for query in rankings}, 120)
    shown = ["p1", "p2", "p3", "p4", "p0"]
    clicks = {"p1": 20, "p0": 15}  # of 120 pages: one user in six liked p1; of the few who got to p0, most did
    planted = [
        page(session=f"planted {n}", query=PLANTED, shown=shown, clicked=[key for key in clicks if n < clicks[key]])
        for n in range(120)
    ]
    collection.add("clicks.jsonl", *planted)
    return collection


def page(**facts: Any) -> dict[str, Any]:
    time = "2026-11-03T14:00:00Z"
    return {"session": "s", "time": time, "query": "find it", "shown": ["p1", "p2"], "clicked": ["p1"], **facts}


@pytest.fixture(scope="module")
def corrected(world: Collection) -> tuple[Ingested, Snapshot]:
    return ingest(settings_of(world, min_weight=0))


def test_correction_prefers_the_relevant_passage_where_counting_prefers_the_one_at_the_top(
    world: Collection, corrected: tuple[Ingested, Snapshot]
) -> None:
    weights = {key: weight for key, (_, weight) in click_pairs(corrected[1]).items()}
    assert weights[PLANTED, "p0"] > 0.9
    assert weights.get((PLANTED, "p1"), 0) < 0.1
    _, counted = ingest(settings_of(world, min_weight=0, propensity=[1.0]))
    raw = {key: weight for key, (_, weight) in click_pairs(counted).items()}
    assert raw[PLANTED, "p1"] > raw.get((PLANTED, "p0"), 0)
    _, given = ingest(settings_of(world, min_weight=0, propensity=[1 / k for k in range(1, 7)]))
    assert click_pairs(given)[PLANTED, "p0"][1] > 0.9


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
    ingested, _ = ingest(settings_of(collection))
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


def test_a_log_next_to_passages_alone_gives_training_pairs(collection: Collection) -> None:
    collection.add("clicks.jsonl", *(page(session=f"u{n}") for n in range(9)))
    sources = [
        {"name": "pages", "format": "corpus", "path": collection.root},
        {"name": "log", "format": "clicks", "path": collection.root / "clicks.jsonl", "weight": 0.5},
    ]
    settings = Settings.model_validate({"home": collection.home, "data": {"sources": sources}})
    _, snapshot = ingest(settings)
    (pair,) = qrels(snapshot).to_pylist()
    assert (pair["passage_id"], pair["split"], pair["source"]) == ("p1", "train", "log")
    assert pair["weight"] <= 0.5
    assert (snapshot.rows, snapshot.queries) == (30, 1)


def test_a_person_outranks_clicks(collection: Collection) -> None:
    shown = ["p1", "p2", "p4"]
    collection.add(
        "clicks.jsonl",
        *(
            page(session=f"u{n}", query=f"find {name}", shown=shown, clicked=[name, "p4"])
            for n in range(9)
            for name in ("p1", "p2")
        ),
    )
    settings = settings_of(collection, min_weight=0)
    _, before = ingest(settings)
    assert {weight < 1 for _, weight in click_pairs(before).values()} == {True}
    judged = [Judgment("Find P1?", "p1", relevant=True), Judgment("find p2", "p2", relevant=False)]
    record_judgments(collection.home, judged, "ann")
    ingested, after = ingest(settings)
    assert set(click_pairs(after)) == {("find p1", "p4"), ("find p2", "p4")}
    (confirmed,) = (row for row in qrels(after).to_pylist() if row["source"] == "judgments")
    assert (confirmed["passage_id"], confirmed["weight"], confirmed["split"]) == ("p1", 1.0, "train")
    assert given_negatives(after)["passage_id"].to_pylist() == ["p2"]
    assert ingested.pairs_from["judged by people"] == 1
    (overruled,) = quarantine_of(ingested)
    assert (overruled["rule"], overruled["file"]) == ("qrel_overruled", "clicks/qrels of the click log")


def test_forgotten_queries_and_passages_leave_the_log(collection: Collection) -> None:
    shown = {"shown": ["p3", "p1", "p2"], "clicked": ["p3", "p1"]}
    pages = [page(session=f"u{n}", query=text, **shown) for n in range(9) for text in ("find it", "a private matter")]
    bad = [page(session="bad", query="a private matter!", **{**shown, "clicked": ["p3", "p9"]}), {"query": "private"}]
    collection.add("clicks.jsonl", *pages, *bad)
    settings = settings_of(collection, min_weight=0)
    first, before = ingest(settings)
    assert set(click_pairs(before)) == {(text, key) for text in ("find it", "a private matter") for key in ("p3", "p1")}
    assert "private" in str(quarantine_of(first))
    private = next(row for row in queries(before).to_pylist() if "private" in row["text"])
    add_tombstones(collection.home, ["p3"], [private["query_id"]], [private["text"]])
    ingested, after = ingest(settings)
    assert set(click_pairs(after)) == {("find it", "p1")}
    assert ingested.rows == ingested.accepted + ingested.quarantined + ingested.forgotten
    assert ingested.forgotten >= 9
    refused = quarantine_of(ingested)
    assert [(row["rule"], row["row"]) for row in refused] == [("click_clicked_shown", 19), ("missing_field", 20)]
    assert not [word for word in ("private", "p3") if word in str(refused)]
