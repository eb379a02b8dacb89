"""The lexical index of a snapshot: for each term the passages that contain it, as plain arrays that are mapped.

Terms come from Lucene's analyzer, and lengths are stored as Lucene stores them, so that BM25 over these arrays gives
Lucene's scores (see `bm25_scorer.py`). The postings of passages that an earlier snapshot has too are taken over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.files import find_by_key, produce
from tasks.core.base.languages import language_key
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Postings, Snapshot
from tasks.core.retrieval.analyzed_batches import Vocabulary, analyze, read_batch
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.retrieval.earlier_postings import EarlierPostings, find_earlier_postings
from tasks.core.retrieval.jvm import anserini_version
from tasks.core.retrieval.postings_format import DOCUMENTS, FREQUENCIES, NORMS, TERMS, encode_lengths
from tasks.core.snapshot.earlier import new_rows

log = logging.getLogger("nightshift.retrieval")

VERSION = 2  # of the artifact format; raise it to rebuild
SORTED = 1 << 22  # postings sorted at once
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # terms, rows, counts


def build_postings(home: Path, snapshot: Snapshot, language: str, stemmer: str) -> Postings:
    """Write the postings of each term (ascending) of all passages (title and text), passages in snapshot order.

    Only passages that no earlier snapshot with postings has are analyzed; the bytes are the same as without an earlier
    snapshot. Memory grows with the number of different terms, and by 9 bytes per passage.

    Raises:
        NightshiftError: Java is missing or fails.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        earlier = find_earlier_postings(
            home, snapshot, lambda other: find_by_key(home, Postings, _key(other.digest, language, stemmer))
        )
        vocabulary, analyzer = Vocabulary(), Analyzer(language, stemmer)
        with TemporaryDirectory(dir=folder, prefix=".batches-") as scratch:
            if earlier is not None:
                _take_over(earlier, analyzer, Path(scratch) / "removed", vocabulary)
            norms = _analyze_new(snapshot, earlier, analyzer, Path(scratch) / "new", vocabulary)
            norms.tofile(folder / NORMS)
            batches = map(read_batch, sorted((Path(scratch) / "new").iterdir()))
            terms = _merge(folder, [*([] if earlier is None else [earlier.batches()]), batches], vocabulary)
        return {
            "rows": snapshot.rows,
            "terms": terms,
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


def _take_over(earlier: EarlierPostings, analyzer: Analyzer, scratch: Path, vocabulary: Vocabulary) -> None:
    """Count terms, passages, and tokens of the earlier passages that stay.

    Analyzes the removed passages again: their exact lengths are not stored.
    """
    scratch.mkdir()
    removed = Vocabulary()
    for _ in analyze(earlier.snapshot, earlier.rows < 0, analyzer, scratch, removed):
        pass
    vocabulary.tokens = earlier.postings.tokens - removed.tokens
    vocabulary.documents = earlier.postings.documents - removed.documents
    vocabulary.number(earlier.terms())
    for terms, _, _ in earlier.batches():
        vocabulary.count_passages(terms)


def _analyze_new(
    snapshot: Snapshot, earlier: EarlierPostings | None, analyzer: Analyzer, scratch: Path, vocabulary: Vocabulary
) -> np.ndarray:
    """Analyze the passages that are not in the earlier snapshot; return the encoded lengths of all, uint8 (rows,)."""
    scratch.mkdir()
    norms, new = np.zeros(snapshot.rows, np.uint8), np.ones(snapshot.rows, bool)
    if earlier is not None:
        earlier.take_norms(norms)
        new = new_rows(earlier.rows, snapshot.rows)
    reused = snapshot.rows - int(new.sum())
    log.info("BM25: analyzing %s passages%s", f"{new.sum():,}", f" ({reused:,} reused)" if reused else "")
    for rows, lengths in analyze(snapshot, new, analyzer, scratch, vocabulary):
        norms[rows] = encode_lengths(lengths)
    return norms


def _merge(folder: Path, sources: list[Iterable[Batch]], vocabulary: Vocabulary) -> int:
    """Scatter batches into the arrays of all postings, by term in byte order; return the number of terms.

    The batches of a source list the passages of each term in ascending order.
    """
    frequencies = vocabulary.frequencies()
    terms = pa.array(list(vocabulary.terms), pa.string())
    order = pc.sort_indices(terms).to_numpy()
    order = order[frequencies[order] > 0]
    ends = np.cumsum(frequencies[order])
    table = pa.table({"term": terms.take(pa.array(order)), "end": pa.array(ends, pa.int64())})
    pq.write_table(table, folder / TERMS, compression="zstd")
    total = int(ends[-1]) if len(ends) else 0
    if total == 0:
        (folder / DOCUMENTS).touch()
        (folder / FREQUENCIES).touch()
        return 0
    documents = np.memmap(folder / DOCUMENTS, np.int32, "w+", shape=total)
    counts = np.memmap(folder / FREQUENCIES, np.uint16, "w+", shape=total)
    place = np.zeros(len(frequencies), np.int64)  # of the next posting of each term
    place[order] = ends - frequencies[order]
    for source in sources:
        for batch in source:
            _scatter(batch, place, documents, counts)
    if len(sources) > 1:
        _sort_rows(ends, documents, counts)
    documents.flush()
    counts.flush()
    return len(ends)


def _scatter(batch: Batch, place: np.ndarray, documents: np.ndarray, counts: np.ndarray) -> None:
    """Write a batch, whose terms ascend, behind the postings of earlier batches; move `place` behind them."""
    terms, rows, row_counts = batch
    starts = np.flatnonzero(np.diff(terms, prepend=-1))
    distinct, added = terms[starts], np.diff(starts, append=len(terms))
    target = np.repeat(place[distinct] - starts, added) + np.arange(len(terms))
    documents[target], counts[target] = rows, row_counts
    place[distinct] += added


def _sort_rows(ends: np.ndarray, documents: np.ndarray, counts: np.ndarray) -> None:
    """Sort the postings of each term by passage row, in blocks of whole terms."""
    first_term, start = 0, 0
    while first_term < len(ends):
        last_term = max(first_term + 1, int(np.searchsorted(ends, start + SORTED, "right")))
        end = int(ends[last_term - 1])
        sizes = np.diff(ends[first_term:last_term], prepend=start)
        block = slice(start, end)
        keys = np.repeat(np.arange(len(sizes)) << 32, sizes) + documents[block]
        order = np.argsort(keys, kind="stable")  # fast, since the postings of each term are few ascending runs
        documents[block], counts[block] = documents[block][order], counts[block][order]
        first_term, start = last_term, end
