"""The HTTP service compared with the searcher in this process, and hybrid compared with dense search.

    NIGHTSHIFT_HOME=var python tests/benchmarks/service.py [--queries 250]

The benchmark sends the held-out queries of the serving release, one after another, over a single connection. All
methods alternate query by query, so that load on the machine affects them equally. The service runs in a separate
process and embeds and searches too; the difference is the overhead of HTTP, JSON, and threads.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import tasks.core.base.environment  # noqa: F401  (threads sleep while they wait, as those of the service)
from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings_file import load_settings
from tasks.core.search.searcher import Searcher
from tasks.core.search.shadow import held_out_queries

K, AT_ONCE = 10, 64
Q = TypeVar("Q")  # a query, as text or vector


def main() -> None:
    """Search with every method, and print a line for each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", type=int, default=250, help="held-out queries")
    arguments.add_argument("--port", type=int, default=8093, help="port of the service")
    chosen = arguments.parse_args()
    settings = load_settings()
    queries = held_out_queries(settings, settings.evaluation.split)[: chosen.queries]
    with service(chosen.port) as send, Searcher.open(settings) as searcher:
        methods: dict[str, Callable[[str], Any]] = {
            "searcher": lambda query: searcher.search(query, K),
            "service": lambda query: send({"query": query, "k": K}),
            "searcher, hybrid": lambda query: searcher.search(query, K, mode="hybrid"),
        }
        seconds = time_methods(methods, queries)
        print(f"{len(seconds['searcher'])} queries of release {searcher.release}, one after another")
        for name, measured in seconds.items():
            ordered = [1000 * value for value in sorted(measured)]
            median, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
            print(f"{name:<16} p50 {median:7.2f} ms   p99 {p99:7.2f} ms")
        pairs = zip(seconds["service"], seconds["searcher"], strict=True)
        print(f"the service adds {1000 * statistics.median(over - alone for over, alone in pairs):.2f} ms (median)")
        batch = queries[:AT_ONCE]
        together = time_methods(
            {"s": lambda _: searcher.search(batch, K), "h": lambda _: send({"queries": batch})}, ["many"] * 5
        )
        medians = [1000 * statistics.median(values) for values in together.values()]
        print(f"{len(batch)} queries in one request: searcher {medians[0]:.0f} ms, service {medians[1]:.0f} ms")


def time_methods(methods: dict[str, Callable[[Q], Any]], queries: Sequence[Q]) -> dict[str, list[float]]:
    """Return the seconds of each query by method; skip a method that cannot answer the first query."""
    for name in list(methods):
        try:
            methods[name](queries[0])
        except NightshiftError as error:
            print(f"{name}: {error}", file=sys.stderr)
            del methods[name]
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for query in queries:
        for name, method in methods.items():
            start = time.perf_counter()
            method(query)
            seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def service(port: int) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Start a service in a separate process; yield a function that sends it a request."""
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(port)]
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def send(body: dict[str, Any]) -> Any:
        request = ("POST", "/search", json.dumps(body), {"content-type": "application/json"})
        for is_last in (False, True):
            try:
                connection.request(*request)
                break
            except OSError:  # not up yet, or the service closed the idle connection
                connection.close()
                if is_last:
                    raise
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer

    with running(command, lambda: send({"query": "warm"})), closing(connection):
        yield send


@contextmanager
def running(command: list[str], search: Callable[[], Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service, from its first answer to `search` on; yield its process."""
    with subprocess.Popen(command, env=dict(os.environ)) as process:
        try:
            while process.poll() is None:
                try:
                    search()
                    break
                except OSError:
                    time.sleep(0.2)
            yield process
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
