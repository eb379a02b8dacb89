"""The searcher: embeds a query with the encoder of the very collection it searches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tasks.core.base.errors import BadUsage, Damaged, Impossible, NightshiftError, Unreachable
from tasks.core.base.plain_text import check_text, visible
from tasks.core.base.receipts import Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.release import history
from tasks.core.release.publisher import Loader, Opener, Pointer, VectorEncoder, default_loader
from tasks.core.release.rollback import releases_before
from tasks.core.release.vector_stores import open_publisher
from tasks.core.retrieval.bm25_searcher import Bm25Searcher
from tasks.core.search.filters import Filters
from tasks.core.search.pinned import CLOSED, Answer, Hit, Pinned, check_pair

__all__ = ["Answer", "Hit", "Searcher"]

log = logging.getLogger("nightshift.search")

MOST = 1000  # passages a query


class Searcher:
    """Searches the serving release; safe for several threads. Close it, or use it in a `with`.

    Collection and encoder are pinned together: an answer comes wholly from one release. Every `[milvus]
    notice_seconds` it looks at the pointer, in a thread of its own, and changes to another release when that is loaded
    and warm; searches under way finish on the old one. Every `[release] check_minutes` it verifies the files that it
    answers from. Once they are damaged no query is answered from them: they are refused, or the release before answers
    where `[release] serve_previous_when_damaged` is set.
    """

    def __init__(self, settings: Settings, loader: Loader, publisher: Opener) -> None:
        self._home, self._loader, self._publisher, self._settings = settings.home, loader, publisher, settings
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._pinned = self._pin(None)
        self._repeat(self.refresh, settings.milvus.notice_seconds, "nightshift-pointer")
        self._repeat(self.check, 60 * settings.release.check_minutes, "nightshift-check")

    @classmethod
    def open(cls, settings: Settings, loader: Loader = default_loader, publisher: Opener | None = None) -> Searcher:
        """Open the serving release that `settings` lead to.

        Raises:
            NightshiftError: nothing was released yet, or the release does not load.
            Damaged: files of its collection or its encoder are not those that were written.
            Mismatch: the encoder's own fingerprint or dimension is not that of the collection.
            Unreachable: the Milvus server does not answer.
        """
        return cls(settings, loader, publisher or open_publisher(settings))

    @property
    def release(self) -> str:
        """The release that answers now."""
        return self._pinned.pointer.release

    @property
    def damage(self) -> NightshiftError | None:
        """Why no query is answered; None while queries are."""
        return self._pinned.damage

    @property
    def stands_in_for(self) -> str:
        """The damaged release in whose place the one before answers; empty when the serving one does."""
        return self._pinned.instead_of.release if self._pinned.instead_of else ""

    @property
    def lexical_damage(self) -> NightshiftError | None:
        """Why BM25 does not answer; None while nobody noticed any damage."""
        return self._pinned.lexical_damage

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
        Milvus or Java refuses; Unreachable when Milvus does not answer in time; Damaged when the release is damaged.
        """
        asked = [queries] if isinstance(queries, str) else list(queries)
        _check_request(asked, k)
        filters = Filters.read(where)
        if not asked:
            return []
        with self._in_use() as pinned:
            try:
                return pinned.search(asked, k, filters, fuse)
            except (Impossible, Damaged):
                raise
            except NightshiftError as error:
                failed, reason = pinned, error
        # A server that was started again wants a new connection, and perhaps has it to load; or it was pruned before
        # we noticed that another one serves.
        log.warning("release %s: %s; opened again", failed.pointer.release, reason)
        with self._refreshing:
            if self._pinned is failed:
                try:
                    self._change(failed)
                except Damaged as error:
                    failed.damage = error  # so that the next query is refused at once
                    raise
        with self._in_use() as pinned:
            return pinned.search(asked, k, filters, fuse)

    def refresh(self) -> bool:
        """Change to the serving release when the pointer moved; true when it had. Searches under way finish first.

        Raises as `open` does, and goes on with the release it has.
        """
        with self._refreshing:
            old, pointer = self._pinned, self._serving()
            if pointer.collection == (old.instead_of or old.pointer).collection:
                return False
            self._change(old)
            return True

    def check(self) -> None:
        """Verify what answers. Damaged, it answers no more, until the release opens whole again or another serves.

        Raises as `open` does while nothing answers, and NightshiftError when a Milvus server refuses.
        """
        with self._refreshing:
            pinned = self._pinned
            if pinned.damage is None:
                try:
                    pinned.check()
                except Damaged as error:
                    pinned.damage = error
                    log.error("release %s answers no more: %s", pinned.pointer.release, error)
            if pinned.damage is not None or pinned.instead_of is not None:
                self._change(pinned)

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

    def _repeat(self, act: Callable[[], object], seconds: float, name: str) -> None:
        """Call `act` every so many seconds until the searcher is closed, in a thread of its own; 0: never."""
        if seconds > 0:
            threading.Thread(target=self._watch, args=(act, seconds), name=name, daemon=True).start()

    def _watch(self, act: Callable[[], object], seconds: float) -> None:
        reported = ""
        while not self._closed.wait(seconds):
            try:
                act()
                reported = ""
            except Exception as error:  # whatever it is, the release that is pinned answers on, unless it is damaged
                if str(error) != reported:
                    log.warning("release %s stays, the serving one does not open: %s", self.release, error)
                reported = str(error)

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
        """Open what the pointer names; again when the pointer moves, or was wrong, and the collection is gone."""
        while True:
            pointer = self._serving()
            try:
                return self._open(pointer, old)
            except Unreachable:
                raise
            except NightshiftError as error:
                with suppress(NightshiftError):
                    history.serving(self._settings)  # corrects a pointer that names what is no release
                if self._serving() == pointer:
                    return self._stand_in(pointer, old, error)

    def _serving(self) -> Pointer:
        """The pointer; a lost or damaged one is made again from the ledger, or from the releases."""
        try:
            pointer = self._publisher.serving()
        except Damaged:
            pointer = None
        if pointer is None and (self._home / Release.shelf).is_dir():
            history.serving(self._settings)
            pointer = self._publisher.serving()
        if pointer is None:
            raise NightshiftError(f"{self._home.absolute()}: no release yet. `nightshift run` makes the first.")
        return pointer

    def _stand_in(self, damaged: Pointer, old: Pinned | None, error: NightshiftError) -> Pinned:
        """The last release before the damaged one that opens; raises `error` when none does or may."""
        allowed = self._settings.release.serve_previous_when_damaged
        for release in releases_before(self._settings, damaged.release) if allowed else []:
            fields = release.model_dump(include={"release", "collection", "fingerprint"})
            try:
                pinned = self._open(Pointer(**fields), old)
            except NightshiftError as unusable:
                log.warning("release %s does not open: %s", release.release, unusable)
                continue
            pinned.instead_of = damaged
            log.error("release %s answers in place of %s: %s", release.release, damaged.release, error)
            return pinned
        raise error

    def _open(self, pointer: Pointer, old: Pinned | None) -> Pinned:
        reader = self._publisher.open(pointer.collection)
        try:
            folder = self._home / Encoder.shelf / reader.identity.encoder
            encoder = old.encoder if old is not None and old.folder == folder else self._warm(folder)
            check_pair(reader, encoder, pointer.release)
        except BaseException:
            reader.close()
            raise
        snapshot = reader.identity.snapshot
        lexical = Bm25Searcher(self._settings, snapshot)
        return Pinned(pointer, reader, encoder, folder, self._home / Snapshot.shelf / snapshot, lexical)

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
