"""Queries per second and peak memory of mining, compared with tools that do part of it, on the same collection.

    python tests/benchmarks/mining.py FOLDER [--queries N] [--threads 2] [--contestants bm25 dense ...] [--json]

FOLDER is a collection in BEIR layout (plain or gzip) with a train split. The index and the vectors are built before,
outside the measured time; --home keeps them for later runs. Each system runs in a separate process. Its peak is the
resident memory of the process and all its children (including Java), sampled 20 times per second.

    bm25          ours: compiled BM25 search with 100 passages per query, after a comparison with Lucene, dense scores,
                  all filters, 8 negatives per query, audit, and files
    bm25-half     the same with half of the queries
    bm25-quarter  the same with a quarter of the queries
    dense         ours: exact search with given vectors, and the same steps
    batch-search  only Pyserini's LuceneSearcher.batch_search on the same index: ids and scores of 100 passages
    bm25s         only the retrieval of bm25s with its fastest installed backend, 100 passages per query
    st            sentence_transformers.util.mine_hard_negatives with the same vectors: 8 negatives per query

The vectors are those of all-MiniLM-L6-v2 for passages cut at 32 tokens: speed does not depend on their quality.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from mining_peers import DEPTH, NEGATIVES, Inputs, batch_search, index_bm25s, with_bm25s, with_sentence_transformers

from tasks.core.base.receipts import Snapshot
from tasks.core.base.settings import Settings
from tasks.core.mining.mine import mine
from tasks.core.retrieval.bm25 import search_bm25
from tasks.core.retrieval.dense import dense_run
from tasks.core.snapshot.reader import QRELS, qrels, queries

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Build index and vectors, run the systems one after another, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--queries", type=int, default=0, help="training queries to mine; 0: all")
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each system")
    arguments.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), help="systems to run"
    )
    arguments.add_argument("--home", type=Path, help="folder that keeps index and vectors")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_argument("--worker", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.worker:  # FOLDER is the JSON file of the inputs
        print(json.dumps(CONTESTANTS[chosen.worker](Inputs.model_validate_json(chosen.folder.read_text()))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        chosen.home = chosen.home or Path(scratch)
        file = Path(scratch) / "inputs.json"
        file.write_text(_prepare(chosen).model_dump_json())
        runs = {name: _run_in_process(name, file, chosen.threads) for name in chosen.contestants}
    ratios = _compare(runs)
    print(json.dumps({"runs": runs, **ratios}, indent=2) if chosen.json else _format_table(runs, ratios))


def _prepare(chosen: argparse.Namespace) -> Inputs:
    """Ingest, index, and embed, unless an earlier run with the same home has done so."""
    from tasks.core.embedding.shards import gather_shards
    from tasks.core.encoder.base_model import find_base
    from tasks.core.encoder.dual_encoder import load_encoder
    from tasks.core.ingest.ingest import ingest
    from tasks.core.retrieval.bm25 import build_index
    from tasks.core.retrieval.postings import build_postings
    from tasks.core.training.trainer import base_encoder

    settings = Settings.model_validate(
        {
            "home": chosen.home.absolute(),
            "data": {"format": "beir", "path": chosen.folder, "compare": False},
            "encoder": {"passage_tokens": 32},
            "mining": {"depth": DEPTH, "per_query": NEGATIVES, "threads": chosen.threads, "shares": {"dense": 1}},
        }
    )
    snapshot = ingest(settings)[1]
    encoder = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    embeddings = gather_shards(settings.home, encoder, snapshot, 8)
    file = settings.home / f"queries-{embeddings.digest}.npy"
    if not file.exists():
        np.save(file, load_encoder(encoder.path).encode_queries(queries(snapshot, "train")["text"].to_pylist()))
    inputs = Inputs(
        snapshot=snapshot,
        index=build_index(settings.home, snapshot, settings.mining),
        postings=build_postings(settings.home, snapshot, settings.mining.language, settings.mining.stemmer),
        embeddings=embeddings,
        query_vectors=file,
        bm25s=settings.home / f"bm25s-{snapshot.digest}",
        model=find_base(settings.encoder.model),
        mining=settings.mining,
        limit=chosen.queries,
    )
    if "bm25s" in chosen.contestants and not inputs.bm25s.exists():
        index_bm25s(inputs)
    return inputs


def _ours(source: str, share: float = 1.0) -> Callable[[Inputs], dict[str, float]]:
    def run(inputs: Inputs) -> dict[str, float]:
        training_queries = inputs.training_queries()
        training_queries = training_queries.slice(0, int(training_queries.num_rows * share))
        vectors = np.load(inputs.query_vectors)[: training_queries.num_rows]
        with tempfile.TemporaryDirectory() as scratch:
            home = Path(scratch)
            for shelf in (inputs.snapshot.path.parent, inputs.postings.path.parent):  # both are built outside
                (home / shelf.name).symlink_to(shelf)
            snapshot = _with_queries(inputs.snapshot, set(training_queries["query_id"].to_pylist()), home / "snapshot")
            start = time.perf_counter()
            if source == "bm25":
                searched_run = search_bm25(home, inputs.index, training_queries, DEPTH, inputs.mining)
            else:
                searched_run = dense_run(home, "train", training_queries, vectors, inputs.embeddings, DEPTH)
            searched = time.perf_counter() - start
            number = 0 if source == "bm25" else 1
            negatives = mine(
                home, snapshot, [(source, searched_run)], inputs.embeddings, vectors, number, inputs.mining
            )
            seconds = time.perf_counter() - start
        return {
            "queries": training_queries.num_rows,
            "seconds": seconds,
            "search_seconds": searched,
            "negatives": negatives.rows,
        }

    return run


def _with_queries(snapshot: Snapshot, names: set[str], folder: Path) -> Snapshot:
    """Return the snapshot with only these training queries."""
    folder.mkdir()
    for file in snapshot.path.glob("*.parquet"):
        (folder / file.name).symlink_to(file)
    judged = qrels(snapshot, "train")
    (folder / QRELS).unlink()
    pq.write_table(judged.filter([name in names for name in judged["query_id"].to_pylist()]), folder / QRELS)
    return snapshot.model_copy(update={"path": folder})


CONTESTANTS: dict[str, Callable[[Inputs], dict[str, float]]] = {
    "bm25": _ours("bm25"),
    "bm25-half": _ours("bm25", 1 / 2),
    "bm25-quarter": _ours("bm25", 1 / 4),
    "dense": _ours("dense"),
    "batch-search": batch_search,
    "bm25s": with_bm25s,
    "st": with_sentence_transformers,
}


def _run_in_process(name: str, file: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), str(file), "--worker", name]
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits, **quiet})
    peaks = {"all": 0, "java": 0}
    watch = threading.Thread(target=_sample_memory, args=(child, peaks), daemon=True)
    watch.start()
    output = child.communicate()[0]
    watch.join()
    if child.returncode != 0:
        raise SystemExit(f"{name}: exit status {child.returncode}")
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    rate = result["queries"] / result["seconds"]
    return {**result, "queries_per_second": rate, "peak_mib": peaks["all"] / 1024, "children_mib": peaks["java"] / 1024}


def _sample_memory(child: subprocess.Popen[str], peaks: dict[str, int]) -> None:
    while child.poll() is None:
        children = sum(_resident_kib(pid) for pid in _children(child.pid))
        peaks["java"] = max(peaks["java"], children)
        peaks["all"] = max(peaks["all"], children + _resident_kib(child.pid))
        time.sleep(0.05)


def _resident_kib(pid: int) -> int:
    """Return the resident memory of a process in KiB; 0 after it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def _children(pid: int) -> list[int]:
    try:
        tasks = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return []
    direct = [int(child) for text in tasks for child in text.split()]
    return direct + [descendant for child in direct for descendant in _children(child)]


def _compare(runs: dict[str, dict[str, float]]) -> dict[str, float]:
    def ratio(ours: str, peer: str) -> float:
        both = ours in runs and peer in runs
        return runs[ours]["queries_per_second"] / runs[peer]["queries_per_second"] if both else float("nan")

    def search_ratio(peer: str) -> float:
        seconds = [runs[name].get("search_seconds", runs[name]["seconds"]) for name in ("bm25", peer) if name in runs]
        return seconds[1] / seconds[0] if len(seconds) == 2 else float("nan")

    peaks = [runs[name]["peak_mib"] for name in ("bm25", "dense") if name in runs]
    return {
        "over_batch_search": search_ratio("batch-search"),
        "over_bm25s": search_ratio("bm25s"),
        "over_st": ratio("dense", "st"),
        "all_over_quarter": ratio("bm25", "bm25-quarter"),
        "all_over_half": ratio("bm25", "bm25-half"),
        "peak_mib": max(peaks, default=float("nan")),
    }


def _format_table(runs: dict[str, dict[str, float]], ratios: dict[str, float]) -> str:
    lines = [f"{'system':<16}{'queries':>9}{'seconds':>9}{'search s':>11}{'queries/s':>11}{'peak MiB':>10}"]
    for name, run in runs.items():
        lines.append(
            f"{name:<16}{run['queries']:>9,}{run['seconds']:>9.1f}{run.get('search_seconds', run['seconds']):>11.1f}"
            f"{run['queries_per_second']:>11,.0f}{run['peak_mib']:>10,.0f}"
        )
    lines += [
        f"our search compared with batch_search {ratios['over_batch_search']:.2f}x (goal 8)",
        f"our search compared with bm25s {ratios['over_bm25s']:.2f}x (goal 2)",
        f"ours (dense) compared with sentence-transformers {ratios['over_st']:.2f}x",
        f"queries/s with all queries compared with half {ratios['all_over_half']:.2f}, "
        f"with a quarter {ratios['all_over_quarter']:.2f} (linear: 1 or more)",
        f"our largest peak {ratios['peak_mib']:,.0f} MiB (goal: below 2,048 MiB)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
