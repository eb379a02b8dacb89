"""Two processes with gloo compute the same losses, gradients, and weights as one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from gradient_worker import LOSSES, gradients
from safetensors.torch import load_file
from small_training import negatives_of, small_settings, stories, trained

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import Settings
from tasks.core.training.loop import Job
from tasks.core.training.ranks import Ranks
from tasks.core.training.trainer import base_encoder

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Settings:
    return small_settings(tmp_path / "home", tiny_model, memory_tokens=128, hard_negatives=2)


def taught_job(settings: Settings, folder: Path) -> Job:
    """Make a training job with teacher scores for positives and negatives."""
    snapshot = stories(settings.home)
    pairs = [(f"q{n}", f"p{(n + step) % 60}") for n in range(60) if n % 5 < 3 for step in (1, 2)]
    scores = np.random.default_rng(0).normal(size=len(pairs)).tolist()
    mined = negatives_of(settings.home, pairs, teacher_score=scores)
    queries = sorted({query for query, _ in pairs})
    own = {
        "query_id": queries,
        "passage_id": [f"p{query[1:]}" for query in queries],
        "teacher_score": [3.0] * len(queries),
    }
    pq.write_table(pa.table(own), mined.path / "positives.parquet")
    start = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    return Job(folder=folder, start=start, snapshot=snapshot, negatives=mined, settings=settings)


def test_two_processes_give_the_losses_and_gradients_of_a_single_process_with_one_all_reduce_per_step(
    settings: Settings, tmp_path: Path
) -> None:
    job = taught_job(settings, tmp_path)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    worker = str(Path(__file__).parents[1] / "fixtures" / "gradient_worker.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*LAUNCH, worker, str(tmp_path / "job.json")], env=environment, check=True, timeout=240)
    whole = settings.model_copy(update={"training": settings.training.model_copy(update={"memory_tokens": 10**6})})
    alone = gradients(job.model_copy(update={"settings": whole}), Ranks())
    for rank in (0, 1):
        gradients_of_rank = load_file(tmp_path / f"gradients-{rank}.safetensors")
        assert gradients_of_rank.pop("all-reduces").item() == len(LOSSES)
        assert gradients_of_rank.keys() == alone.keys()
        for name, value in alone.items():
            difference = (gradients_of_rank[name] - value).abs().max()
            assert difference <= 1e-5 * value.abs().max() + 1e-6, (name, difference, value.abs().max())


def test_two_processes_train_the_same_weights_as_a_single_process(tiny_model: Path, tmp_path: Path) -> None:
    single, double = (
        trained(stories(home), small_settings(home, tiny_model, processes=count, evaluate_every=5))
        for count, home in ((1, tmp_path / "one"), (2, tmp_path / "two"))
    )
    np.testing.assert_allclose(double.loss, single.loss, rtol=1e-4)
    np.testing.assert_allclose(double.dev, single.dev, atol=0.02)
    assert sorted(path.name for path in double.path.iterdir()) == sorted(path.name for path in single.path.iterdir())


@pytest.mark.slow
def test_the_error_of_a_training_process_is_raised_unchanged(tiny_model: Path, tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "home", tiny_model, processes=2, loss="kl")
    with pytest.raises(NightshiftError, match=r"loss = \"kl\" learns from a teacher"):
        trained(stories(settings.home), settings)


def test_shards_divide_texts_and_are_about_equal_in_tokens() -> None:
    lengths = [3, 90, 4, 80, 5, 70, 6]
    shards = [Ranks(rank, 3).shards(lengths) for rank in range(3)]
    assert sorted(torch.cat(shards[0]).tolist()) == list(range(7))
    assert [shard.tolist() for shard in shards[0]] == [shard.tolist() for shard in shards[2]]
    assert max(sum(lengths[row] for row in shard.tolist()) for shard in shards[0]) < 110
