"""Time and memory of the compiled BM25 search and of Lucene while a collection grows.

    python tests/benchmarks/lexical_scale.py FOLDER [--copies 1 4 14] [--queries 5000] [--split train]

FOLDER is a collection in BEIR layout. Each copy of its passages beyond the first lacks other words (every 7th, from a
different start), so texts, lengths, and postings differ. Each collection size runs in a separate process. `update` is
the time to build the postings again after 1 % of the passages changed. Memory is the peak of the process, and that of
its largest Java process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

from trec import as_snapshot, snapshot_of
from work_cost import cost_of, run_in_process

from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.bm25_batches import search_batch
from tasks.core.retrieval.bm25_scorer import Bm25Scorer
from tasks.core.retrieval.postings import build_postings
from tasks.core.snapshot.reader import passages, queries

DEPTH, DROPPED = 100, 7


def main() -> None:
    """Print a Markdown table with a row for each size."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--copies", type=int, nargs="+", default=[1, 4, 14], help="sizes, in copies of the passages")
    arguments.add_argument("--queries", type=int, default=5000, help="queries to search")
    arguments.add_argument("--split", default="train", help="split of the queries")
    chosen = arguments.parse_args()
    print(
        "| passages | postings | Lucene index, s | postings, s | update, s | compiled search, s | Lucene search, s "
        "| Python, GB | Java, GB |"
    )
    print("|---:" * 9 + "|")
    for copies in chosen.copies:
        with tempfile.TemporaryDirectory() as scratch:
            inputs = Path(scratch), chosen.folder, chosen.split, copies
            snapshots = run_in_process(_write_snapshots, *inputs)
            print(run_in_process(_measure, Path(scratch), snapshots, chosen.queries), flush=True)


def _write_snapshots(home: Path, folder: Path, split: str, copies: int) -> list[Snapshot]:
    """Write the collection, its copies, and its copies with 1 % changed passages."""
    original = as_snapshot(home, folder, split)
    return [original, *(_copy(home, original, copies, changed=changed) for changed in (False, True))]


def _measure(home: Path, snapshots: list[Snapshot], limit: int) -> str:
    original, snapshot, changed = snapshots
    mining = MiningSettings(scorer="lucene")
    chosen = queries(original, "train").slice(0, limit)
    indexing, index = cost_of(lambda: build_index(home, snapshot, mining))
    building, postings = cost_of(lambda: build_postings(home, snapshot, "en", "porter"))
    update, _ = cost_of(lambda: build_postings(home, changed, "en", "porter"))
    scorer = Bm25Scorer(postings, "en", "porter", mining.k1, mining.b)
    texts = chosen["text"].to_pylist()
    search_batch(scorer, texts[:10], DEPTH, mining)  # compiles
    compiled, _ = cost_of(lambda: search_batch(scorer, texts, DEPTH, mining))
    lucene, _ = cost_of(lambda: search_bm25(home, index, chosen, DEPTH, mining))
    peaks = (resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = (cost.wall for cost in (indexing, building, update, compiled, lucene))
    cells = [f"{value:.1f}" for value in (*seconds, *peaks)]
    return f"| {snapshot.rows:,} | {postings.postings:,} | " + " | ".join(cells) + " |"


def _copy(home: Path, original: Snapshot, copies: int, *, changed: bool) -> Snapshot:
    """Return a snapshot with `copies` variants of each passage; with `changed`, 1 % have another text."""
    texts: dict[str, str] = {}
    for batch in passages(original, ["passage_id", "text"]):
        for name, text in zip(batch["passage_id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            words = text.split()
            for copy in range(copies):
                kept = [word for place, word in enumerate(words, start=copy) if copy == 0 or place % DROPPED]
                edit = " edited" if changed and len(texts) % 100 == 0 else ""
                texts[f"{name}-{copy}"] = (" ".join(kept) or "empty") + edit
    return snapshot_of(home, texts)


if __name__ == "__main__":
    main()
