"""Names and links of flow runs, and the lock that every run takes before it publishes a release."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC
from pathlib import Path

import httpx
from filelock import Timeout
from prefect import get_run_logger, runtime
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_UI_ENABLED

from flows.collections import collection_of
from flows.local_prefect import prefect_folder
from tasks.core.base.files import exclusive
from tasks.core.base.settings import Settings

log = logging.getLogger("nightshift.night")

# Global concurrency limits that infra/bootstrap.py creates. The last two exist for several collections only.
PUBLISHING = "nightshift-publishing"
NIGHTS = "nightshift-nights"
CHECKS = "nightshift-drift-checks"
LEASE = 60  # seconds until the limit is freed after its holder was killed; Prefect's minimum
WORDS = 3  # of the reason that a run's name includes
STOP_WORDS = {"a", "of", "on", "the", "to"}


def run_name() -> str:
    """Name a run by flow, collection, time in UTC, and reason, such as `nightly-2026-11-22-0200-schedule`.

    A worker starts scheduled runs a few seconds early, so the time is the scheduled one.
    """
    reason = runtime.flow_run.parameters.get("reason") or ""
    flow = str(runtime.flow_run.flow_name).removesuffix("-on-drift")
    time = runtime.flow_run.scheduled_start_time.astimezone(UTC)
    return "-".join(filter(None, (flow, _collection(), f"{time:%Y-%m-%d-%H%M}", _slug(reason))))


def _collection() -> str:
    """Return the collection of this run, if several share the Prefect server."""
    return collection_of(runtime.flow_run.tags)


def _slug(reason: str) -> str:
    """Return the first words of a reason, up to its first colon, joined with hyphens."""
    words = re.findall(r"[a-z0-9]+", reason.split(":")[0].lower())
    return "-".join([word for word in words if word not in STOP_WORDS][:WORDS])


def run_url() -> str:
    """Return the URL of this run in the Prefect UI. Empty if the server has no UI."""
    return runtime.flow_run.ui_url or "" if PREFECT_UI_ENABLED.value() else ""


def log_of(settings: Settings) -> str:
    """Return where to read the log of this run: the worker's log file, or the command that prints it."""
    if runtime.deployment.id is not None and (file := prefect_folder(settings.home) / "worker.log").exists():
        return str(file)
    return f"prefect flow-run logs {runtime.flow_run.id}"


def publishing_limit(collection: str = "") -> str:
    """Return the name of the limit that admits one run of a collection that builds a release."""
    return f"{PUBLISHING}-{collection}" if collection else PUBLISHING


@contextmanager
def one_publisher(settings: Settings) -> Iterator[None]:
    """Wait until no other run builds a release, on this home and on every worker of the Prefect server.

    If several collections share the server, also wait for the limit on the nights of all collections.

    This only avoids duplicate work. The ledger's fence is what prevents an older night from overwriting a newer
    release, so a night continues even if the server cannot renew the lease. A rollback does not wait.

    Raises ConcurrencySlotAcquisitionError in a deployment without the limit. Run `python -m infra.bootstrap` to create
    it.
    """
    collection = _collection()
    limits = [publishing_limit(collection), *([NIGHTS] if collection else [])]
    with _limited(limits, "builds a release"), _alone_in(settings.home):
        yield


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Wait until no other process builds a release in this home."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(home / "night.lock", timeout=0))
        except Timeout:
            log.info("Another night, or `nightshift forget`, runs in this home. Waiting until it ends")
            held.enter_context(exclusive(home / "night.lock"))
        yield


@contextmanager
def limited_check() -> Iterator[None]:
    """Wait for the limit on the drift checks of all collections, if several share the Prefect server."""
    with _limited([CHECKS] if _collection() else [], "checks for drift"):
        yield


@contextmanager
def _limited(limits: list[str], work: str) -> Iterator[None]:
    """Hold a slot of every limit, in a run of a deployment. All slots are taken in one step, so none waits in vain.

    A server that cannot release them, such as one on a full disk, does not change how the run ends: the slots are free
    when their lease ends.
    """
    if runtime.deployment.id is None or not limits:
        yield
        return
    get_run_logger().info("Waiting for the limit %s before this run %s", " and ".join(limits), work)
    taken = False
    failure: BaseException | None = None
    try:
        with concurrency(limits, strict=True, lease_duration=LEASE, raise_on_lease_renewal_failure=False):
            taken = True
            try:
                yield
            except BaseException as error:
                failure = error
                raise
    except httpx.HTTPError as error:
        if not taken or error is failure:
            raise
        log.warning("The Prefect server did not release %s (%s). They are free in %d s", limits, error, LEASE)
        if failure is not None:
            raise failure from None
