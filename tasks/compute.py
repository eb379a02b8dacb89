"""Where the shards of a step are worked on: here, one after the other, or on the workers of a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import get_call_parameters

from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.base.sections.compute import ComputeSettings
from tasks.core.base.settings import Settings
from tasks.policy import ON_RAY, name_step

log = logging.getLogger("nightshift.compute")
R = TypeVar("R")

# What a worker must have in its environment before it imports anything, as flows/environment.py has set it here.
PASSED_ON = (
    "DO_NOT_TRACK",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "PREFECT_LOGGING_EXTRA_LOGGERS",
    "GX_ANALYTICS_ENABLED",
    "HF_HUB_DISABLE_TELEMETRY",
    "TOKENIZERS_PARALLELISM",
    "OMP_WAIT_POLICY",
)

OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # what Ray calls a resource, and asking for it


def run_shards(step: Task[..., R], settings: Settings, *arguments: object, shards: int) -> list[R]:
    """`step(settings, *arguments, rank, shards)` for every rank below `shards`, on `[compute] engine`; their results.

    Each rank is a task run of its own on either engine. On Ray as many run at once as the cluster has room for, and a
    rank whose worker or host is lost goes to another one. The error of the first rank that failed is raised when all
    the others have ended, so that what they finished is there for the next try.

    Raises NightshiftError when Ray, or a Prefect server for its workers, is missing; Unreachable when no cluster
    answers, or a rank has lost too many workers.
    """
    calls = [(settings, *arguments, rank, shards) for rank in range(shards)]
    if settings.compute.engine == "local":
        return [step(*call) for call in calls]
    parameters = [get_call_parameters(step.fn, call, {}) for call in calls]
    heard = step.with_options(on_completion=[_said], on_failure=[name_step, _said])
    with _cluster(settings.compute) as runner:
        return _results([runner.submit(heard, one) for one in parameters])


@contextmanager
def _cluster(compute: ComputeSettings) -> Iterator[Any]:
    """A connection to the cluster that submits what `compute` asks for.

    For some shards only, not the whole night: workers that stayed would keep the memory of GPUs that training needs.
    """
    check_ray()
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    with redirect_stdout(sys.stderr), ExitStack() as held:  # Ray tells there of what it lost, at its end as well
        with _reaching(compute):
            runner = held.enter_context(RayTaskRunner(compute.address or "local", _connection(compute)))
        asked = request(compute)
        log_room(asked, "shards")
        held.enter_context(remote_options(**ON_RAY, **{OPTIONS[name]: amount for name, amount in asked.items()}))
        yield runner


def check_ray() -> None:
    """Raise NightshiftError, with what to do, when Ray, or a Prefect server for its workers, is missing."""
    if find_spec("prefect_ray") is None:
        raise NightshiftError('[compute] engine = "ray" needs Ray: pip install "nightshift[ray]"')
    if not PREFECT_API_URL.value():
        raise NightshiftError(
            '[compute] engine = "ray": its workers need a Prefect server that they can reach. Start one '
            "(nightshift up, prefect server start) and name it in PREFECT_API_URL"
        )


@contextmanager
def connect_to_ray(compute: ComputeSettings) -> Iterator[None]:
    """A connection to the cluster for calls of Ray's own, beside shards; a cluster of this host where none is named.

    Raises Unreachable, with the address, where no cluster answers.
    """
    import ray

    with redirect_stdout(sys.stderr):
        with _reaching(compute):
            ray.init(compute.address or "local", **_connection(compute))
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _reaching(compute: ComputeSettings) -> Iterator[None]:
    """Raise Unreachable, with the address, for what Ray raises where no cluster answers."""
    try:
        yield
    except (ConnectionError, RuntimeError) as error:
        raise Unreachable(f'[compute] address = "{compute.address}": no Ray answers there: {error}') from error


def _results(futures: Sequence[Any]) -> list[Any]:
    from ray.exceptions import RayError, RayTaskError

    results: list[Any] = []
    failures: list[Exception] = []
    for rank, future in enumerate(futures):
        try:
            results.append(future.result())
            log.info("shard %d of %d: back from Ray", rank + 1, len(futures))
        except RayTaskError as error:
            failures.append(error)  # what the worker itself raised, such as Nightshift that is not installed there
        except RayError as error:
            failures.append(Unreachable(f"Ray lost the workers of shard {rank}, run again: {error}"))
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return results


def _connection(compute: ComputeSettings) -> dict[str, Any]:
    """How `ray.init` is called. What workers say goes to Prefect alone: here the lines of all would run together."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        **({} if compute.address else {"include_dashboard": False}),
        "logging_level": logging.WARNING,
        "log_to_driver": False,
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": f"{__name__}.{_listen.__name__}"},
    }


def _listen() -> None:
    """What each worker does first: let the core's log lines through, which Prefect sends to the run they belong to."""
    logging.getLogger("nightshift").setLevel(logging.INFO)


def _said(task: Task[..., Any], run: TaskRun, state: State[Any]) -> None:
    """Send what a shard said before its worker may go; Prefect would send it some seconds later."""
    APILogHandler().flush()


def request(compute: ComputeSettings) -> dict[str, float]:
    """What a shard or a training process asks for, by Ray's names of resources."""
    asked = {"CPU": compute.cpus, "GPU": compute.gpus, "memory": compute.memory_gb * 2**30}
    return {name: amount for name, amount in asked.items() if amount}


def describe_cluster(compute: ComputeSettings) -> str:
    """Connect to the cluster as a night would, and say what is there.

    Raises NightshiftError when Ray, or a Prefect server for its workers, is missing; Unreachable when none answers.
    """
    check_ray()
    import ray

    if not compute.address:
        return f"ray {ray.__version__}: a night starts a cluster on this host"
    with connect_to_ray(compute):
        hosts, room = _room(request(compute))
    return f"ray {ray.__version__} at {compute.address}: {hosts} hosts, room for {room} shards at once"


def log_room(asked: dict[str, float], what: str) -> None:
    """Say how many shards (or `what` else) run at once. A cluster without room may grow: a night waits for that."""
    hosts, room = _room(asked)
    say = log.info if room else log.warning
    say("Ray: %d hosts, room for %d %s at once%s", hosts, room, what, "" if room else ": waiting until it grows")


def _room(asked: dict[str, float]) -> tuple[int, int]:
    """Hosts of the cluster, and how many times they have together what is asked for."""
    import ray

    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return len(hosts), sum(int(min(host.get(name, 0) // amount for name, amount in asked.items())) for host in hosts)
