"""OpenTelemetry traces, configured by the standard variables `OTEL_…`. Off, and not imported, unless they ask for it.

FastAPI and Prefect trace their requests and task runs with the same provider. Traces are on if
`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_TRACES_EXPORTER` is set (to a value other
than "none"), and `OTEL_SDK_DISABLED` is not "true".
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.core.base.errors import NightshiftError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

log = logging.getLogger("nightshift.tracing")

REQUESTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
EXPORTERS = ("otlp", "console", "none")
NAME = "nightshift"

_tracer: Tracer | None = None


def tracing_requested() -> bool:
    """Return whether the environment requests traces."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(os.environ.get(name) for name in REQUESTS)


def start_tracing() -> None:
    """Send spans from now on, if the environment requests it. Spans that cannot be sent are dropped.

    Raises:
        NightshiftError: the extra `otel` is not installed, or the exporter is unknown.
    """
    if tracing_requested():
        _start()


@functools.cache
def _start() -> None:
    global _tracer
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(os.environ.get("OTEL_TRACES_EXPORTER") or "otlp")
    except ImportError as error:
        raise NightshiftError(
            f"traces are requested by OTEL_… variables, but a package is missing ({error.name}). Install the extra "
            "otel: pip install 'nightshift[otel]', or set OTEL_SDK_DISABLED=true"
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME") or NAME
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _tracer = provider.get_tracer(NAME)
    atexit.register(provider.shutdown)


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        raise NightshiftError(f"OTEL_TRACES_EXPORTER={name}: unknown. Use one of {', '.join(EXPORTERS)}")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """Trace this context as a span; does nothing while tracing is off.

    Args:
        name: name of the span.
        attributes: facts about the span, without texts of queries and passages.
    """
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes):
        yield
