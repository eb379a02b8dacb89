"""Placement of shards; tests/flows/test_night_on_ray.py tests a real Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.compute import OPTIONS, request, run_shards
from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.compute import ComputeSettings
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.embedding import embed_shard


def test_local_shards_run_one_after_another() -> None:
    seen = []

    def step(settings: Settings, word: str, rank: int, shards: int) -> str:
        seen.append(rank)
        return f"{word} {rank} of {shards}"

    here: Any = step
    assert run_shards(here, Settings(), "part", shards=3) == ["part 0 of 3", "part 1 of 3", "part 2 of 3"]
    assert seen == [0, 1, 2]


def test_ray_needs_a_prefect_server_that_its_workers_can_reach(tmp_path: Path) -> None:
    pytest.importorskip("prefect_ray")
    settings = Settings(home=tmp_path, compute=ComputeSettings(engine="ray"))
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(NightshiftError, match="PREFECT_API_URL"):
        run_shards(embed_shard, settings, None, None, shards=1)


def test_ray_needs_a_home_that_is_the_same_on_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_COMPUTE__ENGINE", "ray")
    with pytest.raises(NightshiftError, match="absolute path"):
        load_settings()
    monkeypatch.setenv("NIGHTSHIFT_HOME", "/mnt/nightshift")
    assert load_settings().compute.engine == "ray"


def test_a_shard_requests_exactly_the_configured_resources() -> None:
    assert request(ComputeSettings()) == {"CPU": 1}
    resources = request(ComputeSettings(cpus=4, gpus=0.5, memory_gb=2))
    assert resources == {"CPU": 4, "GPU": 0.5, "memory": 2 * 2**30}
    assert {OPTIONS[name] for name in resources} == {"num_cpus", "num_gpus", "memory"}
