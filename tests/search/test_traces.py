"""Traces of a search, received by an OTLP server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from otlp_server import otlp_server
from release_world import as_text, release_night, small

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
SEARCHES = f"""
import sys
sys.path.insert(0, sys.argv[1])
from fastapi.testclient import TestClient
from release_world import HashingEncoder, settings_from
from tasks.core.base.tracing import start_tracing
from tasks.core.search.http import make_app
from tasks.core.search.service import Service

start_tracing()
service = Service.open(settings_from(sys.argv[2]), HashingEncoder)
with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
    parent = {{"traceparent": "00-{CALLER}-00f067aa0ba902b7-01"}}
    assert client.post("/search", json={{"query": "lamp"}}, headers=parent).status_code == 200
print("opentelemetry.sdk" in sys.modules)
"""


def search_once(settings, **environment):
    """Search once in a process with these variables; return what it printed."""
    fixtures = Path(__file__).parents[1] / "fixtures"
    plain = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", SEARCHES, str(fixtures), as_text(settings)]
    finished = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_a_search_is_traced_below_the_span_of_its_caller_only_if_requested(tmp_path):
    settings = small(tmp_path / "var")
    release_night(settings, weight=0.5)
    with otlp_server() as (address, spans):
        assert search_once(settings, OTEL_EXPORTER_OTLP_ENDPOINT=address) == "True"
        by_name = {span.name: span for span in spans}
        endpoint = by_name["fastapi.endpoint"]
        assert by_name["nightshift.search"].parent_span_id == endpoint.span_id
        assert endpoint.parent_span_id == by_name["POST /search"].span_id
        stages = {span.name for span in spans if span.parent_span_id == by_name["nightshift.search"].span_id}
        assert stages == {f"nightshift.search.{stage}" for stage in ("embed", "search", "fetch")}
        assert {span.trace_id.hex() for span in spans} == {CALLER}
        assert not any("lamp" in str(span) for span in spans)
        spans.clear()
        assert search_once(settings, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_SDK_DISABLED="true") == "False"
        assert spans == []
