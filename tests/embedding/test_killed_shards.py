"""Kill an embedding at random moments and compare the result with an undisturbed run."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import embedding_worker
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_worker import SHARDS
from small_snapshot import snapshot_of_texts

from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.stored_shards import shard_files
from tasks.core.training.trainer import base_encoder

KILLS = 20
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


@pytest.mark.slow
def test_twenty_kills_give_the_same_bytes_as_an_undisturbed_run(
    made: tuple[Path, Encoder, Snapshot], tmp_path: Path
) -> None:
    home, encoder, snapshot = made
    straight = copy_of(home, tmp_path / "straight")
    seconds = finished_in(straight, encoder, snapshot)
    expected = contents(straight)
    assert list(expected) == [f"shard-{rank:05d}-of-{SHARDS:05d}.parquet" for rank in range(SHARDS)]

    chance, killed, round_ = random.Random(7), 0, 0
    while killed < KILLS:
        round_ += 1
        here, before = copy_of(home, tmp_path / f"round{round_}"), killed
        while not killed_after(chance.uniform(0, seconds), here, encoder, snapshot):
            killed += 1
            assert killed - before < 50, "no progress after 50 kills"
        assert contents(here) == expected
        embeddings = only(here)
        ids = pa.concat_tables([pq.read_table(file, columns=["passage_id"]) for file in shard_files(embeddings)])
        assert ids["passage_id"].to_pylist() == [f"p{row:06d}" for row in range(len(TEXTS))]
        assert (embeddings.embedded, embeddings.avoided, embeddings.repeated) == (240, 60, 60)


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


def only(home: Path) -> Embeddings:
    (folder,) = (home / Embeddings.shelf).glob("[!.]*")
    return load(home, Embeddings, folder.name)


def contents(home: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in shard_files(only(home))}
