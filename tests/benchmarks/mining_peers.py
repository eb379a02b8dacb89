"""Peers of benchmark `mining.py`, and the inputs of all its systems."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from tasks.core.base.receipts import Embeddings, Index, Postings, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.text.normalization import full_text

DEPTH, NEGATIVES = 100, 8


class Inputs(BaseModel):
    """The inputs that every process gets."""

    snapshot: Snapshot
    index: Index
    postings: Postings
    embeddings: Embeddings
    query_vectors: Path
    bm25s: Path
    model: Path
    mining: MiningSettings
    limit: int

    def training_queries(self) -> Any:
        """Return the training queries: query_id and text."""
        table = queries(self.snapshot, "train")
        return table.slice(0, self.limit or table.num_rows)


def batch_search(inputs: Inputs) -> dict[str, float]:
    """Search with the LuceneSearcher of Pyserini on our index, 1,000 queries at a time.

    Start Java as our code does: Pyserini requests a module that the Java of its wheel lacks.
    """
    from tasks.core.retrieval.jvm import anserini_jar, find_java

    os.environ["JAVA_HOME"] = str(find_java().parents[1])
    os.environ.setdefault("OPENAI_API_KEY", "none")  # Pyserini requires it at import
    import jnius_config

    jnius_config.set_classpath(str(anserini_jar()))
    jnius_config.add_options(f"-Xmx{inputs.mining.heap_mb}m")
    import jnius  # noqa: F401
    from pyserini.search.lucene import LuceneSearcher

    texts, options = inputs.training_queries()["text"].to_pylist(), {"k": DEPTH, "threads": inputs.mining.threads}
    searcher = LuceneSearcher(str(inputs.index.path / "lucene"))
    searcher.set_bm25(inputs.mining.k1, inputs.mining.b)
    searcher.batch_search(texts[:20], [str(row) for row in range(20)], **options)
    start, hits = time.perf_counter(), 0
    for first in range(0, len(texts), 1000):
        batch = texts[first : first + 1000]
        results = searcher.batch_search(batch, [str(row) for row in range(len(batch))], **options)
        hits += sum(len([(hit.docid, hit.score) for hit in query_hits]) for query_hits in results.values())
    return {"queries": len(texts), "seconds": time.perf_counter() - start, "hits": hits}


def index_bm25s(inputs: Inputs) -> None:
    """Index the same texts with bm25s and the same k1 and b into `inputs.bm25s`."""
    import bm25s

    rows = (row for batch in passages(inputs.snapshot) for row in batch.to_pylist())
    tokens = bm25s.tokenize([full_text(row["title"], row["text"]) for row in rows], show_progress=False)
    retriever = bm25s.BM25(k1=inputs.mining.k1, b=inputs.mining.b, method="lucene")
    retriever.index(tokens, show_progress=False)
    retriever.save(inputs.bm25s)


def with_bm25s(inputs: Inputs) -> dict[str, float]:
    """Tokenize and retrieve with bm25s, with numba if it is installed."""
    import bm25s

    numba = find_spec("numba") is not None
    retriever = bm25s.BM25.load(inputs.bm25s)
    if numba:
        retriever.activate_numba_scorer()
    texts = inputs.training_queries()["text"].to_pylist()
    options: dict[str, Any] = {"k": DEPTH, "n_threads": inputs.mining.threads, "show_progress": False}
    retriever.retrieve(bm25s.tokenize(texts[:20], show_progress=False), **options)
    start = time.perf_counter()
    results = retriever.retrieve(bm25s.tokenize(texts, show_progress=False), **options)
    return {"queries": len(texts), "seconds": time.perf_counter() - start, "hits": results.scores.size, "numba": numba}


def with_sentence_transformers(inputs: Inputs) -> dict[str, float]:
    """Mine with sentence-transformers and a model that returns the given vectors."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    from tasks.core.retrieval.exact import vector_blocks

    training_queries = inputs.training_queries()
    vectors = np.load(inputs.query_vectors)[: training_queries.num_rows]
    query_texts = dict(zip(training_queries["query_id"].to_pylist(), training_queries["text"].to_pylist(), strict=True))
    rows = [row for batch in passages(inputs.snapshot) for row in batch.to_pylist()]
    texts = {row["passage_id"]: full_text(row["title"], row["text"]) for row in rows}
    judged = [row for row in qrels(inputs.snapshot, "train").to_pylist() if row["query_id"] in query_texts]
    row_of = {text: row for row, text in enumerate(texts.values())}
    row_of_query = {text: row for row, text in enumerate(query_texts.values())}
    corpus_vectors = np.concatenate([block for _, block in vector_blocks(inputs.embeddings)])

    class GivenVectors(SentenceTransformer):
        def encode_document(self, inputs: list[str], **_: Any) -> Any:
            return corpus_vectors[[row_of[text] for text in inputs]]

        def encode_query(self, inputs: list[str], **_: Any) -> Any:
            return vectors[[row_of_query[text] for text in inputs]]

    model = GivenVectors(str(inputs.model), device="cpu", local_files_only=True)
    pairs = {
        "anchor": [query_texts[row["query_id"]] for row in judged],
        "positive": [texts[row["passage_id"]] for row in judged],
    }
    dataset, corpus = Dataset.from_dict(pairs), list(texts.values())
    start = time.perf_counter()
    mined = mine_hard_negatives(
        dataset, model, corpus=corpus, num_negatives=NEGATIVES, range_max=DEPTH, relative_margin=0.05,
        output_format="n-tuple", verbose=False,
    )  # fmt: skip
    return {"queries": len(query_texts), "seconds": time.perf_counter() - start, "negatives": NEGATIVES * len(mined)}
