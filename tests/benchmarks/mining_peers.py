"""The tools that benchmark `mining.py` measures beside ours, and what all contestants are given."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from tasks.core.base.receipts import Embeddings, Index, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.text.normalization import full_text

DEPTH, NEGATIVES = 100, 8


class Given(BaseModel):
    """What is made before and handed to every process."""

    snapshot: Snapshot
    index: Index
    embeddings: Embeddings
    query_vectors: Path
    bm25s: Path
    model: Path
    mining: MiningSettings
    limit: int

    def asked(self) -> Any:
        """The training queries, query_id and text."""
        table = queries(self.snapshot, "train")
        return table.slice(0, self.limit or table.num_rows)


def batch_search(given: Given) -> dict[str, float]:
    """Pyserini's LuceneSearcher over our index, a thousand queries at a time; ids and scores as Python values.

    Java is started as ours is; pyserini would ask for a module that the wheel's Java lacks."""
    from tasks.core.retrieval.jvm import anserini_jar, find_java

    os.environ["JAVA_HOME"] = str(find_java().parents[1])
    os.environ.setdefault("OPENAI_API_KEY", "none")  # pyserini's import asks for one
    import jnius_config

    jnius_config.set_classpath(str(anserini_jar()))
    jnius_config.add_options(f"-Xmx{given.mining.heap_mb}m")
    import jnius  # noqa: F401
    from pyserini.search.lucene import LuceneSearcher

    texts, how = given.asked()["text"].to_pylist(), {"k": DEPTH, "threads": given.mining.threads}
    searcher = LuceneSearcher(str(given.index.path / "lucene"))
    searcher.set_bm25(given.mining.k1, given.mining.b)
    searcher.batch_search(texts[:20], [str(row) for row in range(20)], **how)
    start, hits = time.perf_counter(), 0
    for first in range(0, len(texts), 1000):
        some = texts[first : first + 1000]
        found = searcher.batch_search(some, [str(row) for row in range(len(some))], **how)
        hits += sum(len([(hit.docid, hit.score) for hit in one]) for one in found.values())
    return {"queries": len(texts), "seconds": time.perf_counter() - start, "hits": hits}


def index_bm25s(given: Given) -> None:
    """Its index over the same texts with the same k1 and b, into `given.bm25s`."""
    import bm25s

    rows = (row for batch in passages(given.snapshot) for row in batch.to_pylist())
    tokens = bm25s.tokenize([full_text(row["title"], row["text"]) for row in rows], show_progress=False)
    retriever = bm25s.BM25(k1=given.mining.k1, b=given.mining.b, method="lucene")
    retriever.index(tokens, show_progress=False)
    retriever.save(given.bm25s)


def with_bm25s(given: Given) -> dict[str, float]:
    """Tokenise and retrieve, with numba where it is installed."""
    import bm25s

    numba = find_spec("numba") is not None
    retriever = bm25s.BM25.load(given.bm25s)
    if numba:
        retriever.activate_numba_scorer()
    texts = given.asked()["text"].to_pylist()
    how: dict[str, Any] = {"k": DEPTH, "n_threads": given.mining.threads, "show_progress": False}
    retriever.retrieve(bm25s.tokenize(texts[:20], show_progress=False), **how)
    start = time.perf_counter()
    found = retriever.retrieve(bm25s.tokenize(texts, show_progress=False), **how)
    return {"queries": len(texts), "seconds": time.perf_counter() - start, "hits": found.scores.size, "numba": numba}


def with_sentence_transformers(given: Given) -> dict[str, float]:
    """Its miner, whose model hands out the given vectors."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    from tasks.core.retrieval.exact import vector_blocks

    asked = given.asked()
    vectors = np.load(given.query_vectors)[: asked.num_rows]
    known = dict(zip(asked["query_id"].to_pylist(), asked["text"].to_pylist(), strict=True))
    rows = [row for batch in passages(given.snapshot) for row in batch.to_pylist()]
    texts = {row["passage_id"]: full_text(row["title"], row["text"]) for row in rows}
    judged = [one for one in qrels(given.snapshot, "train").to_pylist() if one["query_id"] in known]
    row_of = {text: row for row, text in enumerate(texts.values())}
    row_of_query = {text: row for row, text in enumerate(known.values())}
    corpus_vectors = np.concatenate([block for _, block in vector_blocks(given.embeddings)])

    class GivenVectors(SentenceTransformer):
        def encode_document(self, inputs: list[str], **_: Any) -> Any:
            return corpus_vectors[[row_of[text] for text in inputs]]

        def encode_query(self, inputs: list[str], **_: Any) -> Any:
            return vectors[[row_of_query[text] for text in inputs]]

    model = GivenVectors(str(given.model), device="cpu", local_files_only=True)
    pairs = {
        "anchor": [known[one["query_id"]] for one in judged],
        "positive": [texts[one["passage_id"]] for one in judged],
    }
    dataset, corpus = Dataset.from_dict(pairs), list(texts.values())
    start = time.perf_counter()
    done = mine_hard_negatives(
        dataset, model, corpus=corpus, num_negatives=NEGATIVES, range_max=DEPTH, relative_margin=0.05,
        output_format="n-tuple", verbose=False,
    )  # fmt: skip
    return {"queries": len(known), "seconds": time.perf_counter() - start, "negatives": NEGATIVES * len(done)}
