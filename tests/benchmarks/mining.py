"""The whole mining step beside the tools that do a part of it: queries a second and peak memory on one collection.

    python tests/benchmarks/mining.py FOLDER [--queries N] [--threads 2] [--contestants bm25 dense ...] [--json]

FOLDER is a collection in BEIR layout (plain or gzip) with a train split. Index and vectors are made before, once and
kept with --home; no time is counted for them. Each contestant then runs in a process of its own; the peak is the
resident memory of that process with all its children (Java among them), looked at 20 times a second.

    bm25          ours: BM25 search, 100 passages a query, dense scores, all filters, 8 negatives a query, audit, files
    bm25-half     the same for half of the queries
    bm25-quarter  the same for a quarter
    dense         ours: exact search with given vectors, then all the same
    batch-search  Pyserini's LuceneSearcher.batch_search over the same index: ids and scores of 100 passages, no more
    bm25s         bm25s' retrieve, fastest way that is installed, 100 passages a query, no more
    st            sentence_transformers.util.mine_hard_negatives with the same vectors: 8 negatives a query

Vectors are all-MiniLM-L6-v2's of passages cut at 32 tokens: speed does not hang on how good they are.
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
from mining_peers import DEPTH, NEGATIVES, Given, batch_search, index_bm25s, with_bm25s, with_sentence_transformers

from tasks.core.base.receipts import Snapshot
from tasks.core.base.settings import Settings
from tasks.core.mining.mine import mine
from tasks.core.retrieval.bm25 import search_bm25
from tasks.core.retrieval.dense import dense_run
from tasks.core.snapshot.reader import QRELS, qrels, queries

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Prepare, run the contestants one after the other and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--queries", type=int, default=0, help="training queries asked; 0: all")
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    arguments.add_argument("--home", type=Path, help="keep index and vectors here")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--one", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.one:  # in the contestant's own process, FOLDER is the file that says what is given
        print(json.dumps(CONTESTANTS[chosen.one](Given.model_validate_json(chosen.folder.read_text()))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        chosen.home = chosen.home or Path(scratch)
        file = Path(scratch) / "given.json"
        file.write_text(_prepare(chosen).model_dump_json())
        found = {name: _in_a_process(name, file, chosen.threads) for name in chosen.contestants}
    verdict = _compared(found)
    print(json.dumps({"runs": found, **verdict}, indent=2) if chosen.json else _table(found, verdict))


def _prepare(chosen: argparse.Namespace) -> Given:
    """Ingest, index and embed, unless an earlier run with the same home has done it."""
    from tasks.core.embedding.shards import gather_shards
    from tasks.core.encoder.base_model import find_base
    from tasks.core.encoder.dual_encoder import load_encoder
    from tasks.core.ingest.ingest import ingest
    from tasks.core.retrieval.bm25 import build_index
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
    given = Given(
        snapshot=snapshot,
        index=build_index(settings.home, snapshot, settings.mining),
        embeddings=embeddings,
        query_vectors=file,
        bm25s=settings.home / f"bm25s-{snapshot.digest}",
        model=find_base(settings.encoder.model),
        mining=settings.mining,
        limit=chosen.queries,
    )
    if "bm25s" in chosen.contestants and not given.bm25s.exists():
        index_bm25s(given)
    return given


def _ours(source: str, share: float = 1.0) -> Callable[[Given], dict[str, float]]:
    def run(given: Given) -> dict[str, float]:
        asked = given.asked()
        asked = asked.slice(0, int(asked.num_rows * share))
        vectors = np.load(given.query_vectors)[: asked.num_rows]
        with tempfile.TemporaryDirectory() as scratch:
            home = Path(scratch)
            snapshot = _with_queries(given.snapshot, set(asked["query_id"].to_pylist()), home / "snapshot")
            start = time.perf_counter()
            if source == "bm25":
                found = search_bm25(home, given.index, asked, DEPTH, given.mining)
            else:
                found = dense_run(home, "train", asked, vectors, given.embeddings, DEPTH)
            searched = time.perf_counter() - start
            number = 0 if source == "bm25" else 1
            done = mine(home, snapshot, [(source, found)], given.embeddings, vectors, number, given.mining)
            seconds = time.perf_counter() - start
        return {"queries": asked.num_rows, "seconds": seconds, "search_seconds": searched, "negatives": done.rows}

    return run


def _with_queries(snapshot: Snapshot, names: set[str], folder: Path) -> Snapshot:
    """The same passages with these training queries only."""
    folder.mkdir()
    for file in snapshot.path.glob("*.parquet"):
        (folder / file.name).symlink_to(file)
    judged = qrels(snapshot, "train")
    (folder / QRELS).unlink()
    pq.write_table(judged.filter([name in names for name in judged["query_id"].to_pylist()]), folder / QRELS)
    return snapshot.model_copy(update={"path": folder})


CONTESTANTS: dict[str, Callable[[Given], dict[str, float]]] = {
    "bm25": _ours("bm25"),
    "bm25-half": _ours("bm25", 1 / 2),
    "bm25-quarter": _ours("bm25", 1 / 4),
    "dense": _ours("dense"),
    "batch-search": batch_search,
    "bm25s": with_bm25s,
    "st": with_sentence_transformers,
}


def _in_a_process(name: str, file: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), str(file), "--one", name]
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits, **quiet})
    peaks = {"all": 0, "java": 0}
    watch = threading.Thread(target=_watch, args=(child, peaks), daemon=True)
    watch.start()
    said = child.communicate()[0]
    watch.join()
    if child.returncode != 0:
        raise SystemExit(f"{name}: exit status {child.returncode}")
    one: dict[str, float] = json.loads(said.splitlines()[-1])
    rate = one["queries"] / one["seconds"]
    return {**one, "queries_per_second": rate, "peak_mib": peaks["all"] / 1024, "children_mib": peaks["java"] / 1024}


def _watch(child: subprocess.Popen[str], peaks: dict[str, int]) -> None:
    while child.poll() is None:
        others = sum(_resident(pid) for pid in _children(child.pid))
        peaks["java"] = max(peaks["java"], others)
        peaks["all"] = max(peaks["all"], others + _resident(child.pid))
        time.sleep(0.05)


def _resident(pid: int) -> int:
    """KiB in memory; 0 for a process that is gone."""
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
    direct = [int(one) for text in tasks for one in text.split()]
    return direct + [below for one in direct for below in _children(one)]


def _compared(found: dict[str, dict[str, float]]) -> dict[str, float]:
    def ratio(ours: str, peer: str) -> float:
        both = ours in found and peer in found
        return found[ours]["queries_per_second"] / found[peer]["queries_per_second"] if both else float("nan")

    peaks = [found[name]["peak_mib"] for name in ("bm25", "dense") if name in found]
    return {
        "over_batch_search": ratio("bm25", "batch-search"),
        "over_bm25s": ratio("bm25", "bm25s"),
        "over_st": ratio("dense", "st"),
        "all_over_quarter": ratio("bm25", "bm25-quarter"),
        "all_over_half": ratio("bm25", "bm25-half"),
        "peak_mib": max(peaks, default=float("nan")),
    }


def _table(found: dict[str, dict[str, float]], verdict: dict[str, float]) -> str:
    lines = [f"{'contestant':<16}{'queries':>9}{'seconds':>9}{'of search':>11}{'queries/s':>11}{'peak MiB':>10}"]
    for name, one in found.items():
        lines.append(
            f"{name:<16}{one['queries']:>9,}{one['seconds']:>9.1f}{one.get('search_seconds', one['seconds']):>11.1f}"
            f"{one['queries_per_second']:>11,.0f}{one['peak_mib']:>10,.0f}"
        )
    lines += [
        f"ours against batch_search {verdict['over_batch_search']:.2f}x (goal 3), bm25s {verdict['over_bm25s']:.2f}x",
        f"ours (dense) against sentence-transformers {verdict['over_st']:.2f}x",
        f"queries/s, all against half {verdict['all_over_half']:.2f}, a quarter {verdict['all_over_quarter']:.2f}"
        " (linear: 1 or more)",
        f"largest peak of ours {verdict['peak_mib']:,.0f} MiB (goal: below 2,048)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
