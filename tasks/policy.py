"""How Prefect treats every task: what is retried, what is cached, what a run is called. One screen."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

NOTE = "in step "  # begins the note on an error that names the task run it ended


def name_step(task: Task[..., Any], run: TaskRun, state: State[Any]) -> None:
    """Note on a task's error which task run it ended: a failed night reports its step."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, BaseException):
        error.add_note(f"{NOTE}{run.name}")


def step_of(error: BaseException) -> str:
    """The name of the task run that `error` ended; empty when it was raised outside of tasks."""
    notes = (note for note in getattr(error, "__notes__", ()) if note.startswith(NOTE))
    return next(notes, "").removeprefix(NOTE)


# Prefect's own cache would key on arguments, which a path or a name does not change when bytes do.
# A step is finished when its manifest exists (tasks/core/base/files.py): a rerun finds that, and is as quick.
STEP: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "on_failure": [name_step]}

TRANSPORT_FAULTS = (ConnectionError, TimeoutError)


def transport_fault(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """True for a fault that may be gone in a minute. Bad data and broken invariants are never tried again."""
    try:
        state.result()
    except TRANSPORT_FAULTS:
        return True
    except Exception:
        return False
    return False


# For steps that speak to something over a socket: a Milvus server, an object store, a hub.
OVER_THE_WIRE: dict[str, Any] = {
    **STEP,
    "retries": 3,
    "retry_delay_seconds": [5, 30, 120],
    "retry_condition_fn": transport_fault,
}

# For shards on Ray. It tries again only what its own faults ended: a worker or a host that was lost. What a shard
# itself raises is raised. `max_calls`: a worker that had a GPU would else end after each shard, its encoder with it.
ON_RAY: dict[str, Any] = {"max_retries": 3, "max_calls": 0}
