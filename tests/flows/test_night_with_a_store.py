"""A night on a second host that shares only an object store with the first: a local S3 server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import CREDENTIALS, s3_server

pytestmark = pytest.mark.slow


@pytest.fixture
def url() -> Iterator[str]:
    with s3_server("nights") as options:
        yield f"s3://nights/demo?{options}"


def manifests(home: Path) -> dict[str, bytes]:
    """Return the manifests of all expensive artifacts by name."""
    paths = (path for path in home.glob("*/[!.]*/manifest.json") if path.parts[-3] != "releases")
    return {str(path.relative_to(home)): path.read_bytes() for path in paths}


def test_a_second_host_publishes_from_artifacts_of_the_first_host(
    url: str, nightshift: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    homes = [tmp_path / "first", tmp_path / "second"]
    logs = []
    for home in homes:
        night = nightshift("run", NIGHTSHIFT_HOME=str(home), NIGHTSHIFT_STORE__URL=url, **CREDENTIALS)
        assert night.stdout.startswith("Promoted"), night.stdout + night.stderr
        logs.append(night.stderr)
    for work in ("BM25: indexing", "mined", "loss", "shard 1 of 4"):
        assert work in logs[0]
        assert work not in logs[1]
    first, second = (manifests(home) for home in homes)
    assert len(second) > 8
    assert {name: first[name] for name in second} == second
