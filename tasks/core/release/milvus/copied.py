"""Build a generation of milvus-lite from a copy of an earlier one: insert, replace, and delete what changed.

milvus-lite never changes a data or index file; it writes new ones and removes old names. So hard links share them. Its
other files (schema, manifest, write-ahead log) are copied.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.read_ahead import read_ahead
from tasks.core.base.sections.indexes import build_params
from tasks.core.embedding.stored_shards import matrix
from tasks.core.release.delta import NEW, Delta, NotCopied
from tasks.core.release.milvus.collection import TIMEOUT
from tasks.core.release.milvus.inserts import requests_of
from tasks.core.release.milvus.slots import Slots
from tasks.core.release.publisher import Identity

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

MOST_DEAD = 0.1  # replaced and deleted rows among the stored rows; a search visits them, so it takes longer
DATA = "collections/*/partitions/*/data/*.parquet"  # of milvus-lite
EXACT = "FLAT"
DELETES = 4096  # ids in a request


def check_copyable(
    folder: Path, earlier: Identity, identity: Identity, delta: Delta, index_params: dict[str, int]
) -> None:
    """Raise NotCopied when a copy would be wrong or slow to search.

    That is so if the earlier generation has another index, or if too many stored rows would be dead
    (replaced or deleted): more than `MOST_DEAD`, or any at all with an approximate index. There, milvus-lite skips dead
    rows with a filter that makes a search three times as slow; an exact search only visits them.
    """
    if not _same_index(earlier, identity, index_params):
        raise NotCopied(f"{earlier.collection} has another index")
    written = int((~delta.same).sum())
    stored = written + sum(pq.read_metadata(file).num_rows for file in folder.glob(DATA))
    dead = stored - identity.rows
    if dead > MOST_DEAD * stored or (dead and identity.index != EXACT):
        raise NotCopied(f"{dead} of {stored} stored rows would be replaced or deleted ones ({identity.index} index)")


def _same_index(earlier: Identity, new: Identity, index_params: dict[str, int]) -> bool:
    """Return whether two generations have indexes that the same settings describe.

    Args:
        earlier, new: the generations.
        index_params: `[milvus] index_params`. Defaults of other parameters follow from the number of rows.
    """
    names = ("dimension", "metric", "index")
    if [getattr(earlier, name) for name in names] != [getattr(new, name) for name in names]:
        return False
    expected = build_params(earlier.index, earlier.rows, earlier.dimension, index_params)
    return bool(json.loads(earlier.index_params) == expected)


def plan_slots(delta: Delta, before: Slots) -> Slots:
    """Return the slots of the new generation: kept for passages of the earlier one, behind all others for new ones."""
    known = delta.earlier != NEW
    slots = np.empty(len(known), np.int64)
    slots[known] = before.of_rows[delta.earlier[known]]
    slots[~known] = before.end + np.arange((~known).sum())
    return Slots(slots)


def rename(client: MilvusClient, earlier: str, identity: Identity) -> None:
    """Give the copied collection its name and its identity."""
    name = identity.collection
    client.rename_collection(earlier, name, timeout=TIMEOUT)
    client.alter_collection_properties(name, identity.properties(), timeout=TIMEOUT)
    client.load_collection(name, timeout=TIMEOUT)


def apply_delta(
    client: MilvusClient,
    identity: Identity,
    delta: Delta,
    batches: Iterable[pa.RecordBatch],
    vectors: np.ndarray,
    slots: Slots,
) -> int:
    """Delete and insert what changed, then flush; return the number of written and deleted rows.

    Args:
        client: of the copy.
        identity: of the new generation.
        delta: what it has in common with the earlier one.
        batches: all rows, as for a build from nothing. A row with another vector than before is replaced, too.
        vectors: of the earlier generation, float32 (rows, dimension).
        slots: of the new generation.

    Raises NotCopied when unchanged passages have other vectors than before and the index is approximate.
    """
    name = identity.collection
    for first in range(0, len(delta.deleted), DELETES):
        client.delete(name, ids=delta.deleted[first : first + DELETES], timeout=TIMEOUT)
    log.debug("%s: %d passages deleted", name, len(delta.deleted))
    written = 0
    for batch in _select_changed(identity, delta, batches, vectors, slots):
        for records in requests_of(batch):
            client.upsert(name, records, timeout=TIMEOUT)
        written += batch.num_rows
        log.debug("%s: %d changed passages inserted", name, written)
    client.flush(name, timeout=TIMEOUT)
    log.info("%s: %d passages inserted and %d deleted in a copy", name, written, len(delta.deleted))
    return written + len(delta.deleted)


def _select_changed(
    identity: Identity, delta: Delta, batches: Iterable[pa.RecordBatch], vectors: np.ndarray, slots: Slots
) -> Iterator[pa.RecordBatch]:
    """Yield the rows that the copy lacks, with their slots as `row`."""
    for batch in read_ahead(batches):
        rows = batch["row"].to_numpy()
        new = matrix(batch["vector"], batch["vector"].type.list_size)
        changed = ~delta.same[rows]
        kept = np.flatnonzero(~changed)
        other = (vectors[delta.earlier[rows[kept]]] != new[kept]).any(axis=1)
        if other.any() and identity.index != EXACT:
            raise NotCopied(f"{int(other.sum())} unchanged passages of a batch have other vectors than before")
        changed[kept] = other
        if changed.any():
            at = batch.schema.get_field_index("row")
            numbered = batch.set_column(at, "row", pa.array(slots.of_rows[rows]))
            yield numbered.filter(pa.array(changed))
