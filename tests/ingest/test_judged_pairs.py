"""Votes and judgments of a home change the pairs of a snapshot, by their order of trust."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_collection import Collection, build, quarantine_of

from tasks.core.base.errors import BadInput, BadUsage
from tasks.core.base.receipts import Ingested, Snapshot
from tasks.core.ingest.ingest import find_ingested, ingest
from tasks.core.ingest.judge import Judgment, read_judgments, record_judgments
from tasks.core.ingest.serving_queries import combine_snapshots
from tasks.core.ingest.snapshot_without import Rows, without_rows
from tasks.core.snapshot.reader import GIVEN_NEGATIVES, given_negatives, qrels, queries
from tasks.core.sources.feedback_log import FOLDER, Origin, Record, Verdict, append_records
from tasks.core.sources.source import find_source

TEXT = "what is written in passage {}"
JUDGED = [  # query, passage, verdict, person
    (TEXT.format(1) + "?", "p5", "relevant", "ann"),
    (TEXT.format(2), "p2", "not_relevant", "ann"),
    (TEXT.format(3), "p9", "relevant", "ann"),
    (TEXT.format(3), "p9", "not_relevant", "ann"),  # corrects the line before
    (TEXT.format(22), "p9", "not_relevant", "ann"),
    (TEXT.format(22), "p8", "relevant", "ann"),
    ("a new query", "p7", "relevant", "ann"),
    ("a new query", "p5", "relevant", "ann"),
    ("a new query", "p5", "withdrawn", "ann"),
    ("a new query", "gone", "relevant", "ann"),
    ("people disagree", "p8", "relevant", "ann"),
    ("people disagree", "p8", "not_relevant", "bob"),
]
VOTES = [  # query, passage, verdict, visitor
    ("voted for", "p11", "relevant", "v1"),
    ("Voted for.", "p11", "answers", "v2"),
    (TEXT.format(6), "p12", "not_relevant", "v1"),
    (TEXT.format(6), "p12", "not_relevant", "v2"),
    (TEXT.format(4), "p4", "not_relevant", "v1"),
    (TEXT.format(4), "p4", "not_relevant", "v2"),
    ("a new query", "p7", "not_relevant", "v1"),
    ("a new query", "p7", "not_relevant", "v2"),
    ("visitors disagree", "p3", "not_relevant", "v1"),
    ("visitors disagree", "p3", "answers", "v2"),
    ("too few", "p3", "answers", "v2"),
]


def log(home: Path, origin: Origin, rows: list[tuple[str, str, str, str]]) -> None:
    records = [
        Record(query=query, passage_id=passage, verdict=Verdict(verdict), judge=judge, judged_at="2026-01-02T03:04:05")
        for query, passage, verdict, judge in rows
    ]
    append_records(home, origin, records)


def pairs_of(snapshot: Snapshot) -> set[tuple[str, str, str]]:
    """Return (query text, passage id, split) of all positives."""
    text = dict(zip(*(column.to_pylist() for column in queries(snapshot).columns), strict=True))
    return {(text[row["query_id"]], row["passage_id"], row["split"]) for row in qrels(snapshot).to_pylist()}


@pytest.fixture(scope="module")
def nights(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Collection, tuple[Ingested, Snapshot], tuple[Ingested, Snapshot]]:
    """The collection, its ingest without judgments, and its ingest with them."""
    collection = build(tmp_path_factory.mktemp("judged"))
    before = ingest(collection.settings())
    log(collection.home, Origin.JUDGE, JUDGED)
    log(collection.home, Origin.FEEDBACK, VOTES)
    return collection, before, ingest(collection.settings(max_refused=0.0))  # judgments never stop a night


def test_relevant_pairs_are_for_training_and_others_are_given_negatives(nights) -> None:
    _, (_, before), (ingested, after) = nights
    assert pairs_of(after) - pairs_of(before) == {
        (TEXT.format(1), "p5", "train"),
        ("a new query", "p7", "train"),
        ("Voted for.", "p11", "train"),
    }
    assert pairs_of(before) - pairs_of(after) == {(TEXT.format(2), "p2", "train")}
    assert after.given_negatives == 2
    assert given_negatives(after).to_pylist() == [
        {"query_id": "q3", "passage_id": "p9"},
        {"query_id": "q6", "passage_id": "p12"},
    ]
    assert ingested.pairs_from == {
        "from the source": 19,
        "judged by people": 2,
        "given negatives judged by people": 1,
        "from feedback": 1,
        "given negatives from feedback": 1,
    }


def test_snapshots_made_of_others_keep_the_given_negatives(nights) -> None:
    collection, (_, before), (_, after) = nights
    assert given_negatives(combine_snapshots(collection.home, before, after)).equals(given_negatives(after))
    assert without_rows(collection.home, after, Rows()).digest == after.digest
    fewer = without_rows(collection.home, after, Rows(passages={"p9": ()}))
    assert given_negatives(fewer).to_pylist() == [{"query_id": "q6", "passage_id": "p12"}]
    none = without_rows(collection.home, after, Rows(passages={"p9": (), "p12": ()}))
    assert none.given_negatives == 0
    assert not (none.path / GIVEN_NEGATIVES).exists()


def test_contradictions_are_quarantined_with_their_rules_and_no_row_is_lost(nights) -> None:
    _, _, (ingested, _) = nights
    refused = {(row["file"], row["row"]): row["rule"] for row in quarantine_of(ingested)}
    judged, votes = f"{FOLDER}/judgments.jsonl", f"{FOLDER}/votes.jsonl"
    assert refused == {
        ("qrels/train.tsv", 4): "qrel_overruled",
        (judged, 5): "judgment_query_reserved",
        (judged, 6): "judgment_query_reserved",
        (judged, 10): "judgment_passage_known",
        (judged, 11): "judgment_disputed",
        (judged, 12): "judgment_disputed",
        **dict.fromkeys([(votes, 5), (votes, 6)], "vote_against_source"),
        **dict.fromkeys([(votes, 7), (votes, 8)], "vote_overruled"),
        **dict.fromkeys([(votes, 9), (votes, 10)], "vote_undecided"),
    }
    assert all(row["reason"] for row in quarantine_of(ingested))
    waiting = 1
    assert ingested.rows == ingested.accepted + ingested.quarantined == 90 + len(JUDGED) + len(VOTES) - waiting


def test_the_provenance_of_each_decided_pair_is_stored(nights) -> None:
    _, _, (ingested, _) = nights
    rows = pq.read_table(ingested.path / "judged-pairs.parquet").to_pylist()
    decided = {(row["query"], row["passage_id"]): row for row in rows}
    assert decided[TEXT.format(2), "p2"] | {"names": "ann", "origin": "judge"} == decided[TEXT.format(2), "p2"]
    assert (
        decided["Voted for.", "p11"] | {"judges": 2, "origin": "feedback", "names": None}
        == decided["Voted for.", "p11"]
    )
    assert {row["judged_at"] for row in rows} == {"2026-01-02T03:04:05"}


def test_a_home_without_judgments_keeps_its_keys_and_a_waiting_vote_changes_nothing(collection: Collection) -> None:
    settings = collection.settings()
    ingested, snapshot = ingest(settings)
    source = find_source(settings.data, collection.home).identity
    log(collection.home, Origin.FEEDBACK, VOTES[:1])
    again, same = ingest(settings)
    assert again.reused
    assert (again.digest, same.digest) == (ingested.digest, snapshot.digest)
    assert ingested.pairs_from == {}
    assert find_ingested(collection.home, source, settings.data, votes=2) == same
    assert find_ingested(collection.home, source, settings.data, votes=1) is None


def test_files_of_judgments_are_recorded_whole_or_not_at_all(collection: Collection, tmp_path: Path) -> None:
    file = tmp_path / "judged.tsv"
    file.write_text(
        'query\tpassage\trelevance\nlamp\tp1\t2\nlamp\tp2\t0\n{"query": "x", "passage": "p3", "relevant": false}\n'
    )
    judgments = read_judgments(file)
    assert [judgment[:3] for judgment in judgments] == [("lamp", "p1", True), ("lamp", "p2", False), ("x", "p3", False)]
    with pytest.raises(BadUsage, match="Run a night first"):
        record_judgments(collection.home, judgments, "ann")
    ingest(collection.settings())
    with pytest.raises(BadUsage, match="no passage has the id 'gone'"):
        record_judgments(collection.home, [*judgments, Judgment("x", "gone", relevant=True)], "ann")
    assert not (collection.home / FOLDER).exists()
    record_judgments(collection.home, judgments, "ann")
    assert len((collection.home / FOLDER / "judgments.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["a\tb", "a\tb\tmaybe", '{"query": "a", "passage_id": 3, "relevant": 1}', "{", ""])
def test_an_invalid_file_of_judgments_names_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "judged.tsv"
    file.write_text(line + "\n")
    with pytest.raises(BadInput, match=r"judged\.tsv:1: |no judgments"):
        read_judgments(file)
