"""Compare the embedding and the searches of a night on one and two Ray workers with the same steps without Ray.

    python tests/benchmarks/scale.py [--parts embedding searches grain] [--engines local ray] [--passages 6000]
        [--shards 8] [--layers 6] [--tokens 64] [--queries 20000] [--searched 20000] [--slices 4] [--grain 10 100 1000]
        [--json]

Embedding: --passages passages of 30 random words (at most --tokens tokens), encoded by the first --layers layers of
all-MiniLM-L6-v2 in fp32, in --shards shards. Searches: BM25 and exact search, 100 passages per query, for --queries
queries in --searched passages (default: as many), in --slices shards of the queries, and in one piece, as a night does
without `[mining] shards`. `rest` is the remaining time of mining, which is never divided. The queries are encoded in
advance; that time is not counted.

Every run calls the functions of the flow in its own process and its own home. A Prefect server runs all the time. In a
run on one core, the flow, the processes of Ray, and its worker share that core; the Prefect server does not. `start` is
the time from a call until its first shard begins: the connection, and the imports of a worker; searches call twice.
`work` is the sum of the seconds of all shards.

The grain: the same passages, encoded by the model without its layers, in more and more shards on two workers. It shows
the fixed cost of a shard.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

from few_layers import save_base  # noqa: E402
from prefect_servers import serving_prefect  # noqa: E402
from small_snapshot import snapshot_of  # noqa: E402

from tasks.core.base.files import receipts_newest_first  # noqa: E402
from tasks.core.base.receipts import Embeddings, Encoder, Index, Snapshot  # noqa: E402

Facts = dict[str, float]
QUIET = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "PREFECT_LOGGING_LEVEL": "ERROR"}
ENGINES = ("local", "ray")
PARTS = ("embedding", "searches", "grain")


def main() -> None:
    """Prepare the homes, run every cell on a copy, and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    arguments.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="engines to measure")
    arguments.add_argument("--passages", type=int, default=6000, help="passages to embed")
    arguments.add_argument("--shards", type=int, default=8, help="shards of the passages")
    arguments.add_argument("--layers", type=int, default=6, help="layers kept of the model that embeds")
    arguments.add_argument("--tokens", type=int, default=64, help="token limit of a passage")
    arguments.add_argument("--queries", type=int, default=20_000, help="queries to search")
    arguments.add_argument("--searched", type=int, help="passages to search; default: as many as queries")
    arguments.add_argument("--slices", type=int, default=4, help="shards of the queries")
    arguments.add_argument("--grain", type=int, nargs="*", default=[10, 100, 1000], help="numbers of shards")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.worker:
        print(json.dumps(WORK[chosen.parts[0]](chosen.worker, chosen.shards)))
        return
    os.environ |= QUIET
    results: dict[str, Facts] = {}
    with tempfile.TemporaryDirectory() as folder, serving_prefect(Path(folder) / "prefect") as api:
        os.environ["PREFECT_API_URL"] = api
        homes = {part: _prepare_home(Path(folder) / part, part, chosen) for part in chosen.parts}
        for name, part, engine, cores, shards in _cells(chosen):
            results[name] = _run(homes[part], part, engine, cores, shards)
            print(name, {key: round(value, 2) for key, value in results[name].items()}, file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2) if chosen.json else "\n".join(_format_tables(results, chosen)))


Cell = tuple[str, str, str, int, int]


def _cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    """Yield name, part, engine, cores, and shards of every run."""
    for part, shards in (("embedding", chosen.shards), ("searches", chosen.slices)):
        for cores in (1, 2) if part in chosen.parts else ():
            for engine in chosen.engines:  # without Ray, a night searches in one piece
                divided = part == "embedding" or engine == "ray"
                yield f"{part}, {engine}, {cores}", part, engine, cores, shards if divided else 1
    for shards in chosen.grain if "grain" in chosen.parts else ():
        for engine in chosen.engines:
            yield f"grain, {engine}, {shards}", "grain", engine, 2, shards


def _prepare_home(home: Path, part: str, chosen: argparse.Namespace) -> Path:
    """Build a home with a snapshot of random texts and an encoder; for searches also an index and vectors."""
    from tasks.core.base.settings import Settings
    from tasks.core.embedding.shards import gather_shards
    from tasks.core.retrieval.bm25 import build_index
    from tasks.core.training.trainer import base_encoder

    searched = (chosen.searched or chosen.queries, chosen.queries)
    snapshot = _snapshot(home, *(searched if part == "searches" else (chosen.passages, 0)))
    with tempfile.TemporaryDirectory() as folder:
        save_base(Path(folder), chosen.layers if part == "embedding" else 0)
        limits = {"model": folder, "passage_tokens": chosen.tokens}
        settings = Settings(home=home, encoder=limits, embedding={"precision": "fp32"})
        encoder = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    if part == "searches":
        build_index(home, snapshot, settings.mining)
        gather_shards(home, encoder, snapshot, 4)
    return home


def _snapshot(home: Path, count: int, query_count: int) -> Snapshot:
    """Write passages of 30 words, as frequent as in a language (Zipf); a query has 8 words of its passage."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("abcdeilmnorst", k=draw.randint(3, 8))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    words = {f"p{row:07d}": draw.choices(vocabulary, weights, k=30) for row in range(count)}
    answers = {f"q{row:07d}": f"p{row % count:07d}" for row in range(query_count)}
    return snapshot_of(
        home,
        {passage: " ".join(drawn) for passage, drawn in words.items()},
        {query: " ".join(draw.sample(words[passage], 8)) for query, passage in answers.items()},
        [(query, passage, "train") for query, passage in answers.items()],
    )


def _run(prepared: Path, part: str, engine: str, cores: int, shards: int) -> Facts:
    """Run a cell in separate processes on `cores` cores."""
    home = prepared.with_name(f"run-{time.time_ns()}")
    shutil.copytree(prepared, home)
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:cores])  # child processes inherit it
    threads = {"OMP_NUM_THREADS": str(cores if engine == "local" else 1)}
    try:
        cluster: AbstractContextManager[dict[str, str]] = _cluster(cores) if engine == "ray" else nullcontext({})
        with cluster as compute:
            command = [sys.executable, __file__, "--worker", str(home), "--parts", part, "--shards", str(shards)]
            packages = os.pathsep.join([str(ROOT), str(ROOT / "tasks")])
            environment = {**os.environ, **threads, **compute, "PYTHONPATH": packages, "NIGHTSHIFT_HOME": str(home)}
            process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        os.sched_setaffinity(0, all_cores)
        shutil.rmtree(home)
    if process.returncode:
        raise SystemExit(process.stderr)
    facts: Facts = json.loads(process.stdout.splitlines()[-1])
    return facts


@contextmanager
def _cluster(workers: int) -> Iterator[Mapping[str, str]]:
    """Start a Ray cluster on this host with single-core workers; yield the settings that name it."""
    from ray.cluster_utils import Cluster

    os.environ["OMP_NUM_THREADS"] = "1"
    cluster = Cluster()
    cluster.add_node(num_cpus=workers, include_dashboard=False, object_store_memory=80 * 2**20)
    try:
        yield {"NIGHTSHIFT_COMPUTE__ENGINE": "ray", "NIGHTSHIFT_COMPUTE__ADDRESS": cluster.address}
    finally:
        cluster.shutdown()
        del os.environ["OMP_NUM_THREADS"]


def _embed(home: Path, shards: int) -> Facts:
    """Embed with the function of the flow; return the total time and the times of its shards."""
    os.environ["NIGHTSHIFT_EMBEDDING__SHARDS"] = str(shards)
    from prefect import flow

    from flows.challenger import embed
    from tasks.core.base.settings_file import load_settings

    settings, (encoder,) = load_settings(), receipts_newest_first(home, Encoder)
    (snapshot,) = receipts_newest_first(home, Snapshot)

    @flow
    def embedding() -> Facts:
        with _watch_shard_starts(home, "embeddings/.*.partial/.0*.lock") as starts:
            call = time.time()
            embeddings = embed(settings, encoder, snapshot)
            return {"seconds": time.time() - call, "start": starts[0] - call, "work": embeddings.seconds}

    return embedding()


def _search(home: Path, slices: int) -> Facts:
    """Search as in a mining round, with the functions of the flow."""
    os.environ["NIGHTSHIFT_MINING__SHARDS"] = str(slices)
    from prefect import flow

    from flows.challenger import search
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
        dense_search, query_vectors = training_search(home, snapshot, encoder, vectors, settings.mining.depth)
        query_vectors.make()
        if slices > 1:
            mining.encode_queries(settings, snapshot, encoder, vectors)
        with _watch_shard_starts(home, "runs/.*.partial/.0*.lock") as starts:
            times = [time.time()]
            runs = [search(settings, snapshot, index)]
            times.append(time.time())
            if slices > 1:
                step, shard_settings = mining.search_dense_shard, mining.cpu_settings(settings)
                run_shards(step, shard_settings, snapshot, encoder, vectors, shards=slices)
            runs.append(run_search(dense_search, query_vectors, slices))
            times.append(time.time())
        start = sum(shard_start - call for shard_start, call in zip(starts, times, strict=False))
        facts = {"seconds": times[2] - times[0], "start": start, "work": sum(run.seconds for run in runs)}
        facts |= {"bm25": times[1] - times[0], "exact": times[2] - times[1]}
        if slices == 1:  # the part that is never sharded
            sources = list(zip(("bm25", "dense"), runs, strict=True))
            facts["rest"] = mine(home, snapshot, sources, vectors, query_vectors, 1, settings.mining).seconds
        return facts

    return searching()


WORK = {"embedding": _embed, "grain": _embed, "searches": _search}


@contextmanager
def _watch_shard_starts(home: Path, pattern: str) -> Iterator[list[float]]:
    """Record when a file that matches `pattern` first appears in each folder."""
    first_seen: dict[Path, float] = {}
    times: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for folder in {file.parent for file in home.glob(pattern)} - first_seen.keys():
                first_seen[folder] = time.time()
                times.append(first_seen[folder])

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield times
    finally:
        ended.set()
        watching.join()


def _format_tables(results: dict[str, Facts], chosen: argparse.Namespace) -> Iterator[str]:
    yield from ("| run | seconds | start | work | |", "|---|---:|---:|---:|---|")
    for name, run in results.items():
        details = ", ".join(f"{key} {run[key]:.1f}" for key in ("bm25", "exact", "rest") if key in run)
        yield f"| {name} | {run['seconds']:.1f} | {run['start']:.1f} | {run['work']:.1f} | {details} |"
    for part in ("embedding", "searches"):
        if part in chosen.parts:
            yield from _compare(results, part, chosen.engines)
    for engine in chosen.engines if "grain" in chosen.parts else ():
        for shards in chosen.grain:
            each = 1000 * _without_start(results[f"grain, {engine}, {shards}"]) / shards
            yield f"grain, {engine}, {shards:,} shards: {each:.0f} ms each"


def _without_start(run: Facts) -> float:
    return run["seconds"] - run["start"]


def _compare(results: dict[str, Facts], part: str, engines: Sequence[str]) -> Iterator[str]:
    for cores in (1, 2) if set(engines) == set(ENGINES) else ():
        local, ray = results[f"{part}, local, {cores}"], results[f"{part}, ray, {cores}"]
        total, started = ray["seconds"] / local["seconds"] - 1, _without_start(ray) / _without_start(local) - 1
        yield f"{part}, {cores} cores: Ray compared with local {total:+.1%}; without the start {started:+.1%}"
    for engine in engines:
        single, double = results[f"{part}, {engine}, 1"], results[f"{part}, {engine}, 2"]
        speedup, rest = single["seconds"] / double["seconds"], _without_start(single) / _without_start(double)
        yield f"{part}, {engine}: speedup on 2 cores {speedup:.2f}; without the start {rest:.2f}"
        for name in ("bm25", "exact") if part == "searches" else ():
            yield f"… {name}: {single[name] / double[name]:.2f}, with the start"


if __name__ == "__main__":
    main()
