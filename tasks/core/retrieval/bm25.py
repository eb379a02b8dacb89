"""Index a snapshot's passages with Lucene, and search them for many queries with BM25, through Anserini.

Lucene gets row numbers instead of ids, so ids may have any form, and each query as one line of text. Data is exchanged
in files: a bridge between Python and Java objects would take three times as long as Lucene itself.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import artifact_digest, find_artifact, produce
from tasks.core.base.languages import language_key
from tasks.core.base.receipts import Index, Run, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import cores
from tasks.core.retrieval.bm25_batches import LuceneHits, equals_lucene, fits_memory, search_batch
from tasks.core.retrieval.bm25_scorer import Bm25Scorer
from tasks.core.retrieval.exact import ids_of
from tasks.core.retrieval.jvm import anserini_version, java_failed, run_java
from tasks.core.retrieval.postings import build_postings
from tasks.core.retrieval.query_lines import one_line
from tasks.core.retrieval.runs import HITS_AT_ONCE, queries_digest
from tasks.core.retrieval.searches import Hits, Search, search_whole
from tasks.core.snapshot.reader import passages
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.mining")

VERSION = 2  # of the artifacts that this module writes; raise it to rebuild them
IDS = "ids.parquet"  # passage_id in snapshot order; the row is Lucene's document number
FILE_ROWS = 2048  # passages in each source file; Lucene's threads index one file at a time
SPARE = 10  # hits requested beyond `depth`, to detect equal scores that continue after the cut
_INDEXER = "io.anserini.index.IndexCollection"
_SEARCHER = "io.anserini.search.SearchCollection"


def build_index(home: Path, snapshot: Snapshot, mining: MiningSettings) -> Index:
    """Index the snapshot's passages (title and text) with the analyzer of the configured language, in bounded memory.

    Raises NightshiftError when Java fails or a passage with text was not indexed.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        source = folder / "source"
        source.mkdir()
        rows = _write_source(source, folder / IDS, snapshot)
        log.info("BM25: indexing %s passages", f"{rows:,}")
        _index(folder, rows, mining)
        shutil.rmtree(source)
        return {"rows": rows, "parents": (snapshot.digest,)}

    return produce(home, Index, _index_key(snapshot.digest, mining), build)


def try_indexing(home: Path, mining: MiningSettings) -> None:
    """Index one passage in a temporary folder inside `home`, to test Java with the paths that a night uses.

    Creates a missing home and removes it afterwards. Raises NightshiftError when Java fails.
    """
    missing = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home, prefix=".java-") as name:
        folder = Path(name)
        (folder / "source").mkdir()
        (folder / "source" / "passage.jsonl").write_text('{"id": "0", "contents": "a passage"}\n')
        _index(folder, 1, mining)
    if missing:
        home.rmdir()


def search_bm25(home: Path, index: Index, queries: pa.Table, depth: int, mining: MiningSettings) -> Run:
    """Run `bm25_search` in this process: find the `depth` best passages for each query (query_id, text)."""
    return search_whole(bm25_search(home, index, queries, depth, mining))


def bm25_search(home: Path, index: Index, queries: pa.Table, depth: int, mining: MiningSettings) -> Search:
    """Prepare the BM25 search for the `depth` best passages of each query (query_id, text).

    Equal scores are ordered by snapshot row, so the run has the same bytes on any number of threads. A query without
    any indexed word has no hits. Queries are cut after 1,000 words; see `one_line`.

    Raises Mismatch when the index was built with another language or stemmer. The search itself raises NightshiftError
    when Java fails or reports an exception.
    """
    key = run_key(index.parents[0], queries, depth, mining)
    if index.digest != key["index"]:
        raise Mismatch(
            f"index {index.digest} was not built with language {mining.language!r} and "
            f"stemmer {mining.stemmer!r}; build the index again"
        )

    scorer = cache(lambda: _compiled(home, index, queries["text"].to_pylist(), depth, mining))

    def answer(folder: Path, start: int, end: int) -> Hits:
        texts = queries["text"][start:end]
        if (compiled := scorer()) is not None:
            query_rows, documents, scores = search_batch(compiled, texts.to_pylist(), depth, mining)
        else:
            query_rows, documents, scores = _search(folder, index, texts, depth, mining)
        return query_rows + start, ids_of([index.path / IDS], documents), scores

    return Search("BM25", home, key, queries, depth, max(1, HITS_AT_ONCE // depth), (index.digest,), answer)


def run_key(snapshot: str, queries: pa.Table, depth: int, mining: MiningSettings) -> dict[str, object]:
    """Return the key of a run over the snapshot with this digest. It names Lucene's index, even one that is not built.

    queries: query_id, text. depth: passages per query.
    """
    return {
        "retriever": "bm25",
        "index": artifact_digest(Index, _index_key(snapshot, mining)),
        "queries": queries_digest(queries),
        "depth": depth,
        "k1": mining.k1,
        "b": mining.b,
        "version": VERSION,
    }


def _compiled(home: Path, index: Index, texts: list[str], depth: int, mining: MiningSettings) -> Bm25Scorer | None:
    """Return the compiled search of the index's passages; None if Lucene has to search."""
    if mining.scorer == "lucene" or not texts:
        return None
    snapshot = find_artifact(home, Snapshot, index.parents[0])
    if snapshot is None:
        return None
    postings = build_postings(home, snapshot, mining.language, mining.stemmer)
    if not fits_memory(postings):
        log.info("BM25: the postings exceed half of the memory, so Lucene searches")
        return None
    scorer = Bm25Scorer(postings, mining.language, mining.stemmer, mining.k1, mining.b)

    def search_lucene(sample: Sequence[str]) -> LuceneHits:
        with TemporaryDirectory(dir=home, prefix=".bm25-") as folder:
            return _search(Path(folder), index, pa.chunked_array([pa.array(sample, pa.string())]), depth, mining)

    return scorer if equals_lucene(scorer, texts, depth, mining, search_lucene) else None


def _index_key(snapshot_digest: str, mining: MiningSettings) -> dict[str, object]:
    return {
        "snapshot": snapshot_digest,
        "stemmer": mining.stemmer,
        "anserini": anserini_version(),
        "version": VERSION,
        **language_key(mining.language),
    }


def _write_source(source: Path, ids: Path, snapshot: Snapshot) -> int:
    """Write the passages as JSON lines for Anserini, and their ids as Parquet. Return the number of passages."""
    rows = 0
    with pq.ParquetWriter(ids, pa.schema({"passage_id": pa.string()}), compression="zstd") as writer:
        batches = passages(snapshot, columns=["passage_id", "title", "text"], batch_rows=FILE_ROWS)
        for number, batch in enumerate(batches):
            titles, texts = batch["title"].to_pylist(), batch["text"].to_pylist()
            with (source / f"{number:06d}.jsonl").open("w", encoding="utf-8") as file:
                for row, (title, text) in enumerate(zip(titles, texts, strict=True), start=rows):
                    file.write(json.dumps({"id": f"{row:010d}", "contents": full_text(title, text)}) + "\n")
            writer.write_table(pa.table([batch["passage_id"]], names=["passage_id"]))
            rows += batch.num_rows
    return rows


def _index(folder: Path, rows: int, mining: MiningSettings) -> None:
    """Build the Lucene index `folder/lucene` from the `rows` passages in `folder/source`."""
    arguments = {
        "-collection": "JsonCollection",
        "-generator": "DefaultLuceneDocumentGenerator",
        "-input": folder / "source",
        "-index": folder / "lucene",
        "-language": mining.language,
        "-stemmer": mining.stemmer,
        "-threads": mining.threads or cores(),
        "-memoryBuffer": max(16, mining.heap_mb // 4),
    }
    _anserini(_INDEXER, arguments, ("-optimize",), folder / "index.log", mining)
    _check_counts(folder / "index.log", rows)


def _check_counts(log_file: Path, rows: int) -> None:
    """Check that indexed + empty passages are all passages, because Anserini does not fail on a skipped document."""
    output = log_file.read_text(encoding="utf-8", errors="replace")
    counts = {name: int(n.replace(",", "")) for name, n in re.findall(r"(indexed|empty): +([\d,]+)", output)}
    if counts.get("indexed", 0) + counts.get("empty", 0) != rows:
        raise java_failed(_INDEXER, f"{counts} of {rows} passages reached the index", log_file)


def _search(folder: Path, index: Index, texts: pa.ChunkedArray, depth: int, mining: MiningSettings) -> LuceneHits:
    """Find the best `depth` hits for each query (rows from 0 in `texts`), best first.

    Lucene is a third faster if it may order equal scores arbitrarily. So we request a few hits more than `depth`. If
    the score at `depth` equals the score of the last hit, there may be more ties: search that query again with more
    hits.
    """
    lines = [one_line(text, mining.language) for text in texts.to_pylist()]
    pending, limit = [row for row, line in enumerate(lines) if line], depth + SPARE
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float64))]
    while pending:
        query, document, score = _run_lucene(folder, index, {row: lines[row] for row in pending}, limit, mining)
        order = np.lexsort((document, -score, query))
        query, document, score = query[order], document[order], score[order]
        first = np.searchsorted(query, query, "left")
        rank = np.arange(len(query)) - first
        at_limit = (rank == limit - 1) & (limit < index.rows)
        tied = query[at_limit & (score == score[np.minimum(first + depth - 1, len(score) - 1)])]
        final = (rank < depth) & ~np.isin(query, tied)
        parts.append((query[final], document[final], score[final]))
        pending, limit = tied.tolist(), min(8 * limit, index.rows)
    query, document, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(query, kind="stable")
    return query[order], document[order], score[order]


def _run_lucene(folder: Path, index: Index, lines: Mapping[int, str], depth: int, mining: MiningSettings) -> LuceneHits:
    """Run Anserini's SearchCollection for queries (row → text) and return its hits, in its order."""
    topics, hits = folder / "topics.tsv", folder / "hits.txt"
    topics.write_text("".join(f"{row}\t{line}\n" for row, line in lines.items()), encoding="utf-8", newline="\n")
    arguments = {
        "-topicReader": "TsvInt",
        "-topics": topics,
        "-index": index.path / "lucene",
        "-output": hits,
        "-hits": depth,
        "-language": mining.language,
        "-stemmer": mining.stemmer,
        "-bm25.k1": mining.k1,
        "-bm25.b": mining.b,
        "-threads": mining.threads or cores(),
    }
    _anserini(_SEARCHER, arguments, ("-bm25", "-arbitraryScoreTieBreak"), folder / "search.log", mining)
    if not hits.exists():
        raise java_failed(_SEARCHER, "no run file", folder / "search.log")
    names = {"query": pa.int64(), "q0": pa.string(), "document": pa.int64(), "rank": pa.int64(), "score": pa.float64()}
    columns = ["query", "document", "score"]
    if hits.stat().st_size == 0:
        table = pa.schema(names).empty_table().select(columns)
    else:
        table = pc_csv.read_csv(
            hits,
            read_options=pc_csv.ReadOptions(column_names=[*names, "tag"]),
            parse_options=pc_csv.ParseOptions(delimiter=" "),
            convert_options=pc_csv.ConvertOptions(include_columns=columns, column_types=names),
        )
    topics.unlink()
    hits.unlink()
    query, document, score = (column.to_numpy() for column in table.columns)
    return query, document, score


def _anserini(
    main_class: str, options: Mapping[str, object], flags: tuple[str, ...], log_file: Path, mining: MiningSettings
) -> None:
    work = log_file.parent.resolve()
    arguments = [
        os.path.relpath(part.resolve(), work) if isinstance(part, Path) else str(part)
        for option in options.items()
        for part in option
    ]
    run_java(main_class, [*arguments, *flags], heap_mb=mining.heap_mb, log_file=log_file, work=work)
