"""Count encoder loads per worker over many shards: `loads_on_ray.py HOME ENCODER ADDRESS` prints [[process, loads]]."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import flows.environment  # noqa: F401

from prefect import flow, task  # isort: skip
from tasks.compute import run_shards
from tasks.core.base.sections.compute import ComputeSettings
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import load_encoder


@task
def encode_some(settings: Settings, folder: Path, rank: int, shards: int) -> tuple[int, int]:
    load_encoder(folder).encode_passages([f"the story of shard {rank} of {shards}"])
    return os.getpid(), load_encoder.cache_info().misses


@flow
def ask(home: Path, folder: Path, address: str) -> list[tuple[int, int]]:
    compute = ComputeSettings(engine="ray", address=address, gpus=1)
    return run_shards(encode_some, Settings(home=home, compute=compute), folder, shards=10)


if __name__ == "__main__":
    print(json.dumps(ask(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
