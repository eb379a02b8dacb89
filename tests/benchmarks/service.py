"""The service over HTTP beside the searcher in this process, and fusion beside dense search.

    NIGHTSHIFT_HOME=var python tests/benchmarks/service.py [--queries 250]

Asks the serving release its own held-out queries, one after the other over one connection. All ways of asking take
turns query by query, so that they see the same machine. The service is a process of its own: it embeds and searches
too, and what is left is what HTTP, JSON and threads add.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings_file import load_settings
from tasks.core.search.searcher import Searcher
from tasks.core.search.shadow import held_out_queries

K, AT_ONCE = 10, 64


def main() -> None:
    """Ask, and print a line for each way."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", type=int, default=250)
    arguments.add_argument("--port", type=int, default=8093)
    chosen = arguments.parse_args()
    settings = load_settings()
    queries = held_out_queries(settings, settings.evaluation.split)[: chosen.queries]
    with service(chosen.port) as ask, Searcher.open(settings) as searcher:
        ways: dict[str, Callable[[str], Any]] = {
            "searcher": lambda query: searcher.search(query, K),
            "service": lambda query: ask({"query": query, "k": K}),
            "searcher, fused": lambda query: searcher.search(query, K, fuse=True),
        }
        seconds = timed(ways, queries)
        print(f"{len(seconds['searcher'])} queries of release {searcher.release}, one after the other")
        for name, measured in seconds.items():
            ordered = [1000 * one for one in sorted(measured)]
            median, last = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
            print(f"{name:<16} p50 {median:7.2f} ms   p99 {last:7.2f} ms")
        pairs = zip(seconds["service"], seconds["searcher"], strict=True)
        print(f"the service adds {1000 * statistics.median(over - alone for over, alone in pairs):.2f} ms (median)")
        many = queries[:AT_ONCE]
        together = timed({"s": lambda _: searcher.search(many, K), "h": lambda _: ask({"queries": many})}, ["many"] * 5)
        took = [1000 * statistics.median(one) for one in together.values()]
        print(f"{len(many)} queries in one request: searcher {took[0]:.0f} ms, service {took[1]:.0f} ms")


def timed(ways: dict[str, Callable[[str], Any]], queries: list[str]) -> dict[str, list[float]]:
    """Seconds of each query, way by way; a way that cannot answer the first query is left out."""
    for name in list(ways):
        try:
            ways[name](queries[0])
        except NightshiftError as error:
            print(f"{name}: {error}", file=sys.stderr)
            del ways[name]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for query in queries:
        for name, way in ways.items():
            start = time.perf_counter()
            way(query)
            seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def service(port: int) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """A service in a process of its own, and how to ask it."""
    command = [sys.executable, "-m", "flows.cli", "search", "--serve", "--port", str(port)]
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(body: dict[str, Any]) -> Any:
        connection.request("POST", "/search", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        said = json.loads(response.read())
        assert response.status == 200, said
        return said

    with subprocess.Popen(command, env=dict(os.environ)) as process:
        try:
            while process.poll() is None:
                try:
                    ask({"query": "warm"})
                    break
                except OSError:
                    connection.close()
                    time.sleep(0.2)
            yield ask
        finally:
            connection.close()
            process.terminate()


if __name__ == "__main__":
    main()
