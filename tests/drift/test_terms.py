"""Terms of a snapshot are counted from those of an earlier reference, with the same bytes as from all texts."""

import random

import pytest
from small_snapshot import snapshot_of

from tasks.core.base.files import produce
from tasks.core.base.receipts import Reference, Snapshot
from tasks.core.drift import terms
from tasks.core.drift.terms import COUNTS, TERMS, write_terms

WORDS = [f"w{number}" for number in range(60)]


def rows_of(draw, numbers, kept=()):
    """Return passages with random words; those of `kept` stay as they are."""
    known = {row["passage_id"]: row for row in kept}
    new = {f"p{number:03d}": {"title": "a title" if number % 3 else "", "text": sentence(draw)} for number in numbers}
    return [{"passage_id": name} | row for name, row in sorted({**new, **known}.items())]


def sentence(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))


def snapshot(home, rows, draw):
    queries = {f"q{number}": sentence(draw) for number in range(12)} | {"q99": "always the same question"}
    qrels = [(query, rows[0]["passage_id"], "test" if query == "q1" else "train") for query in queries]
    return snapshot_of(home, rows, queries, qrels)


def reference_of(home, source: Snapshot) -> Reference:
    def build(folder):
        write_terms(home, source, folder)
        fields = {"fingerprint": "f", "embeddings": "e", "low_score": 0.0, "unseen_terms": 0.0, "judged": 0}
        return {**fields, "rows": 0, "recall": 0.0, "snapshot": source.digest}

    return produce(home, Reference, {"snapshot": source.digest}, build)


def test_a_month_of_changes_gives_the_bytes_of_a_full_count(tmp_path, monkeypatch):
    draw = random.Random(5)
    rows = rows_of(draw, range(80))
    reference_of(tmp_path, snapshot(tmp_path, rows, draw))
    for night in range(6):
        kept = [row for row in rows if draw.random() > 0.15]
        rows = rows_of(draw, range(10 * night, 80 + 5 * night), kept)
        source = snapshot(tmp_path, rows, draw)
        assert terms._count_changes(tmp_path, source) is not None
        changed = reference_of(tmp_path, source)
        (tmp_path / f"full{night}").mkdir()
        monkeypatch.setattr(terms, "_count_changes", lambda home, snapshot: None)
        write_terms(tmp_path, source, tmp_path / f"full{night}")
        monkeypatch.undo()
        for name in (TERMS, COUNTS):
            assert (changed.path / name).read_bytes() == (tmp_path / f"full{night}" / name).read_bytes()


@pytest.mark.parametrize("harm", ["without counts", "other texts", "no snapshot"])
def test_a_reference_that_does_not_fit_is_not_used(tmp_path, harm):
    draw = random.Random(6)
    rows = rows_of(draw, range(40))
    first = snapshot(tmp_path, rows, draw)
    earlier = reference_of(tmp_path, first)
    if harm == "without counts":
        (earlier.path / COUNTS).unlink()
        (earlier.path / "checksums.json").unlink()
    if harm == "no snapshot":
        first.path.rename(tmp_path / "elsewhere")
    now = snapshot(tmp_path, rows_of(draw, range(40), rows[: 5 if harm == "other texts" else 35]), draw)
    assert terms._count_changes(tmp_path, now) is None
    assert len(reference_of(tmp_path, now).path.joinpath(TERMS).read_bytes()) > 200
