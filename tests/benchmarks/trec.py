"""Compare our measures with those of trec_eval, query by query, on BM25 runs exported in TREC's format.

    python tests/benchmarks/trec.py FOLDER... [--split test]

Each FOLDER is a collection in BEIR layout. It needs no training split, and the data contracts are not applied.
pytrec_eval, the Python binding of trec_eval, reads the exported text files only.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytrec_eval
from beir_files import read_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from small_snapshot import snapshot_of

from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.evaluation.evaluate import read_run
from tasks.core.evaluation.measures import NAMES, means, per_query
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import judged, qrels

THEIRS = {"ndcg@10": "ndcg_cut_10", "recall@100": "recall_100", "map@100": "map_cut_100", "mrr@10": "recip_rank"}


def main() -> None:
    """Print a Markdown table: both means, and the largest difference of a query."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", type=Path, nargs="+", help="collections in BEIR layout")
    arguments.add_argument("--split", default="test", help="split to evaluate")
    chosen = arguments.parse_args()
    print("| collection | queries | measure | ours | trec_eval | largest difference of a query |")
    print("|---|---:|---|---:|---:|---:|")
    for folder in chosen.folders:
        with tempfile.TemporaryDirectory() as home:
            _compare(Path(home), folder, chosen.split)


def _compare(home: Path, folder: Path, split: str) -> None:
    snapshot = as_snapshot(home, folder, split)
    mining = MiningSettings()
    run = search_bm25(home, build_index(home, snapshot, mining), judged(snapshot, "train"), 100, mining)
    ours = per_query(read_run(run), qrels(snapshot, "train"))
    write_trec(run, home / "run.txt")
    write_trec_qrels(snapshot, "train", home / "qrels.txt")
    theirs = trec_eval(home / "run.txt", home / "qrels.txt")
    average = means(ours)
    for name, label in NAMES.items():
        values = {query: theirs[query].get(name, 0.0) for query in ours["query_id"].to_pylist()}
        difference = max(abs(values[row["query_id"]] - row[name]) for row in ours.to_pylist())
        mean = sum(values.values()) / len(values)
        print(f"| {folder.name} | {len(values)} | {label} | {average[name]:.4f} | {mean:.4f} | {difference:.1e} |")


def trec_eval(run_file: Path, qrels_file: Path) -> Mapping[str, Mapping[str, float]]:
    """Map query to our measure names to values of trec_eval; RR@10 is the reciprocal rank of the first ten lines."""
    with run_file.open() as lines:
        run = pytrec_eval.parse_run(lines)
    with qrels_file.open() as lines:
        judgments = pytrec_eval.parse_qrel(lines)
    first = {query: dict(sorted(hits.items(), key=lambda hit: -hit[1])[:10]) for query, hits in run.items()}
    whole = pytrec_eval.RelevanceEvaluator(judgments, set(THEIRS.values())).evaluate(run)
    ten = pytrec_eval.RelevanceEvaluator(judgments, {"recip_rank"}).evaluate(first)
    return {
        query: {ours: (ten if ours == "mrr@10" else whole)[query][theirs] for ours, theirs in THEIRS.items()}
        if query in whole
        else {}
        for query in judgments
    }


def as_snapshot(home: Path, folder: Path, split: str) -> Snapshot:
    """Write the files of a BEIR folder as a snapshot. Its training split has the positives of `split`."""
    passages = {
        row["_id"]: {"title": row.get("title") or "", "text": row["text"]} for row in read_rows(folder / "corpus.jsonl")
    }
    queries = {row["_id"]: row["text"] for row in read_rows(folder / "queries.jsonl")}
    with (folder / "qrels" / f"{split}.tsv").open() as file:
        lines = list(csv.reader(file, delimiter="\t"))[1:]
    positives = [(query, passage, "train", int(score)) for query, passage, score in lines if int(score) > 0]
    return snapshot_of(home, passages, queries, positives)


if __name__ == "__main__":
    main()
