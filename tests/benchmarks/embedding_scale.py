"""Peak memory and time of the embedding pipeline by corpus size, and work avoided on later nights.

    python tests/benchmarks/embedding_scale.py FOLDER [--sizes 20000 75000 300000] [--tokens 16] [--layers 1]
                                               [--words 24] [--shards 4] [--night N] [--json]

FOLDER is a collection in BEIR layout (plain or gzip). Its passages repeat until there are enough, each copy with a
number in front, so that all texts differ. Texts are cut after --words words (0: never; tokenization of text beyond the
token limit then takes most of the time) and at --tokens tokens. The encoder is all-MiniLM-L6-v2 in fp32 with only its
first --layers layers (0: a vector is the mean of the word embeddings). Dimension and tokenizer are those of the
complete model, so memory apart from the weights is the same, and 300,000 passages take minutes. Each run is a separate
process with the complete pipeline: text index, token cache, vectors, shards, and checksums. `at start` is the resident
memory of the process with the encoder loaded.

With --night N, the benchmark makes four runs over N passages instead: the first night; a retrained encoder (token ids
are cached); the first encoder after a fifth of the passages changed; and a corpus with a fifth of copies.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import load, produce
from tasks.core.base.memory import Peak
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.snapshot.reader import PASSAGES
from tasks.core.text.normalization import text_hash

ROOT = Path(__file__).parents[2]
GROUP_ROWS = 20_480  # rows of a row group, as ingest writes them
FIFTH = 5


@dataclass(frozen=True)
class Run:
    """A run of the embedding pipeline."""

    home: Path
    encoder: str
    snapshot: str
    shards: int


def main() -> None:
    """Prepare each run, run it in a separate process, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[20_000, 75_000, 300_000], help="passages")
    arguments.add_argument("--tokens", type=int, default=16, help="token limit of a passage")
    arguments.add_argument("--words", type=int, default=24, help="words kept of a passage; 0: all")
    arguments.add_argument("--layers", type=int, default=1, help="layers kept of the model")
    arguments.add_argument("--shards", type=int, default=4, help="shards of each run")
    arguments.add_argument("--night", type=int, help="passages of the runs that show avoided work")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.worker:  # FOLDER is the JSON file of the run
        fields = json.loads(chosen.folder.read_text())
        print(json.dumps(_embed(Run(**{**fields, "home": Path(fields["home"])}))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        runs = _nights(chosen, Path(scratch)) if chosen.night else _sizes(chosen, Path(scratch))
        costs = {}
        for name, run in runs:
            costs[name] = _run_in_process(run)
            print(name, costs[name], file=sys.stderr)
    print(json.dumps(costs, indent=2) if chosen.json else _format_table(costs))


def _sizes(chosen: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Run]]:
    for size in chosen.sizes:
        home = scratch / str(size)
        snapshot = _snapshot(home, _texts(chosen), size)
        yield f"{size:,}", Run(home, _encoder(home, snapshot, chosen, 0), snapshot.digest, chosen.shards)
        shutil.rmtree(home)


def _nights(chosen: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Run]]:
    home, size = scratch / "home", chosen.night
    first = _snapshot(home, _texts(chosen), size)
    encoder = _encoder(home, first, chosen, 0)
    yield "first night", Run(home, encoder, first.digest, chosen.shards)
    yield "retrained encoder", Run(home, _encoder(home, first, chosen, 1), first.digest, chosen.shards)
    changed = (f"{text} changed" if row % FIFTH == 0 else text for row, text in enumerate(_texts(chosen)))
    yield "a fifth changed", Run(home, encoder, _snapshot(home, changed, size).digest, chosen.shards)
    other_home = scratch / "other"
    copies = _snapshot(other_home, _with_copies(chosen), size)
    yield "a fifth copies", Run(other_home, _encoder(other_home, copies, chosen, 0), copies.digest, chosen.shards)


def _texts(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield the passages of the collection, and then endless copies with a number in front."""
    files = (chosen.folder / name for name in ("corpus.jsonl", "corpus.jsonl.gz"))
    file = next(file for file in files if file.exists())
    for copy in count():
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            for line in lines:
                row = json.loads(line)
                words = f"{row.get('title', '')} {row['text']}".split(" ")
                text = " ".join(words[: chosen.words or None]).strip()
                yield f"{copy} {text}" if copy else text


def _with_copies(chosen: argparse.Namespace) -> Iterator[str]:
    earlier: list[str] = []
    for text in _texts(chosen):
        if len(earlier) == FIFTH - 1:
            yield earlier[0]
            earlier = []
        earlier.append(text)
        yield text


def _snapshot(home: Path, texts: Iterator[str], size: int) -> Snapshot:
    """Build a snapshot of the first `size` texts."""

    def build(folder: Path) -> dict[str, object]:
        names = ["passage_id", "title", "text", "text_hash"]
        schema = pa.schema({name: pa.string() for name in names})
        with pq.ParquetWriter(folder / PASSAGES, schema) as writer:
            for first in range(0, size, GROUP_ROWS):
                batch = list(islice(texts, min(GROUP_ROWS, size - first)))
                ids = [f"p{first + row:08d}" for row in range(len(batch))]
                hashes = [text_hash("", text) for text in batch]
                writer.write_table(pa.table([ids, [""] * len(batch), batch, hashes], schema=schema))
        return {"rows": size, "queries": 0, "qrels": 0, "splits": {}}

    return produce(home, Snapshot, {"benchmark": size, "at": time.time_ns()}, build)


def _encoder(home: Path, snapshot: Snapshot, chosen: argparse.Namespace, retrained: int) -> str:
    """Build an encoder with the first layers; return its digest. `retrained` changes the weights."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tasks.core.base.settings import Settings
    from tasks.core.encoder.base_model import find_base
    from tasks.core.training.trainer import base_encoder

    base = find_base(Settings().encoder.model)
    model = AutoModel.from_pretrained(base, add_pooling_layer=False)
    model.encoder.layer = model.encoder.layer[: chosen.layers]
    model.config.num_hidden_layers = chosen.layers
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(1 + retrained / 8)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        encoder = {"model": folder, "passage_tokens": chosen.tokens}
        settings = Settings.model_validate({"home": home, "encoder": encoder, "embedding": {"precision": "fp32"}})
        return base_encoder(home, snapshot, settings).digest


def _run_in_process(run: Run) -> dict[str, float]:
    file = run.home / "run.json"
    file.write_text(json.dumps(asdict(run), default=str))
    environment = {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "true", **os.environ}
    command = [sys.executable, __file__, str(file), "--worker"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(process.stderr)
    cost: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return cost


def _embed(run: Run) -> dict[str, float]:
    from tasks.core.embedding.shards import embed_shard, gather_shards
    from tasks.core.encoder.dual_encoder import load_encoder

    encoder, snapshot = load(run.home, Encoder, run.encoder), load(run.home, Snapshot, run.snapshot)
    model = load_encoder(encoder.path)
    model.encode_passages(["load all weights"])
    with Peak() as start:
        start_time, start_cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        for rank in range(run.shards):
            embed_shard(run.home, encoder, snapshot, rank, run.shards)
        embeddings = gather_shards(run.home, encoder, snapshot, run.shards)
    counts = embeddings.model_dump(include={"rows", "embedded", "avoided", "repeated", "tokens"})
    seconds, cpu = time.perf_counter() - start_time, time.process_time() - start_cpu
    return {**counts, "seconds": seconds, "cpu": cpu, "start_mb": start.mb, "peak_mb": peak.mb}


def _format_table(costs: dict[str, dict[str, float]]) -> str:
    lines = [
        "| run | passages | encoded | reused | repeated | seconds | CPU s | ms/passage | MiB at start | peak MiB |",
        "|---|" + "---:|" * 9,
    ]
    for name, cost in costs.items():
        reused = cost["avoided"] - cost["repeated"]
        lines.append(
            f"| {name} | {cost['rows']:,} | {cost['embedded']:,} | {reused:,} | {cost['repeated']:,} "
            f"| {cost['seconds']:.1f} | {cost['cpu']:.1f} | {1000 * cost['seconds'] / cost['rows']:.2f} "
            f"| {cost['start_mb']} | {cost['peak_mb']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
