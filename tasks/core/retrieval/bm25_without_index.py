"""BM25 runs over the postings of a snapshot alone, for nights that do not build Lucene's index."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pyarrow as pa

from tasks.core.base.receipts import Postings, Run, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.retrieval.bm25 import build_index, run_key, search_bm25
from tasks.core.retrieval.bm25_batches import fits_memory, search_batch
from tasks.core.retrieval.bm25_scorer import Bm25Scorer
from tasks.core.retrieval.exact import ids_of
from tasks.core.retrieval.runs import HITS_AT_ONCE
from tasks.core.retrieval.searches import Hits, Search, search_whole
from tasks.core.snapshot.reader import PASSAGES


def search_postings(
    home: Path, snapshot: Snapshot, postings: Postings, queries: pa.Table, depth: int, mining: MiningSettings
) -> Run:
    """Find the `depth` best passages for each query (query_id, text) as `bm25.search_bm25` does, without its index.

    The run has the same key and the same hits. Without the index, a sample of the queries is not compared with Lucene:
    the nights that mine do that. Lucene's index is built if the settings or the memory require that Lucene searches.

    Args:
        home: folder of the artifacts.
        snapshot: the passages.
        postings: lexical index of this snapshot, with the language and the stemmer of `mining`.
        queries: query_id, text.
        depth: passages per query.
        mining: parameters of BM25.

    Raises:
        NightshiftError: Java is missing or fails.
    """
    if mining.scorer == "lucene" or not fits_memory(postings):
        return search_bm25(home, build_index(home, snapshot, mining), queries, depth, mining)
    scorer = cache(lambda: Bm25Scorer(postings, mining.language, mining.stemmer, mining.k1, mining.b))

    def answer(folder: Path, start: int, end: int) -> Hits:
        texts = queries["text"][start:end].to_pylist()
        query_rows, passages, scores = search_batch(scorer(), texts, depth, mining)
        return query_rows + start, ids_of([snapshot.path / PASSAGES], passages), scores

    key = run_key(snapshot.digest, queries, depth, mining)
    at_once = max(1, HITS_AT_ONCE // depth)
    return search_whole(Search("BM25", home, key, queries, depth, at_once, (postings.digest,), answer))
