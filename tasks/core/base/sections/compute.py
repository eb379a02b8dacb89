"""Settings for several machines: `[compute]` and `[store]` in the settings file."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from tasks.core.base.section import Section


class ComputeSettings(Section):
    """Where a night processes its shards. All other work runs with the flow; training can use either."""

    engine: Literal["local", "ray"] = Field(
        "local",
        description="local: process shards on this host, one at a time; ray: process them on a Ray cluster (needs the "
        "extra ray). All hosts need the same Nightshift version, and home at the same absolute path of a network file "
        "system",
    )
    address: str = Field(
        "",
        description="address of the Ray cluster, such as 10.0.0.5:6379 or ray://head:10001; empty: start a cluster for "
        "the night",
    )
    cpus: float = Field(1, gt=0, description="Ray only: processor cores and threads of each shard or training process")
    gpus: float = Field(
        0,
        ge=0,
        description="Ray only: GPUs per shard; with 0.5, two shards share a GPU (two training processes cannot)",
    )
    memory_gb: float = Field(
        0, ge=0, description="Ray only: GiB of memory per shard or training process; 0: no request"
    )


class StoreSettings(Section):
    """Object store for copies of finished artifacts, to reuse them on another host or after a disk is lost."""

    url: str = Field(
        "",
        description="folder of an object store, such as s3://bucket/nightshift, or on your own server, such as "
        "s3://bucket/nightshift?endpoint_override=http://minio:9000; credentials come from the standard AWS sources; "
        "empty: no store",
    )
    tries: int = Field(5, ge=1, description="attempts per transfer, with pauses of 1, 2, 4 … seconds")

    @field_validator("url")
    @classmethod
    def _no_secret_in_the_address(cls, url: str) -> str:
        if url and (urlsplit(url).password or not urlsplit(url).scheme):
            raise ValueError(
                "expected an address such as s3://bucket/folder, without credentials: these come from the "
                "standard AWS sources"
            )
        return url
