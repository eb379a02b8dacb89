"""The terms of a snapshot and the number of texts that contain each, so a later night counts only changed texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from tasks.core.base.files import read_verified, receipts_newest_first
from tasks.core.base.receipts import Reference, Snapshot
from tasks.core.snapshot.reader import passage_texts, queries, texts_of, unchanged_rows
from tasks.core.snapshot.splits import Split
from tasks.core.text.words import count_terms

TERMS, COUNTS = "terms.npy", "term-counts.npy"
MOST_CHANGED = 0.5  # share of passages; beyond it, all texts are counted
TRIED = 3  # earlier references to compare


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
    tried = 0
    for reference in receipts_newest_first(home, Reference):
        if tried == TRIED:
            break
        if not (reference.path / COUNTS).exists() or read_verified(reference.path, Reference) is None:
            continue
        earlier = read_verified(home / Snapshot.shelf / reference.snapshot, Snapshot)
        if earlier is None:
            continue
        tried += 1
        rows = unchanged_rows(earlier, snapshot)
        if np.count_nonzero(rows >= 0) >= (1 - MOST_CHANGED) * snapshot.rows:
            return _apply_changes(reference, earlier, snapshot, rows)
    return None


def _apply_changes(
    reference: Reference, earlier: Snapshot, snapshot: Snapshot, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add the terms of new texts to the counts of a reference, and subtract those of removed texts.

    rows: of each passage of the earlier snapshot in the new one, int64 (passages,); -1: changed or removed.
    """
    new = np.ones(snapshot.rows, bool)
    new[rows[rows >= 0]] = False
    before, now = (Counter(_training_queries(source)) for source in (earlier, snapshot))
    parts = [
        (np.load(reference.path / TERMS), np.load(reference.path / COUNTS), 1),
        (*count_terms(chain(_texts(snapshot, new), (now - before).elements())), 1),
        (*count_terms(chain(_texts(earlier, rows < 0), (before - now).elements())), -1),
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
