"""The dials of more than one machine: `[compute]` in the settings file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.core.section import Section


class ComputeSettings(Section):
    """Where the shards of a night are worked on. What is not a shard runs where the flow runs."""

    engine: Literal["local", "ray"] = Field(
        "local",
        description="local: one shard after the other, here; ray: on a Ray cluster (needs the extra ray). All its "
        "hosts have Nightshift in the same version, and home under the same absolute path: a network file system",
    )
    address: str = Field(
        "", description="of the Ray cluster, such as 10.0.0.5:6379 or ray://head:10001; empty: one made for the night"
    )
    cpus: float = Field(1, gt=0, description="Ray only: processor cores a shard asks for, and its threads")
    gpus: float = Field(
        0, ge=0, description="Ray only: GPUs a shard asks for; a share, such as 0.5, lets two share one"
    )
    memory_gb: float = Field(0, ge=0, description="Ray only: memory a shard asks for, GiB; 0: no request")
