"""The search service: what it holds, and who answers a request."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import OrderedDict

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.base.settings import Settings
from tasks.core.release.publisher import Loader, Opener, default_loader
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.live import LiveShadow
from tasks.core.search.named_releases import find_release, loadable, open_release
from tasks.core.search.pinned import Answer
from tasks.core.search.requests import Comparison, Health, Releases, SearchRequest, SearchResponse, Status
from tasks.core.search.searcher import Searcher
from tasks.core.search.worker_pool import WorkerPool

log = logging.getLogger("nightshift.search")

BESIDE = 2  # releases held open for comparisons: one for each side of the page


class Service:
    """The serving release and, on request, others by name. Safe in one event loop; close it at the end."""

    def __init__(self, settings: Settings, searcher: Searcher, loader: Loader, opener: Opener) -> None:
        self.settings, self._searcher, self._loader, self._opener = settings, searcher, loader, opener
        self._beside: OrderedDict[str, Searcher] = OrderedDict()
        self._live: LiveShadow | None = None
        self._serving_lane = WorkerPool("serving", settings.service.concurrency)
        # Opening a release takes seconds: comparisons wait for each other, and nothing that serves waits for them.
        self._beside_lane = WorkerPool("comparing", 1)

    @classmethod
    def open(cls, settings: Settings, loader: Loader = default_loader, opener: Opener | None = None) -> Service:
        """Open the serving release, and that of `[service] shadow_release`. Raises as `Searcher.open` does."""
        milvus = opener or open_publisher(settings)
        service = cls(settings, Searcher.open(settings, loader, milvus), loader, milvus)
        if name := settings.service.shadow_release:
            try:
                challenger = open_release(settings, name, loader, milvus)
            except NightshiftError:
                service.close()
                raise
            service._live = LiveShadow(settings.home, challenger, settings.service.shadow_share)
            log.info("%s is asked %.0f %% of the queries too", challenger.release, 100 * settings.service.shadow_share)
        return service

    @property
    def release(self) -> str:
        """The release that answers now."""
        return self._searcher.release

    def health(self) -> Health:
        """How well it answers. Reasons name releases only: whoever reaches the service may read them."""
        release, stands_in_for = self.release, self._searcher.stands_in_for
        if self._searcher.damage is not None:
            reason = f"release {release} is damaged; no query is answered"
            return Health(status=Status.FAILING, release=release, reason=reason)
        if stands_in_for:
            reason = f"release {stands_in_for} is damaged; the release before answers"
            return Health(status=Status.DEGRADED, release=release, reason=reason)
        if self._searcher.lexical_damage is not None:
            reason = f"the BM25 index of release {release} is damaged; queries without fusion are answered"
            return Health(status=Status.DEGRADED, release=release, reason=reason)
        return Health(release=release)

    def releases(self) -> Releases:
        """What serves and what can be asked by name."""
        return Releases(serving=self.release, releases=[Comparison.of(one) for one in loadable(self.settings)])

    async def answer(self, ask: SearchRequest) -> SearchResponse:
        """The answers to a request.

        Raises Full, TooSlow, NoSuchRelease, and what `Searcher.search` raises.
        """
        began, seconds = time.perf_counter(), self.settings.service.seconds
        answers: list[Answer] = []
        if ask.release in ("", self.release):
            answers = await self._serving_lane.run(lambda: _search(self._searcher, ask), seconds)
        # The pointer may have moved since: who asks a release by name gets that one.
        if not answers or ask.release not in ("", answers[0].release):
            answers = await self._beside_lane.run(lambda: _search(self._named(ask.release), ask), seconds)
        elif self._live is not None:
            self._live.offer(answers, ask.k, ask.filters, ask.fuse)
        return SearchResponse(release=answers[0].release, seconds=time.perf_counter() - began, answers=answers)

    def close(self) -> None:
        """End what is under way, then give everything back."""
        self._serving_lane.close()
        self._beside_lane.close()
        if self._live is not None:
            self._live.close()
        for one in (self._searcher, *self._beside.values()):
            one.close()

    def _named(self, name: str) -> Searcher:
        """A searcher of a release; only the one thread of its lane comes here."""
        name = find_release(self.settings, name, self._opener).release
        if name in self._beside:
            self._beside.move_to_end(name)
        else:
            while len(self._beside) >= BESIDE:
                self._beside.popitem(last=False)[1].close()
            self._beside[name] = open_release(self.settings, name, self._loader, self._opener)
        return self._beside[name]


def _search(searcher: Searcher, ask: SearchRequest) -> list[Answer]:
    return searcher.search(ask.asked, ask.k, where=ask.filters, fuse=ask.fuse)


def check_address(host: str, settings: ServiceSettings) -> None:
    """Raises NightshiftError for an address that others can reach, unless there is a token."""
    if not settings.token.get_secret_value() and not _is_this_machine(host):
        raise NightshiftError(
            f"--host {host}: others could reach it, and the service has no token. Give it one of your choice as "
            "NIGHTSHIFT_SERVICE__TOKEN, or stay with --host 127.0.0.1."
        )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
