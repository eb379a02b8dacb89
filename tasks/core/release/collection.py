"""One Milvus collection through pymilvus, embedded or on a server: made, filled, indexed, read."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tasks.core.errors import NightshiftError
from tasks.core.release.publisher import Found, Identity
from tasks.core.release.rows import LIMIT, matrix

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

METRIC = "IP"  # the inner product: what training and evaluation score by, and the cosine where vectors are units
REQUEST_BYTES = 16 << 20  # texts in one insert; a Milvus server refuses messages of 64 MiB
TIMEOUT = 600.0  # seconds; some calls would otherwise wait for ever


def connect(uri: str) -> MilvusClient:
    """A client of the Milvus at `uri`. Raises NightshiftError when there is none."""
    from pymilvus import MilvusClient, MilvusException

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints a traceback of what it also raises
    try:
        return MilvusClient(uri, timeout=TIMEOUT)
    except (MilvusException, OSError, ValueError) as error:
        raise NightshiftError(f"Milvus at {uri} does not answer: {error}") from error


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
    """Insert all batches from this one thread (several writers lose rows), flush once, index, load."""
    name, done = identity.collection, 0
    for batch in batches:
        for part in _small_enough(batch):
            client.insert(name, _records(part), timeout=TIMEOUT)
        done += batch.num_rows
        log.info("%s: %d of %d passages inserted", name, done, identity.rows)
    client.flush(name, timeout=TIMEOUT)
    log.info("%s: flushed", name)
    index = client.prepare_index_params()
    # Nested, because pymilvus sends the outer level flat, and milvus-lite looks only below "params".
    params = {"params": _index_params(identity.index, identity.rows)}
    index.add_index("vector", index_type=identity.index, metric_type=identity.metric, params=params)
    client.create_index(name, index, timeout=TIMEOUT, sync=False)
    client.load_collection(name, timeout=TIMEOUT)  # waits for the index
    log.info("%s: indexed (%s)", name, identity.index)


def _small_enough(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.num_rows > 1 and batch.nbytes > REQUEST_BYTES:
        half = batch.num_rows // 2
        # Copies, because the size of a slice is counted by its parents' buffers in some Arrow types.
        yield from _small_enough(batch.take(pa.array(range(half))))
        yield from _small_enough(batch.take(pa.array(range(half, batch.num_rows))))
    else:
        yield batch


def _records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    vectors = matrix(pa.chunked_array([batch["vector"]]))
    records: list[dict[str, Any]] = batch.drop_columns(["vector"]).to_pylist()
    for record, vector in zip(records, vectors, strict=True):
        record["vector"] = vector
    return records


def _index_params(index: str, rows: int) -> dict[str, int]:
    if index == "HNSW":
        return {"M": 16, "efConstruction": 200}
    return {"nlist": _lists(rows)} if index == "IVF_FLAT" else {}


def _search_params(index: str, rows: int, k: int) -> dict[str, int]:
    if index == "HNSW":
        return {"ef": max(128, 2 * k)}
    return {"nprobe": min(_lists(rows), max(16, _lists(rows) // 4))} if index == "IVF_FLAT" else {}


def _lists(rows: int) -> int:
    """Inverted lists: about √rows, and at least 39 rows to train each, as faiss asks for."""
    return max(1, min(math.isqrt(rows), rows // 39))


class CollectionReader:
    """A `Reader` over a pymilvus client, which it owns; `on_close` gives back what lies behind the client."""

    def __init__(self, client: MilvusClient, collection: str, on_close: Callable[[], None]) -> None:
        self._client, self._on_close = client, on_close
        self.identity = Identity.read(collection, client.describe_collection(collection).get("properties", {}))
        client.load_collection(collection, timeout=TIMEOUT)
        # One thread touches it first: several at once meet a collection that is half loaded.
        self.search(np.ones((1, self.identity.dimension), np.float32), 1)

    def count(self) -> int:
        """Rows, counted with strong consistency."""
        answer = self._client.query(
            self.identity.collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=TIMEOUT
        )
        return int(answer[0]["count(*)"])

    def keys(self, first: int, last: int) -> list[tuple[int, str, str]]:
        """(row, passage_id, text_hash) of snapshot rows [first, last), by row; ids never enter an expression."""
        found = self._client.query(
            self.identity.collection,
            filter=f"row >= {int(first)} and row < {int(last)}",
            output_fields=["row", "passage_id", "text_hash"],
            consistency_level="Strong",
            timeout=TIMEOUT,
        )
        return sorted((one["row"], one["passage_id"], one["text_hash"]) for one in found)

    def search(self, vectors: np.ndarray, k: int, fields: Sequence[str] = ()) -> list[list[Found]]:
        """The `k` best by inner product for each of `vectors` (float32, (n, dimension)), best first."""
        name, index, rows = self.identity.collection, self.identity.index, self.identity.rows
        answers = self._client.search(
            name,
            data=np.asarray(vectors, np.float32),
            limit=k,
            output_fields=["row", *fields],
            search_params={"metric_type": self.identity.metric, "params": _search_params(index, rows, k)},
            timeout=TIMEOUT,
        )
        return [
            [Found(hit["entity"]["row"], hit["passage_id"], hit["distance"], hit["entity"]) for hit in hits]
            for hits in answers
        ]

    def close(self) -> None:
        """Close the client and what lies behind it."""
        self._client.close()
        self._on_close()
