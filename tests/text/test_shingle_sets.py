"""Near duplicates, compared with Python sets."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.text import shingles
from tasks.core.text.shingles import ShingleSets, near_duplicates, shingle


def sets_of(texts):
    flat, sizes = shingle(pa.array(texts, pa.string()))
    return ShingleSets(flat, np.cumsum(sizes) - sizes, sizes)


def shingles_in_python(text):
    words = [word for word in re.split(r"[\W_]+", text.lower()) if word]
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))} if words else set()


def near(left, right, threshold):
    sets = sets_of([left, right])
    return bool(near_duplicates(sets, np.array([0]), np.array([1]), threshold)[0])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_shingle_sets_equal_python_sets_on_random_texts(threshold, monkeypatch):
    monkeypatch.setattr(shingles, "HASHES_AT_ONCE", 500)
    random = np.random.default_rng(0)
    base = [random.integers(0, 30, random.integers(0, 60)) for _ in range(12)]
    texts = []
    for words in base:
        for changes in range(4):
            copy = words.copy()
            for at in random.integers(0, max(1, len(words)), changes * (len(words) > 0)):
                copy[at] = 99
            texts.append(" ".join(f"W{word}" for word in copy))
    left, right = (side.ravel() for side in np.meshgrid(np.arange(len(texts)), np.arange(len(texts))))
    sets = [shingles_in_python(text) for text in texts]
    expected = [
        bool(sets[a] and sets[b]) and len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold - 1e-9
        for a, b in zip(left, right, strict=True)
    ]
    assert sum(expected) > len(texts) / 2
    np.testing.assert_array_equal(near_duplicates(sets_of(texts), left, right, threshold), expected)


def test_a_similarity_equal_to_the_threshold_counts():
    eight = "a b c d e f g h i j k l"  # 8 shingles
    ten = eight + " m n"  # the same 8 and 2 more
    assert near(eight, ten, 8 / 10)
    assert not near(eight, ten, 0.81)


def test_case_and_punctuation_are_ignored_and_any_script_has_words():
    assert near("The quick, brown fox — jumps!", "the QUICK brown fox jumps", 1.0)
    assert near("Быстрая лиса", "быстрая, лиса!", 1.0)
    assert not near("Быстрая лиса", "медленная лиса", 0.5)


def test_short_texts_are_a_single_shingle_and_texts_without_words_match_nothing():
    assert near("two words", "two words.", 1.0)
    assert not near("two words", "two words more", 0.1)
    assert not near("…", "…", 0.1)
    assert sets_of(["", "one", "!", "a b c d e f"]).sizes.tolist() == [0, 1, 0, 2]
