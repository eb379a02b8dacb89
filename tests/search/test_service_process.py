"""The service in its own process: arbitrary requests, and shutdown during a search."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as examples
from milvus_servers import free_port, wait_for
from release_world import HashingEncoder, as_text, release_night, small, snapshot_of, texts
from schemathesis import GenerationMode

from tasks.core.retrieval.bm25 import build_index
from tasks.core.search.http import make_app
from tasks.core.search.searcher import Searcher
from tasks.core.search.service import Service

BROWSER = shutil.which("chromium")
HERE = {"host": "127.0.0.1"}

SERVES = """
import sys
sys.path.insert(0, sys.argv[1])
from release_world import HashingEncoder, settings_from
from tasks.core.retrieval.bm25 import build_index
from tasks.core.search.http import serve

class Held(HashingEncoder):
    def encode_queries(self, texts):
        if "hold" in texts:
            print("held", flush=True)
            sys.stdin.readline()
        return self.encode_passages(texts)

serve(settings_from(sys.argv[2]), "127.0.0.1", int(sys.argv[3]), Held)
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    new = small(tmp_path_factory.mktemp("process") / "var")
    release_night(new)
    build_index(new.home, snapshot_of(new.home, texts()), new.mining)
    return new


@contextmanager
def running(settings):
    """Start the service in its own process; yield the process and the address."""
    port, world = free_port(), Path(__file__).parents[1] / "fixtures"
    command = [sys.executable, "-c", SERVES, str(world), as_text(settings), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(lambda: urllib.request.urlopen(f"{address}/healthz", timeout=5), process, 60)
            yield process, address
        finally:
            process.terminate()


def test_a_terminated_service_answers_requests_in_progress(settings):
    with running(settings) as (process, address):
        answers = []

        def send():
            body = json.dumps({"query": "hold"}).encode()
            request = urllib.request.Request(f"{address}/search", body, {"content-type": "application/json"})
            answers.append(json.load(urllib.request.urlopen(request, timeout=60)))

        thread = threading.Thread(target=send)
        thread.start()
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGTERM)
        process.stdin.write("continue\n")
        process.stdin.flush()
        thread.join(timeout=60)
        process.wait(timeout=60)
    assert len(answers[0]["answers"][0]["hits"]) == 10
    assert not list((settings.home / "readers").glob("*"))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page")
def test_a_browser_shows_the_answers_to_the_query_in_the_address(settings, tmp_path):
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    browser = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", *quiet]
    with running(settings) as (_, address), Searcher.open(settings, HashingEncoder) as searcher:
        query = "?q=lamp+%3Cb%3E+n3&k=5&title=entry+1&b=" + searcher.release
        page = subprocess.run(
            [*browser, "--virtual-time-budget=10000", "--dump-dom", f"{address}/{query}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        hits = searcher.search("lamp <b> n3", 5, where={"title": {"prefix": "entry 1"}})[0].hits
    assert re.findall(r'<span class="title">(.*?)</span>', page) == [hit.title for hit in hits] * 2
    assert "5 of 5 passages in common, same first passage" in page


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
