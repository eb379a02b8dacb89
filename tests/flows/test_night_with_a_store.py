"""A night on a second host that shares nothing with the first but an object store: a real S3 server on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs

moto = pytest.importorskip("moto.server")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    place = f"http://127.0.0.1:{running.get_host_and_port()[1]}"
    fs.S3FileSystem(endpoint_override=place, region="us-east-1", allow_bucket_creation=True).create_dir("nights")
    yield f"s3://nights/demo?endpoint_override={place}&region=us-east-1"
    running.stop()


def manifests(home: Path) -> dict[str, bytes]:
    """The manifests of everything that costs something, by name."""
    found = (one for one in home.glob("*/[!.]*/manifest.json") if one.parts[-3] != "releases")
    return {str(path.relative_to(home)): path.read_bytes() for path in found}


def test_a_second_host_makes_its_release_of_what_the_first_one_made(
    url: str, nightshift: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    homes = [tmp_path / "first", tmp_path / "second"]
    said = []
    for home in homes:
        night = nightshift("run", NIGHTSHIFT_HOME=str(home), NIGHTSHIFT_STORE__URL=url, **CREDENTIALS)
        assert night.stdout.startswith("Promoted"), night.stdout + night.stderr
        said.append(night.stderr)
    for work in ("BM25: indexing", "mining round 0", "training", "shard 1 of 4"):
        assert work in said[0]
        assert work not in said[1]
    first, second = (manifests(home) for home in homes)
    assert len(second) > 8
    assert {name: first[name] for name in second} == second
