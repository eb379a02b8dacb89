"""A lexical index and Lucene's own BM25 run over the same generated passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of

from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Postings, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.bm25_scorer import Bm25Scorer, open_scorer
from tasks.core.retrieval.postings import build_postings
from tasks.core.snapshot.reader import passages, queries

SETTINGS = MiningSettings(heap_mb=256, threads=2, scorer="lucene")
ODD = {
    "empty": "",
    "blank": " \t\n",
    "stop-words": "the of and to a",
    "punctuation": "?! ... --",
    "emoji": "😀 happy 😀😀 dogs",
    "beyond-bmp": "𝐀𝐁𝐂 in 𐐷𐐲 letters",
    "long-run-beyond-bmp": "𐐷" * 300,
    "long-run": "x" * 600,
    "han": "狐狸 跑",
    "composed": "caf\u00e9 cafe\u0301 co\u00adop",
    "control": "fox\x00 runs\x1f fast\x7f \x85\u2028 dog",
    "repeated": "fox " * 500,
    "long": " ".join(f"w{number % 60}" for number in range(9000)),
}
QUERIES = {
    "repeated": "fox fox dog fox",
    "unknown": "xylophone w3",
    "only-unknown": "xylophone",
    "stop-words": "the of",
    "empty": "",
    "control": "\x00 \t",
    "control-between": "fox\x00dog\x1fw1",
    "emoji": "😀 dogs",
    "beyond-bmp": "𐐷𐐲 𝐀𝐁𝐂",
    "long-run": "x" * 255 + " " + "𐐷" * 300,
    "han": "狐",
    "composed": "caf\u00e9 cafe\u0301",
    "syntax": 'w1 AND (NOT "w2")',
    "stemmed": "dog's running happily letter",
    "over-1000": "w5 fox " + " ".join(f"longword{number}" for number in range(1500)) + " dog",
}


@dataclass(frozen=True)
class World:
    """A snapshot, its lexical index, and its queries."""

    home: Path
    snapshot: Snapshot
    postings: Postings

    @property
    def texts(self) -> list[str]:
        """The text of each query."""
        texts: list[str] = self.queries["text"].to_pylist()
        return texts

    @property
    def queries(self) -> pa.Table:
        """query_id, text."""
        return queries(self.snapshot)

    @property
    def ids(self) -> list[str]:
        """The id of each passage, in snapshot order."""
        return [name for batch in passages(self.snapshot, ["passage_id"]) for name in batch["passage_id"].to_pylist()]

    def scorer(self, **changes: float) -> Bm25Scorer:
        """The lexical index with BM25's default parameters, or with changes."""
        return open_scorer(self.postings, Ranking(**changes))

    def lucene(self, depth: int, settings: MiningSettings = SETTINGS) -> Mapping[str, list[tuple[str, float]]]:
        """Return Lucene's hits of each query: passage id and score, best first."""
        run = search_bm25(self.home, build_index(self.home, self.snapshot, SETTINGS), self.queries, depth, settings)
        hits: dict[str, list[tuple[str, float]]] = {name: [] for name in self.queries["query_id"].to_pylist()}
        for row in pq.read_table(run.path / "run.parquet").to_pylist():
            hits[row["query_id"]].append((row["passage_id"], row["score"]))
        return hits


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Passages of random words, with many equal scores, and unusual passages; 60 random queries and unusual ones."""
    home = tmp_path_factory.mktemp("lexical")
    random = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"w{word}" for word in random.zipf(1.4, count) % 60)

    generated = {
        f"r{row:03d}": {"title": words(2) if row % 3 else "", "text": words(random.integers(1, 70))}
        for row in range(300)
    }
    texts = generated | {name: {"title": "", "text": text} for name, text in ODD.items()}
    rows = [{"passage_id": name, **text} for name, text in texts.items()]
    wordings = {f"q{row:02d}": words(random.integers(1, 9)) for row in range(60)} | QUERIES
    snapshot = snapshot_of(home, rows, wordings, [("q00", "r000", "train")], group_rows=64)
    return World(home, snapshot, build_postings(home, snapshot, "en", "porter"))
