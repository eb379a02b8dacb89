"""Encoding speed on a CPU beside sentence-transformers, each contestant in a process of its own, in one run.

    python tests/benchmarks/embedding.py FOLDER [--slice 1000] [--model minilm] [--threads 1] [--tokens 256]
                                         [--systems fp32 openvino-int8 st ...] [--peer-python PYTHON]
    python tests/benchmarks/embedding.py FOLDER --quality [--slice 2000] [--systems ...]

FOLDER is a collection in BEIR layout; its first --slice passages are encoded. --model is `minilm`
(all-MiniLM-L6-v2), `base` (a BERT-base of random weights with MiniLM's tokenizer: speed does not hang on weights), or
a folder. What is measured is real tokens, specials included and padding not, per second of processor time, tokenising
included; the first pass over a shape, which compiles it, is in it too.

    fp32, bf16, openvino-fp32, openvino-bf16, openvino-int8, openvino-int8-bf16
                        our numeric paths; int8 is calibrated on 64 other texts
    again               our best one on a later night: 20 % of the texts are copies, token ids come from the cache
    st, st-bf16, st-fp16
                        sentence-transformers `encode` as it comes, and in half numbers
    st-openvino, st-openvino-bf16, st-openvino-int8
                        its OpenVINO backend told to compute in fp32; as it comes, which is bf16 on a processor that
                        has it; and int8 by `export_static_quantized_openvino_model`, with bf16 beside it. They need
                        --peer-python, a virtual environment of its own with sentence-transformers[openvino] and
                        datasets, as that holds an older transformers

`cosine` is the lowest to `fp32` over the slice. `peak` is the share of the fastest matrix product that is measured
here in the same numbers (`embedding_peak.py`). fastembed is not among the contestants: it fetches its models, ONNX
files of its own, from a hub, and runs no others.

With a GPU, torch's contestants run on it; rates are then per second of time, and `peak` is the GPU's in bf16.
CUDA_VISIBLE_DEVICES= hides it.

With --quality it is nDCG@10 on the test queries over --slice passages with all answers among them, for each path.
"""

from __future__ import annotations

import argparse
import gzip
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
    """Run every contestant and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--slice", type=int, default=1000)
    arguments.add_argument("--model", default="minilm")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--tokens", type=int, default=256)
    usual = [*PATHS, "again", *(GPU_PEERS if ON_GPU else PEERS)]
    arguments.add_argument("--systems", nargs="+", default=usual, choices=[*PATHS, "again", *PEERS, "st-fp16"])
    arguments.add_argument("--peer-python", type=Path)
    arguments.add_argument("--quality", action="store_true")
    chosen = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.quality:
            quality(chosen, Path(scratch))
        else:
            speed(chosen, Path(scratch))


def speed(chosen: argparse.Namespace, scratch: Path) -> None:
    """Encode the slice with every contestant."""
    everything = read_texts(chosen.folder, chosen.slice + 64)
    texts, others = everything[: chosen.slice], everything[chosen.slice :] or everything[:64]
    copies = texts[: round(len(texts) * (1 - COPIES))]
    copies += copies[: len(texts) - len(copies)]
    (scratch / "texts.json").write_text(json.dumps(texts))
    (scratch / "copies.json").write_text(json.dumps(copies))
    base = base_of(chosen.model, scratch)
    ways = {"fp32": made(base, "fp32", chosen, scratch, others)}
    tower = DualEncoder(ways["fp32"], read_spec(ways["fp32"])).passage
    lengths = {"texts": _lengths(tower.tokenize(texts)), "copies": _lengths(tower.tokenize(copies))}
    print(
        f"{chosen.folder.name}, {len(texts)} passages of {lengths['texts'].mean():.0f} tokens, {chosen.model}, ", end=""
    )
    peaks = "float32", "bfloat16", "int8"
    print(f"{chosen.threads} threads, peak in GFLOPS:", ", ".join(f"{peak(kind):,.0f} in {kind}" for kind in peaks))
    print(f"\n| contestant | tokens per {'' if ON_GPU else 'CPU-'}second | × st | passages/s | cosine | peak | MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rows: dict[str, dict[str, float]] = {}
    for system in sorted(chosen.systems, key=lambda one: (one != "fp32", one != "st")):  # what others are held against
        path = paths_here()[0] if system == "again" else system
        if what := missing_for(path) if path in PATHS else "" if can_run(system, chosen) else "no --peer-python":
            print(f"| {system} | {what} |")
            continue
        if path in PATHS and path not in ways:
            ways[path] = made(base, path, chosen, scratch, others)
        which = "copies" if system == "again" else "texts"
        try:
            rows[system] = run(system, ways.get(path, ways["fp32"]), scratch / f"{which}.json", scratch, chosen)
        except subprocess.CalledProcessError:  # its own words are above the table
            print(f"| {system} | failed |")
            continue
        rows[system]["rate"] = lengths[which].sum() / rows[system]["wall" if ON_GPU else "cpu"]
        _print_row(system, rows, lengths[which], tower.transformer.config, scratch)


def _lengths(ids: list[list[int]]) -> np.ndarray:
    return np.array([len(one) for one in ids])


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
    """Additions and multiplications of matrix products for a token, on average over texts of these lengths."""
    hidden, inner = config.hidden_size, config.intermediate_size
    attention = 4 * hidden * (lengths.astype(float) ** 2).sum() / lengths.sum()
    return float(config.num_hidden_layers * (2 * (4 * hidden * hidden + 2 * hidden * inner) + attention))


def peak(kind: str) -> float:
    """GFLOPS that this machine reaches: one core of it, or its GPU in bfloat16."""
    return cuda_peak() if ON_GPU else cpu_peak(kind)


def run(system: str, encoder: Path, texts: Path, scratch: Path, chosen: argparse.Namespace) -> dict[str, float]:
    """One contestant in its process: seconds, processor seconds, peak memory in MiB."""
    python = chosen.peer_python if "st-openvino" in system else sys.executable
    script = Path(__file__).with_name("embedding_peers.py")
    command = [str(python), str(script), system, str(encoder), str(texts), str(scratch / f"{system}.npy")]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def can_run(system: str, chosen: argparse.Namespace) -> bool:
    """Whether there is a Python for it."""
    return "st-openvino" not in system or chosen.peer_python is not None


def read_texts(folder: Path, wanted: int) -> list[str]:
    """Title and text of the first passages."""
    return [text for _, text in itertools.islice(_corpus(folder), wanted)]


def _corpus(folder: Path) -> Any:
    packed = folder / "corpus.jsonl.gz"
    with gzip.open(packed, "rt") if packed.exists() else (folder / "corpus.jsonl").open() as lines:
        for line in lines:
            row = json.loads(line)
            yield row["_id"], f"{row.get('title', '')} {row['text']}".strip()


def base_of(model: str, scratch: Path) -> Path:
    """The folder of the base model; `base` is made."""
    if model == "minilm":
        return find_base(OFFLINE_MODEL)
    if model != "base":
        return find_base(model)
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(scratch / "bert-base")
    AutoTokenizer.from_pretrained(find_base(OFFLINE_MODEL)).save_pretrained(scratch / "bert-base")
    return scratch / "bert-base"


def made(base: Path, path: str, chosen: argparse.Namespace, scratch: Path, others: list[str]) -> Path:
    """An encoder of this numeric path; int8 is calibrated on `others`."""
    folder = scratch / f"encoder-{path}"
    folder.mkdir()
    settings = EncoderSettings(passage_tokens=chosen.tokens, query_tokens=chosen.tokens)
    encoder = start_from(base, EncoderSpec.of(settings, path), folder)  # type: ignore[arg-type]
    known = [scratch / f"encoder-{other}" / graph.FOLDER for other in INT8 if other != path]
    if path in INT8 and known[0].exists():
        shutil.copytree(known[0], folder / graph.FOLDER)
    elif path in INT8:
        graph.write(graph.quantize(graph.convert(encoder.passage), encoder.passage.tokenize(others[:64])), folder)
    return folder


def quality(chosen: argparse.Namespace, scratch: Path) -> None:
    """nDCG@10 of every path on the test queries."""
    asked = dict(_queries(chosen.folder))
    lines = (chosen.folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
    judged = [(query, passage) for query, passage, score in map(str.split, lines) if float(score) > 0]
    answers = {passage for _, passage in judged}
    corpus = list(_corpus(chosen.folder))
    random = [one for one in corpus if one[0] not in answers][: max(0, chosen.slice - len(answers))]
    pool = [one for one in corpus if one[0] in answers] + random
    base, exact, rows = base_of(chosen.model, scratch), None, sorted({query for query, _ in judged})
    print(f"{chosen.folder.name}, {len(rows)} queries over {len(pool)} passages\n")
    print("| path | nDCG@10 | change |\n|---|--:|--:|")
    for path in [one for one in PATHS if one in chosen.systems and not missing_for(one)]:  # type: ignore[arg-type]
        encoder = load_encoder(made(base, path, chosen, scratch, [text for _, text in random]))
        vectors = encoder.encode_passages([text for _, text in pool])
        found = np.argsort(-(encoder.encode_queries([asked[one] for one in rows]) @ vectors.T), kind="stable")[:, :10]
        ndcg = _ndcg(rows, [[pool[row][0] for row in line] for line in found], judged)
        exact = ndcg if exact is None else exact
        print(f"| {path} | {ndcg:.4f} | {ndcg - exact:+.4f} |", flush=True)


def _queries(folder: Path) -> list[tuple[str, str]]:
    rows = map(json.loads, (folder / "queries.jsonl").read_text().splitlines())
    return [(row["_id"], row["text"]) for row in rows]


def _ndcg(queries: list[str], found: list[list[str]], judged: list[tuple[str, str]]) -> float:
    """Of binary judgements."""
    total, known = 0.0, set(judged)
    for query, ranked in zip(queries, found, strict=True):
        gains = [(query, passage) in known for passage in ranked]
        best = min(10, sum(one == query for one, _ in judged))
        total += sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)) / sum(
            1 / np.log2(rank + 2) for rank in range(best)
        )
    return total / len(queries)


if __name__ == "__main__":
    main()
