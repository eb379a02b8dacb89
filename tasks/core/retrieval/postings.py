"""The lexical index of a snapshot: for each term the passages that contain it, as plain arrays that are mapped.

Terms come from Lucene's analyzer, and lengths are stored as Lucene stores them, so that BM25 over these arrays gives
Lucene's scores (see `bm25_scorer.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.files import produce
from tasks.core.base.languages import language_key
from tasks.core.base.progress import report_progress
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Postings, Snapshot
from tasks.core.retrieval.analyzer import SEPARATOR, Analyzer
from tasks.core.retrieval.jvm import anserini_version
from tasks.core.snapshot.reader import passages
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.retrieval")

VERSION = 1  # of the artifact format; raise it to rebuild
TERMS, DOCUMENTS, FREQUENCIES, NORMS = "terms.parquet", "documents.i32", "frequencies.u16", "norms.u8"
BATCH_ROWS = 4096  # passages analyzed at once
_LONGEST = np.iinfo(np.uint16).max


def build_postings(home: Path, snapshot: Snapshot, language: str, stemmer: str) -> Postings:
    """Analyze all passages (title and text) and write the postings of each term, passages in snapshot order.

    Memory grows with the number of different terms, not with the number of passages.

    Raises:
        NightshiftError: Java is missing or fails.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        log.info("BM25: analyzing %s passages", f"{snapshot.rows:,}")
        analyzer = Analyzer(language, stemmer)
        with TemporaryDirectory(dir=folder, prefix=".batches-") as scratch:
            vocabulary = _Vocabulary()
            with (folder / NORMS).open("wb") as norms:
                for number, (first, texts) in enumerate(_texts(snapshot)):
                    joined = analyzer.joined_terms_of(texts)
                    counts = _write_batch(Path(scratch) / f"{number:06d}", first, joined, vocabulary)
                    lengths = analyzer.lengths(texts, counts)
                    vocabulary.count_lengths(np.maximum(counts, lengths))
                    norms.write(encode_lengths(lengths).tobytes())
            _merge(folder, sorted(Path(scratch).iterdir()), vocabulary)
        return {
            "rows": snapshot.rows,
            "terms": len(vocabulary.terms),
            "postings": int(vocabulary.frequencies().sum()),
            "tokens": vocabulary.tokens,
            "documents": vocabulary.documents,
            "snapshot": snapshot.digest,
            "parents": (snapshot.digest,),
        }

    return produce(home, Postings, _key(snapshot.digest, language, stemmer), build)


def over_snapshot(home: Path, ranking: Ranking, snapshot: Snapshot) -> Ranking:
    """Return the same ranking with the lexical index of this snapshot, built if missing; unchanged without an index."""
    if not ranking.postings:
        return ranking
    postings = build_postings(home, snapshot, ranking.language, ranking.stemmer)
    return ranking.model_copy(update={"postings": postings.digest})


def _key(snapshot: str, language: str, stemmer: str) -> dict[str, object]:
    key = {"snapshot": snapshot, "stemmer": stemmer, "anserini": anserini_version(), "version": VERSION}
    return key | language_key(language)


def _texts(snapshot: Snapshot) -> Iterator[tuple[int, list[str]]]:
    """Yield the first row and the texts (with title) of each batch of passages."""
    first = 0
    for batch in passages(snapshot, columns=["title", "text"], batch_rows=BATCH_ROWS):
        pairs = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
        yield first, [full_text(title, text) for title, text in pairs]
        first += batch.num_rows
        report_progress("analyze passages", first, snapshot.rows)


class _Vocabulary:
    """Numbers the terms in order of appearance, and counts passages per term."""

    def __init__(self) -> None:
        self.terms: dict[str, int] = {}
        self.tokens = self.documents = 0
        self._frequencies = np.zeros(1024, np.int64)

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


def _write_batch(file: Path, first: int, joined: list[str], vocabulary: _Vocabulary) -> np.ndarray:
    """Write (term, passage, frequency) of a batch, ordered by term and passage. Return the terms per passage."""
    split = pc.split_pattern(pa.array(joined, pa.large_string()), SEPARATOR)
    lengths = np.where(np.array([not text for text in joined]), 0, pc.list_value_length(split).to_numpy())
    tokens = pc.list_flatten(split).filter(pa.array(np.repeat(lengths > 0, pc.list_value_length(split).to_numpy())))
    encoded = pc.dictionary_encode(tokens)
    terms = vocabulary.number(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
    pairs = terms * len(joined) + np.repeat(np.arange(len(joined)), lengths)
    distinct, counts = np.unique(pairs, return_counts=True)
    terms, rows = np.divmod(distinct, len(joined))
    vocabulary.count_passages(terms)
    columns = [terms.astype(np.int32), (rows + first).astype(np.int32), np.minimum(counts, _LONGEST).astype(np.uint16)]
    pq.write_table(pa.table(columns, names=["term", "row", "count"]), file, compression="lz4")
    return lengths


def _merge(folder: Path, batches: list[Path], vocabulary: _Vocabulary) -> None:
    """Scatter the batches into the arrays of all postings, grouped by term."""
    frequencies = vocabulary.frequencies()
    ends = np.cumsum(frequencies)
    table = pa.table({"term": pa.array(list(vocabulary.terms), pa.string()), "end": pa.array(ends, pa.int64())})
    pq.write_table(table, folder / TERMS, compression="zstd")
    total = int(ends[-1]) if len(ends) else 0
    if total == 0:
        (folder / DOCUMENTS).touch()
        (folder / FREQUENCIES).touch()
        return
    documents = np.memmap(folder / DOCUMENTS, np.int32, "w+", shape=total)
    counts = np.memmap(folder / FREQUENCIES, np.uint16, "w+", shape=total)
    place = ends - frequencies  # of the next posting of each term
    for file in batches:
        batch = pq.read_table(file)
        terms = batch["term"].to_numpy()
        first = np.searchsorted(terms, terms, "left")
        target = place[terms] + np.arange(len(terms)) - first
        documents[target] = batch["row"].to_numpy()
        counts[target] = batch["count"].to_numpy()
        distinct, added = np.unique(terms, return_counts=True)
        place[distinct] += added
    documents.flush()
    counts.flush()


def encode_lengths(lengths: np.ndarray) -> np.ndarray:
    """Encode passage lengths in a byte each as Lucene's `SmallFloat.intToByte4`: uint8 (n,)."""
    return (np.searchsorted(decoded_lengths(), lengths, "right") - 1).astype(np.uint8)


def decoded_lengths() -> np.ndarray:
    """Return the length that each of the 256 bytes stands for, as Lucene's `SmallFloat.byte4ToInt`: int64 (256,)."""
    free = 24  # 255 - longToInt4(2³¹ - 1): small lengths are exact
    codes = np.arange(256 - free)
    shift = (codes >> 3) - 1
    values = np.where(shift < 0, codes & 7, ((codes & 7) | 8) << np.maximum(shift, 0))
    return np.concatenate([np.arange(free), free + values])
