"""A real S3 server on this machine, without an account anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyarrow import fs

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}
REGION = "us-east-1"


@contextmanager
def s3_server(bucket: str) -> Iterator[str]:
    """A server with an empty bucket; yields the options that an address in it ends with: `s3://bucket/folder?…`."""
    moto = pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        try:
            place = f"http://127.0.0.1:{running.get_host_and_port()[1]}"
            fs.S3FileSystem(endpoint_override=place, region=REGION, allow_bucket_creation=True).create_dir(bucket)
            yield f"endpoint_override={place}&region={REGION}"
        finally:
            running.stop()
