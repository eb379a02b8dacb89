"""Releases on a Milvus server: a collection of its own for each generation, and an alias as the pointer.

The alias is only ever resolved. A search through it may be answered by the old collection for a while after it moved,
so readers search concrete names; what searches through it all the same is helped by pointing it again.
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
from tasks.core.release.milvus.bulk import bulk_insert, remove_files
from tasks.core.release.milvus.collection import (
    METRIC,
    TIMEOUT,
    CollectionReader,
    connect,
    create,
    fill,
    index_and_load,
    key_of,
    readable,
)
from tasks.core.release.publisher import Identity, Pointer

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

NOT_THERE = (100, 1600)  # Milvus's codes: no such collection, no such alias
CANARIES = 5  # looks through the alias after it moved, half a second apart


class ServerMilvus:
    """The `Publisher` for a Milvus server: standalone, cluster, or `milvus-lite server`."""

    def __init__(self, settings: MilvusSettings) -> None:
        self._settings, self._alias = settings, settings.alias

    def version(self) -> str:
        """What the server calls itself. Raises Unreachable when nobody answers, NightshiftError when it refuses."""
        with self._client() as client:
            return str(client.get_server_version(timeout=TIMEOUT))

    def build(self, identity: Identity, batches: Iterable[pa.RecordBatch]) -> None:
        """Make a generation's collection, and release its memory again; see `Publisher.build`.

        Raises NightshiftError when there is one of that name.
        """
        name = identity.collection
        with self._client() as client:
            if client.has_collection(name, timeout=TIMEOUT):
                raise NightshiftError(f"{name}: exists already; a collection's name is never used twice")
            create(client, identity)
            if self._settings.bulk:
                bulk_insert(client, identity, batches, self._settings.bulk)
            else:
                fill(client, identity, batches)
            index_and_load(client, identity)
            client.release_collection(name, timeout=TIMEOUT)
        log.debug("%s: closed", name)

    def open(self, collection: str) -> CollectionReader:
        """Load a collection under its concrete name; see `Publisher.open`."""
        client = self._connect()
        try:
            return CollectionReader(client, collection, self._settings)
        except BaseException:
            client.close()
            raise

    def identity(self, collection: str) -> Identity:
        """Who a collection is, from its properties; it need not be loaded."""
        with self._client() as client:
            return _identity(client, collection)

    def flip(self, pointer: Pointer) -> None:
        """Alter the alias, look through it, and alter it again where the old collection still answers."""
        with self._client() as client:
            self._point(client, pointer.collection)
            for _ in range(CANARIES):
                if self._answers_from(pointer.collection):
                    return
                log.warning("alias %s: searches through it still meet the old collection; pointed again", self._alias)
                time.sleep(0.5)
                self._point(client, pointer.collection)
        log.warning("alias %s: names %s, but is still searched stale", self._alias, pointer.collection)

    def set_pointer_aside(self, reason: object) -> None:
        """An alias can always be read."""

    def serving(self) -> Pointer | None:
        """What the alias names, from the properties of that collection; None when there is no alias."""
        with self._client() as client:
            name = self._target(client)
            if name is None:
                return None
            identity = _identity(client, name)
        return Pointer(release=identity.release, collection=name, fingerprint=identity.fingerprint)

    def unload(self, collection: str) -> None:
        """Release a collection that is loaded; see `Publisher.unload`."""
        from pymilvus.client.types import LoadState

        with self._client() as client:
            state = client.get_load_state(collection, timeout=TIMEOUT)["state"]
            if state in (LoadState.Loaded, LoadState.Loading):
                client.release_collection(collection, timeout=TIMEOUT)
                log.debug("%s: released from memory", collection)

    def drop(self, collection: str) -> None:
        """Drop a collection. Raises NightshiftError when an alias names it, ours or another's.

        With it goes what a bulk import that was killed left where `[milvus] bulk` says.
        """
        with self._client() as client:
            # Never by an alias: Milvus would drop what it points to.
            if collection not in client.list_collections(timeout=TIMEOUT):
                return
            aliases = client.list_aliases(collection, timeout=TIMEOUT)["aliases"]
            if aliases or self._target(client) == collection:
                raise NightshiftError(f"{collection} is serving as {', '.join(aliases)}; it cannot be removed")
            if self._settings.bulk:
                remove_files(self._settings.bulk, collection)
            client.drop_collection(collection, timeout=TIMEOUT)

    def collections(self) -> set[str]:
        """Every generation under this alias on the server, whole or half built."""
        ours = re.compile(rf"{re.escape(self._alias)}_r\d{{4,}}_[0-9a-f]{{8}}")
        with self._client() as client:
            return {name for name in client.list_collections(timeout=TIMEOUT) if ours.fullmatch(name)}

    def tidy(self) -> None:
        """Nothing lies beside the collections of a server."""

    def _target(self, client: MilvusClient) -> str | None:
        from pymilvus import MilvusException

        try:
            return str(client.describe_alias(self._alias, timeout=TIMEOUT)["collection_name"])
        except MilvusException as error:
            if error.code in NOT_THERE:
                return None
            raise

    def _point(self, client: MilvusClient, collection: str) -> None:
        from pymilvus import MilvusException

        try:
            client.alter_alias(collection, self._alias, timeout=TIMEOUT)
        except MilvusException as error:
            if error.code not in NOT_THERE:
                raise
            client.create_alias(collection, self._alias, timeout=TIMEOUT)

    def _answers_from(self, collection: str) -> bool:
        """Whether a new client that searches through the alias gets what the collection itself answers."""
        from pymilvus import MilvusException

        with self._client() as client:
            asked = {
                "data": [[1.0] * _identity(client, collection).dimension],
                "limit": 10,
                "search_params": {"metric_type": METRIC},
                "consistency_level": "Eventually",
                "timeout": TIMEOUT,
            }
            try:
                answers = [client.search(name, **asked)[0] for name in (self._alias, collection)]
            except MilvusException as error:
                log.warning("alias %s: the canary search failed: %s", self._alias, error)
                return False
        through, direct = ([(key_of(hit), hit["distance"]) for hit in hits] for hits in answers)
        return through == direct

    def _connect(self) -> MilvusClient:
        return connect(self._settings.uri, self._settings.token.get_secret_value())

    @contextmanager
    def _client(self) -> Iterator[MilvusClient]:
        client = self._connect()
        try:
            with readable(f"Milvus at {self._settings.uri}"):
                yield client
        finally:
            client.close()


def _identity(client: MilvusClient, collection: str) -> Identity:
    return Identity.read(collection, client.describe_collection(collection, timeout=TIMEOUT).get("properties", {}))
