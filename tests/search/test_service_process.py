"""The service in its own process: arbitrary requests, and shutdown during a search."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import schemathesis
from browsers import CHROMIUM
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as examples
from milvus_servers import free_port, wait_for
from release_world import HashingEncoder, as_text, release_night, small
from schemathesis import GenerationMode

from tasks.core.base.ranking import Mode
from tasks.core.search.http import make_app
from tasks.core.search.searcher import Searcher
from tasks.core.search.service import Service

HERE = {"host": "127.0.0.1"}

SERVES = """
import sys
from contextlib import suppress
sys.path.insert(0, sys.argv[1])
from release_world import HashingEncoder, settings_from
from tasks.core.search.http import serve

class Held(HashingEncoder):
    def encode_queries(self, texts):
        if "hold" in texts:
            print("held", flush=True)
            sys.stdin.readline()
        return self.encode_passages(texts)

with suppress(KeyboardInterrupt):  # as the command does
    serve(settings_from(sys.argv[2]), "127.0.0.1", int(sys.argv[3]), Held)
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = small(tmp_path_factory.mktemp("process") / "var")
    release_night(made, weight=0.5)
    return made


@contextmanager
def running(settings):
    """Start the service in its own process; yield the process and the address."""
    port, world = free_port(), Path(__file__).parents[1] / "fixtures"
    command = [sys.executable, "-c", SERVES, str(world), as_text(settings), str(port)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes, text=True) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(lambda: urllib.request.urlopen(f"{address}/healthz", timeout=5), process, 60)
            yield process, address
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def service(settings):
    """Yield the process and the address of a service that tests share."""
    with running(settings) as started:
        yield started


def search(address, **request):
    headers = {"content-type": "application/json"}
    message = urllib.request.Request(f"{address}/search", json.dumps(request).encode(), headers)
    return json.load(urllib.request.urlopen(message, timeout=60))["answers"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_service_answers_requests_in_progress(settings, end):
    readers = settings.home / "readers"
    before = set(readers.glob("*"))
    with running(settings) as (process, address):
        answers = []
        thread = threading.Thread(target=lambda: answers.extend(search(address, query="hold")))
        thread.start()
        assert process.stdout.readline() == "held\n"
        process.send_signal(end)
        process.stdin.write("continue\n")
        process.stdin.flush()
        thread.join(timeout=60)
        process.wait(timeout=60)
        printed = process.stdout.read() + process.stderr.read()
    assert len(answers[0]["hits"]) == 10
    assert set(readers.glob("*")) == before
    # The JVM, which ran in this process, changes neither the signals nor the output.
    assert process.returncode == (-signal.SIGTERM if end == signal.SIGTERM else 0)
    assert printed == ""


def children(process):
    """Return the names of all processes that a process started and that still run."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    numbers = [number for task in tasks for number in (task / "children").read_text().split()]
    return [Path(f"/proc/{number}/comm").read_text().strip() for number in numbers]


def test_a_service_needs_no_process_but_its_own_and_answers_clients_at_once_as_one_by_one(service):
    queries, (process, address) = [f"lamp river n{number}" for number in range(40)], service
    with ThreadPoolExecutor(16) as pool:
        for mode in Mode:
            alone = [search(address, query=query, mode=mode) for query in queries]
            assert list(pool.map(lambda query, mode=mode: search(address, query=query, mode=mode), queries)) == alone
        assert children(process) == []


def shown_by_browser(address, folder):
    """Open an address in a headless browser; return the page after its scripts ran."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", *quiet]
    command = [*browser, "--virtual-time-budget=10000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.browser
def test_a_browser_shows_the_answers_to_the_query_in_the_address(service, settings, tmp_path):
    _, address = service
    with Searcher.open(settings, HashingEncoder) as searcher:
        query = "?q=lamp+%3Cb%3E+n3&k=5&title=entry+1&b=" + searcher.release
        shown = shown_by_browser(f"{address}/{query}", tmp_path)
        hits = searcher.search("lamp <b> n3", 5, where={"title": {"prefix": "entry 1"}})[0].hits
    assert re.findall(r'<span class="title">(.*?)</span>', shown) == [hit.title for hit in hits] * 2
    assert "5 of 5 passages in common, same first passage" in shown
    assert "200 passages · encoder and BM25" in shown


@pytest.mark.browser
def test_a_browser_searches_in_the_mode_of_the_address(service, settings, tmp_path):
    _, address = service
    with Searcher.open(settings, HashingEncoder) as searcher:
        shown = shown_by_browser(f"{address}/?q=lamp+n3&mode=lexical", tmp_path)
        hits = searcher.search("lamp n3", 10, mode=Mode.LEXICAL)[0].hits
    assert re.findall(r'<span class="title">(.*?)</span>', shown) == [hit.title for hit in hits]
    assert re.findall(r'<span class="score">(.*?)</span>', shown) == [f"{hit.score:.4f}" for hit in hits]


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        ("POST", "/search", GenerationMode.POSITIVE),
        ("POST", "/search", GenerationMode.NEGATIVE),
        ("GET", "/healthz", GenerationMode.POSITIVE),
        ("GET", "/release", GenerationMode.POSITIVE),
    ],
)
def test_no_request_causes_a_server_error(settings, method, path, mode):
    service = Service.open(settings, HashingEncoder)
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(service), headers=HERE)
    statuses = set()

    @seed(1)
    @examples(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def send(case):
        response = case.call(headers=HERE)
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert sorted(response.json()) == ["error", "next"]

    try:
        send()
    finally:
        service.close()
    if path == "/search":
        assert 200 in statuses if mode is GenerationMode.POSITIVE else statuses & {400, 422}
