"""The searcher: embeds a query with the encoder of the very collection it searches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.core.errors import Mismatch, NightshiftError
from tasks.core.files import finished
from tasks.core.receipts import Encoder, Release, Snapshot
from tasks.core.release.embedded import EmbeddedMilvus
from tasks.core.release.publisher import Found, Loader, Pointer, Publisher, Reader, VectorEncoder, default_loader

log = logging.getLogger("nightshift.search")

MOST = 1000  # passages a query
HITS_A_REQUEST = 8192  # bounds the answer of one request: texts come with it


class Hit(BaseModel):
    """A passage of an answer; `score` is the inner product of query and passage."""

    model_config = ConfigDict(frozen=True)

    rank: int  # from 1
    score: float
    passage_id: str
    title: str
    text: str


class Answer(BaseModel):
    """What one release says to one query, best passage first."""

    model_config = ConfigDict(frozen=True)

    release: str
    query: str
    hits: tuple[Hit, ...]


class Searcher:
    """Searches the serving release; safe for several threads. Close it, or use it in a `with`.

    Encoder and collection are pinned together: an answer comes wholly from one release, also while `refresh` changes
    to another.
    """

    def __init__(self, home: Path, loader: Loader, publisher: Publisher) -> None:
        self._home, self._loader, self._publisher = home, loader, publisher
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._pinned = self._pin()

    @classmethod
    def open(cls, home: Path, loader: Loader = default_loader, publisher: Publisher | None = None) -> Searcher:
        """Open the serving release of `home`.

        Raises:
            NightshiftError: nothing was released yet, or the release does not load.
            Mismatch: the encoder's own fingerprint or dimension is not that of the collection.
        """
        return cls(home, loader, publisher or EmbeddedMilvus(home))

    @property
    def release(self) -> str:
        """The release that answers now."""
        return self._pinned.pointer.release

    def search(self, query: str, k: int = 10) -> Answer:
        """The `k` best passages for one query. Raises NightshiftError for an empty query or k outside 1 to 1000."""
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int = 10) -> list[Answer]:
        """The `k` best passages for each query, all from one release: one encoding, one request for up to 8192 hits."""
        _check_request(queries, k)
        if not queries:
            return []
        with self._in_use() as pinned:
            return pinned.search(queries, k)

    def refresh(self) -> bool:
        """Change to the serving release when the pointer moved; true when it had. Searches under way finish first."""
        with self._refreshing:
            if self._publisher.serving() == self._pinned.pointer:
                return False
            new = self._pin()
            with self._lock:
                old, self._pinned = self._pinned, new
                old.retire()
            log.info("release %s answers now", new.pointer.release)
            return True

    def close(self) -> None:
        """Give back the collection, once searches under way have ended."""
        with self._lock:
            self._pinned.retire()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _in_use(self) -> Iterator[_Pinned]:
        with self._lock:
            pinned = self._pinned
            pinned.enter()
        try:
            yield pinned
        finally:
            with self._lock:
                pinned.leave()

    def _pin(self) -> _Pinned:
        """Open what the pointer names; once more when the pointer moves and the old collection goes meanwhile."""
        while True:
            pointer = self._publisher.serving()
            if pointer is None:
                raise NightshiftError(f"{self._home}: no release yet. `nightshift run` makes the first.")
            try:
                return self._open(pointer)
            except NightshiftError:
                if self._publisher.serving() == pointer:
                    raise

    def _open(self, pointer: Pointer) -> _Pinned:
        release = finished(self._home / Release.shelf / pointer.release, Release)
        if release is None:
            raise NightshiftError(f"release {pointer.release}: the pointer names it, but its manifest is gone")
        reader = self._publisher.open(pointer.collection)
        try:
            encoder = self._loader(self._home / Encoder.shelf / release.encoder)
            _check_pair(reader, encoder, release)
        except BaseException:
            reader.close()
            raise
        return _Pinned(pointer, reader, encoder, self._home / Snapshot.shelf / release.snapshot)


class _Pinned:
    """A collection and its encoder, closed when retired and no longer in use; its owner's lock guards the count."""

    def __init__(self, pointer: Pointer, reader: Reader, encoder: VectorEncoder, snapshot: Path) -> None:
        self.pointer, self._reader, self._encoder, self._snapshot = pointer, reader, encoder, snapshot
        self._users, self._retired = 0, False

    def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        vectors = self._encoder.encode_queries(list(queries))
        step = max(1, HITS_A_REQUEST // k)
        found = [
            hits
            for first in range(0, len(queries), step)
            for hits in self._reader.search(vectors[first : first + step], k, ["title", "text", "whole"])
        ]
        return [
            Answer(
                release=self.pointer.release,
                query=query,
                hits=tuple(self._hit(rank, one) for rank, one in enumerate(hits, 1)),
            )
            for query, hits in zip(queries, found, strict=True)
        ]

    def _hit(self, rank: int, found: Found) -> Hit:
        texts = found.fields if found.fields["whole"] else _entire(self._snapshot, found.row)
        title, text = texts["title"] or "", texts["text"]
        return Hit(rank=rank, score=found.score, passage_id=found.passage_id, title=title, text=text)

    def enter(self) -> None:
        if self._retired:
            raise NightshiftError("this searcher is closed; open another")
        self._users += 1

    def retire(self) -> None:
        if not self._retired:
            self._retired = True
            self._close_if_idle()

    def leave(self) -> None:
        self._users -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and self._users == 0:
            self._reader.close()


def _check_request(queries: Sequence[str], k: int) -> None:
    if not 1 <= k <= MOST:
        raise NightshiftError(f"k is {k}; ask for 1 to {MOST} passages")
    if any(not query.strip() for query in queries):
        raise NightshiftError("the query is empty; ask for something")


def _check_pair(reader: Reader, encoder: VectorEncoder, release: Release) -> None:
    identity = reader.identity
    if (encoder.fingerprint, encoder.dimension) != (identity.fingerprint, identity.dimension):
        raise Mismatch(
            f"release {release.release}: its collection holds vectors of {identity.fingerprint} (dimension "
            f"{identity.dimension}), encoder {release.encoder} is {encoder.fingerprint} (dimension "
            f"{encoder.dimension}). The encoder's files were altered; `nightshift rollback` serves the release before."
        )
    if identity.release != release.release or reader.count() != identity.rows:
        raise Mismatch(
            f"release {release.release}: its collection says {identity.release} and {reader.count()} of "
            f"{identity.rows} rows; `nightshift rollback` serves the release before"
        )


def _entire(snapshot: Path, row: int) -> dict[str, Any]:
    """Title and text of a passage too long for Milvus, from the one row group of the snapshot that holds its row."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(snapshot / "passages.parquet") as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                table: pa.Table = file.read_row_group(group, columns=["title", "text"]).slice(row, 1)
                return dict(table.to_pylist()[0])
            row -= rows
    raise Mismatch(f"{snapshot}: holds fewer rows than the release made of it")
