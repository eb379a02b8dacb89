"""One Milvus collection through pymilvus, embedded or on a server: made, filled, indexed, read."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import Impossible, NightshiftError, Unreachable
from tasks.core.base.sections.indexes import search_params
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.embedding.stored_shards import matrix
from tasks.core.release.publisher import Found, Identity
from tasks.core.release.rows import LIMIT
from tasks.core.release.stored import check_canaries

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

METRIC = "IP"  # the inner product: what training and evaluation score by, and the cosine where vectors are units
REQUEST_BYTES = 16 << 20  # texts in one insert; a Milvus server refuses messages of 64 MiB
TIMEOUT = 600.0  # seconds; some calls would otherwise wait for ever. A server that is back before goes on
CONNECT_SECONDS = 10.0
# pymilvus would ping every 10 s, idle or not; a server with gRPC's own limits was seen to hang up (too_many_pings).
QUIET = {"grpc.keepalive_time_ms": 60_000, "grpc.keepalive_permit_without_calls": False}
POLL_SECONDS = 0.2
STUCK_SECONDS = 3600.0  # without a further row indexed: a segment of half a GiB counts when it is whole
PROGRESS_SECONDS = 4.0  # between two log lines
ROWS_A_REQUEST = 8192  # a server answers with at most 16,384 rows


def connect(uri: str, token: str = "") -> MilvusClient:
    """A client of the Milvus at `uri`. Raises Unreachable when nobody answers, NightshiftError when it is refused."""
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints a traceback of what it also raises
    with readable(f"Milvus at {uri}"):
        # A connection of its own: shared ones stay open when their last client is closed.
        return MilvusClient(uri, token=token, timeout=CONNECT_SECONDS, dedicated=True, grpc_options=QUIET)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what pymilvus raises into NightshiftError: Unreachable where trying again may help.

    Raises Impossible, which it is as well, for a filter that this Milvus does not know.
    """
    import grpc
    from pymilvus import MilvusException

    try:
        yield
    except (grpc.RpcError, MilvusException) as error:
        if _nobody_answered(error):
            raise Unreachable(f"{what}: no answer. Is it running, and is [milvus] uri right? ({error})") from error
        if "cannot parse expression" in str(error):  # as older servers say to a pattern with a beginning of any kind
            raise Impossible(f"{what}: this Milvus has no such filter; a newer one may ({error})") from error
        raise NightshiftError(f"{what}: {error}") from error


def _nobody_answered(error: Any) -> bool:
    import grpc

    code = error.code() if callable(error.code) else error.code  # of gRPC, of pymilvus
    # 2 is pymilvus's own "fail connecting"; where it gave up trying again, it puts gRPC's code or none in its place.
    gone = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, 2)
    return code in gone or "Retry timeout" in str(error)


def create(client: MilvusClient, identity: Identity) -> None:
    """An empty collection that carries its identity from the first moment."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("passage_id", DataType.VARCHAR, is_primary=True, max_length=LIMIT)
    schema.add_field("row", DataType.INT64)
    schema.add_field("title", DataType.VARCHAR, max_length=LIMIT)
    schema.add_field("text", DataType.VARCHAR, max_length=LIMIT)
    schema.add_field("text_hash", DataType.VARCHAR, max_length=64)
    schema.add_field("whole", DataType.BOOL)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=identity.dimension)
    client.create_collection(
        identity.collection, schema=schema, properties=identity.properties(), consistency_level="Strong"
    )


def fill(client: MilvusClient, identity: Identity, batches: Iterable[pa.RecordBatch]) -> None:
    """Insert all batches from this one thread (several writers lose rows), and flush once."""
    name, done, logged = identity.collection, 0, time.monotonic()
    for batch in read_ahead(iter(batches)):
        for part in _small_enough(batch):
            client.insert(name, _records(part), timeout=TIMEOUT)
        done += batch.num_rows
        now = time.monotonic()
        due = done == identity.rows or now - logged > PROGRESS_SECONDS
        log.log(logging.INFO if due else logging.DEBUG, "%s: %d of %d passages inserted", name, done, identity.rows)
        logged = now if due else logged
    client.flush(name, timeout=TIMEOUT)
    log.debug("%s: flushed", name)


def index_and_load(client: MilvusClient, identity: Identity) -> None:
    """Index the vectors of a collection that is filled, to the last one, and load it.

    Raises NightshiftError when a server does not go on indexing.
    """
    name, index = identity.collection, client.prepare_index_params()
    # Nested, because pymilvus sends the outer level flat, and milvus-lite looks only below "params".
    params = {"params": json.loads(identity.index_params)}
    index.add_index("vector", index_type=identity.index, metric_type=identity.metric, params=params)
    client.create_index(name, index, timeout=TIMEOUT, sync=False)
    _wait_for_index(client, name)
    client.load_collection(name, timeout=TIMEOUT)
    log.debug("%s: indexed (%s)", name, identity.index)


def _wait_for_index(client: MilvusClient, name: str) -> None:
    """Until its index is built a server answers from a temporary one, and would be measured by that."""
    seen, moved = -1, time.monotonic()
    while True:
        found = client.describe_index(name, "vector", timeout=TIMEOUT) or {}
        # milvus-lite builds it at once, and does not count.
        done, rows = int(found.get("indexed_rows", 0)), int(found.get("total_rows", 0))
        if found.get("state", "Finished") == "Finished" and done >= rows:
            return
        if done != seen:
            log.info("%s: %d of %d passages indexed", name, done, rows)
            seen, moved = done, time.monotonic()
        if time.monotonic() - moved > STUCK_SECONDS:
            why = found.get("index_state_fail_reason") or f"none for {STUCK_SECONDS:.0f} s"
            raise NightshiftError(f"collection {name}: {done} of {rows} passages indexed, then {why}")
        time.sleep(POLL_SECONDS)


def read_ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, each read and checked while the one before it is on its way to Milvus."""
    with ThreadPoolExecutor(1, "nightshift-read") as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _small_enough(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.num_rows > 1 and batch.nbytes > REQUEST_BYTES:
        half = batch.num_rows // 2
        # Copies, because the size of a slice is counted by its parents' buffers in some Arrow types.
        yield from _small_enough(batch.take(pa.array(range(half))))
        yield from _small_enough(batch.take(pa.array(range(half, batch.num_rows))))
    else:
        yield batch


def _records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    vectors = matrix(batch["vector"], batch["vector"].type.list_size)
    records: list[dict[str, Any]] = batch.drop_columns(["vector"]).to_pylist()
    for record, vector in zip(records, vectors, strict=True):
        record["vector"] = vector
    return records


def key_of(hit: Mapping[str, Any]) -> str:
    """The passage id of a hit; a server of before 2.4 does not say what the key's field is called."""
    return str(hit["id"] if "id" in hit else hit["passage_id"])


class CollectionReader:
    """A `Reader` over a pymilvus client, which it owns.

    `on_close` frees what the client uses; `check` verifies its files where they are ours, and raises Damaged.
    """

    def __init__(
        self,
        client: MilvusClient,
        collection: str,
        settings: MilvusSettings,
        on_close: Callable[[], None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._client, self._settings, self._on_close, self._check = client, settings, on_close, check
        with readable(f"collection {collection}"):
            found = client.describe_collection(collection, timeout=TIMEOUT)
            self.identity = Identity.read(collection, found.get("properties", {}))
            client.load_collection(collection, replica_number=settings.replicas, timeout=TIMEOUT)
        self._built: dict[str, int] = json.loads(self.identity.index_params)
        # One thread touches it first: several at once meet a collection that is half loaded.
        self.search(np.ones((1, self.identity.dimension), np.float32), 1)

    def count(self) -> int:
        """Rows, counted with strong consistency."""
        return int(self._query("", ["count(*)"])[0]["count(*)"])

    def keys(self, first: int, last: int) -> list[tuple[int, str, str]]:
        """(row, passage_id, text_hash) of snapshot rows [first, last), by row; ids never enter an expression."""
        found = self._query(f"row >= {int(first)} and row < {int(last)}", ["row", "passage_id", "text_hash"])
        return sorted((one["row"], one["passage_id"], one["text_hash"]) for one in found)

    def _query(self, rule: str, fields: list[str]) -> list[dict[str, Any]]:
        name = self.identity.collection
        with readable(f"collection {name}"):
            answer: list[dict[str, Any]] = self._client.query(
                name, filter=rule, output_fields=fields, consistency_level="Strong", timeout=TIMEOUT
            )
        return answer

    def fetch(self, rows: Sequence[int], fields: Sequence[str], rule: str = "") -> dict[int, Found]:
        """The passages of snapshot rows that keep `rule`, by row; see `Reader.fetch`."""
        name, found = self.identity.collection, dict[int, Found]()
        for first in range(0, len(rows), ROWS_A_REQUEST):
            wanted = f"row in [{', '.join(str(int(row)) for row in rows[first : first + ROWS_A_REQUEST])}]"
            with readable(f"collection {name}"):
                answer = self._client.query(
                    name,
                    filter=f"{wanted} and {rule}" if rule else wanted,
                    output_fields=["row", "passage_id", *fields],
                    consistency_level="Eventually",  # as in `search`
                    timeout=self._settings.query_seconds,
                )
            found.update({one["row"]: Found(one["row"], one["passage_id"], 0.0, one) for one in answer})
        return found

    def search(self, vectors: np.ndarray, k: int, fields: Sequence[str] = (), rule: str = "") -> list[list[Found]]:
        """The `k` best by inner product for each of `vectors`, best first; see `Reader.search`."""
        name, index = self.identity.collection, self.identity.index
        given = self._settings.search_params if self._settings.index == index else {}
        with readable(f"collection {name}"):
            answers = self._client.search(
                name,
                data=np.asarray(vectors, np.float32),
                filter=rule,
                limit=k,
                output_fields=["row", *fields],
                search_params={
                    "metric_type": self.identity.metric,
                    "params": search_params(index, k, self._built, given),
                },
                consistency_level="Eventually",  # what is searched is never written again: there is nothing to wait for
                timeout=self._settings.query_seconds,
            )
        return [
            [Found(hit["entity"]["row"], key_of(hit), hit["distance"], hit["entity"]) for hit in hits]
            for hits in answers
        ]

    def check(self) -> None:
        """Verify the files, or search for a few passages where a server has them; see `Reader.check`."""
        if self._check is not None:
            self._check()
        else:
            check_canaries(self)

    def close(self) -> None:
        """Close the client and what lies behind it."""
        self._client.close()
        if self._on_close is not None:
            self._on_close()
