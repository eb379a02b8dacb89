"""What Ray costs and gives: the night's `embed` on one and two workers, beside the same without Ray.

    python tests/benchmarks/scale.py [--passages 6000] [--shards 8] [--grain 10 100 1000] [--json]

Texts are drawn words (30 a passage, 64 tokens at most); the encoder is all-MiniLM-L6-v2 in fp32. Every run is the
flow's own function in a process of its own, over a home of its own, with a Prefect server that runs all the time. Runs
on one core have one: the flow, Ray's processes and its worker share it (Prefect's server stays outside). `start` is the
time from the call until the first shard is begun: connecting, and a worker that imports what it needs. `work` is what
the shards themselves took, added up.

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
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "flows")]

from prefect_servers import serving_prefect  # noqa: E402

from tasks.core.data.snapshot import PASSAGES  # noqa: E402
from tasks.core.data.text import text_hash  # noqa: E402
from tasks.core.files import load, produce  # noqa: E402
from tasks.core.receipts import Embeddings, Encoder, Snapshot  # noqa: E402

Found = dict[str, dict[str, float]]
QUIET = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "PREFECT_LOGGING_LEVEL": "ERROR"}


def main() -> None:
    """Prepare two homes, run every cell over a copy of one, print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--passages", type=int, default=6000)
    arguments.add_argument("--shards", type=int, default=8)
    arguments.add_argument("--grain", type=int, nargs="*", default=[10, 100, 1000], help="numbers of shards")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.one:
        print(json.dumps(_embed(chosen.one, chosen.shards)))
        return
    os.environ |= QUIET
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder, serving_prefect(Path(folder) / "prefect") as api:
        os.environ["PREFECT_API_URL"] = api
        whole, bare = (_prepared(Path(folder) / f"layers-{layers}", chosen.passages, layers) for layers in (6, 0))
        cells = [
            (f"{engine}, {cores} core{'s' * (cores > 1)}", engine, cores) for cores in (1, 2) for engine in ENGINES
        ]
        for name, engine, cores in cells:
            found[name] = _run(whole, engine, cores, chosen.shards)
            print(name, found[name], file=sys.stderr)
        for shards in chosen.grain:
            for engine in ENGINES:
                found[f"{engine}, {shards} shards"] = one = _run(bare, engine, 2, shards)
                print(engine, shards, one, file=sys.stderr)
    print(json.dumps(found, indent=2) if chosen.json else _tables(found, chosen.grain))


ENGINES = ("local", "ray")


def _prepared(home: Path, passages: int, layers: int) -> Path:
    """A home with a snapshot of drawn texts, and the encoder with so many of its layers."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tasks.core.settings import Settings
    from tasks.core.training.base import find_base
    from tasks.core.training.trainer import base_encoder

    snapshot = produce(home, Snapshot, {"benchmark": passages}, lambda folder: _drawn(folder, passages))
    base = find_base(Settings().encoder.model)
    model = AutoModel.from_pretrained(base, add_pooling_layer=False, dtype=torch.float32)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        encoder = {"model": folder, "passage_tokens": 64}
        base_encoder(home, snapshot, Settings(home=home, encoder=encoder, embedding={"precision": "fp32"}))
    return home


def _drawn(folder: Path, passages: int) -> dict[str, object]:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdeilmnorst", k=draw.randint(3, 8))) for _ in range(5000)]
    texts = [" ".join(draw.choices(words, k=30)) for _ in range(passages)]
    ids, hashes = [f"p{row}" for row in range(passages)], [text_hash("", text) for text in texts]
    table = pa.table({"passage_id": ids, "title": [""] * passages, "text": texts, "text_hash": hashes})
    pq.write_table(table, folder / PASSAGES, row_group_size=20_480)
    return {"rows": passages, "queries": 0, "qrels": 0, "splits": {}}


def _run(prepared: Path, engine: str, cores: int, shards: int) -> dict[str, float]:
    """One cell, in processes of its own, on so many cores."""
    home = prepared.with_name(f"run-{time.time_ns()}")
    shutil.copytree(prepared, home)
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:cores])  # inherited by all that is started now
    threads = {"OMP_NUM_THREADS": str(cores if engine == "local" else 1)}
    try:
        with _cluster(cores) if engine == "ray" else _nothing() as more:
            command = [sys.executable, __file__, "--one", str(home), "--shards", str(shards)]
            environment = {**os.environ, **threads, **more, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        os.sched_setaffinity(0, every)
        shutil.rmtree(home)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
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


@contextmanager
def _nothing() -> Iterator[Mapping[str, str]]:
    yield {}


def _embed(home: Path, shards: int) -> dict[str, float]:
    """The flow's own function; what its shards say of themselves."""
    os.environ["NIGHTSHIFT_HOME"], os.environ["NIGHTSHIFT_EMBEDDING__SHARDS"] = str(home), str(shards)
    from prefect import flow

    from flows.nightly import embed
    from tasks.core.settings import load_settings

    (encoder,), (snapshot,) = (
        [load(home, kind, path.parent.name) for path in home.glob(f"{kind.shelf}/[!.]*/manifest.json")]
        for kind in (Encoder, Snapshot)
    )
    settings = load_settings()

    @flow
    def embedding() -> tuple[float, Embeddings]:
        began = time.time()
        return began, embed(settings, encoder, snapshot)  # type: ignore[arg-type]

    began, made = embedding()
    seconds = time.time() - began
    facts = list(made.path.glob("shard-*.json"))
    took = {path: json.loads(path.read_text())["seconds"] for path in facts}
    first = min(path.stat().st_mtime - took[path] for path in facts)
    return {"seconds": seconds, "start": first - began, "work": sum(took.values()), "shards": shards}


def _tables(found: Found, grain: list[int]) -> str:
    lines = ["| run | seconds | start | work |", "|---|---:|---:|---:|"]
    whole = {name: one for name, one in found.items() if "core" in name}
    lines += [
        f"| {name} | {one['seconds']:.1f} | {one['start']:.1f} | {one['work']:.1f} |" for name, one in whole.items()
    ]
    for cores in ("1 core", "2 cores"):
        more = found[f"ray, {cores}"]["seconds"] / found[f"local, {cores}"]["seconds"] - 1
        started = found[f"ray, {cores}"]["start"] - found[f"local, {cores}"]["start"]
        rest = more - started / found[f"local, {cores}"]["seconds"]
        lines.append(f"Ray against local on {cores}: {more:+.1%}; without its start {rest:+.1%}")
    ones, twos = found["ray, 1 core"], found["ray, 2 cores"]
    lines.append(f"Ray, from 1 worker to 2: {ones['seconds'] / twos['seconds']:.2f} times as fast; without the start ")
    lines[-1] += f"{(ones['seconds'] - ones['start']) / (twos['seconds'] - twos['start']):.2f} times"
    lines += ["", "| shards | local, ms a shard | ray, ms a shard |", "|---:|---:|---:|"]
    for shards in grain:
        each = [
            1000 * (one["seconds"] - one["start"]) / shards for one in (found[f"{e}, {shards} shards"] for e in ENGINES)
        ]
        lines.append(f"| {shards:,} | {each[0]:.0f} | {each[1]:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
