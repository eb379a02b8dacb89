"""The searcher: embeds a query with the encoder of the very collection it searches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tasks.core.errors import BadUsage, Impossible, NightshiftError
from tasks.core.files import finished
from tasks.core.plain_text import check_text, visible
from tasks.core.receipts import Encoder, Release, Snapshot
from tasks.core.release.milvus import milvus_of
from tasks.core.release.publisher import Loader, Opener, Pointer, VectorEncoder, default_loader
from tasks.core.search.filters import Filters
from tasks.core.search.lexical import Lexical
from tasks.core.search.pinned import CLOSED, Answer, Hit, Pinned, check_pair
from tasks.core.settings import Settings

__all__ = ["Answer", "Hit", "Searcher"]

log = logging.getLogger("nightshift.search")

MOST = 1000  # passages a query


class Searcher:
    """Searches the serving release; safe for several threads. Close it, or use it in a `with`.

    Collection and encoder are pinned together: an answer comes wholly from one release. Every `[milvus]
    notice_seconds` it looks at the pointer, in a thread of its own, and changes to another release when that is loaded
    and warm; searches under way finish on the old one.
    """

    def __init__(self, settings: Settings, loader: Loader, publisher: Opener) -> None:
        self._home, self._loader, self._publisher, self._settings = settings.home, loader, publisher, settings
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._pinned = self._pin(None)
        if settings.milvus.notice_seconds > 0:
            watch = threading.Thread(
                target=self._watch, args=(settings.milvus.notice_seconds,), name="nightshift-pointer", daemon=True
            )
            watch.start()

    @classmethod
    def open(cls, settings: Settings, loader: Loader = default_loader, publisher: Opener | None = None) -> Searcher:
        """Open the serving release that `settings` lead to.

        Raises:
            NightshiftError: nothing was released yet, or the release does not load.
            Mismatch: the encoder's own fingerprint or dimension is not that of the collection.
            Unreachable: the Milvus server does not answer.
        """
        return cls(settings, loader, publisher or milvus_of(settings))

    @property
    def release(self) -> str:
        """The release that answers now."""
        return self._pinned.pointer.release

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        where: Filters | Mapping[str, Any] | None = None,
        fuse: bool = False,
    ) -> list[Answer]:
        """The `k` best passages for each query, all from one release: one encoding, one request for up to 8192 hits.

        `where` holds rules on passage fields (see `Filters`), `fuse` joins the ranking with BM25's over the same
        snapshot (see `reciprocal_rank`); scores are then those of the fusion.

        Raises BadUsage for a query that is empty or no text, k outside 1 to 1000, or bad filters; NightshiftError when
        Milvus or Java refuses; Unreachable when Milvus does not answer in time.
        """
        asked = [queries] if isinstance(queries, str) else list(queries)
        _check_request(asked, k)
        filters = Filters.read(where)
        if not asked:
            return []
        with self._in_use() as pinned:
            try:
                return pinned.search(asked, k, filters, fuse)
            except Impossible:
                raise
            except NightshiftError as error:
                failed, reason = pinned, error
        # A server that was started again wants a new connection, and perhaps has it to load; or it was pruned before
        # we noticed that another one serves.
        log.warning("release %s: %s; opened again", failed.pointer.release, reason)
        with self._refreshing:
            if self._pinned is failed:
                self._change(failed)
        with self._in_use() as pinned:
            return pinned.search(asked, k, filters, fuse)

    def refresh(self) -> bool:
        """Change to the serving release when the pointer moved; true when it had. Searches under way finish first.

        Raises as `open` does, and goes on with the release it has.
        """
        with self._refreshing:
            old, pointer = self._pinned, self._publisher.serving()
            if pointer is not None and pointer.collection == old.pointer.collection:
                return False
            self._change(old)
            return True

    def _change(self, old: Pinned) -> None:
        new = self._pin(old)
        with self._lock:
            closed = self._closed.is_set()
            if not closed:
                self._pinned = new
            idle = old.retire()
        if closed:
            new.close()
            raise NightshiftError(CLOSED)
        if idle:
            old.close()
        log.info("release %s answers now", new.pointer.release)

    def close(self) -> None:
        """Give back the collection, once searches under way have ended."""
        self._closed.set()
        with self._lock:
            idle = self._pinned.retire()
        if idle:
            self._pinned.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self, seconds: float) -> None:
        said = ""
        while not self._closed.wait(seconds):
            try:
                self.refresh()
                said = ""
            except Exception as error:  # whatever it is, the release that is pinned answers on
                if str(error) != said:
                    log.warning("release %s answers on, the serving one does not open: %s", self.release, error)
                said = str(error)

    @contextmanager
    def _in_use(self) -> Iterator[Pinned]:
        with self._lock:
            pinned = self._pinned
            pinned.enter()
        try:
            yield pinned
        finally:
            with self._lock:
                over = pinned.leave()
            if over and self._closed.is_set():
                pinned.close()
            elif over:  # closing takes longer than many a search, and this query should not wait for it
                threading.Thread(target=pinned.close, name="nightshift-close").start()

    def _pin(self, old: Pinned | None) -> Pinned:
        """Open what the pointer names; once more when the pointer moves and the old collection goes meanwhile."""
        while True:
            pointer = self._publisher.serving()
            if pointer is None:
                raise NightshiftError(f"{self._home.absolute()}: no release yet. `nightshift run` makes the first.")
            try:
                return self._open(pointer, old)
            except NightshiftError:
                if self._publisher.serving() == pointer:
                    raise

    def _open(self, pointer: Pointer, old: Pinned | None) -> Pinned:
        release = finished(self._home / Release.shelf / pointer.release, Release)
        if release is None:
            raise NightshiftError(
                f"release {pointer.release}: the pointer names it, but its manifest is gone. Restore "
                f"{self._home / Release.shelf} from a backup, or serve another: nightshift rollback"
            )
        reader = self._publisher.open(pointer.collection)
        try:
            folder = self._home / Encoder.shelf / release.encoder
            encoder = old.encoder if old is not None and old.folder == folder else self._warm(folder)
            check_pair(reader, encoder, release)
        except BaseException:
            reader.close()
            raise
        lexical = Lexical(self._settings, release.snapshot)
        return Pinned(pointer, reader, encoder, folder, self._home / Snapshot.shelf / release.snapshot, lexical)

    def _warm(self, folder: Path) -> VectorEncoder:
        """The encoder in `folder`, after a first query: that one is slow, and nobody should wait for it."""
        encoder = self._loader(folder)
        encoder.encode_queries(["warm"])
        return encoder


def _check_request(queries: Sequence[str], k: int) -> None:
    if not 1 <= k <= MOST:
        raise BadUsage(f"k is {k}; ask for 1 to {MOST} passages")
    for query in queries:
        if not isinstance(query, str):
            raise BadUsage(f"the query is of type {type(query).__name__}; give text")
        if not query.strip():
            raise BadUsage("the query is empty; ask for something")
        try:
            check_text(query)
        except ValueError as error:
            raise BadUsage(f"the query {visible(query)!r} cannot be searched: {error}. Give UTF-8.") from error
