"""The terms of a snapshot and the number of texts that contain each, so a later night counts only changed texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from tasks.core.base.files import read_verified, receipts_newest_first
from tasks.core.base.receipts import Reference, Snapshot
from tasks.core.snapshot.earlier import Earlier, find_earlier, new_rows
from tasks.core.snapshot.reader import passage_texts, queries, texts_of
from tasks.core.snapshot.splits import Split
from tasks.core.text.words import count_terms

TERMS, COUNTS = "terms.npy", "term-counts.npy"


def write_terms(home: Path, snapshot: Snapshot, folder: Path) -> np.ndarray:
    """Write the hashes of all terms of the passages and training queries, and the number of texts with each.

    If an earlier reference counted most of the texts, only the changed ones are read; the bytes are the same.

    Args:
        home: folder of the artifacts.
        snapshot: the texts.
        folder: receives two arrays: sorted hashes uint64 (terms,), and counts int64 (terms,).

    Returns the hashes.
    """
    counted = _count_changes(home, snapshot)
    if counted is None:
        counted = count_terms(chain(passage_texts(snapshot), _training_queries(snapshot)))
    for name, numbers in zip((TERMS, COUNTS), counted, strict=True):
        np.save(folder / name, numbers)
    return counted[0]


def _count_changes(home: Path, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray] | None:
    """Return hashes and counts as `count_terms` does, from those of an earlier reference; None without a fitting one.

    References of earlier versions have no counts.
    """
    made = (
        (reference.snapshot, reference)
        for reference in receipts_newest_first(home, Reference)
        if (reference.path / COUNTS).exists() and read_verified(reference.path, Reference) is not None
    )
    earlier = find_earlier(home, snapshot, made)
    return None if earlier is None else _apply_changes(earlier, snapshot)


def _apply_changes(earlier: Earlier[Reference], snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """Add the terms of new texts to the counts of a reference, and subtract those of removed texts."""
    folder, new = earlier.made.path, new_rows(earlier.rows, snapshot.rows)
    before, now = (Counter(_training_queries(source)) for source in (earlier.snapshot, snapshot))
    parts = [
        (np.load(folder / TERMS), np.load(folder / COUNTS), 1),
        (*count_terms(chain(_texts(snapshot, new), (now - before).elements())), 1),
        (*count_terms(chain(_texts(earlier.snapshot, earlier.rows < 0), (before - now).elements())), -1),
    ]
    hashes, places = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.zeros(len(hashes), np.int64)
    np.add.at(counts, places, np.concatenate([sign * numbers for _, numbers, sign in parts]))
    return hashes[counts > 0], counts[counts > 0]


def _texts(snapshot: Snapshot, chosen: np.ndarray) -> Iterator[str]:
    return chain.from_iterable(texts for _, texts in texts_of(snapshot, chosen))


def _training_queries(snapshot: Snapshot) -> list[str]:
    texts: list[str] = queries(snapshot, Split.TRAIN)["text"].to_pylist()
    return texts
