"""The mining step gives the same bytes with one and with two threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mining_world import write_embeddings
from small_snapshot import snapshot_of
from things_and_traits import THINGS

# BM25 index and search, encoding of the queries, dense search, random draws, rules, cross-encoder, audit.
STEP = """
import sys
from pathlib import Path

from tasks.core.snapshot.reader import queries
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.dense import dense_run
from tasks.core.mining.mine import mine
from tasks.core.base.receipts import Embeddings, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.dual_encoder import EncoderSpec, start_from

threads, home, snapshot, embeddings, model, judge = sys.argv[1:]
home = Path(home)
home.mkdir(exist_ok=True)
snapshot, embeddings = Snapshot.model_validate_json(snapshot), Embeddings.model_validate_json(embeddings)
(home / "snapshots").symlink_to(snapshot.path.parent)
mining = MiningSettings(
    threads=int(threads), heap_mb=256, per_query=6, depth=220, margin=1.0,
    shares={"bm25": 0.4, "dense": 0.4, "random": 0.2}, cross_encoder={"model": judge, "most": 0.6, "tokens": 32},
)
train_queries = queries(snapshot, "train")
encoder = start_from(Path(model), EncoderSpec.of(EncoderSettings(query_tokens=32), "fp32"), home / "encoder")
vectors = encoder.encode_queries(train_queries["text"].to_pylist())
bm25 = search_bm25(home, build_index(home, snapshot, mining), train_queries, mining.depth, mining)
dense = dense_run(home, "train", train_queries, vectors, embeddings, mining.depth)
done = mine(home, snapshot, [("bm25", bm25), ("dense", dense)], embeddings, vectors, 1, mining)
assert set(done.sources) == {"bm25", "dense", "random"}, done
assert min(done.sources.values()) > 0, done
assert done.refused["cross_encoder"] > 0, done
print(done.path)
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory, tiny_model) -> Path:
    """A cross-encoder with random weights over the tiny model's words."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("judge")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_model, num_labels=1, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_one_and_two_threads_give_the_same_bytes(tmp_path, tiny_model, judge):
    random = np.random.default_rng(0)
    texts = {f"p{row:03d}": " ".join(random.choice(THINGS, random.integers(3, 12))) for row in range(300)}
    train_queries = {f"q{row:03d}": " ".join(random.choice(THINGS, random.integers(2, 9))) for row in range(90)}
    qrels = [(query, f"p{random.integers(300):03d}", "train") for query in train_queries for _ in range(2)]
    snapshot = snapshot_of(tmp_path, texts, train_queries, sorted(set(qrels)))
    vectors = random.standard_normal((300, 32)).astype(np.float32)
    vectors[100:130] = vectors[:30]  # equal vectors have equal scores
    embeddings = write_embeddings(tmp_path / "embeddings", list(texts), vectors, snapshot=snapshot.digest)
    folders = [run(tmp_path / f"{threads}", threads, snapshot, embeddings, tiny_model, judge) for threads in ("1", "2")]
    for name in ("negatives.parquet", "sample.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def run(home, threads, snapshot, embeddings, *models) -> Path:
    limits = {f"{library}_NUM_THREADS": threads for library in ("OMP", "OPENBLAS", "MKL")}
    arguments = [threads, home, snapshot.model_dump_json(), embeddings.model_dump_json(), *models]
    done = subprocess.run(
        [sys.executable, "-c", STEP, *map(str, arguments)], env={**os.environ, **limits}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())
