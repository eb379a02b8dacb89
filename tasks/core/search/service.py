"""The search service: chooses the release that answers a request, and limits concurrent searches."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.base.settings import Settings
from tasks.core.base.tracing import span
from tasks.core.release.publisher import Loader, Opener, default_loader
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.live import LiveShadow
from tasks.core.search.metrics import ServiceMetrics, ServiceState
from tasks.core.search.named_releases import find_release, loadable, open_release
from tasks.core.search.pinned import Answer
from tasks.core.search.requests import Comparison, Health, Releases, SearchRequest, SearchResponse, Status
from tasks.core.search.searcher import Searcher
from tasks.core.search.stages import Durations, Stage, record_durations
from tasks.core.search.worker_pool import WorkerPool

log = logging.getLogger("nightshift.search")

NAMED_RELEASES = 2  # releases kept open for comparisons: one for each column of the page


class Service:
    """Answers from the serving release, or from a release that the request names.

    Use it from one event loop, and close it at the end.
    """

    def __init__(self, settings: Settings, searcher: Searcher, loader: Loader, opener: Opener) -> None:
        self.settings, self._searcher, self._loader, self._opener = settings, searcher, loader, opener
        self._named: OrderedDict[str, Searcher] = OrderedDict()
        self._live: LiveShadow | None = None
        self._serving_pool = WorkerPool("serving", settings.service.concurrency)
        # Opening a release takes seconds. A pool of one thread keeps comparisons from delaying normal searches.
        self._comparison_pool = WorkerPool("comparing", 1)
        self.metrics = ServiceMetrics(settings.home, self._state)

    @classmethod
    def open(cls, settings: Settings, loader: Loader = default_loader, opener: Opener | None = None) -> Service:
        """Open the serving release, and the release of `[service] shadow_release`. Raises as `Searcher.open`."""
        milvus = opener or open_publisher(settings.home, settings.milvus)
        service = cls(settings, Searcher.open(settings, loader, milvus), loader, milvus)
        if name := settings.service.shadow_release:
            try:
                challenger = open_release(settings, name, loader, milvus)
            except NightshiftError:
                service.close()
                raise
            service._live = LiveShadow(settings.home, challenger, settings.service.shadow_share)
            log.info("shadowing %.0f %% of requests with %s", 100 * settings.service.shadow_share, challenger.release)
        return service

    @property
    def release(self) -> str:
        """Name of the release that answers."""
        return self._searcher.release

    def health(self) -> Health:
        """Return the health of the service. Reasons contain only release names, because the endpoint is public."""
        release, stands_in_for = self.release, self._searcher.stands_in_for
        if self._searcher.damage is not None:
            reason = f"release {release} is damaged; no query is answered"
            return Health(status=Status.FAILING, release=release, reason=reason)
        if stands_in_for:
            reason = f"release {stands_in_for} is damaged; the previous release answers"
            return Health(status=Status.DEGRADED, release=release, reason=reason)
        if self._searcher.lexical_damage is not None:
            reason = f"the lexical index of release {release} is damaged; only dense queries are answered"
            return Health(status=Status.DEGRADED, release=release, reason=reason)
        return Health(release=release)

    def releases(self) -> Releases:
        """Return the serving release, and the releases that can be searched by name."""
        return Releases(
            serving=self.release,
            releases=[Comparison.of(release) for release in loadable(self.settings)],
            feedback=self.settings.feedback.collect,
        )

    async def answer(self, request: SearchRequest) -> SearchResponse:
        """Answer a search request.

        Raises:
            Full: all places in the queue are taken.
            TooSlow: no answer within `[service] seconds`.
            NoSuchRelease: the named release does not exist.
            NightshiftError: as `Searcher.search`.
        """
        began, limit = time.perf_counter(), self.settings.service.seconds
        searched: Searched | None = None
        if request.release in ("", self.release):
            searched = await self._serving_pool.run(lambda: _search(lambda: self._searcher, request, began), limit)
        # The pointer may have moved in the meantime: a request for a named release must get that release.
        if searched is None or request.release not in ("", searched.answers[0].release):
            searched = await self._comparison_pool.run(
                lambda: _search(lambda: self._open_named(request.release), request, began), limit
            )
        elif self._live is not None:
            self._live.offer(searched.answers, request.k, request.filters, request.chosen_mode)
        answers, seconds = searched.answers, time.perf_counter() - began
        self.metrics.observe(searched.durations, len(answers), seconds)
        return SearchResponse(release=answers[0].release, seconds=seconds, answers=answers)

    def _state(self) -> ServiceState:
        health, pinned = self.health(), self._searcher.pinned
        return ServiceState(
            release=pinned.pointer.release,
            fingerprint=pinned.pointer.fingerprint,
            mode=pinned.ranking.mode,
            rows=pinned.rows,
            swaps=self._searcher.swaps,
            ready=health.status is not Status.FAILING,
            degraded=health.status is Status.DEGRADED,
            in_flight={pool.name: pool.taken for pool in (self._serving_pool, self._comparison_pool)},
        )

    def close(self) -> None:
        """Finish searches in progress, then close all releases."""
        self._serving_pool.close()
        self._comparison_pool.close()
        if self._live is not None:
            self._live.close()
        for searcher in (self._searcher, *self._named.values()):
            searcher.close()

    def _open_named(self, name: str) -> Searcher:
        """Return a searcher of a release; runs only in the single thread of the comparison pool."""
        name = find_release(self.settings, name, self._opener).release
        if name in self._named:
            self._named.move_to_end(name)
        else:
            while len(self._named) >= NAMED_RELEASES:
                self._named.popitem(last=False)[1].close()
            self._named[name] = open_release(self.settings, name, self._loader, self._opener)
        return self._named[name]


class Searched(NamedTuple):
    """The answers to a request, and how long each stage took."""

    answers: list[Answer]
    durations: Durations


def _search(open_searcher: Callable[[], Searcher], request: SearchRequest, began: float) -> Searched:
    """Search in a worker thread. `began` is when the request arrived, in seconds of `time.perf_counter`."""
    with span("nightshift.search", queries=len(request.texts), k=request.k), record_durations() as durations:
        durations.seconds[Stage.WAIT] = time.perf_counter() - began
        searcher = open_searcher()
        answers = searcher.search(request.texts, request.k, where=request.filters, mode=request.chosen_mode)
    return Searched(answers, durations)


def check_address(host: str, settings: ServiceSettings) -> None:
    """Raise NightshiftError if other machines can reach the address and the service has no token."""
    if not settings.token.get_secret_value() and not _is_this_machine(host):
        raise NightshiftError(
            f"--host {host}: other machines can reach this address, and the service has no token. Set a token in "
            "NIGHTSHIFT_SERVICE__TOKEN, or use --host 127.0.0.1."
        )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
