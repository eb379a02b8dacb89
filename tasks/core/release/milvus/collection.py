"""Create, fill, index, and read one Milvus collection through pymilvus, embedded or on a server."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import Impossible, NightshiftError, Unreachable
from tasks.core.base.read_ahead import read_ahead
from tasks.core.base.sections.indexes import search_params
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.expressions import quote
from tasks.core.release.milvus.inserts import requests_of
from tasks.core.release.milvus.slots import Slots
from tasks.core.release.publisher import Found, Identity
from tasks.core.release.rows import LIMIT
from tasks.core.release.stored import check_canaries

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

METRIC = "IP"  # inner product, as in training and evaluation; equals the cosine for unit vectors
TIMEOUT = 600.0  # seconds; some calls would otherwise wait forever. Long enough to restart a server
CONNECT_SECONDS = 10.0
# By default pymilvus pings every 10 s, even when idle; servers with gRPC's limits then disconnect (too_many_pings).
QUIET = {"grpc.keepalive_time_ms": 60_000, "grpc.keepalive_permit_without_calls": False}
POLL_SECONDS = 0.2
STUCK_SECONDS = 3600.0  # without a new indexed row; a segment of half a GiB counts only when complete
PROGRESS_SECONDS = 4.0  # between two log lines
ROWS_PER_REQUEST = 8192  # a server returns at most 16,384 rows
EMBEDDED_ROWS = 32_768  # keys per request to milvus-lite, which scans all rows for each request


def connect(uri: str, token: str = "") -> MilvusClient:
    """Connect to Milvus. Raises Unreachable when it does not answer, NightshiftError when it rejects the client."""
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it also prints the traceback of errors it raises
    with convert_errors(f"Milvus at {uri}"):
        # Dedicated: shared connections stay open after their last client is closed.
        return MilvusClient(uri, token=token, timeout=CONNECT_SECONDS, dedicated=True, grpc_options=QUIET)


@contextmanager
def convert_errors(subject: str) -> Iterator[None]:
    """Convert errors of pymilvus to NightshiftError.

    Raises Unreachable when a retry may help, Impossible when this Milvus does not support a filter, NightshiftError
    otherwise. Messages begin with `subject`.
    """
    import grpc
    from pymilvus import MilvusException

    try:
        yield
    except (grpc.RpcError, MilvusException) as error:
        if _is_unreachable(error):
            raise Unreachable(f"{subject}: no answer. Is it running, and is [milvus] uri right? ({error})") from error
        if "cannot parse expression" in str(error):  # older servers, for a LIKE pattern that begins with %
            raise Impossible(
                f"{subject}: this version of Milvus does not support the filter; a newer one may ({error})"
            ) from error
        raise NightshiftError(f"{subject}: {error}") from error


def _is_unreachable(error: Any) -> bool:
    import grpc

    code = error.code() if callable(error.code) else error.code  # a method in gRPC, an attribute in pymilvus
    # 2 is pymilvus's "fail connecting". After its last retry, pymilvus reports gRPC's code or no code.
    codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, 2)
    return code in codes or "Retry timeout" in str(error)


def create(client: MilvusClient, identity: Identity) -> None:
    """Create an empty collection with its identity in its properties."""
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
    """Insert all batches from one thread (several writers lose rows), then flush once."""
    name, done, logged = identity.collection, 0, time.monotonic()
    for batch in read_ahead(batches):
        for records in requests_of(batch):
            client.insert(name, records, timeout=TIMEOUT)
        done += batch.num_rows
        now = time.monotonic()
        due = done == identity.rows or now - logged > PROGRESS_SECONDS
        log.log(logging.INFO if due else logging.DEBUG, "%s: %d of %d passages inserted", name, done, identity.rows)
        logged = now if due else logged
    client.flush(name, timeout=TIMEOUT)
    log.debug("%s: flushed", name)


def index_and_load(client: MilvusClient, identity: Identity) -> None:
    """Index all vectors of a filled collection and load it.

    Raises NightshiftError when indexing fails or makes no progress.
    """
    name, index = identity.collection, client.prepare_index_params()
    # Nested: pymilvus flattens the outer level, and milvus-lite reads only "params".
    params = {"params": json.loads(identity.index_params)}
    index.add_index("vector", index_type=identity.index, metric_type=identity.metric, params=params)
    client.create_index(name, index, timeout=TIMEOUT, sync=False)
    _wait_for_index(client, name)
    client.load_collection(name, timeout=TIMEOUT)
    log.debug("%s: indexed (%s)", name, identity.index)


def _wait_for_index(client: MilvusClient, name: str) -> None:
    """Wait until the index is built. Before that, a server answers from a temporary index, which has another recall."""
    seen, progressed = -1, time.monotonic()
    while True:
        status = client.describe_index(name, "vector", timeout=TIMEOUT) or {}
        # milvus-lite builds the index at once and reports no counts.
        done, rows = int(status.get("indexed_rows", 0)), int(status.get("total_rows", 0))
        if status.get("state", "Finished") == "Finished" and done >= rows:
            return
        if done != seen:
            log.info("%s: %d of %d passages indexed", name, done, rows)
            seen, progressed = done, time.monotonic()
        if time.monotonic() - progressed > STUCK_SECONDS:
            reason = status.get("index_state_fail_reason") or f"no progress for {STUCK_SECONDS:.0f} s"
            raise NightshiftError(f"collection {name}: {done} of {rows} passages indexed, then {reason}")
        time.sleep(POLL_SECONDS)


def read_identity(client: MilvusClient, collection: str) -> Identity:
    """Read the identity of a collection from its properties. Raises Mismatch when it does not belong to a release."""
    return Identity.read(collection, client.describe_collection(collection, timeout=TIMEOUT).get("properties", {}))


def key_of(hit: Mapping[str, Any]) -> str:
    """Return the passage id of a hit. Servers before 2.4 return the key as `id`."""
    return str(hit["id"] if "id" in hit else hit["passage_id"])


def _keys_filter(keys: Sequence[str] | Sequence[int], slots: Slots | None) -> str:
    if isinstance(keys[0], str):
        return f"passage_id in [{', '.join(quote(str(key)) for key in keys)}]"
    rows = [int(key) for key in keys]
    return f"row in {rows if slots is None else slots.select(rows)}"


class CollectionReader:
    """A `Reader` over a pymilvus client, which it owns.

    Args:
        client: closed by `close`.
        collection: concrete name.
        settings: search parameters and timeouts.
        on_close: frees resources after the client is closed.
        check: verifies the collection's files, raising Damaged; None: the files are on a server.
        vectors: file with all vectors, float32, in row order; None: vectors are requested.
        slots: maps the field `row` to rows of the snapshot; None: they are equal.

    Raises Mismatch when the collection does not belong to a release.
    """

    def __init__(
        self,
        client: MilvusClient,
        collection: str,
        settings: MilvusSettings,
        on_close: Callable[[], None] | None = None,
        check: Callable[[], None] | None = None,
        vectors: Path | None = None,
        slots: Slots | None = None,
    ) -> None:
        self._client, self._settings, self._on_close, self._check = client, settings, on_close, check
        self._slots, self.keys_at_once = slots, ROWS_PER_REQUEST if check is None else EMBEDDED_ROWS
        with convert_errors(f"collection {collection}"):
            self.identity = read_identity(client, collection)
            client.load_collection(collection, replica_number=settings.replicas, timeout=TIMEOUT)
        shape = (self.identity.rows, self.identity.dimension)
        self._vectors: np.ndarray | None = None
        if vectors is not None and vectors.stat().st_size == 4 * shape[0] * shape[1]:
            self._vectors = np.memmap(vectors, np.float32, "r", shape=shape)
        self._build_params: dict[str, int] = json.loads(self.identity.index_params)
        # Search once from this thread: concurrent first searches may see a half-loaded collection. It also loads what
        # the server had left for the first search, so it is part of loading.
        self._seconds = TIMEOUT
        self.search(np.ones((1, self.identity.dimension), np.float32), 1)
        self._seconds = settings.query_seconds

    def count(self) -> int:
        """Count the rows, with strong consistency."""
        return int(self._query("", ["count(*)"])[0]["count(*)"])

    def keys(self, first: int, last: int) -> list[tuple[int, str, str]]:
        """Return (row, passage_id, text_hash) of snapshot rows [first, last), ordered by row."""
        ranges = [(int(first), int(last))] if self._slots is None else self._slots.ranges(first, last)
        rule = " or ".join(f"(row >= {start} and row < {end})" for start, end in ranges)
        stored = self._query(rule, ["row", "passage_id", "text_hash"]) if ranges else []
        keys = sorted((self._row(row["row"]), row["passage_id"], row["text_hash"]) for row in stored)
        return [key for key in keys if first <= key[0] < last]

    def _row(self, stored: int) -> int:
        return stored if self._slots is None else self._slots.row(stored)

    def _query(self, rule: str, fields: list[str]) -> list[dict[str, Any]]:
        name = self.identity.collection
        with convert_errors(f"collection {name}"):
            answer: list[dict[str, Any]] = self._client.query(
                name, filter=rule, output_fields=fields, consistency_level="Strong", timeout=TIMEOUT
            )
        return answer

    def fetch(self, keys: Sequence[str] | Sequence[int], fields: Sequence[str], rule: str = "") -> dict[int, Found]:
        """Return the passages with these ids or rows that match the filter `rule`; see `Reader.fetch`."""
        name, passages = self.identity.collection, dict[int, Found]()
        for first in range(0, len(keys), ROWS_PER_REQUEST):
            keys_filter = _keys_filter(keys[first : first + ROWS_PER_REQUEST], self._slots)
            with convert_errors(f"collection {name}"):
                answer = self._client.query(
                    name,
                    filter=f"{keys_filter} and {rule}" if rule else keys_filter,
                    output_fields=["row", "passage_id", *fields],
                    consistency_level="Eventually",  # as in `search`
                    timeout=self._seconds,
                )
            rows = [self._row(entry["row"]) for entry in answer]
            passages |= {row: Found(row, hit["passage_id"], 0.0, hit) for row, hit in zip(rows, answer, strict=True)}
        return passages

    def vectors(self, rows: Sequence[int], passage_ids: Sequence[str]) -> np.ndarray:
        """Return the vectors of passages; see `Reader.vectors`."""
        if self._vectors is not None:
            return np.asarray(self._vectors[list(rows)])
        passages = self.fetch(passage_ids, ["vector"])
        return np.array([passages[row].fields["vector"] for row in rows], np.float32).reshape(len(rows), -1)

    def search(self, vectors: np.ndarray, k: int, fields: Sequence[str] = (), rule: str = "") -> list[list[Found]]:
        """Return the `k` passages with the highest inner product for each vector; see `Reader.search`."""
        name, index = self.identity.collection, self.identity.index
        overrides = self._settings.search_params if self._settings.index == index else {}
        with convert_errors(f"collection {name}"):
            answers = self._client.search(
                name,
                data=np.asarray(vectors, np.float32),
                filter=rule,
                limit=k,
                output_fields=["row", *fields],
                search_params={
                    "metric_type": self.identity.metric,
                    "params": search_params(index, k, self._build_params, overrides),
                },
                consistency_level="Eventually",  # a published collection never changes, so there is nothing to wait for
                timeout=self._seconds,
            )
        return [
            [Found(self._row(hit["entity"]["row"]), key_of(hit), hit["distance"], hit["entity"]) for hit in hits]
            for hits in answers
        ]

    def check(self) -> None:
        """Verify the files, or search for a few passages if a server stores them; see `Reader.check`."""
        if self._check is not None:
            self._check()
        else:
            check_canaries(self)

    def close(self) -> None:
        """Close the client and free its resources."""
        self._client.close()
        if self._on_close is not None:
            self._on_close()
