"""Let a night continue when its Prefect server dies. All results are stored in home; Prefect only shows them.

Prefect's clients log each failed request, mostly with a traceback. While the server does not answer, this module drops
these log lines, logs one warning instead, and sends no artifacts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import httpx
from prefect import artifacts
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker, emit_events_to_cloud
from prefect.settings import PREFECT_API_URL

log = logging.getLogger("nightshift.prefect")

P = ParamSpec("P")
T = TypeVar("T")

PROBE_SECONDS = 15  # timeout; a server on a busy machine may be slow
# Loggers to which Prefect's clients report failed requests. A filter does not apply to child loggers.
CLIENTS = (
    "prefect.events.clients",
    "prefect._internal",
    "prefect._internal.concurrency",
    "prefect.concurrency",
    "EventsWorker",
    "APILogWorker",
)
RUNS = ("prefect.flow_runs", "prefect.task_runs")  # failed requests of the engine, and errors of the night
WARNING = (
    "The Prefect server does not answer. The night continues and stores its outcome, report, and release in home. The "
    "Prefect UI shows no progress until the server is back."
)


class ServerLoss(logging.Filter):
    """Detects that the server is gone, warns once, and drops the error logs of Prefect's clients."""

    def __init__(self) -> None:
        super().__init__()
        self.warned = self.installed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop a warning or an error about failed requests while the server does not answer."""
        if record.levelno < logging.WARNING:
            return True
        about_server = record.name in CLIENTS or isinstance((record.exc_info or (None, None))[1], httpx.HTTPError)
        return not (about_server and self.noticed())

    def noticed(self) -> bool:
        """Return whether the server is gone; the first time it is, log a warning."""
        if server_answers():
            return False
        if not self.warned:
            self.warned = True
            log.warning(WARNING)
        return True

    def install(self) -> None:
        """Install the filter in this process. Safe to call again."""
        if self.installed or not PREFECT_API_URL.value():
            return
        self.installed = True
        for name in CLIENTS + RUNS:
            logging.getLogger(name).addFilter(self)
        # Otherwise the log handler writes its own failures to stderr, past all loggers.
        logging.raiseExceptions = False
        if not emit_events_to_cloud():
            # By default each event waits 7 seconds for a dead server. Unsent events are sent when the server is back.
            EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=2)


loss = ServerLoss()


def server_answers() -> bool:
    """Return whether the configured server answers, with any status."""
    url = PREFECT_API_URL.value()
    if not url:
        return True  # Prefect starts one in this process when it needs it
    try:
        httpx.get(f"{url}/health", timeout=PROBE_SECONDS)
    except httpx.HTTPError:
        return False
    return True


def tolerate_loss(create: Callable[P, T]) -> Callable[P, T | None]:
    """Wrap a function that creates an artifact: return None if the server does not answer, so the night continues."""

    @wraps(create)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        if loss.noticed():
            return None
        try:
            return create(*args, **kwargs)
        except httpx.HTTPError as error:
            if not loss.noticed():
                log.warning("The Prefect server refused an artifact; the night continues without it: %s", error)
            return None

    return guarded


create_markdown_artifact = tolerate_loss(artifacts.create_markdown_artifact)
create_progress_artifact = tolerate_loss(artifacts.create_progress_artifact)
update_progress_artifact = tolerate_loss(artifacts.update_progress_artifact)
