"""What Ray costs and gives: the night's embedding and searches on one and two workers, beside the same without Ray.

    python tests/benchmarks/scale.py [--parts embedding searches grain] [--passages 6000] [--shards 8]
        [--queries 20000] [--slices 4] [--grain 10 100 1000] [--json]

Embedding: --passages of drawn words (30 each, 64 tokens at most) by all-MiniLM-L6-v2 in fp32, in --shards. Searches:
BM25 and exact, 100 passages a query, for --queries queries in as many passages; on Ray in --slices of the queries,
without Ray in one piece, with `rest`: all else of mining, which is never divided.
The queries are encoded before, that is not counted.

Every run is the flow's own functions in a process of its own, over a home of its own, with a Prefect server that runs
all the time. Runs on one core have one: the flow, Ray's processes and its worker share it (Prefect's server stays
outside). `start` is the time from a call until its first shard is begun: connecting, and a worker that imports what it
needs; searches call twice. `work` is what the shards themselves took, added up.

The grain: --passages again, by the same encoder without its layers, in more and more shards on two workers, so that
what a shard costs by itself shows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

from prefect_servers import serving_prefect  # noqa: E402

from tasks.core.base.files import produce, receipts_newest_first  # noqa: E402
from tasks.core.base.receipts import Embeddings, Encoder, Index, Snapshot  # noqa: E402
from tasks.core.snapshot.reader import PASSAGES, QRELS, QUERIES  # noqa: E402
from tasks.core.text.normalization import text_hash  # noqa: E402

Facts = dict[str, float]
QUIET = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "PREFECT_LOGGING_LEVEL": "ERROR"}
ENGINES = ("local", "ray")
PARTS = ("embedding", "searches", "grain")


def main() -> None:
    """Prepare homes, run every cell over a copy of one, print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments.add_argument("--passages", type=int, default=6000)
    arguments.add_argument("--shards", type=int, default=8)
    arguments.add_argument("--queries", type=int, default=20_000)
    arguments.add_argument("--slices", type=int, default=4)
    arguments.add_argument("--grain", type=int, nargs="*", default=[10, 100, 1000], help="numbers of shards")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.one:
        print(json.dumps(WORK[chosen.parts[0]](chosen.one, chosen.shards)))
        return
    os.environ |= QUIET
    found: dict[str, Facts] = {}
    with tempfile.TemporaryDirectory() as folder, serving_prefect(Path(folder) / "prefect") as api:
        os.environ["PREFECT_API_URL"] = api
        homes = {part: _prepared(Path(folder) / part, part, chosen) for part in chosen.parts}
        for name, part, engine, cores, shards in _cells(chosen):
            found[name] = _run(homes[part], part, engine, cores, shards)
            print(name, {key: round(value, 2) for key, value in found[name].items()}, file=sys.stderr, flush=True)
    print(json.dumps(found, indent=2) if chosen.json else "\n".join(_tables(found, chosen)))


Cell = tuple[str, str, str, int, int]


def _cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    """Name, part, engine, cores and shards of every run."""
    for part, shards in (("embedding", chosen.shards), ("searches", chosen.slices)):
        for cores in (1, 2) if part in chosen.parts else ():
            for engine in ENGINES:  # without Ray, a night searches in one piece
                divided = part == "embedding" or engine == "ray"
                yield f"{part}, {engine}, {cores}", part, engine, cores, shards if divided else 1
    for shards in chosen.grain if "grain" in chosen.parts else ():
        for engine in ENGINES:
            yield f"grain, {engine}, {shards}", "grain", engine, 2, shards


def _prepared(home: Path, part: str, chosen: argparse.Namespace) -> Path:
    """A home with a snapshot of drawn texts and an encoder; for searches with an index and vectors too."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tasks.core.base.settings import Settings
    from tasks.core.embedding.shards import gather_shards
    from tasks.core.encoder.base_model import find_base
    from tasks.core.retrieval.bm25 import build_index
    from tasks.core.training.trainer import base_encoder

    passages, asked = (chosen.queries, chosen.queries) if part == "searches" else (chosen.passages, 0)
    snapshot = produce(home, Snapshot, {"benchmark": passages}, lambda folder: _drawn(folder, passages, asked))
    base, layers = find_base(Settings().encoder.model), 6 if part == "embedding" else 0
    model = AutoModel.from_pretrained(base, add_pooling_layer=False, dtype=torch.float32)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        settings = Settings(home=home, encoder={"model": folder, "passage_tokens": 64}, embedding={"precision": "fp32"})
        encoder = base_encoder(home, snapshot, settings)
    if part == "searches":
        build_index(home, snapshot, settings.mining)
        gather_shards(home, encoder, snapshot, 4)
    return home


def _drawn(folder: Path, passages: int, asked: int) -> dict[str, object]:
    """Words as often as in a language (Zipf); a query has some of its passage's."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdeilmnorst", k=draw.randint(3, 8))) for _ in range(5000)]
    often = [1 / rank for rank in range(1, len(words) + 1)]
    drawn = [draw.choices(words, often, k=30) for _ in range(passages)]
    texts = [" ".join(one) for one in drawn]
    ids, hashes = [f"p{row:07d}" for row in range(passages)], [text_hash("", text) for text in texts]
    table = pa.table({"passage_id": ids, "title": [""] * passages, "text": texts, "text_hash": hashes})
    pq.write_table(table, folder / PASSAGES, row_group_size=20_480)
    queries = [f"q{row:07d}" for row in range(asked)]
    questions = [" ".join(draw.sample(drawn[row % passages], 8)) for row in range(asked)]
    pq.write_table(pa.table({"query_id": pa.array(queries, pa.string()), "text": questions}), folder / QUERIES)
    positives = pa.array([ids[row % passages] for row in range(asked)], pa.string())
    ones = pa.array([1] * asked, pa.int32())
    judged = {"query_id": queries, "passage_id": positives, "relevance": ones, "split": ["train"] * asked}
    pq.write_table(pa.table(judged), folder / QRELS)
    return {"rows": passages, "queries": asked, "qrels": asked, "splits": {"train": asked}}


def _run(prepared: Path, part: str, engine: str, cores: int, shards: int) -> Facts:
    """One cell, in processes of its own, on so many cores."""
    home = prepared.with_name(f"run-{time.time_ns()}")
    shutil.copytree(prepared, home)
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:cores])  # inherited by all that is started now
    threads = {"OMP_NUM_THREADS": str(cores if engine == "local" else 1)}
    try:
        with _cluster(cores) if engine == "ray" else nullcontext({}) as more:
            command = [sys.executable, __file__, "--one", str(home), "--parts", part, "--shards", str(shards)]
            environment = {**os.environ, **threads, **more, "PYTHONPATH": str(ROOT), "NIGHTSHIFT_HOME": str(home)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        os.sched_setaffinity(0, every)
        shutil.rmtree(home)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: Facts = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _cluster(workers: int) -> Iterator[Mapping[str, str]]:
    """A Ray cluster of one host with so many workers of a core each, and the settings that name it."""
    from ray.cluster_utils import Cluster

    os.environ["OMP_NUM_THREADS"] = "1"
    made = Cluster()
    made.add_node(num_cpus=workers, include_dashboard=False, object_store_memory=80 * 2**20)
    try:
        yield {"NIGHTSHIFT_COMPUTE__ENGINE": "ray", "NIGHTSHIFT_COMPUTE__ADDRESS": made.address}
    finally:
        made.shutdown()
        del os.environ["OMP_NUM_THREADS"]


def _embed(home: Path, shards: int) -> Facts:
    """The flow's own function; what its shards say of themselves."""
    os.environ["NIGHTSHIFT_EMBEDDING__SHARDS"] = str(shards)
    from prefect import flow

    from flows.nightly import embed
    from tasks.core.base.settings_file import load_settings

    settings, (encoder,) = load_settings(), receipts_newest_first(home, Encoder)
    (snapshot,) = receipts_newest_first(home, Snapshot)

    @flow
    def embedding() -> Facts:
        with _watched(home, "embeddings/.*.partial/.0*.lock") as begun:
            began = time.time()
            made = embed(settings, encoder, snapshot)
            return {"seconds": time.time() - began, "start": begun[0] - began, "work": made.seconds}

    return embedding()


def _search(home: Path, slices: int) -> Facts:
    """The searches of a round of mining, by the flow's own functions."""
    os.environ["NIGHTSHIFT_MINING__SHARDS"] = str(slices)
    from prefect import flow

    from flows.nightly import search
    from tasks import mining
    from tasks.compute import run_shards
    from tasks.core.base.settings_file import load_settings
    from tasks.core.mining.mine import mine
    from tasks.core.retrieval.training_queries import run_search, training_search

    settings, (encoder,) = load_settings(), receipts_newest_first(home, Encoder)
    (snapshot,) = receipts_newest_first(home, Snapshot)
    (index,), (vectors,) = receipts_newest_first(home, Index), receipts_newest_first(home, Embeddings)

    @flow
    def searching() -> Facts:
        own, asked = training_search(home, snapshot, encoder, vectors, settings.mining.depth)
        asked.make()
        if slices > 1:
            mining.encode_queries(settings, snapshot, encoder, vectors)
        with _watched(home, "runs/.*.partial/.0*.lock") as begun:
            times = [time.time()]
            found = [search(settings, snapshot, index)]
            times.append(time.time())
            if slices > 1:
                step, given = mining.search_dense_shard, mining.cpu_settings(settings)
                run_shards(step, given, snapshot, encoder, vectors, shards=slices)
            found.append(run_search(own, asked, slices))
            times.append(time.time())
        start = sum(first - called for first, called in zip(begun, times, strict=False))
        facts = {"seconds": times[2] - times[0], "start": start, "work": sum(run.seconds for run in found)}
        facts |= {"bm25": times[1] - times[0], "exact": times[2] - times[1]}
        if slices == 1:  # what is never divided
            sources = list(zip(("bm25", "dense"), found, strict=True))
            facts["rest"] = mine(home, snapshot, sources, vectors, asked, 1, settings.mining).seconds
        return facts

    return searching()


WORK = {"embedding": _embed, "grain": _embed, "searches": _search}


@contextmanager
def _watched(home: Path, pattern: str) -> Iterator[list[float]]:
    """When a file of this pattern is first seen in each folder, while the `with` lasts."""
    seen: dict[Path, float] = {}
    times: list[float] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            for folder in {file.parent for file in home.glob(pattern)} - seen.keys():
                seen[folder] = time.time()
                times.append(seen[folder])

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield times
    finally:
        ended.set()
        watching.join()


def _tables(found: dict[str, Facts], chosen: argparse.Namespace) -> Iterator[str]:
    yield from ("| run | seconds | start | work | |", "|---|---:|---:|---:|---|")
    for name, one in found.items():
        more = ", ".join(f"{key} {one[key]:.1f}" for key in ("bm25", "exact", "rest") if key in one)
        yield f"| {name} | {one['seconds']:.1f} | {one['start']:.1f} | {one['work']:.1f} | {more} |"
    for part in ("embedding", "searches"):
        if part in chosen.parts:
            yield from _compared(found, part)
    if "grain" in chosen.parts:
        yield from ("", "| shards | local, ms a shard | Ray, ms a shard |", "|---:|---:|---:|")
    for shards in chosen.grain if "grain" in chosen.parts else ():
        ones = [found[f"grain, {engine}, {shards}"] for engine in ENGINES]
        each = [1000 * (one["seconds"] - one["start"]) / shards for one in ones]
        yield f"| {shards:,} | {each[0]:.0f} | {each[1]:.0f} |"


def _compared(found: dict[str, Facts], part: str) -> Iterator[str]:
    def rest(one: Facts) -> float:
        return one["seconds"] - one["start"]

    for cores in (1, 2):
        local, ray = found[f"{part}, local, {cores}"], found[f"{part}, ray, {cores}"]
        whole, started = ray["seconds"] / local["seconds"] - 1, rest(ray) / rest(local) - 1
        yield f"{part}, {cores} cores: Ray against local {whole:+.1%}; without the starts {started:+.1%}"
    for engine in ENGINES:
        ones, twos = found[f"{part}, {engine}, 1"], found[f"{part}, {engine}, 2"]
        gain = ones["seconds"] / twos["seconds"]
        yield f"{part}, {engine}: on 2 cores {gain:.2f} times as fast; without the start {rest(ones) / rest(twos):.2f}"


if __name__ == "__main__":
    main()
