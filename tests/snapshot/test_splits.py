import pytest
from small_collection import Collection

from tasks.core.ingest.ingest import ingest
from tasks.core.snapshot.splits import carve

TRAIN = [f"q{n}" for n in range(1000)]


def test_missing_splits_are_held_back_from_train(collection: Collection) -> None:
    (collection.root / "qrels" / "dev.tsv").unlink()
    (collection.root / "qrels" / "test.tsv").unlink()
    _, snapshot = ingest(collection.settings(dev_share=0.2))
    assert sum(snapshot.splits.values()) == 20
    assert set(snapshot.splits) == {"train", "dev", "test"}


def test_about_the_share_is_held_back_for_each_missing_split() -> None:
    moved = list(carve(TRAIN, {"train"}, 0.1, seed=0).values())
    assert moved.count("dev") == pytest.approx(100, abs=30)
    assert moved.count("test") == pytest.approx(100, abs=30)


def test_only_missing_splits_are_held_back() -> None:
    assert set(carve(TRAIN, {"train", "test"}, 0.1, seed=0).values()) == {"dev"}
    assert carve(TRAIN, {"train", "dev", "test"}, 0.1, seed=0) == {}


def test_a_query_keeps_its_split_when_the_collection_grows() -> None:
    before = carve(TRAIN[:500], {"train"}, 0.1, seed=0)
    after = carve(TRAIN, {"train"}, 0.1, seed=0)
    assert all(after.get(query) == before.get(query) for query in TRAIN[:500])


def test_another_seed_holds_other_queries_back() -> None:
    assert carve(TRAIN, {"train"}, 0.1, seed=0) != carve(TRAIN, {"train"}, 0.1, seed=1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_last_training_query_stays(count: int) -> None:
    assert len(carve(TRAIN[:count], {"train"}, 0.9, seed=0)) < count
    if count > 2:
        assert set(carve(TRAIN[:count], {"train"}, 0.01, seed=0).values()) == {"dev", "test"}
