"""Metrics of the search service in Prometheus' format.

Each service process has its own registry and its own address: scrape every process. The metrics of nights come from
the file that a night writes, so they are the same in every process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tasks.core.base.files import read_receipt
from tasks.core.base.ranking import Mode
from tasks.core.base.receipts import Release
from tasks.core.search.stages import Durations, Stage

log = logging.getLogger("nightshift.search")

NIGHT_FILE = Path("metrics") / "nightshift.prom"  # below home; `report.night_metrics` writes it
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # bucket limits


class RequestOutcome(StrEnum):
    """How a search request ended."""

    ANSWERED = "answered"
    INVALID = "invalid"  # malformed, too large, or incomplete
    DENIED = "denied"  # wrong token or host
    UNKNOWN = "unknown_release"
    IMPOSSIBLE = "impossible"  # the release cannot answer such a request
    REJECTED = "rejected"  # all workers and waiting places are taken
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"  # damaged release, or no vector store
    ERROR = "error"  # a defect of the service


BY_STATUS = {
    401: RequestOutcome.DENIED,
    403: RequestOutcome.DENIED,
    404: RequestOutcome.UNKNOWN,
    409: RequestOutcome.IMPOSSIBLE,
    500: RequestOutcome.ERROR,
    503: RequestOutcome.UNAVAILABLE,
    504: RequestOutcome.TIMEOUT,
}


def outcome_of(status: int, *, rejected: bool) -> RequestOutcome:
    """Return the outcome of a request by its HTTP status; `rejected` marks a full queue among the causes of 503."""
    if rejected:
        return RequestOutcome.REJECTED
    return BY_STATUS.get(status, RequestOutcome.ANSWERED if status < 400 else RequestOutcome.INVALID)


@dataclass(frozen=True)
class ServiceState:
    """The state of a service at a scrape."""

    release: str
    fingerprint: str
    mode: Mode
    rows: int
    swaps: int
    ready: bool
    degraded: bool
    in_flight: MutableMapping[str, int]  # by pool


class ServiceMetrics:
    """The metrics of one service. Thread-safe."""

    def __init__(self, home: Path, read_state: Callable[[], ServiceState]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("nightshift_requests", "Search requests.", ["outcome"], registry=registry)
        for outcome in RequestOutcome:
            self._requests.labels(outcome)
        self._queries = Counter("nightshift_queries", "Answered queries.", ["mode"], registry=registry)
        self._seconds = Histogram(
            "nightshift_request_seconds",
            "Seconds of an answered search request, waiting included.",
            ["mode"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "nightshift_stage_seconds",
            "Seconds of a stage of an answered search request.",
            ["mode", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        for mode in Mode:
            self._queries.labels(mode)
            self._seconds.labels(mode)
            for stage in Stage:
                self._stages.labels(mode, stage)
        registry.register(_StateCollector(home, read_state))
        registry.register(_NightCollector(home / NIGHT_FILE))
        ProcessCollector(namespace="nightshift", registry=registry)

    def count(self, outcome: RequestOutcome) -> None:
        """Count a search request."""
        self._requests.labels(outcome).inc()

    def observe(self, durations: Durations, queries: int, seconds: float) -> None:
        """Record the durations of an answered request with this number of queries."""
        mode = durations.mode or Mode.DENSE
        self._queries.labels(mode).inc(queries)
        self._seconds.labels(mode).observe(seconds)
        for stage, duration in durations.seconds.items():
            self._stages.labels(mode, stage).observe(duration)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and their content type, in the format that the Accept header requests."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _StateCollector(Collector):
    """Reads the state of the service at each scrape."""

    def __init__(self, home: Path, read_state: Callable[[], ServiceState]) -> None:
        self._home, self._read_state = home, read_state
        self._created = ("", 0.0)  # name of a release, and when it was made

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        state = self._read_state()
        release = {"release": state.release, "fingerprint": state.fingerprint, "mode": state.mode.value}
        info = GaugeMetricFamily("nightshift_serving_release_info", "The release that answers.", labels=list(release))
        info.add_metric(list(release.values()), 1)
        yield info
        yield GaugeMetricFamily(
            "nightshift_serving_release_created_timestamp_seconds",
            "Unix time at which the serving release was made.",
            self._created_at(state.release),
        )
        yield GaugeMetricFamily("nightshift_index_rows", "Passages of the serving release.", state.rows)
        yield CounterMetricFamily("nightshift_swaps", "Changes of the release since the service started.", state.swaps)
        yield GaugeMetricFamily("nightshift_ready", "1 while queries are answered, otherwise 0.", state.ready)
        yield GaugeMetricFamily("nightshift_degraded", "1 while a part is damaged, otherwise 0.", state.degraded)
        in_flight = GaugeMetricFamily("nightshift_in_flight", "Running and waiting searches.", labels=["pool"])
        for pool, count in state.in_flight.items():
            in_flight.add_metric([pool], count)
        yield in_flight

    def _created_at(self, name: str) -> float:
        """Return when a release was made, in Unix time; NaN if its receipt is lost."""
        if self._created[0] != name:
            release = read_receipt(self._home / Release.shelf / name, Release)
            if release is None:
                return float("nan")
            self._created = (name, datetime.fromisoformat(release.created).timestamp())
        return self._created[1]


class _NightCollector(Collector):
    """Repeats the metrics of the last night from its file, which is read again after it changes."""

    def __init__(self, file: Path) -> None:
        self._file, self._read_at, self._metrics = file, 0, list[Metric]()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the file; none if there is no file yet, or it is damaged."""
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read_at:
                self._metrics = list(text_string_to_metric_families(self._file.read_text(encoding="utf-8")))
                self._read_at = changed
        except FileNotFoundError:
            self._metrics, self._read_at = [], 0
        except (OSError, ValueError) as error:
            log.warning("%s: cannot be read, so the metrics of nights are missing: %s", self._file, error)
            self._metrics = []
        yield from self._metrics


class RequestCounter:
    """ASGI middleware that counts search requests by outcome."""

    REJECTED = "nightshift.rejected"  # key of the scope that marks a request for which there was no place

    def __init__(self, app: Callable[..., Any], metrics: ServiceMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on, and count it by the status of the response."""
        if scope["type"] != "http" or scope["path"] != "/search" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        status = 500

        async def noting_status(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        finally:
            self._metrics.count(outcome_of(status, rejected=bool(scope.get(self.REJECTED))))
