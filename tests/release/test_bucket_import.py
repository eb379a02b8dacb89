"""Bulk import into a real Milvus server that keeps its data in a bucket, through that bucket."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import pytest
from milvus_servers import real_server
from pyarrow import fs
from release_world import release_night, served, small, with_milvus
from s3_server import CREDENTIALS, REGION, s3_server

from tasks.core.base.errors import NightshiftError


@pytest.mark.slow
def test_a_server_imports_from_its_own_data_bucket(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nightshift.release")
    with s3_server("milvus") as options, TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = parse_qs(options)["endpoint_override"][0]
        storage = {
            "COMMON_STORAGETYPE": "minio",
            "MINIO_ADDRESS": str(urlsplit(place).hostname),
            "MINIO_PORT": str(urlsplit(place).port),
            "MINIO_BUCKETNAME": "milvus",
            "MINIO_ACCESSKEYID": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "MINIO_SECRETACCESSKEY": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "MINIO_REGION": REGION,
        }
        with real_server(Path(folder) / "data", **storage) as uri:
            importing = with_milvus(small(tmp_path / "var", uri=uri), bulk=f"s3://milvus/nights?{options}")
            first = release_night(importing, seed=1)
            assert first.rows == 200
            assert "200 of 200 passages imported (100 %)" in caplog.text
            bucket = fs.S3FileSystem(endpoint_override=place, region=REGION, allow_bucket_creation=True)
            paths = {file.path for file in bucket.get_file_info(fs.FileSelector("milvus", recursive=True))}
            assert any(path.startswith("milvus/files/insert_log/") for path in paths)  # Milvus's own
            assert not any(path.startswith("milvus/nights/") for path in paths)  # none of our files

            elsewhere = with_milvus(importing, bulk=f"s3://milvus-of-others/nights?{options}")
            bucket.create_dir("milvus-of-others")
            with pytest.raises(NightshiftError, match=r"part-00000\.parquet"):
                release_night(elsewhere, seed=2)
            assert served(importing) == first.release
