from __future__ import annotations

from pathlib import Path

from small_snapshot import snapshot_of

from tasks.core.evaluation.segments import segments_of

QUERIES = {"q1": "one", "q2": "one two", "q3": "one two three", "q4": "one two three four"}
TRAIN_QUERIES = {"t1": "x", "t2": "y", "t3": "z"}
QRELS = [("q1", "a", "test"), ("q2", "b", "test"), ("q3", "c", "test"), ("q3", "a", "test"), ("q4", "d", "test")]
TRAIN = [("t1", "a", "train"), ("t2", "a", "train"), ("t2", "b", "train")]
PASSAGES = {"a": "first", "b": "second", "c": "third", "d": "fourth", "e": "fifth"}


def members(
    home: Path, serving: dict[str, str] | None = None, train: list[tuple[str, str, str]] = TRAIN
) -> dict[str, str]:
    now = snapshot_of(home, PASSAGES, QUERIES | TRAIN_QUERIES, [*QRELS, *train])
    before = None if serving is None else snapshot_of(home, serving)
    segments = segments_of(now, "test", list(QUERIES), before)
    return {
        name: " ".join(query for query, inside in zip(QUERIES, chosen, strict=True) if inside)
        for name, chosen in segments.items()
    }


def test_queries_are_split_by_length_and_by_how_often_their_passages_are_positives(tmp_path: Path) -> None:
    assert members(tmp_path) == {
        "short queries": "q1 q2",
        "long queries": "q3 q4",
        "head: frequently requested passages": "q1 q3",  # passage a, twice a positive in training
        "tail: rarely requested passages": "q2 q4",
    }


def test_a_segment_of_all_or_no_queries_is_left_out(tmp_path: Path) -> None:
    assert set(members(tmp_path, train=[("t3", "e", "train")])) == {"short queries", "long queries"}


def test_new_passages_are_those_not_served_or_served_with_another_text(tmp_path: Path) -> None:
    segments = members(tmp_path, serving={"a": "first", "b": "another text", "d": "fourth"})
    assert segments["new passages"] == "q2 q3"
    assert segments["passages served before"] == "q1 q4"
