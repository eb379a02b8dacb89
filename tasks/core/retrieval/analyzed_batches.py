"""Analyze passages in batches, and count terms, passages per term, and lengths on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.progress import report_progress
from tasks.core.base.receipts import Snapshot
from tasks.core.retrieval.analyzer import SEPARATOR, Analyzer
from tasks.core.snapshot.reader import texts_of

BATCH_ROWS = 4096  # passages analyzed at once
LARGEST_COUNT = np.iinfo(np.uint16).max


@dataclass
class Vocabulary:
    """Numbers the terms in order of appearance, and counts passages per term."""

    terms: dict[str, int] = field(default_factory=dict)
    tokens: int = 0  # length of all passages
    documents: int = 0  # passages with at least one token
    _frequencies: np.ndarray = field(default_factory=lambda: np.zeros(1024, np.int64))

    def frequencies(self) -> np.ndarray:
        """Number of passages that contain each term: int64 (terms,)."""
        return self._frequencies[: len(self.terms)]

    def number(self, terms: list[str]) -> np.ndarray:
        """Return the number of each term, adding new ones: int64 (n,)."""
        known = self.terms
        return np.fromiter((known.setdefault(term, len(known)) for term in terms), np.int64, len(terms))

    def count_passages(self, terms: np.ndarray) -> None:
        """Count one passage for each entry of `terms`."""
        if len(self.terms) > len(self._frequencies):
            self._frequencies.resize(2 * len(self.terms), refcheck=False)
        self._frequencies[: len(self.terms)] += np.bincount(terms, minlength=len(self.terms))

    def count_lengths(self, lengths: np.ndarray) -> None:
        """Count tokens, and passages with at least one token."""
        self.tokens += int(lengths.sum())
        self.documents += int(np.count_nonzero(lengths))


def analyze(
    snapshot: Snapshot, chosen: np.ndarray, analyzer: Analyzer, scratch: Path, vocabulary: Vocabulary
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Write (term, row, count) of chosen passages into numbered files of `scratch`, one per batch.

    Args:
        snapshot: the passages.
        chosen: bool (passages,).
        analyzer: splits texts into terms.
        scratch: receives Parquet files: term, row int32; count uint16; ordered by term and row.
        vocabulary: numbers the terms.

    Yields:
        Snapshot rows int64 (n,) and lengths int64 (n,), as Lucene counts them, of the chosen passages of each batch.
    """
    done = 0
    for number, (first, texts) in enumerate(texts_of(snapshot, chosen, BATCH_ROWS)):
        counts = _write_batch(scratch / f"{number:06d}", first, analyzer.joined_terms_of(texts), vocabulary)
        lengths = analyzer.lengths(texts, counts)
        vocabulary.count_lengths(np.maximum(counts, lengths))
        yield first, lengths
        done += len(first)
        report_progress("analyze passages", done, int(chosen.sum()))


def read_batch(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read terms int32, rows int32, and counts uint16 of a batch, (n,) each."""
    batch = pq.read_table(file)
    return batch["term"].to_numpy(), batch["row"].to_numpy(), batch["count"].to_numpy()


def _write_batch(file: Path, rows: np.ndarray, joined: list[str], vocabulary: Vocabulary) -> np.ndarray:
    """Write (term, row, count) of a batch, ordered by term and row. Return the number of terms per passage."""
    split = pc.split_pattern(pa.array(joined, pa.large_string()), SEPARATOR)
    lengths = np.where(np.array([not text for text in joined]), 0, pc.list_value_length(split).to_numpy())
    tokens = pc.list_flatten(split).filter(pa.array(np.repeat(lengths > 0, pc.list_value_length(split).to_numpy())))
    encoded = pc.dictionary_encode(tokens)
    terms = vocabulary.number(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
    pairs = terms * len(joined) + np.repeat(np.arange(len(joined)), lengths)
    distinct, counts = np.unique(pairs, return_counts=True)
    terms, places = np.divmod(distinct, len(joined))
    vocabulary.count_passages(terms)
    counts = np.minimum(counts, LARGEST_COUNT).astype(np.uint16)
    columns = [terms.astype(np.int32), rows[places].astype(np.int32), counts]
    pq.write_table(pa.table(columns, names=["term", "row", "count"]), file, compression="lz4")
    return lengths
