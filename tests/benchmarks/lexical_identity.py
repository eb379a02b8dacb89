"""Share of queries whose best 100 passages are the same from the compiled BM25 search and from Lucene.

    python tests/benchmarks/lexical_identity.py FOLDER... [--split test] [--messages de fr ru]

Each FOLDER is a collection in BEIR layout. `--messages` adds a collection for each language, made of the messages of
this machine's programs in that language (gettext catalogs): a passage is a message of eight words or more, and a query
is the first five words of every tenth of them. A list is `identical` if ids, order, and scores (to 1e-5) are the same,
and `ties` if it differs only among passages whose scores differ by at most 1e-5. Lucene's output has six decimals.
"""

from __future__ import annotations

import argparse
import gettext
import tempfile
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
from beir_files import write_qrels, write_rows
from trec import as_snapshot

from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.evaluation.evaluate import read_run
from tasks.core.evaluation.measures import means, per_query
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.bm25_batches import TOLERANCE, search_batch
from tasks.core.retrieval.bm25_scorer import Bm25Scorer
from tasks.core.retrieval.postings import build_postings
from tasks.core.snapshot.reader import judged, passages, qrels

DEPTH, WORDS, QUERY_WORDS, EVERY = 100, 8, 5, 10
CATALOGS = Path("/usr/share/locale")
List = list[tuple[str, float]]


def main() -> None:
    """Print a Markdown table with a row for each collection."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", type=Path, nargs="*", help="collections in BEIR layout")
    arguments.add_argument("--split", default="test", help="split to search")
    arguments.add_argument("--messages", nargs="*", default=[], help="languages of gettext catalogs, such as de")
    chosen = arguments.parse_args()
    print("| collection | passages | queries | identical | ties | different | nDCG@10, Lucene | compiled |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        collections = [(folder, folder.name, "en", chosen.split) for folder in chosen.folders]
        for language in chosen.messages:
            folder = Path(scratch) / f"messages-{language}"
            write_messages(folder, language)
            collections.append((folder, folder.name, language, "test"))
        for number, (folder, name, language, split) in enumerate(collections):
            _compare(Path(scratch) / str(number), folder, name, language, split)


def write_messages(folder: Path, language: str) -> None:
    """Write a BEIR collection of the distinct messages in `language` of all gettext catalogs on this machine."""
    texts: set[str] = set()
    for file in CATALOGS.glob(f"{language}/LC_MESSAGES/*.mo"):
        with suppress(UnicodeDecodeError), file.open("rb") as stream:  # some catalogs are in an undeclared encoding
            catalog = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
            texts.update(text.strip() for text in catalog.values() if len(text.split()) >= WORDS)
    messages = sorted(texts)
    (folder / "qrels").mkdir(parents=True)
    write_rows(folder / "corpus.jsonl", ({"_id": f"p{row}", "text": text} for row, text in enumerate(messages)))
    queries = {row: " ".join(messages[row].split()[:QUERY_WORDS]) for row in range(0, len(messages), EVERY)}
    write_rows(folder / "queries.jsonl", ({"_id": f"q{row}", "text": text} for row, text in queries.items()))
    write_qrels(folder, "test", ((f"q{row}", f"p{row}") for row in queries))


def _compare(home: Path, folder: Path, name: str, language: str, split: str) -> None:
    snapshot = as_snapshot(home, folder, split)
    queries = judged(snapshot, "train")
    mining = MiningSettings.model_validate({"scorer": "lucene", "language": language})
    lucene = read_run(search_bm25(home, build_index(home, snapshot, mining), queries, DEPTH, mining))
    compiled = _search_compiled(home, snapshot, queries, mining)
    lists = [_lists(run) for run in (lucene, compiled)]
    kinds = [_kind(lists[0].get(query, []), lists[1].get(query, [])) for query in queries["query_id"].to_pylist()]
    counts = " | ".join(f"{kinds.count(kind):,}" for kind in ("identical", "ties", "different"))
    ndcg = [means(per_query(run, qrels(snapshot, "train")))["ndcg@10"] for run in (lucene, compiled)]
    print(f"| {name} | {snapshot.rows:,} | {len(kinds):,} | {counts} | {ndcg[0]:.4f} | {ndcg[1]:.4f} |", flush=True)


def _search_compiled(home: Path, snapshot: Snapshot, queries: pa.Table, mining: MiningSettings) -> pa.Table:
    """Return query_id, passage_id, rank, and score of the compiled search, without its comparison with Lucene."""
    postings = build_postings(home, snapshot, mining.language, mining.stemmer)
    scorer = Bm25Scorer(postings, mining.language, mining.stemmer, mining.k1, mining.b)
    query_rows, rows, scores = search_batch(scorer, queries["text"].to_pylist(), DEPTH, mining)
    ranks = np.arange(len(query_rows)) - np.searchsorted(query_rows, query_rows, "left") + 1
    ids = pa.chunked_array([batch["passage_id"] for batch in passages(snapshot, ["passage_id"])])
    columns = [queries["query_id"].take(pa.array(query_rows)), ids.take(pa.array(rows)), ranks, scores]
    return pa.table(columns, names=["query_id", "passage_id", "rank", "score"])


def _lists(run: pa.Table) -> dict[str, List]:
    rows = zip(*(run[column].to_pylist() for column in ("query_id", "passage_id", "score")), strict=True)
    return {
        query: [(passage, score) for _, passage, score in hits] for query, hits in groupby(rows, key=lambda row: row[0])
    }


def _kind(lucene: List, compiled: List) -> str:
    same_scores = len(lucene) == len(compiled) and all(
        abs(left[1] - right[1]) <= TOLERANCE for left, right in zip(lucene, compiled, strict=True)
    )
    if not same_scores:
        return "different"
    if [passage for passage, _ in lucene] == [passage for passage, _ in compiled]:
        return "identical"
    last = lucene[-1][1]
    ours, theirs = dict(compiled), dict(lucene)
    moved = [(passage, ours.get(passage, last), score) for passage, score in lucene if ours.get(passage) != score]
    moved += [(passage, score, last) for passage, score in compiled if passage not in theirs]
    return "ties" if all(abs(ours_ - theirs_) <= TOLERANCE for _, ours_, theirs_ in moved) else "different"


if __name__ == "__main__":
    main()
