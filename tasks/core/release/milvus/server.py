"""Releases on a Milvus server: one collection for each generation, and an alias as the pointer.

Nightshift only resolves the alias. For a while after it moves, a search through the alias may be answered by the old
collection, so readers search concrete names. For other clients that search through it, the move is repeated.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.delta import Delta
from tasks.core.release.milvus.bulk import bulk_insert, remove_files
from tasks.core.release.milvus.collection import (
    METRIC,
    TIMEOUT,
    CollectionReader,
    connect,
    convert_errors,
    create,
    fill,
    index_and_load,
    key_of,
    read_identity,
)
from tasks.core.release.publisher import Identity, Pointer

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

NOT_THERE = (100, 1600)  # Milvus's error codes: no such collection, no such alias
CANARIES = 5  # test searches through the alias after a move, half a second apart


class ServerMilvus:
    """The `Publisher` for a Milvus server: standalone, cluster, or `milvus-lite server`."""

    copies = False  # no version of Milvus that the tests run can copy a collection

    def __init__(self, settings: MilvusSettings) -> None:
        self._settings, self._alias = settings, settings.alias

    def version(self) -> str:
        """Return the server's version. Raises Unreachable when it does not answer, NightshiftError on another error."""
        with self._client() as client:
            return str(client.get_server_version(timeout=TIMEOUT))

    def build(self, identity: Identity, batches: Iterable[pa.RecordBatch], delta: Delta | None = None) -> None:
        """Build a generation's collection, then release it from memory; see `Publisher.build`.

        Always inserts all rows.

        Raises NightshiftError when a collection of that name exists.
        """
        name = identity.collection
        with self._client() as client:
            if client.has_collection(name, timeout=TIMEOUT):
                raise NightshiftError(f"{name}: already exists; a collection's name is never used twice")
            create(client, identity)
            if self._settings.bulk:
                bulk_insert(client, identity, batches, self._settings.bulk)
            else:
                fill(client, identity, batches)
            index_and_load(client, identity)
            client.release_collection(name, timeout=TIMEOUT)
        log.debug("%s: closed", name)

    def open(self, collection: str) -> CollectionReader:
        """Load a collection under its concrete name; see `Opener.open`."""
        client = self._connect()
        try:
            return CollectionReader(client, collection, self._settings)
        except BaseException:
            client.close()
            raise

    def identity(self, collection: str) -> Identity:
        """Read the identity from the collection's properties. The collection need not be loaded."""
        with self._client() as client:
            return read_identity(client, collection)

    def check_files(self, collection: str) -> Identity | None:
        """Return None: the server stores the files."""
        return None

    def move_pointer(self, pointer: Pointer) -> None:
        """Move the alias; move it again while a search through it is answered by the old collection."""
        with self._client() as client:
            self._move_alias(client, pointer.collection)
            for _ in range(CANARIES):
                if self._answers_from(pointer.collection):
                    return
                log.warning(
                    "alias %s: searches through it still reach the old collection; moving it again", self._alias
                )
                time.sleep(0.5)
                self._move_alias(client, pointer.collection)
        log.warning(
            "alias %s: names %s, but searches through it still reach the old collection. Nightshift is not affected; "
            "other clients should search the collection's name",
            self._alias,
            pointer.collection,
        )

    def set_pointer_aside(self, reason: object) -> None:
        """Do nothing: an alias can always be read."""

    def serving(self) -> Pointer | None:
        """Resolve the alias and read the properties of its collection; return None when there is no alias."""
        with self._client() as client:
            name = self._resolve_alias(client)
            if name is None:
                return None
            identity = read_identity(client, name)
        return Pointer(release=identity.release, collection=name, fingerprint=identity.fingerprint)

    def unload(self, collection: str) -> None:
        """Release a loaded collection from memory; see `Publisher.unload`."""
        from pymilvus.client.types import LoadState

        with self._client() as client:
            state = client.get_load_state(collection, timeout=TIMEOUT)["state"]
            if state in (LoadState.Loaded, LoadState.Loading):
                client.release_collection(collection, timeout=TIMEOUT)
                log.debug("%s: released from memory", collection)

    def drop(self, collection: str) -> None:
        """Drop a collection, and the files that a killed bulk import of it left in `[milvus] bulk`.

        Raises NightshiftError when any alias names the collection.
        """
        with self._client() as client:
            # Never drop by alias: Milvus would drop the collection behind it.
            if collection not in client.list_collections(timeout=TIMEOUT):
                return
            aliases = client.list_aliases(collection, timeout=TIMEOUT)["aliases"]
            if aliases or self._resolve_alias(client) == collection:
                raise NightshiftError(f"{collection} is serving as {', '.join(aliases)}; it cannot be removed")
            if self._settings.bulk:
                remove_files(self._settings.bulk, collection)
            client.drop_collection(collection, timeout=TIMEOUT)

    def collections(self) -> set[str]:
        """Return the names of all collections of this alias on the server, finished or not."""
        pattern = re.compile(rf"{re.escape(self._alias)}_r\d{{4,}}_[0-9a-f]{{8}}")
        with self._client() as client:
            return {name for name in client.list_collections(timeout=TIMEOUT) if pattern.fullmatch(name)}

    def tidy(self) -> None:
        """Do nothing: a server keeps only collections."""

    def _resolve_alias(self, client: MilvusClient) -> str | None:
        from pymilvus import MilvusException

        try:
            return str(client.describe_alias(self._alias, timeout=TIMEOUT)["collection_name"])
        except MilvusException as error:
            if error.code in NOT_THERE:
                return None
            raise

    def _move_alias(self, client: MilvusClient, collection: str) -> None:
        from pymilvus import MilvusException

        try:
            client.alter_alias(collection, self._alias, timeout=TIMEOUT)
        except MilvusException as error:
            if error.code not in NOT_THERE:
                raise
            client.create_alias(collection, self._alias, timeout=TIMEOUT)

    def _answers_from(self, collection: str) -> bool:
        """Return whether a new client gets the same hits through the alias as from the collection."""
        from pymilvus import MilvusException

        with self._client() as client:
            request = {
                "data": [[1.0] * read_identity(client, collection).dimension],
                "limit": 10,
                "search_params": {"metric_type": METRIC},
                "consistency_level": "Eventually",
                "timeout": TIMEOUT,
            }
            try:
                answers = [client.search(name, **request)[0] for name in (self._alias, collection)]
            except MilvusException as error:
                log.warning("alias %s: test search failed: %s", self._alias, error)
                return False
        through, direct = ([(key_of(hit), hit["distance"]) for hit in hits] for hits in answers)
        return through == direct

    def _connect(self) -> MilvusClient:
        return connect(self._settings.uri, self._settings.token.get_secret_value())

    @contextmanager
    def _client(self) -> Iterator[MilvusClient]:
        client = self._connect()
        try:
            with convert_errors(f"Milvus at {self._settings.uri}"):
                yield client
        finally:
            client.close()
