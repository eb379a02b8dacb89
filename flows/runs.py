"""What runs are called, and the one lock that everything takes which makes releases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from prefect import get_run_logger, runtime
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_UI_ENABLED

from tasks.core.base.files import exclusive
from tasks.core.base.settings import Settings

PUBLISHING = "nightshift-publishing"  # the global concurrency limit that infra/bootstrap.py makes
LEASE = 60  # seconds that the limit stays taken after its holder was killed; Prefect takes no less
WORDS = 3  # of a reason, in a run's name
SMALL = {"a", "of", "on", "the", "to"}


def run_name() -> str:
    """Name a run by flow, date and time in UTC, and reason, such as `nightly-2026-11-22-0200-schedule`."""
    reason = runtime.flow_run.parameters.get("reason") or ""
    flow = str(runtime.flow_run.flow_name).removesuffix("-on-drift")
    return "-".join(filter(None, (flow, f"{datetime.now(UTC):%Y-%m-%d-%H%M}", _slug(reason))))


def _slug(reason: str) -> str:
    """The words of a reason up to its first colon, as they stand in an address."""
    words = re.findall(r"[a-z0-9]+", reason.split(":")[0].lower())
    return "-".join([word for word in words if word not in SMALL][:WORDS])


def run_url() -> str:
    """The address of this run in Prefect's user interface; empty where its server has none."""
    return runtime.flow_run.ui_url or "" if PREFECT_UI_ENABLED.value() else ""


def log_of(settings: Settings) -> str:
    """Where the log of this run can be read: the worker's file, or the command that prints it."""
    if runtime.deployment.id is not None and (file := settings.home.absolute() / "prefect" / "worker.log").exists():
        return str(file)
    return f"prefect flow-run logs {runtime.flow_run.id}"


@contextmanager
def one_publisher(settings: Settings) -> Iterator[None]:
    """Wait until no other run makes a release, on this home and on every worker of the Prefect server.

    A courtesy, so that two nights do not do the same work twice: what forbids an older night to overwrite a newer
    release is the ledger's fence. So a night goes on when the server cannot renew its place. A rollback does not wait.

    Raises ConcurrencySlotAcquisitionError in a deployment when the limit is not there: run `python -m infra.bootstrap`.
    """
    with ExitStack() as held:
        if runtime.deployment.id is not None:
            get_run_logger().info("waiting for %s: one run at a time makes a release", PUBLISHING)
            held.enter_context(
                concurrency(PUBLISHING, strict=True, lease_duration=LEASE, raise_on_lease_renewal_failure=False)
            )
        held.enter_context(exclusive(settings.home / "night.lock"))
        yield
