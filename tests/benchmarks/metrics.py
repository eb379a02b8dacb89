"""Cost of the service's metrics compared with the latency of a search.

    NIGHTSHIFT_HOME=var python tests/benchmarks/metrics.py [--queries 250] [--turns 20000]

Searches the held-out queries one after another through the service object, without HTTP, which would only lower the
share. Then it measures alone everything that metrics add to a request: the stages of a hybrid search, the observations,
and the count of the request.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from tasks.core.base.ranking import Mode
from tasks.core.base.settings_file import load_settings
from tasks.core.search.metrics import RequestOutcome
from tasks.core.search.requests import SearchRequest
from tasks.core.search.service import Service
from tasks.core.search.shadow import held_out_queries
from tasks.core.search.stages import Stage, note_mode, record_durations, timed


def main() -> None:
    """Print p50 of a search, the cost of metrics, and its share."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", type=int, default=250, help="held-out queries")
    arguments.add_argument("--turns", type=int, default=20_000, help="repetitions of the metrics of a request")
    chosen = arguments.parse_args()
    settings = load_settings()
    queries = held_out_queries(settings, settings.evaluation.split)[: chosen.queries]
    service = Service.open(settings)
    try:
        p50 = statistics.median(asyncio.run(search_all(service, queries)))
        cost = cost_of_metrics(service, chosen.turns)
        began = time.perf_counter()
        text, _ = service.metrics.render("")
        scrape = time.perf_counter() - began
    finally:
        service.close()
    print(f"p50 of a search {1000 * p50:.2f} ms, metrics {1e6 * cost:.1f} µs: {100 * cost / p50:.2f} %")
    print(f"a scrape takes {1000 * scrape:.1f} ms and returns {len(text):,} bytes")


async def search_all(service: Service, queries: list[str]) -> list[float]:
    """Search each query; return the seconds of each request."""
    seconds = []
    for query in queries:
        began = time.perf_counter()
        await service.answer(SearchRequest(query=query))
        seconds.append(time.perf_counter() - began)
    return seconds


def cost_of_metrics(service: Service, turns: int) -> float:
    """Return the seconds that the metrics of a hybrid request take."""
    began = time.perf_counter()
    for _ in range(turns):
        with record_durations() as durations:
            durations.seconds[Stage.WAIT] = 0.0
            note_mode(Mode.HYBRID)
            for stage in (Stage.EMBED, Stage.SEARCH, Stage.FETCH):
                with timed(stage):
                    pass
        service.metrics.observe(durations, 1, 0.01)
        service.metrics.count(RequestOutcome.ANSWERED)
    return (time.perf_counter() - began) / turns


if __name__ == "__main__":
    main()
