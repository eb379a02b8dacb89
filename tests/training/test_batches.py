from __future__ import annotations

import numpy as np
import pytest

from tasks.core.base.sections.training import LEAST_STEPS, TrainingSettings
from tasks.core.training.batches import Batch, batch_at, plan, steps_in
from tasks.core.training.pairs import TrainingPairs
from tasks.core.training.texts import TokenTable


def pairs_of(pairs: list[tuple[int, int]], fresh: int | None = None, **more: object) -> TrainingPairs:
    """Make training pairs. Each passage is its own cluster, unless `more` overrides it."""
    passages = 1 + max(passage for _, passage in pairs)
    grouped = {query: np.array(sorted({p for q, p in pairs if q == query})) for query, _ in pairs}
    facts: dict[str, object] = {
        "query_tokens": TokenTable([]),
        "passage_tokens": TokenTable([]),
        "pairs": np.array(pairs, np.int64),
        "fresh": len(pairs) if fresh is None else fresh,
        "weight": np.ones(len(pairs), np.float32),
        "positives": grouped,
        "negatives": {},
        "cluster": np.arange(passages),
        "known": grouped,
        **more,
    }
    return TrainingPairs(**facts)  # type: ignore[arg-type]


def training_settings(**more: object) -> TrainingSettings:
    return TrainingSettings.model_validate({"batch_size": 4, "hard_negatives": 0, "epochs": 1, **more})


def batches(data: TrainingPairs, settings: TrainingSettings, steps: int) -> list[Batch]:
    rows = plan(data, settings, steps)
    return [batch_at(data, rows[step], settings, step) for step in range(steps)]


def test_each_epoch_has_every_pair_once_in_another_order() -> None:
    data = pairs_of([(n, n) for n in range(40)])
    rows = plan(data, training_settings(), 20)
    assert sorted(rows[:10].ravel()) == sorted(rows[10:].ravel()) == list(range(40))
    assert rows[:10].ravel().tolist() != rows[10:].ravel().tolist()


def test_a_batch_depends_only_on_settings_and_step() -> None:
    data = pairs_of([(n, n) for n in range(40)], negatives={n: np.arange(10) for n in range(40)})
    settings = training_settings(hard_negatives=3)
    long, short = plan(data, settings, 20), plan(data, settings, 6)
    np.testing.assert_array_equal(long[:6], short)
    again = batch_at(data, long[5], settings, 5)
    np.testing.assert_array_equal(again.passages, batches(data, settings, 6)[5].passages)
    other = plan(data, settings.model_copy(update={"seed": 1}), 6)
    assert (other != short).any()


def test_related_pairs_are_in_different_batches_if_possible() -> None:
    """Ten queries with four positives each; pairs of queries share a positive, so most pairs are related."""
    pairs = [(query, 4 * query + place) for query in range(10) for place in range(4)]
    known = {query: np.array([4 * query + n for n in range(4)] + [4 * ((query + 1) % 10)]) for query in range(10)}
    for batch in batches(pairs_of(pairs, known=known), training_settings(), 8):
        unrelated = ~np.eye(4, dtype=bool)
        assert not batch.known[:, :4][unrelated].any()
        assert len(set(batch.queries.tolist())) == 4


def test_near_duplicates_of_a_positive_are_in_different_batches() -> None:
    cluster = np.arange(12) // 2  # passages 0 and 1 are near duplicates, so are 2 and 3, …
    data = pairs_of([(n, n) for n in range(12)], cluster=cluster, known={n: cluster[n : n + 1] for n in range(12)})
    for batch in batches(data, training_settings(), 6):
        assert len(set(cluster[batch.passages].tolist())) == 4


def test_unavoidable_related_pairs_are_masked() -> None:
    data = pairs_of([(0, n) for n in range(6)])  # one query only
    for batch in batches(data, training_settings(), 3):
        assert len(batch.queries) == 4
        assert batch.known.all()


def test_pairs_of_a_frequent_query_are_not_postponed_forever() -> None:
    many = [(0, n) for n in range(30)] + [(n, 30 + n) for n in range(1, 31)]  # half of all pairs have the same query
    rows = plan(pairs_of(many), training_settings(), 15)
    assert len(set(rows.ravel().tolist())) > 45


def test_near_duplicates_of_a_positive_are_masked_and_only_judged_passages_are_positives() -> None:
    data = pairs_of(
        [(0, 0), (1, 1), (0, 3)],
        negatives={1: np.array([2])},
        cluster=np.array([0, 1, 0, 3]),  # passage 2 is a near duplicate of passage 0
        known={0: np.array([0, 3]), 1: np.array([1])},
    )
    batch = batch_at(data, np.array([0, 1]), training_settings(hard_negatives=1, more_positives=1), 0)
    assert batch.passages.tolist() == [0, 1, 3, 2]
    assert batch.known.tolist() == [[True, False, True, True], [False, True, False, False]]
    assert batch.positive.tolist() == [[True, False, True, False], [False, True, False, False]]


def test_missing_teacher_scores_are_nan() -> None:
    teacher = {0: (np.array([0, 2]), np.array([3.0, 1.0], np.float32))}
    data = pairs_of([(0, 0), (1, 1)], negatives={0: np.array([2])}, cluster=np.arange(3), teacher=teacher)
    batch = batch_at(data, np.array([0, 1]), training_settings(hard_negatives=1), 0)
    assert batch.teacher is not None
    np.testing.assert_array_equal(batch.teacher, [[3, np.nan, 1], [np.nan] * 3])


def test_every_batch_has_its_share_of_replayed_pairs() -> None:
    data = pairs_of([(n, n) for n in range(30)], fresh=24)
    settings = training_settings(replay=0.25)
    rows = plan(data, settings, 8)
    assert ((rows >= 24).sum(axis=1) == 1).all()
    assert sorted(rows[rows < 24].tolist()) == list(range(24))
    assert steps_in(data, settings) == 8  # 24 pairs of this snapshot, 3 per batch
    nothing = pairs_of([(n, n) for n in range(24)])
    assert steps_in(nothing, settings) == 6


def test_steps_depend_on_epochs_and_max_steps() -> None:
    data = pairs_of([(n, n) for n in range(40)])
    assert steps_in(data, training_settings()) == 10
    assert steps_in(data, training_settings(epochs=0.01)) == 1
    assert steps_in(data, training_settings(epochs=0)) == LEAST_STEPS
    assert steps_in(pairs_of([(n, n) for n in range(800)]), training_settings(epochs=0)) == 200
    assert steps_in(data, training_settings(epochs=2, max_steps=3)) == 3


def test_a_token_table_returns_its_inputs() -> None:
    texts = [[5, 6], [], [7]], [[8, 9, 10]]
    table = TokenTable(texts)
    assert [table[row] for row in range(len(table))] == [[5, 6], [], [7], [8, 9, 10]]
    assert table.take([3, 0]) == [[8, 9, 10], [5, 6]]


@pytest.mark.parametrize("size", [3, 7])
def test_a_batch_may_be_larger_than_all_pairs(size: int) -> None:
    rows = plan(pairs_of([(0, 0), (1, 1)]), training_settings(batch_size=size), 2)
    assert rows.shape == (2, size)
