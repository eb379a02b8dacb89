"""Compare the embedding and the searches of a night on one and two Ray workers with the same steps without Ray.

    python tests/benchmarks/scale.py [--parts embedding searches grain] [--passages 6000] [--shards 8]
        [--queries 20000] [--slices 4] [--grain 10 100 1000] [--json]

Embedding: --passages passages of 30 random words (at most 64 tokens), encoded by all-MiniLM-L6-v2 in fp32, in --shards
shards. Searches: BM25 and exact search, 100 passages per query, for --queries queries in the same number of passages,
in --slices shards of the queries, and in one piece, as a night does without `[mining] shards`. `rest` is the remaining
time of mining, which is never divided. The queries are encoded in advance; that time is not counted.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

from prefect_servers import serving_prefect  # noqa: E402
from small_snapshot import snapshot_of  # noqa: E402

from tasks.core.base.files import receipts_newest_first  # noqa: E402
from tasks.core.base.receipts import Embeddings, Encoder, Index, Snapshot  # noqa: E402

Facts = dict[str, float]
QUIET = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "PREFECT_LOGGING_LEVEL": "ERROR"}
ENGINES = ("local", "ray")
PARTS = ("embedding", "searches", "grain")


def main() -> None:
    """Prepare the homes, run every cell in a copy of its home, and print the tables."""
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
    figures: dict[str, Facts] = {}
    with tempfile.TemporaryDirectory() as folder, serving_prefect(Path(folder) / "prefect") as api:
        os.environ["PREFECT_API_URL"] = api
        homes = {part: _prepare(Path(folder) / part, part, chosen) for part in chosen.parts}
        for name, part, engine, cores, shards in _cells(chosen):
            figures[name] = _run(homes[part], part, engine, cores, shards)
            print(name, {key: round(value, 2) for key, value in figures[name].items()}, file=sys.stderr, flush=True)
    print(json.dumps(figures, indent=2) if chosen.json else "\n".join(_tables(figures, chosen)))


Cell = tuple[str, str, str, int, int]


def _cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    """Yield name, part, engine, cores, and shards of every run."""
    for part, shards in (("embedding", chosen.shards), ("searches", chosen.slices)):
        for cores in (1, 2) if part in chosen.parts else ():
            for engine in ENGINES:  # without Ray, a night searches in one piece
                divided = part == "embedding" or engine == "ray"
                yield f"{part}, {engine}, {cores}", part, engine, cores, shards if divided else 1
    for shards in chosen.grain if "grain" in chosen.parts else ():
        for engine in ENGINES:
            yield f"grain, {engine}, {shards}", "grain", engine, 2, shards


def _prepare(home: Path, part: str, chosen: argparse.Namespace) -> Path:
    """Create a home with a snapshot of random texts and an encoder, and for searches an index and vectors."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tasks.core.base.settings import Settings
    from tasks.core.embedding.shards import gather_shards
    from tasks.core.encoder.base_model import find_base
    from tasks.core.retrieval.bm25 import build_index
    from tasks.core.training.trainer import base_encoder

    snapshot = _snapshot(home, *((chosen.queries, chosen.queries) if part == "searches" else (chosen.passages, 0)))
    base, layers = find_base(Settings().encoder.model), 6 if part == "embedding" else 0
    model = AutoModel.from_pretrained(base, add_pooling_layer=False, dtype=torch.float32)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        settings = Settings(home=home, encoder={"model": folder, "passage_tokens": 64}, embedding={"precision": "fp32"})
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
    """Run a cell in its own process, on `cores` cores."""
    home = prepared.with_name(f"run-{time.time_ns()}")
    shutil.copytree(prepared, home)
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:cores])  # every process that starts now inherits it
    threads = {"OMP_NUM_THREADS": str(cores if engine == "local" else 1)}
    try:
        with _cluster(cores) if engine == "ray" else nullcontext({}) as of_cluster:
            command = [sys.executable, __file__, "--one", str(home), "--parts", part, "--shards", str(shards)]
            environment = {**os.environ, **threads, **of_cluster, "PYTHONPATH": str(ROOT), "NIGHTSHIFT_HOME": str(home)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        os.sched_setaffinity(0, all_cores)
        shutil.rmtree(home)
    if done.returncode:
        raise SystemExit(done.stderr)
    facts: Facts = json.loads(done.stdout.splitlines()[-1])
    return facts


@contextmanager
def _cluster(workers: int) -> Iterator[Mapping[str, str]]:
    """Start a Ray cluster of one host with `workers` workers of one core; yield the settings that name it."""
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
    """Embed with the function of the flow, and sum the seconds of its shards."""
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
            embeddings = embed(settings, encoder, snapshot)
            return {"seconds": time.time() - began, "start": begun[0] - began, "work": embeddings.seconds}

    return embedding()


def _search(home: Path, slices: int) -> Facts:
    """Run the searches of a mining round with the functions of the flow."""
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
        dense, query_vectors = training_search(home, snapshot, encoder, vectors, settings.mining.depth)
        query_vectors.make()
        if slices > 1:
            mining.encode_queries(settings, snapshot, encoder, vectors)
        with _watched(home, "runs/.*.partial/.0*.lock") as begun:
            times = [time.time()]
            runs = [search(settings, snapshot, index)]
            times.append(time.time())
            if slices > 1:
                step, step_settings = mining.search_dense_shard, mining.cpu_settings(settings)
                run_shards(step, step_settings, snapshot, encoder, vectors, shards=slices)
            runs.append(run_search(dense, query_vectors, slices))
            times.append(time.time())
        start = sum(first - called for first, called in zip(begun, times, strict=False))
        facts = {"seconds": times[2] - times[0], "start": start, "work": sum(run.seconds for run in runs)}
        facts |= {"bm25": times[1] - times[0], "exact": times[2] - times[1]}
        if slices == 1:  # mining itself is never divided
            sources = list(zip(("bm25", "dense"), runs, strict=True))
            facts["rest"] = mine(home, snapshot, sources, vectors, query_vectors, 1, settings.mining).seconds
        return facts

    return searching()


WORK = {"embedding": _embed, "grain": _embed, "searches": _search}


@contextmanager
def _watched(home: Path, pattern: str) -> Iterator[list[float]]:
    """Yield the times at which a file of this pattern first appeared in each folder."""
    seen: dict[Path, float] = {}
    times: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for folder in {file.parent for file in home.glob(pattern)} - seen.keys():
                seen[folder] = time.time()
                times.append(seen[folder])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


def _tables(figures: dict[str, Facts], chosen: argparse.Namespace) -> Iterator[str]:
    yield from ("| run | seconds | start | work | |", "|---|---:|---:|---:|---|")
    for name, facts in figures.items():
        more = ", ".join(f"{key} {facts[key]:.1f}" for key in ("bm25", "exact", "rest") if key in facts)
        yield f"| {name} | {facts['seconds']:.1f} | {facts['start']:.1f} | {facts['work']:.1f} | {more} |"
    for part in ("embedding", "searches"):
        if part in chosen.parts:
            yield from _compare(figures, part)
    if "grain" in chosen.parts:
        yield from ("", "| shards | local, ms per shard | Ray, ms per shard |", "|---:|---:|---:|")
    for shards in chosen.grain if "grain" in chosen.parts else ():
        seconds = [_without_start(figures[f"grain, {engine}, {shards}"]) / shards for engine in ENGINES]
        yield f"| {shards:,} | {1000 * seconds[0]:.0f} | {1000 * seconds[1]:.0f} |"


def _without_start(facts: Facts) -> float:
    return facts["seconds"] - facts["start"]


def _compare(figures: dict[str, Facts], part: str) -> Iterator[str]:
    for cores in (1, 2):
        local, ray = figures[f"{part}, local, {cores}"], figures[f"{part}, ray, {cores}"]
        whole, started = ray["seconds"] / local["seconds"] - 1, _without_start(ray) / _without_start(local) - 1
        yield f"{part}, {cores} cores: Ray against local {whole:+.1%}; without the starts {started:+.1%}"
    for engine in ENGINES:
        one_core, two_cores = figures[f"{part}, {engine}, 1"], figures[f"{part}, {engine}, 2"]
        gain = one_core["seconds"] / two_cores["seconds"]
        started = _without_start(one_core) / _without_start(two_cores)
        yield f"{part}, {engine}: on 2 cores {gain:.2f} times as fast; without the start {started:.2f}"


if __name__ == "__main__":
    main()
