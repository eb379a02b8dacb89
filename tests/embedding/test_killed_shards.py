"""Kill an embedding at random moments and compare the result with an undisturbed run.

NIGHTSHIFT_TEST_KILLS sets the number of kills.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import embedding_worker
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from embedding_worker import SHARDS
from small_snapshot import snapshot_of_texts

from tasks.core.base.files import load, produce
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.stored_shards import shard_files
from tasks.core.encoder.dual_encoder import DualEncoder, fingerprint, passage_fingerprint, read_spec, save_encoder
from tasks.core.encoder.passage_map import PassageMap
from tasks.core.training.trainer import base_encoder

KILLS = int(os.environ.get("NIGHTSHIFT_TEST_KILLS", "20"))
WORDS = ["river", "castle", "violin", "engine", "orchid", "glacier", "market", "lantern"]
STORIES = [f"the story of a {WORDS[n % 8]} near one {WORDS[n // 8 % 8]} seen {n} times" for n in range(240)]
TEXTS = STORIES + STORIES[:240:4]


@pytest.fixture
def made(tiny_model: Path, tmp_path: Path) -> tuple[Path, Encoder, Snapshot]:
    """A home with an encoder and a snapshot in which a fifth of the passages are repeats."""
    home = tmp_path / "home"
    settings = Settings.model_validate(
        {"home": home, "encoder": {"model": str(tiny_model)}, "embedding": {"precision": "fp32"}}
    )
    snapshot = snapshot_of_texts(home, TEXTS)
    return home, base_encoder(home, snapshot, settings.encoder, settings.embedding), snapshot


@pytest.fixture
def derived(tiny_model: Path, tmp_path: Path) -> tuple[Path, Encoder, Snapshot]:
    """A home like `made`, with an encoder that has a passage map and no vectors of its trunk yet."""
    home = tmp_path / "home"
    settings = Settings.model_validate(
        {"home": home, "encoder": {"model": str(tiny_model), "shared": False}, "embedding": {"precision": "fp32"}}
    )
    snapshot = snapshot_of_texts(home, TEXTS)
    start = base_encoder(home, snapshot, settings.encoder, settings.embedding)

    def build(folder: Path) -> dict[str, object]:
        encoder = DualEncoder(start.path, read_spec(start.path))
        encoder.passage.passage_map = PassageMap(32, 0)
        torch.nn.init.orthogonal_(encoder.passage.passage_map.weight, generator=torch.Generator().manual_seed(1))
        save_encoder(encoder, folder)
        fields = start.model_dump(exclude={"digest", "path", "fingerprint", "passage_fingerprint", "trunk"})
        names = {"fingerprint": fingerprint(folder), "passage_fingerprint": passage_fingerprint(folder)}
        return {**fields, **names, "trunk": passage_fingerprint(folder, with_map=False)}

    return home, produce(home, Encoder, {"map": start.digest}, build), snapshot


@pytest.mark.slow
def test_kills_of_a_derivation_give_the_same_bytes(derived: tuple[Path, Encoder, Snapshot], tmp_path: Path) -> None:
    encoder = derived[1]
    straight, *killed = finished_homes(*derived, tmp_path)
    expected = {name: contents(straight, name) for name in (encoder.trunk, encoder.passage_fingerprint)}
    for here in killed:
        assert {name: contents(here, name) for name in expected} == expected


@pytest.mark.slow
def test_kills_give_the_same_bytes_as_an_undisturbed_run(made: tuple[Path, Encoder, Snapshot], tmp_path: Path) -> None:
    straight, *killed = finished_homes(*made, tmp_path)
    expected = contents(straight)
    assert list(expected) == [f"shard-{rank:05d}-of-{SHARDS:05d}.parquet" for rank in range(SHARDS)]

    for here in killed:
        assert contents(here) == expected
        embeddings = only(here)
        ids = pa.concat_tables([pq.read_table(file, columns=["passage_id"]) for file in shard_files(embeddings)])
        assert ids["passage_id"].to_pylist() == [f"p{row:06d}" for row in range(len(TEXTS))]
        assert (embeddings.embedded, embeddings.avoided, embeddings.repeated) == (240, 60, 60)


def finished_homes(home: Path, encoder: Encoder, snapshot: Snapshot, folder: Path) -> Iterator[Path]:
    """Yield a copy of `home` after an undisturbed run, then copies whose runs were killed until one finished."""
    straight = copy_of(home, folder / "straight")
    seconds = finished_in(straight, encoder, snapshot)
    yield straight
    chance, killed, round_ = random.Random(7), 0, 0
    while killed < KILLS:
        round_ += 1
        here, before = copy_of(home, folder / f"round{round_}"), killed
        while not killed_after(chance.uniform(0, seconds), here, encoder, snapshot):
            killed += 1
            assert killed - before < 50, "no progress after 50 kills"
        yield here


def copy_of(home: Path, where: Path) -> Path:
    shutil.copytree(home, where)
    return where


def begin(home: Path, encoder: Encoder, snapshot: Snapshot) -> ForkServerProcess:
    """Start a process that embeds, and return it when its work starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(embedding_worker.PRELOAD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=embedding_worker.embed, args=(home, encoder.digest, snapshot.digest, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "begun"
    return process


def finished_in(home: Path, encoder: Encoder, snapshot: Snapshot) -> float:
    """Return the duration of an undisturbed run in seconds."""
    process, began = begin(home, encoder, snapshot), time.perf_counter()
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - began


def killed_after(seconds: float, home: Path, encoder: Encoder, snapshot: Snapshot) -> bool:
    """Run, and kill the process after `seconds` with SIGKILL. Return True if it finished before."""
    process = begin(home, encoder, snapshot)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == 0


def only(home: Path, passages: str = "") -> Embeddings:
    """Return the only sealed embeddings, or the only ones of this passage fingerprint."""
    sealed = [load(home, Embeddings, folder.name) for folder in (home / Embeddings.shelf).glob("[!.]*")]
    (embeddings,) = (receipt for receipt in sealed if passages in ("", receipt.fingerprint))
    return embeddings


def contents(home: Path, passages: str = "") -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in shard_files(only(home, passages))}
