from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.text.duplicate_clusters import LINKS, ShingleCollector, clusters, likely_pairs


def clusters_of(texts: list[str], threshold: float = 0.8) -> np.ndarray:
    collector = ShingleCollector()
    for start in range(0, len(texts), 7):
        collector.add(pa.array(texts[start : start + 7], pa.string()))
    return clusters(collector.sets(), threshold)


def words(rng: np.random.Generator, count: int) -> list[str]:
    return [f"w{number}" for number in rng.integers(0, 10_000, count)]


def test_similar_texts_are_clustered_transitively() -> None:
    base = [f"word{n}" for n in range(60)]
    first = " ".join(base)
    second = " ".join([*base[:58], "other", "end"])  # 54 of 58 shingles in common: 54/58 > .8
    third = " ".join(["new", "start", *base[2:58], "other", "end"])
    names = clusters_of([first, "something else entirely that shares nothing at all", second, third, "", ""])
    assert names[0] == names[2] == names[3]
    assert len(set(names.tolist())) == 4  # the two texts without words are not clustered


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_clusters_equal_those_of_comparing_all_pairs(threshold: float) -> None:
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(30):
        body = words(rng, int(rng.integers(5, 60)))
        for edits in (0, 1, 2, 5):
            changed = list(body)
            for place in rng.integers(0, len(body), edits):
                changed[place] = "edited"
            texts.append(" ".join(changed))
    shingles = [{tuple(text.split()[i : i + 5]) for i in range(max(1, len(text.split()) - 4))} for text in texts]
    groups = list(range(len(texts)))
    for left, right in combinations(range(len(texts)), 2):
        if len(shingles[left] & shingles[right]) >= threshold * len(shingles[left] | shingles[right]):
            old, new = groups[right], groups[left]
            groups = [new if group == old else group for group in groups]
    actual = clusters_of(texts, threshold).tolist()
    assert [actual.index(name) for name in actual] == [groups.index(name) for name in groups]


def test_thousands_of_copies_of_a_template_form_a_single_cluster_with_few_comparisons() -> None:
    rng = np.random.default_rng(1)
    template = [f"t{n}" for n in range(80)]
    copies = [" ".join([*template, f"name{n}"]) for n in range(3000)]
    collector = ShingleCollector()
    collector.add(pa.array([*copies, *(" ".join(words(rng, 80)) for _ in range(500))], pa.string()))
    sets = collector.sets()
    left, _ = likely_pairs(sets, 0.8)
    assert len(left) <= 3000 * LINKS
    names = clusters(sets, 0.8).tolist()
    assert len(set(names[:3000])) == 1
    assert len(set(names)) == 501
