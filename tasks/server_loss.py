"""A night whose Prefect server dies continues: Prefect shows the night, the home keeps it.

Prefect's clients log each failed request, most of them with a traceback. While the server does not answer, one warning
in words stands for all of them, and nothing is sent to it.
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

PROBE_SECONDS = 15  # a server on a busy machine may take some
# Where Prefect's clients report failed requests. Filters of a logger see only what is logged to that very logger.
CLIENTS = (
    "prefect.events.clients",
    "prefect._internal",
    "prefect._internal.concurrency",
    "prefect.concurrency",
    "EventsWorker",
    "APILogWorker",
)
RUNS = ("prefect.flow_runs", "prefect.task_runs")  # report failed requests of the engine, and errors of the night
WORDS = (
    "The Prefect server does not answer. The night continues: its outcome, report, and release are stored in home. The "
    "Prefect UI misses what happens until the server is back."
)


class ServerLoss(logging.Filter):
    """Notices that the server is gone, warns once, and drops what Prefect's clients log about it."""

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
            log.warning(WORDS)
        return True

    def install(self) -> None:
        """Watch this process from here on. Safe to call again."""
        if self.installed or not PREFECT_API_URL.value():
            return
        self.installed = True
        for name in CLIENTS + RUNS:
            logging.getLogger(name).addFilter(self)
        # The log handler writes its failures to standard error, past every logger, unless this is off.
        logging.raiseExceptions = False
        if not emit_events_to_cloud():
            # By default each event waits 7 seconds for a dead server. Unsent events are sent when it is back.
            EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=2)


loss = ServerLoss()


def server_answers() -> bool:
    """Return whether the configured server answers anything at all."""
    url = PREFECT_API_URL.value()
    if not url:
        return True  # Prefect starts one in this process when it needs it
    try:
        httpx.get(f"{url}/health", timeout=PROBE_SECONDS)
    except httpx.HTTPError:
        return False
    return True


def shown(make: Callable[P, T]) -> Callable[P, T | None]:
    """Make an artifact if the server answers; return None if it does not: a night does not depend on who shows it."""

    @wraps(make)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        if loss.noticed():
            return None
        try:
            return make(*args, **kwargs)
        except httpx.HTTPError as error:
            if not loss.noticed():
                log.warning("The Prefect server refused an artifact, and the night continues without it: %s", error)
            return None

    return guarded


create_markdown_artifact = shown(artifacts.create_markdown_artifact)
create_progress_artifact = shown(artifacts.create_progress_artifact)
update_progress_artifact = shown(artifacts.update_progress_artifact)
