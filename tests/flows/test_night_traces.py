"""Traces of a night, received by an OTLP server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from otlp_server import otlp_server

from tasks.core.base.tracing import REQUESTS, tracing_requested

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


@pytest.mark.usefixtures("served")
def test_a_night_is_a_span_with_its_steps_below_it_only_if_requested(
    nightshift: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with otlp_server() as (address, spans):
        night = nightshift("run", "--reason", "traced", OTEL_EXPORTER_OTLP_ENDPOINT=address)
        assert night.stdout.startswith("Skipped"), night.stderr
        (root,) = [span for span in spans if span.name == "nightshift.night"]
        assert {attribute.key: attribute.value.string_value for attribute in root.attributes} == {"reason": "traced"}
        steps = {span.name: span for span in spans if span.parent_span_id == root.span_id}
        assert {span.trace_id for span in spans} == {root.trace_id}
        assert {"reconcile", "validate beir data", "compare with serving", "report: Skipped"} <= set(steps)
        assert all(root.start_time_unix_nano <= step.start_time_unix_nano for step in steps.values())
        assert all(step.end_time_unix_nano <= root.end_time_unix_nano for step in steps.values())
        spans.clear()
        night = nightshift("run", OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_SDK_DISABLED="true")
        assert night.stdout.startswith("Skipped"), night.stderr
        assert spans == []


def test_traces_are_off_without_a_variable_that_requests_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*REQUESTS, "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert not tracing_requested()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert tracing_requested()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not tracing_requested()
