"""The searcher: embeds each query with the encoder that made the collection's vectors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.core.base.errors import NO_RELEASE, Damaged, Impossible, NightshiftError, Unreachable
from tasks.core.base.ranking import Mode, Ranking
from tasks.core.base.receipts import Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.release import history
from tasks.core.release.publisher import Loader, Opener, Pointer, VectorEncoder, default_loader, ranking_of
from tasks.core.release.rollback import releases_before
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.checks import check_mode, check_request
from tasks.core.search.filters import Filters
from tasks.core.search.forgotten import ForgottenHits
from tasks.core.search.lexical import Lexical
from tasks.core.search.pinned import CLOSED, Answer, Hit, Pinned, check_pair

__all__ = ["Answer", "Hit", "Searcher"]

log = logging.getLogger("nightshift.search")


class Searcher:
    """Search the serving release. Thread-safe. Close it, or use it in a `with` statement.

    Collection and encoder are pinned together, so an answer comes from one release only. A background thread reads the
    pointer every `[milvus] notice_seconds`. It switches to a new release after that is loaded and warm; searches in
    progress finish on the old release. Another thread verifies the release's files every `[release] check_minutes`.
    If they are damaged, queries are refused, or the previous release answers if `[release]
    serve_previous_when_damaged` is set.
    """

    def __init__(self, settings: Settings, loader: Loader, publisher: Opener) -> None:
        self._home, self._loader, self._publisher, self._settings = settings.home, loader, publisher, settings
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._closed, self.swaps = threading.Event(), 0  # swaps: changes of the release
        self._forgotten = ForgottenHits(settings.home)
        self._pinned = self._pin(None)
        self._repeat(self.refresh, settings.milvus.notice_seconds, "nightshift-pointer")
        self._repeat(self.check, 60 * settings.release.check_minutes, "nightshift-check")

    @classmethod
    def open(cls, settings: Settings, loader: Loader = default_loader, publisher: Opener | None = None) -> Searcher:
        """Open the serving release of the home in `settings`.

        Raises:
            NightshiftError: there is no release yet, or it does not load.
            Damaged: files of its collection or encoder were changed after they were written.
            Mismatch: the encoder's fingerprint or dimension differs from the collection's.
            Unreachable: the Milvus server does not answer.
        """
        return cls(settings, loader, publisher or open_publisher(settings.home, settings.milvus))

    @property
    def pinned(self) -> Pinned:
        """The open release."""
        return self._pinned

    @property
    def release(self) -> str:
        """Name of the release that answers."""
        return self._pinned.pointer.release

    @property
    def damage(self) -> NightshiftError | None:
        """Why queries are refused; None while they are answered."""
        return self._pinned.damage

    @property
    def stands_in_for(self) -> str:
        """Name of the damaged release that an earlier release replaces; empty if the serving release answers."""
        return self._pinned.instead_of.release if self._pinned.instead_of else ""

    @property
    def ranking(self) -> Ranking:
        """How the release ranks."""
        return self._pinned.ranking

    @property
    def lexical_damage(self) -> NightshiftError | None:
        """Why BM25 cannot answer; None if no damage was detected."""
        return self._pinned.lexical_damage

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        where: Filters | Mapping[str, Any] | None = None,
        mode: Mode | str | None = None,
    ) -> list[Answer]:
        """Search the `k` best passages for each query, all in one release.

        Queries are encoded in one batch; a request to Milvus returns up to 8192 hits. Forgotten passages are left out.

        Args:
            queries: one query or several.
            k: passages per query, 1 to 1000.
            where: rules on passage fields, see `Filters`.
            mode: "dense", "lexical", or "hybrid"; None: as the night found best for the release.

        Returns:
            One answer per query, in order.

        Raises:
            BadUsage: a query is empty or not text, k is out of range, or the filters are invalid.
            Unreachable: Milvus does not answer in time.
            Damaged: files of the release are damaged.
            NightshiftError: Milvus or Java fails.
        """
        texts = [queries] if isinstance(queries, str) else list(queries)
        check_request(texts, k)
        chosen = None if mode is None else check_mode(mode)
        filters = Filters.read(where)
        if not texts:
            return []
        with self._in_use() as pinned:
            try:
                return self._forgotten.search(pinned, texts, k, filters, chosen)
            except (Impossible, Damaged):
                raise
            except NightshiftError as error:
                failed, reason = pinned, error
        # Reopen: a restarted server needs a new connection and may have to load the collection, or the collection was
        # pruned before we saw the new pointer.
        log.warning("release %s: %s. Opening it again", failed.pointer.release, reason)
        with self._refreshing:
            if self._pinned is failed:
                try:
                    self._change(failed)
                except Damaged as error:
                    failed.damage = error  # refuses the next query immediately
                    raise
        with self._in_use() as pinned:
            return self._forgotten.search(pinned, texts, k, filters, chosen)

    def refresh(self) -> bool:
        """Switch to the serving release if the pointer moved. Searches in progress finish on the old release.

        Returns:
            Whether the release changed.

        Raises:
            NightshiftError: as `open`; the current release keeps answering.
        """
        with self._refreshing:
            old, pointer = self._pinned, self._serving()
            if moved := pointer.collection != (old.instead_of or old.pointer).collection:
                self._change(old)
            self._forgotten.count(self._pinned)
            return moved

    def check(self) -> None:
        """Verify the files of the release. If they are damaged, refuse queries until a release opens without damage.

        Raises:
            NightshiftError: as `open` while no release answers, or when the Milvus server fails.
        """
        with self._refreshing:
            pinned = self._pinned
            if pinned.damage is None:
                try:
                    pinned.check()
                except Damaged as error:
                    pinned.damage = error
                    log.error("release %s no longer answers: %s", pinned.pointer.release, error)
            if pinned.damage is not None or pinned.instead_of is not None:
                self._change(pinned)

    def _change(self, old: Pinned) -> None:
        new = self._pin(old)
        with self._lock:
            closed = self._closed.is_set()
            if not closed:
                self._pinned = new
                self.swaps += new.pointer.release != old.pointer.release
            idle = old.retire()
        if closed:
            new.close()
            raise NightshiftError(CLOSED)
        if idle:
            old.close()
        log.info("now serving release %s", new.pointer.release)

    def close(self) -> None:
        """Close the collection after all searches in progress have ended."""
        self._closed.set()
        with self._lock:
            idle = self._pinned.retire()
        if idle:
            self._pinned.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _repeat(self, action: Callable[[], object], seconds: float, name: str) -> None:
        """Call `action` every `seconds` in a background thread until the searcher is closed; 0: never."""
        if seconds > 0:
            threading.Thread(target=self._watch, args=(action, seconds), name=name, daemon=True).start()

    def _watch(self, action: Callable[[], object], seconds: float) -> None:
        reported = ""
        while not self._closed.wait(seconds):
            try:
                action()
                reported = ""
            except Exception as error:  # the pinned release must keep answering, unless it is damaged
                if str(error) != reported:
                    log.warning(
                        "keeping release %s, because the serving release does not open: %s", self.release, error
                    )
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
                unused = pinned.leave()
            if unused and self._closed.is_set():
                pinned.close()
            elif unused:  # in a thread, because closing can take longer than the query
                threading.Thread(target=pinned.close, name="nightshift-close").start()

    def _pin(self, old: Pinned | None) -> Pinned:
        """Open the release of the pointer; try again if the pointer moved or was corrected in the meantime."""
        while True:
            pointer = self._serving()
            try:
                return self._open(pointer, old)
            except Unreachable:
                raise
            except NightshiftError as error:
                with suppress(NightshiftError):
                    history.serving(self._settings)  # corrects a pointer to a missing release
                if self._serving() == pointer:
                    return self._stand_in(pointer, old, error)

    def _serving(self) -> Pointer:
        """Read the pointer. A lost or damaged pointer is restored from the ledger, or from the releases."""
        try:
            pointer = self._publisher.serving()
        except Damaged:
            pointer = None
        if pointer is None and (self._home / Release.shelf).is_dir():
            history.serving(self._settings)
            pointer = self._publisher.serving()
        if pointer is None:
            raise NightshiftError(f"{self._home.absolute()}: {NO_RELEASE}")
        return pointer

    def _stand_in(self, damaged: Pointer, old: Pinned | None, error: NightshiftError) -> Pinned:
        """Open the newest earlier release that opens. Raises `error` if there is none or the settings forbid it."""
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
            identity, ranking = reader.identity, ranking_of(reader.identity)
            lexical = Lexical(self._home, ranking, identity.snapshot, identity.rows)
        except BaseException:
            reader.close()
            raise
        snapshot = self._home / Snapshot.shelf / identity.snapshot
        return Pinned(pointer, reader, encoder, folder, snapshot, ranking, lexical)

    def _warm(self, folder: Path) -> VectorEncoder:
        """Load an encoder and encode a first query, which is slow, before users wait for it."""
        encoder = self._loader(folder)
        encoder.encode_queries(["warm"])
        return encoder
