"""Speed and peak memory of training steps, compared with sentence-transformers. Each system runs in a separate process.

    python tests/benchmarks/training.py [FOLDER] [--batch 64] [--steps 4] [--tokens 256] [--threads 2]
                                        [--precision fp32 bf16] [--systems ours mnrl ...] [--repeats 1]

FOLDER is a collection in BEIR layout; the default is the demo collection. All systems train all-MiniLM-L6-v2 with
in-batch negatives and the same batch size, token limit, precision, optimizer, clipping, and pairs:

    ours          gradient cache if a batch has more than [training] memory_tokens
    mnrl          sentence-transformers, MultipleNegativesRankingLoss with default settings (dropout 0.1 of the model)
    mnrl-tuned    the same without dropout, which is slow on a CPU
    mnrl-grouped  the same without dropout, with batches of passages of similar length. This is a different task: a
                  passage competes only with passages of its length
    cached        sentence-transformers, CachedMultipleNegativesRankingLoss with default settings
    cached-tuned  the same without dropout, with mini-batches packed to 2,048 tokens

The first step is not counted. Real tokens exclude padding. `tokens/CPU s` is real tokens per second of
processor time, which depends less on other load. Memory is the peak of the process in MiB; `above start` is the peak
minus the peak before the first step. `padding` is the share of padding in the input of the transformer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SYSTEMS = ("ours", "mnrl", "mnrl-tuned", "mnrl-grouped", "cached", "cached-tuned")
RATE = 2e-5


def main() -> None:
    """Run every system and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, nargs="?", help="collection in BEIR layout")
    arguments.add_argument("--batch", type=int, default=64, help="pairs per batch")
    arguments.add_argument("--steps", type=int, default=4, help="measured steps")
    arguments.add_argument("--tokens", type=int, default=256, help="token limit of queries and passages")
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each system")
    arguments.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32"], help="numeric types")
    arguments.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="systems to run")
    arguments.add_argument("--repeats", type=int, default=1, help="runs per system; the table shows medians")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pairs = Path(scratch) / "pairs.json"
        pairs.write_text(json.dumps(_draw_pairs(chosen, Path(scratch))))
        for precision in chosen.precision:
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in chosen.systems}
            for _ in range(chosen.repeats):
                for name in chosen.systems:
                    rows[name].append(_measure(name, precision, pairs, chosen))
            print(f"\n{precision}, batch {chosen.batch}, {chosen.tokens} tokens, {chosen.threads} threads\n")
            _print_table(rows)


def _draw_pairs(chosen: argparse.Namespace, scratch: Path) -> dict[str, list[str]]:
    """Draw training pairs for all steps with a fixed seed, distinct in query and passage."""
    from tasks.core.base.settings import Settings
    from tasks.core.ingest.ingest import ingest
    from tasks.core.snapshot.reader import passages, qrels, queries
    from tasks.core.text.normalization import full_text

    data = {"format": "beir", "path": chosen.folder} if chosen.folder else {"format": "demo"}
    snapshot = ingest(Settings.model_validate({"home": scratch, "data": data}))[1]
    query_texts = dict(zip(*queries(snapshot).to_pydict().values(), strict=True))
    texts = {
        row["passage_id"]: full_text(row["title"], row["text"])
        for batch in passages(snapshot)
        for row in batch.to_pylist()
    }
    judged = qrels(snapshot, "train").to_pylist()
    random.Random(0).shuffle(judged)
    pairs = {query_texts[row["query_id"]]: texts[row["passage_id"]] for row in judged}
    pairs = {query: passage for passage, query in {passage: query for query, passage in pairs.items()}.items()}
    needed = chosen.batch * (chosen.steps + 1)
    if len(pairs) < needed:
        raise SystemExit(f"{len(pairs)} distinct pairs, {needed} needed: fewer --steps or a smaller --batch")
    drawn = list(pairs.items())[:needed]
    return {"query": [query for query, _ in drawn], "passage": [passage for _, passage in drawn]}


def _measure(name: str, precision: str, pairs: Path, chosen: argparse.Namespace) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(chosen.threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "--worker", name, precision, str(pairs), str(chosen.batch), str(chosen.tokens)]
    process = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return measured


def _print_table(rows: dict[str, list[dict[str, float]]]) -> None:
    print("| system | steps/s | real tokens/s | tokens/CPU s | padding | peak MiB | above start |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, runs in rows.items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        speed = f"{median['steps_s']:.3f} | {median['tokens_s']:,.0f} | {median['tokens_cpu_s']:,.0f}"
        print(f"| {name} | {speed} | {median['padding']:.0%} | {median['peak']:,.0f} | {median['above']:,.0f} |")


class Meter:
    """Times of steps, processed tokens, and memory."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.tokens: list[int] = []  # real tokens of each batch, counted once
        self.through = [0, 0]  # positions in the input of the transformer: all, and without padding
        self.before = 0.0

    def watch(self, transformer: Any) -> None:
        """Count the positions in the input of a transformer."""
        padding = transformer.config.pad_token_id

        def count(_: Any, inputs: tuple[Any, ...]) -> None:
            self.through[0] += inputs[0].numel()
            self.through[1] += int((inputs[0] != padding).sum())

        transformer.get_input_embeddings().register_forward_pre_hook(count)

    def start(self) -> None:
        """Record the memory before the first step."""
        self.before = _peak_mib()

    def step(self) -> None:
        """Record the end of a step."""
        self.times.append((time.perf_counter(), time.process_time()))

    def report(self, extra: tuple[float, float] = (0.0, 0.0)) -> None:
        """Print the measurements as a JSON line; spread `extra` seconds (wall, CPU) evenly over all steps."""
        counted = len(self.times) - 1
        wall, cpu = (
            self.times[-1][clock] - self.times[0][clock] + extra[clock] * counted / len(self.times) for clock in (0, 1)
        )
        tokens = sum(self.tokens[1:])
        measured = {
            "steps_s": counted / wall,
            "tokens_s": tokens / wall,
            "tokens_cpu_s": tokens / cpu,
            "padding": 1 - self.through[1] / self.through[0],
            "peak": _peak_mib(),
            "above": _peak_mib() - self.before,
        }
        print(json.dumps(measured))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


def _train_ours(precision: str, pairs: dict[str, list[str]], batch: int, tokens: int, meter: Meter) -> None:
    import numpy as np

    from tasks.core.base.settings import Settings
    from tasks.core.encoder.base_model import find_base
    from tasks.core.encoder.dual_encoder import EncoderSpec, start_from
    from tasks.core.training.batches import batch_at, plan, steps_in
    from tasks.core.training.pairs import TrainingPairs
    from tasks.core.training.ranks import Ranks
    from tasks.core.training.step import Stepper
    from tasks.core.training.texts import TokenTable

    training = {"epochs": 1, "batch_size": batch, "hard_negatives": 0, "precision": precision, "learning_rate": RATE}
    encoding = {"query_tokens": tokens, "passage_tokens": tokens}
    settings = Settings.model_validate({"encoder": encoding, "training": training})
    with tempfile.TemporaryDirectory() as folder:
        spec = EncoderSpec.of(settings.encoder, "fp32")
        encoder = start_from(find_base(settings.encoder.model), spec, Path(folder))
    start = time.perf_counter(), time.process_time()
    rows = np.arange(len(pairs["query"]))
    own_row = {row: rows[row : row + 1] for row in rows.tolist()}
    data = TrainingPairs(
        query_tokens=TokenTable([encoder.query.tokenize(pairs["query"])]),
        passage_tokens=TokenTable([encoder.passage.tokenize(pairs["passage"])]),
        pairs=np.stack([rows, rows], axis=1),
        fresh=len(rows),
        weight=np.ones(len(rows), np.float32),
        positives=own_row,
        negatives={},
        cluster=rows,
        known=own_row,
    )
    tokenizing = time.perf_counter() - start[0], time.process_time() - start[1]
    stepper = Stepper(
        encoder, settings.training, steps_in(data, settings.training), Ranks(), settings.encoder.dimensions
    )
    planned = plan(data, settings.training, stepper.steps)
    meter.watch(encoder.passage.transformer)
    meter.start()
    for step in range(stepper.steps):
        batched = batch_at(data, planned[step], settings.training, step)
        stepper.step(data, batched, step)
        meter.step()
        sides = (data.query_tokens.take(batched.queries), data.passage_tokens.take(batched.passages))
        meter.tokens.append(sum(len(ids) for side in sides for ids in side))
    meter.report(tokenizing)


def _train_peer(name: str, precision: str, pairs: dict[str, list[str]], batch: int, tokens: int, meter: Meter) -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from transformers import TrainerCallback

    from tasks.core.base.settings import EncoderSettings
    from tasks.core.encoder.base_model import find_base

    model = SentenceTransformer(str(find_base(EncoderSettings().model)), local_files_only=True, device=_device())
    model.max_seq_length = tokens
    transformer = model[0].auto_model
    if "-" in name:
        for module in transformer.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    if name.startswith("cached"):
        tuned = {"mini_batch_size": batch, "mini_batch_num_tokens": 2048} if "tuned" in name else {}
        loss = losses.CachedMultipleNegativesRankingLoss(model, **tuned)
    else:
        loss = losses.MultipleNegativesRankingLoss(model)

    def count(_: Any, inputs: tuple[Any, ...]) -> None:
        meter.tokens.append(sum(int(side["attention_mask"].sum()) for side in inputs[0]))

    loss.register_forward_pre_hook(count)
    meter.watch(transformer)

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            meter.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.step()

    lengths = [len(text) for text in pairs["passage"]]

    def similar_length(dataset: Any, **_: Any) -> list[list[int]]:
        """Return shuffled batches of passages of similar length."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        random.Random(0).shuffle(batches)
        return batches

    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            learning_rate=RATE,
            max_grad_norm=1.0,
            weight_decay=0.01,
            use_cpu=_device() == "cpu",
            bf16=precision == "bf16",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **({"batch_sampler": similar_length} if name == "mnrl-grouped" else {}),
        )
        data = Dataset.from_dict({"anchor": pairs["query"], "positive": pairs["passage"]})
        SentenceTransformerTrainer(model, arguments, data, loss=loss, callbacks=[Clock()]).train()
    meter.report()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _work(name: str, precision: str, pairs: str, batch: str, tokens: str) -> None:
    texts = json.loads(Path(pairs).read_text())
    meter = Meter()
    if name == "ours":
        _train_ours(precision, texts, int(batch), int(tokens), meter)
    else:
        _train_peer(name, precision, texts, int(batch), int(tokens), meter)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _work(*sys.argv[2:])
    else:
        main()
