"""Compare our measures with trec_eval for each query, on BM25 runs exported in TREC format.

    python tests/benchmarks/trec.py FOLDER... [--split test]

Each FOLDER is a collection in BEIR layout. It needs no train split: the benchmark reads the files directly, without
the contracts. trec_eval runs through its Python binding, pytrec_eval, on the exported text files.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytrec_eval

from tasks.core.base.files import produce
from tasks.core.base.receipts import Snapshot
from tasks.core.base.settings import MiningSettings
from tasks.core.evaluation.evaluate import read_run
from tasks.core.evaluation.measures import NAMES, means, per_query
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import judged, qrels
from tasks.core.text.normalization import text_hash

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
    run = search_bm25(home, build_index(home, snapshot, mining), judged(snapshot, split), 100, mining)
    ours = per_query(read_run(run), qrels(snapshot, split))
    write_trec(run, home / "run.txt")
    write_trec_qrels(snapshot, split, home / "qrels.txt")
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
        judgements = pytrec_eval.parse_qrel(lines)
    first = {query: dict(sorted(hits.items(), key=lambda hit: -hit[1])[:10]) for query, hits in run.items()}
    whole = pytrec_eval.RelevanceEvaluator(judgements, set(THEIRS.values())).evaluate(run)
    ten = pytrec_eval.RelevanceEvaluator(judgements, {"recip_rank"}).evaluate(first)
    return {
        query: {ours: (ten if ours == "mrr@10" else whole)[query][theirs] for ours, theirs in THEIRS.items()}
        if query in whole
        else {}
        for query in judgements
    }


def as_snapshot(home: Path, folder: Path, split: str) -> Snapshot:
    """Build a snapshot from the files of a BEIR folder."""

    def build(target: Path) -> dict[str, Any]:
        passages = sorted((row["_id"], row.get("title") or "", row["text"]) for row in _rows(folder / "corpus.jsonl"))
        queries = sorted((row["_id"], row["text"]) for row in _rows(folder / "queries.jsonl"))
        with (folder / "qrels" / f"{split}.tsv").open() as file:
            lines = list(csv.reader(file, delimiter="\t"))[1:]
        positives = sorted((query, passage, int(score)) for query, passage, score in lines if int(score) > 0)
        hashes = [text_hash(title, text) for _, title, text in passages]
        _write(target / "passages.parquet", passage_id=_column(passages, 0), title=_column(passages, 1),
               text=_column(passages, 2), text_hash=hashes)  # fmt: skip
        _write(target / "queries.parquet", query_id=_column(queries, 0), text=_column(queries, 1))
        _write(target / "qrels.parquet", query_id=_column(positives, 0), passage_id=_column(positives, 1),
               relevance=pa.array(_column(positives, 2), pa.int32()), split=[split] * len(positives))  # fmt: skip
        counts = {"queries": len(queries), "qrels": len(positives), "splits": {split: len(set(_column(positives, 0)))}}
        return {"rows": len(passages), **counts}

    return produce(home, Snapshot, {"folder": str(folder), "split": split}, build)


def _rows(file: Path) -> Iterable[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _column(rows: list[Any], place: int) -> list[Any]:
    return [row[place] for row in rows]


def _write(file: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), file)


if __name__ == "__main__":
    main()
