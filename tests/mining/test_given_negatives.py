"""Given negatives come first, and no filter but those of known positives stops them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from mining_world import SETTINGS, write_embeddings, write_run
from small_snapshot import snapshot_of

from tasks.core.base.sections.mining import Shares
from tasks.core.drift.verdict import _share_of_new_pairs
from tasks.core.mining.mine import mine

PASSAGES = {
    "answer": "the lamp stands on the table in the hall of the house",
    "copy": "the lamp stands on the table in the hall of the house",
    "judged": "a lantern is a lamp with a handle",
    "more": "clouds are made of water",
    "other": "rivers carry stones to the sea",
}
QUERIES = {"q": "lamp", "r": "sea", "unused": "a query without a positive"}
QRELS = [("q", "answer", "train"), ("r", "other", "train")]


@pytest.fixture
def mined(tmp_path):
    """Mine with these given negatives; return the receipt and (query id, passage id, source) of all negatives."""

    def run(given, **changes):
        folder = tmp_path / f"home{len(list(tmp_path.iterdir()))}"
        snapshot = snapshot_of(folder, PASSAGES, QUERIES, QRELS, given=given)
        scores = {"judged": 0.99}  # above the margin of the positive
        vectors = np.array([[scores.get(name, 0.5), 1.0] for name in PASSAGES], np.float32)
        embeddings = write_embeddings(folder / "embeddings", list(PASSAGES), vectors, snapshot=snapshot.digest)
        bm25 = write_run(folder / "run", {"q": ["judged", "other", "more"], "r": ["more"]})
        settings = SETTINGS.model_copy(update={"shares": Shares(bm25=1.0), "margin": 1.0, **changes})
        queries = np.array([[1.0, 0.0]] * 2, np.float32)
        receipt = mine(folder, snapshot, [("bm25", bm25)], embeddings, queries, 1, settings)
        rows = pq.read_table(receipt.path / "negatives.parquet").to_pylist()
        return receipt, [(row["query_id"], row["passage_id"], row["source"]) for row in rows]

    return run


def test_a_given_negative_is_first_despite_its_score_and_the_rank_window(mined):
    without, rows = mined([])
    assert rows == [("q", "other", "bm25"), ("q", "more", "bm25"), ("r", "more", "bm25")]
    assert without.refused["above_margin"] == 1
    given, rows = mined([("q", "judged"), ("r", "judged")], skip_top=1, per_query=2)
    assert rows == [("q", "judged", "judged"), ("q", "other", "bm25"), ("r", "judged", "judged")]
    assert given.sources == {"bm25": 1, "judged": 2}
    kept = given.rows + sum(given.refused.values())
    assert given.candidates >= kept


def test_a_given_negative_with_the_text_of_a_positive_is_refused(mined):
    receipt, rows = mined([("q", "copy"), ("q", "answer")])
    assert {passage for _, passage, _ in rows}.isdisjoint({"copy", "answer"})
    assert (receipt.refused["known_positive"], receipt.refused["text_of_positive"]) == (1, 1)


def test_given_negatives_of_a_query_without_a_positive_are_not_mined(mined):
    _, rows = mined([("unused", "judged")])
    assert rows == mined([])[1]


def test_new_given_negatives_count_as_new_training_pairs(tmp_path):
    old, new, newer = (
        snapshot_of(tmp_path, PASSAGES, QUERIES, QRELS, given=given)
        for given in ([], [("q", "more")], [("q", "more"), ("r", "more")])
    )
    assert len({old.digest, new.digest, newer.digest}) == 3
    assert [_share_of_new_pairs(old, old), _share_of_new_pairs(old, new), _share_of_new_pairs(old, newer)] == [
        0,
        0.5,
        1,
    ]
    assert _share_of_new_pairs(newer, old) == 0
