"""The dials of more than one machine: `[compute]` and `[store]` in the settings file."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from tasks.core.base.section import Section


class ComputeSettings(Section):
    """Where the shards of a night are worked on. What is not a shard runs where the flow runs, or trains there too."""

    engine: Literal["local", "ray"] = Field(
        "local",
        description="local: one shard after the other, here; ray: on a Ray cluster (needs the extra ray). All its "
        "hosts have Nightshift in the same version, and home under the same absolute path: a network file system",
    )
    address: str = Field(
        "", description="of the Ray cluster, such as 10.0.0.5:6379 or ray://head:10001; empty: one made for the night"
    )
    cpus: float = Field(
        1, gt=0, description="Ray only: processor cores a shard or a training process asks for, and its threads"
    )
    gpus: float = Field(
        0,
        ge=0,
        description="Ray only: GPUs a shard asks for; a share, such as 0.5, lets two share one, but not two trainings",
    )
    memory_gb: float = Field(
        0, ge=0, description="Ray only: memory a shard or a training process asks for, GiB; 0: no request"
    )


class StoreSettings(Section):
    """Where finished artifacts are kept beside the home, so that another host or a lost disk does not start anew."""

    url: str = Field(
        "",
        description="a folder of an object store, such as s3://bucket/nightshift; credentials as AWS tools find them; "
        "a server of one's own as s3://bucket/nightshift?endpoint_override=http://minio:9000; empty: none",
    )
    tries: int = Field(5, ge=1, description="how often a transfer is tried, waiting 1, 2, 4 … seconds in between")

    @field_validator("url")
    @classmethod
    def _no_secret_in_the_address(cls, url: str) -> str:
        if url and (urlsplit(url).password or not urlsplit(url).scheme):
            raise ValueError("an address such as s3://bucket/folder, without credentials: those come from elsewhere")
        return url
