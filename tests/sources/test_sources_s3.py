"""Sources in a bucket of a local S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs
from s3_server import s3_server
from source_forms import FORMS, QUERIES, beir, rows, values

from tasks.core.base.errors import BadInput
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest
from tasks.core.sources.source import find_source


class Bucket:
    """A bucket of the S3 server."""

    def __init__(self, options: str) -> None:
        self.options = options
        self.filesystem, _ = fs.FileSystem.from_uri(f"s3://feed?{options}")

    def upload(self, folder: Path, name: str) -> str:
        fs.copy_files(str(folder), f"feed/{name}", destination_filesystem=self.filesystem)
        return f"s3://feed/{name}?{self.options}"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server("feed") as options:
        yield Bucket(options)


@pytest.mark.parametrize("form", FORMS)
def test_a_bucket_gives_the_same_rows_as_a_folder(form: str, bucket: Bucket, tmp_path: Path) -> None:
    kind, write = FORMS[form]
    write(tmp_path / "source")
    address = bucket.upload(tmp_path / "source", form.replace(" ", "-").replace(",", ""))
    assert values(rows(kind, address, tmp_path / "a")) == values(rows(kind, tmp_path / "source", tmp_path / "b"))
    remote, local = (find_source(DataSettings.model_validate({"format": kind, "path": path})) for path in (
        address, tmp_path / "source",
    ))  # fmt: skip
    assert remote.identity == local.identity


def test_an_unchanged_bucket_is_read_once_and_a_changed_bucket_is_read_again(bucket: Bucket, tmp_path: Path) -> None:
    beir(tmp_path / "source")
    address = bucket.upload(tmp_path / "source", "nightly")
    settings = Settings(home=tmp_path / "home", data=DataSettings(format="beir", path=address))
    first, _ = ingest(settings)
    assert first.source == "s3://feed/nightly"
    assert not first.reused
    assert ingest(settings)[0].reused
    changed = (tmp_path / "source" / "queries.jsonl").read_bytes().replace(b"passage 7", b"passage 8", 1)
    with bucket.filesystem.open_output_stream("feed/nightly/queries.jsonl") as file:
        file.write(changed)  # the same length
    second, _ = ingest(settings)
    assert not second.reused
    assert second.digest != first.digest


def test_secrets_in_an_address_are_not_shown(bucket: Bucket, tmp_path: Path) -> None:
    beir(tmp_path / "source")
    address = bucket.upload(tmp_path / "source", "secret").replace("s3://", "s3://me:hush-hush@")
    source = find_source(DataSettings(format="beir", path=address))
    assert source.name == "s3://feed/secret"
    with pytest.raises(BadInput) as stop:
        find_source(DataSettings(format="beir", path=address.replace("secret", "nowhere", 1)))
    assert "hush" not in str(stop.value)
    assert "s3://feed/nowhere: no such folder" in str(stop.value)


def test_a_damaged_object_stops_the_night_and_is_reported(bucket: Bucket, tmp_path: Path) -> None:
    beir(tmp_path / "source", ".gz")
    file = tmp_path / "source" / "queries.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-6])
    address = bucket.upload(tmp_path / "source", "damaged")
    with pytest.raises(BadInput, match=rf"s3://feed/damaged/queries\.jsonl\.gz: .* past line (0|{len(QUERIES)})"):
        rows("beir", address, tmp_path / "scratch")
