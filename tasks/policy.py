"""Prefect options of all tasks: retries, caching, and error notes."""

from __future__ import annotations

import logging
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

log = logging.getLogger("nightshift.night")

NOTE = "in step "  # prefix of the error note that names the failed task run


def name_step(task: Task[..., Any], run: TaskRun, state: State[Any]) -> None:
    """Add the name of the failed task run to its error, so a failed night can report the step."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, BaseException):
        error.add_note(f"{NOTE}{run.name}")


def step_of(error: BaseException) -> str:
    """Return the name of the task run that raised `error`. Empty if it was raised outside of tasks."""
    notes = (note for note in getattr(error, "__notes__", ()) if note.startswith(NOTE))
    return next(notes, "").removeprefix(NOTE)


# Prefect's cache is off. It keys on arguments, and a path does not change when the content of its file does.
# A step is finished when its manifest exists (tasks/core/base/files.py), so a rerun is fast without that cache.
STEP: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "on_failure": [name_step]}

TRANSPORT_FAULTS = (ConnectionError, TimeoutError)


def transport_fault(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether the task failed with a transient network error, and log it, since Prefect then tries again.

    Bad data and broken invariants are not retried.
    """
    try:
        state.result()
    except TRANSPORT_FAULTS as error:
        log.warning("%s failed and will be tried again: %s", run.name, str(error) or type(error).__name__)
        return True
    except Exception:
        return False
    return False


# For steps that use the network: a Milvus server, an object store, a model hub.
OVER_THE_WIRE: dict[str, Any] = {
    **STEP,
    "retries": 3,
    "retry_delay_seconds": [5, 30, 120],
    "retry_condition_fn": transport_fault,
}

# For shards on Ray. Ray retries only shards whose worker or host was lost; errors that a shard raises are not retried.
# `max_calls`: 0 keeps a GPU worker and its loaded encoder for the next shard.
ON_RAY: dict[str, Any] = {"max_retries": 3, "max_calls": 0}
