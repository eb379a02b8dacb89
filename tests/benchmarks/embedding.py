"""Encoding speed on a CPU, compared with sentence-transformers. Each system runs in a separate process.

    python tests/benchmarks/embedding.py FOLDER [--slice 1000] [--model minilm] [--threads 1] [--tokens 256]
                                         [--systems fp32 openvino-int8 st ...] [--peer-python PYTHON]
    python tests/benchmarks/embedding.py FOLDER --quality [--slice 2000] [--systems ...]

FOLDER is a collection in BEIR layout; the benchmark encodes its first --slice passages. --model is `minilm`
(all-MiniLM-L6-v2), `base` (a BERT-base with random weights and the tokenizer of MiniLM: speed does not depend on the
weights), or a folder. The rate is real tokens (with special tokens, without padding) per second of processor time,
including tokenization and the first pass over each shape, which compiles it.

    fp32, bf16, openvino-fp32, openvino-bf16, openvino-int8, openvino-int8-bf16
                        our numeric paths; int8 is calibrated on 64 other texts
    again               our fastest path on a later night: 20 % of the texts are copies, and token ids are cached
    st, st-bf16, st-fp16
                        sentence-transformers `encode` with default settings, and in half precision
    st-openvino, st-openvino-bf16, st-openvino-int8
                        its OpenVINO backend: set to fp32; with default settings (bf16 on processors that support it);
                        and int8 from `export_static_quantized_openvino_model`. These need --peer-python, a virtual
                        environment with sentence-transformers[openvino] and datasets, because the backend needs an
                        older transformers

`cosine` is the lowest cosine similarity with the vectors of `fp32`. `peak` is the share of the fastest matrix product
of this machine in the same numeric type (`embedding_peak.py`). fastembed is not included: it downloads its own ONNX
models and cannot run others.

With a GPU, torch systems run on it. Rates are then per second of wall time, and `peak` is that of the GPU in bf16.
CUDA_VISIBLE_DEVICES= hides the GPU.

With --quality, the benchmark prints nDCG@10 of each path on the test queries, over --slice passages that include all
answers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from beir_files import read_rows
from embedding_peak import cpu_peak, cuda_peak

from tasks.core.base.sections.embedding import INT8, Precision
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.backends import graph
from tasks.core.encoder.base_model import OFFLINE_MODEL, find_base
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, load_encoder, read_spec, start_from
from tasks.core.encoder.hardware import missing_for, paths_here

PATHS = get_args(Precision)
PEERS = ("st", "st-bf16", "st-openvino", "st-openvino-bf16", "st-openvino-int8")
GPU_PEERS = ("st", "st-bf16", "st-fp16")
COPIES = 0.2
ON_GPU = torch.cuda.is_available()


def main() -> None:
    """Run every system and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--slice", type=int, default=1000, help="passages to encode")
    arguments.add_argument("--model", default="minilm", help="minilm, base, or a folder")
    arguments.add_argument("--threads", type=int, default=1, help="threads of each system")
    arguments.add_argument("--tokens", type=int, default=256, help="token limit of a text")
    usual = [*PATHS, "again", *(GPU_PEERS if ON_GPU else PEERS)]
    arguments.add_argument("--systems", nargs="+", default=usual, choices=[*PATHS, "again", *PEERS, "st-fp16"])
    arguments.add_argument("--peer-python", type=Path, help="Python of the OpenVINO peers")
    arguments.add_argument("--quality", action="store_true", help="measure nDCG@10 instead of speed")
    chosen = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.quality:
            quality(chosen, Path(scratch))
        else:
            speed(chosen, Path(scratch))


def speed(chosen: argparse.Namespace, scratch: Path) -> None:
    """Encode the passages with every system, and print a row for each."""
    passages = read_texts(chosen.folder, chosen.slice + 64)
    texts, others = passages[: chosen.slice], passages[chosen.slice :] or passages[:64]
    copies = texts[: round(len(texts) * (1 - COPIES))]
    copies += copies[: len(texts) - len(copies)]
    (scratch / "texts.json").write_text(json.dumps(texts))
    (scratch / "copies.json").write_text(json.dumps(copies))
    base = prepare_base(chosen.model, scratch)
    encoders = {"fp32": build_encoder(base, "fp32", chosen, scratch, others)}
    tower = DualEncoder(encoders["fp32"], read_spec(encoders["fp32"])).passage
    lengths = {"texts": _lengths(tower.tokenize(texts)), "copies": _lengths(tower.tokenize(copies))}
    print(
        f"{chosen.folder.name}, {len(texts)} passages of {lengths['texts'].mean():.0f} tokens, {chosen.model}, ", end=""
    )
    peaks = "float32", "bfloat16", "int8"
    print(f"{chosen.threads} threads, peak in GFLOPS:", ", ".join(f"{peak(kind):,.0f} in {kind}" for kind in peaks))
    print(f"\n| system | tokens per {'' if ON_GPU else 'CPU-'}second | × st | passages/s | cosine | peak | MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rows: dict[str, dict[str, float]] = {}
    for system in sorted(chosen.systems, key=lambda name: (name != "fp32", name != "st")):  # references first
        path = paths_here()[0] if system == "again" else system
        if missing := missing_for(path) if path in PATHS else "" if can_run(system, chosen) else "no --peer-python":
            print(f"| {system} | {missing} |")
            continue
        if path in PATHS and path not in encoders:
            encoders[path] = build_encoder(base, path, chosen, scratch, others)
        text_set = "copies" if system == "again" else "texts"
        try:
            rows[system] = run(
                system, encoders.get(path, encoders["fp32"]), scratch / f"{text_set}.json", scratch, chosen
            )
        except subprocess.CalledProcessError:  # its error is printed above the table
            print(f"| {system} | failed |")
            continue
        rows[system]["rate"] = lengths[text_set].sum() / rows[system]["wall" if ON_GPU else "cpu"]
        _print_row(system, rows, lengths[text_set], tower.transformer.config, scratch)


def _lengths(ids: list[list[int]]) -> np.ndarray:
    return np.array([len(tokens) for tokens in ids])


def _print_row(system: str, rows: dict[str, dict[str, float]], lengths: np.ndarray, config: Any, scratch: Path) -> None:
    row = rows[system]
    ratio = f"{row['rate'] / rows['st']['rate']:.2f}" if "st" in rows else "–"
    cosine = "–"
    if system != "again" and (scratch / "fp32.npy").exists():
        exact, fast = np.load(scratch / "fp32.npy"), np.load(scratch / f"{system}.npy")
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1)
        cosine = f"{((exact * fast).sum(axis=1) / norms).min():.5f}"
    kind = "int8" if "int8" in system else "bfloat16" if system.endswith(("bf16", "fp16")) else "float32"
    share = f"{row['rate'] * operations(config, lengths) / 1e9 / peak(kind):.0%}" if system != "again" else "–"
    walls = f"{len(lengths) / row['wall']:,.0f}"
    print(
        f"| {system} | {row['rate']:,.0f} | {ratio} | {walls} | {cosine} | {share} | {row['peak']:,.0f} |",
        flush=True,
    )


def operations(config: Any, lengths: np.ndarray) -> float:
    """Return the average operations of matrix products per token for texts of these lengths."""
    hidden, inner = config.hidden_size, config.intermediate_size
    attention = 4 * hidden * (lengths.astype(float) ** 2).sum() / lengths.sum()
    return float(config.num_hidden_layers * (2 * (4 * hidden * hidden + 2 * hidden * inner) + attention))


def peak(kind: str) -> float:
    """Measure GFLOPS of a core, or of the GPU in bfloat16."""
    return cuda_peak() if ON_GPU else cpu_peak(kind)


def run(system: str, encoder: Path, texts: Path, scratch: Path, chosen: argparse.Namespace) -> dict[str, float]:
    """Run a system in a separate process; return wall and CPU seconds, and peak memory in MiB."""
    python = chosen.peer_python if "st-openvino" in system else sys.executable
    script = Path(__file__).with_name("embedding_peers.py")
    command = [str(python), str(script), system, str(encoder), str(texts), str(scratch / f"{system}.npy")]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch)}
    process = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    cost: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return cost


def can_run(system: str, chosen: argparse.Namespace) -> bool:
    """Return whether a Python for this system is given."""
    return "st-openvino" not in system or chosen.peer_python is not None


def read_texts(folder: Path, count: int) -> list[str]:
    """Read title and text of the first `count` passages."""
    return [text for _, text in itertools.islice(_corpus(folder), count)]


def _corpus(folder: Path) -> Any:
    for row in read_rows(folder / "corpus.jsonl"):
        yield row["_id"], f"{row.get('title', '')} {row['text']}".strip()


def prepare_base(model: str, scratch: Path) -> Path:
    """Return the folder of the base model; build it for `base`."""
    if model == "minilm":
        return find_base(OFFLINE_MODEL)
    if model != "base":
        return find_base(model)
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(scratch / "bert-base")
    AutoTokenizer.from_pretrained(find_base(OFFLINE_MODEL)).save_pretrained(scratch / "bert-base")
    return scratch / "bert-base"


def build_encoder(base: Path, path: str, chosen: argparse.Namespace, scratch: Path, others: list[str]) -> Path:
    """Build an encoder with this numeric path; int8 is calibrated on `others`."""
    folder = scratch / f"encoder-{path}"
    folder.mkdir()
    settings = EncoderSettings(passage_tokens=chosen.tokens, query_tokens=chosen.tokens)
    encoder = start_from(base, EncoderSpec.of(settings, path), folder)  # type: ignore[arg-type]
    graphs = [scratch / f"encoder-{name}" / graph.FOLDER for name in INT8 if name != path]
    if path in INT8 and graphs[0].exists():
        shutil.copytree(graphs[0], folder / graph.FOLDER)
    elif path in INT8:
        graph.write(graph.quantize(graph.convert(encoder.passage), encoder.passage.tokenize(others[:64])), folder)
    return folder


def quality(chosen: argparse.Namespace, scratch: Path) -> None:
    """Print nDCG@10 of every path on the test queries."""
    texts = dict(_queries(chosen.folder))
    lines = (chosen.folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
    judged = [(query, passage) for query, passage, score in map(str.split, lines) if float(score) > 0]
    answers = {passage for _, passage in judged}
    corpus = list(_corpus(chosen.folder))
    random = [passage for passage in corpus if passage[0] not in answers][: max(0, chosen.slice - len(answers))]
    pool = [passage for passage in corpus if passage[0] in answers] + random
    base, exact, rows = prepare_base(chosen.model, scratch), None, sorted({query for query, _ in judged})
    print(f"{chosen.folder.name}, {len(rows)} queries over {len(pool)} passages\n")
    print("| path | nDCG@10 | change |\n|---|--:|--:|")
    for path in [name for name in PATHS if name in chosen.systems and not missing_for(name)]:  # type: ignore[arg-type]
        encoder = load_encoder(build_encoder(base, path, chosen, scratch, [text for _, text in random]))
        vectors = encoder.encode_passages([text for _, text in pool])
        scores = encoder.encode_queries([texts[query] for query in rows]) @ vectors.T
        best = np.argsort(-scores, kind="stable")[:, :10]
        ndcg = _ndcg(rows, [[pool[row][0] for row in hits] for hits in best], judged)
        exact = ndcg if exact is None else exact
        print(f"| {path} | {ndcg:.4f} | {ndcg - exact:+.4f} |", flush=True)


def _queries(folder: Path) -> list[tuple[str, str]]:
    rows = map(json.loads, (folder / "queries.jsonl").read_text().splitlines())
    return [(row["_id"], row["text"]) for row in rows]


def _ndcg(queries: list[str], runs: list[list[str]], judged: list[tuple[str, str]]) -> float:
    """Compute mean nDCG@10 with binary judgments."""
    total, positives = 0.0, set(judged)
    for query, ranked in zip(queries, runs, strict=True):
        gains = [(query, passage) in positives for passage in ranked]
        best = min(10, sum(judged_query == query for judged_query, _ in judged))
        total += sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)) / sum(
            1 / np.log2(rank + 2) for rank in range(best)
        )
    return total / len(queries)


if __name__ == "__main__":
    main()
