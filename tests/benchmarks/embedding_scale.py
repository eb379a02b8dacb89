"""Measure peak memory and seconds of the embedding pipeline by corpus size, and the work that a later night avoids.

    python tests/benchmarks/embedding_scale.py FOLDER [--sizes 20000 75000 300000] [--tokens 16] [--layers 1]
                                               [--words 24] [--shards 4] [--night N] [--json]

FOLDER is a collection in BEIR layout (plain or gzip). Its passages are repeated until there are enough; each copy
starts with a number, so all texts differ. Texts are cut after --words words (0: never; then most of the time goes into
tokenizing words that are cut off later) and at --tokens tokens. The encoder is all-MiniLM-L6-v2 in fp32 with only its
first --layers layers (0: a vector is the mean of word embeddings). Dimension and tokenizer are those of the whole
model, so the memory of everything except the weights is too, and 300,000 passages take minutes. Each run has its own
process and performs every step: index of texts, token cache, vectors, shards, checksums. `at start` is the resident
memory of the process with the encoder loaded.

--night N measures four runs over N passages instead: the first night; a retrained encoder (its token ids are cached);
the first encoder after a fifth of the passages changed; a corpus in which a fifth of the passages are copies.
"""

from __future__ import annotations

import argparse
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

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

from beir_files import read_rows  # noqa: E402
from few_layers import save_base  # noqa: E402
from small_snapshot import snapshot_of  # noqa: E402

from tasks.core.base.files import load  # noqa: E402
from tasks.core.base.memory import Peak  # noqa: E402
from tasks.core.base.receipts import Encoder, Snapshot  # noqa: E402

FIFTH = 5


@dataclass(frozen=True)
class Run:
    """The artifacts of one measured embedding: its home, encoder, snapshot, and number of shards."""

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
    """Yield every passage of the collection, then all again with a number before each, without end."""
    for copy in count():
        for row in read_rows(chosen.folder / "corpus.jsonl"):
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
    """Write a snapshot of the first `size` texts."""
    return snapshot_of(home, {f"p{row:08d}": text for row, text in enumerate(islice(texts, size))})


def _encoder(home: Path, snapshot: Snapshot, chosen: argparse.Namespace, retrained: int) -> str:
    """Build an encoder with the first layers; return its digest. `retrained` changes the weights."""
    from tasks.core.base.settings import Settings
    from tasks.core.training.trainer import base_encoder

    with tempfile.TemporaryDirectory() as folder:
        save_base(Path(folder), chosen.layers, 1 + retrained / 8)
        encoder = {"model": folder, "passage_tokens": chosen.tokens}
        settings = Settings.model_validate({"home": home, "encoder": encoder, "embedding": {"precision": "fp32"}})
        return base_encoder(home, snapshot, settings.encoder, settings.embedding).digest


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
