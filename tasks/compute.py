"""Run the shards of a step in this process, one after the other, or on the workers of a Ray cluster."""

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

# Variables of flows/environment.py that a worker needs before it imports anything.
FORWARDED_VARIABLES = (
    "DO_NOT_TRACK",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "PREFECT_LOGGING_EXTRA_LOGGERS",
    "GX_ANALYTICS_ENABLED",
    "HF_HUB_DISABLE_TELEMETRY",
    "TOKENIZERS_PARALLELISM",
    "OMP_WAIT_POLICY",
)

OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # name of a Ray resource → option that requests it


def run_shards(step: Task[..., R], settings: Settings, *arguments: object, shards: int) -> list[R]:
    """Run `step(settings, *arguments, rank, shards)` for every rank on `[compute] engine`; return results by rank.

    Each rank is a separate task run. On Ray, as many ranks run at once as the cluster has room for, and a rank whose
    worker or host is lost runs again on another one. If ranks fail, the others still finish, so the next attempt can
    reuse their work; then the error of the first failed rank is raised.

    Raises:
        NightshiftError: Ray, or a Prefect server for its workers, is missing.
        Unreachable: no cluster answers, or a rank lost too many workers.
    """
    calls = [(settings, *arguments, rank, shards) for rank in range(shards)]
    if settings.compute.engine == "local":
        return [step(*call) for call in calls]
    parameters = [get_call_parameters(step.fn, call, {}) for call in calls]
    logged_step = step.with_options(on_completion=[_flush_logs], on_failure=[name_step, _flush_logs])
    with _cluster(settings.compute) as runner:
        return _results([runner.submit(logged_step, call) for call in parameters])


@contextmanager
def _cluster(compute: ComputeSettings) -> Iterator[Any]:
    """Connect to the cluster; yield a task runner that requests the resources of `compute` for each shard.

    Connect for the shards of one step only. Idle workers would keep GPU memory that training needs.
    """
    check_ray()
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    with redirect_stdout(sys.stderr), ExitStack() as resources:  # Ray prints to stdout, also while it disconnects
        with _translate_errors(compute):
            runner = resources.enter_context(RayTaskRunner(compute.address or "local", _connection(compute)))
        requested = request(compute)
        log_room(requested, "shards")
        resources.enter_context(
            remote_options(**ON_RAY, **{OPTIONS[name]: amount for name, amount in requested.items()})
        )
        yield runner


def check_ray() -> None:
    """Raise NightshiftError, with the fix, when Ray or a Prefect server for its workers is missing."""
    if find_spec("prefect_ray") is None:
        raise NightshiftError('[compute] engine = "ray" needs Ray: pip install "nightshift[ray]"')
    if not PREFECT_API_URL.value():
        raise NightshiftError(
            '[compute] engine = "ray": Ray workers need a Prefect server that they can reach. Start one '
            "(nightshift up, prefect server start) and set PREFECT_API_URL to it"
        )


@contextmanager
def connect_to_ray(compute: ComputeSettings) -> Iterator[None]:
    """Connect to `[compute] address` for direct calls to Ray; without an address, start a cluster on this host.

    Raises Unreachable, with the address, when no cluster answers.
    """
    import ray

    with redirect_stdout(sys.stderr):
        with _translate_errors(compute):
            ray.init(compute.address or "local", **_connection(compute))
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _translate_errors(compute: ComputeSettings) -> Iterator[None]:
    """Turn Ray's connection errors into Unreachable, with the address."""
    try:
        yield
    except (ConnectionError, RuntimeError) as error:
        raise Unreachable(f'[compute] address = "{compute.address}": no Ray cluster answers: {error}') from error


def _results(futures: Sequence[Any]) -> list[Any]:
    from ray.exceptions import RayError, RayTaskError

    results: list[Any] = []
    failures: list[Exception] = []
    for rank, future in enumerate(futures):
        try:
            results.append(future.result())
            log.info("Shard %d of %d: finished on Ray", rank + 1, len(futures))
        except RayTaskError as error:
            failures.append(error)  # raised by the worker, for example because Nightshift is not installed there
        except RayError as error:
            failures.append(Unreachable(f"Ray lost the workers of shard {rank}. Run again. Ray reports: {error}"))
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return results


def _connection(compute: ComputeSettings) -> dict[str, Any]:
    """Return the arguments of `ray.init`. Worker logs go to Prefect only; here the lines of all workers would mix."""
    environment = {name: os.environ[name] for name in FORWARDED_VARIABLES if name in os.environ}
    return {
        **({} if compute.address else {"include_dashboard": False}),
        "logging_level": logging.WARNING,
        "log_to_driver": False,
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": f"{__name__}.{_enable_logs.__name__}"},
    }


def _enable_logs() -> None:
    """Set the log level in a new worker, so Prefect gets the core's log lines."""
    logging.getLogger("nightshift").setLevel(logging.INFO)


def _flush_logs(task: Task[..., Any], run: TaskRun, state: State[Any]) -> None:
    """Send a shard's log lines now: the worker may be gone before Prefect sends them, seconds later."""
    APILogHandler().flush()


def request(compute: ComputeSettings) -> dict[str, float]:
    """Return the resources that a shard or a training process requests, by Ray resource name."""
    amounts = {"CPU": compute.cpus, "GPU": compute.gpus, "memory": compute.memory_gb * 2**30}
    return {name: amount for name, amount in amounts.items() if amount}


def describe_cluster(compute: ComputeSettings) -> str:
    """Connect to the cluster as a night does, and describe its size.

    Raises:
        NightshiftError: Ray, or a Prefect server for its workers, is missing.
        Unreachable: no cluster answers.
    """
    check_ray()
    import ray

    if not compute.address:
        return f"ray {ray.__version__}: a night starts a cluster on this host"
    with connect_to_ray(compute):
        hosts, room = _room(request(compute))
    return f"ray {ray.__version__} at {compute.address}: {hosts} hosts, room for {room} shards at once"


def log_room(requested: dict[str, float], units: str) -> None:
    """Log how many `units` ("shards") can run at once. A night waits for a cluster without room to grow."""
    hosts, room = _room(requested)
    level = logging.INFO if room else logging.WARNING
    suffix = "" if room else ". Waiting until the cluster grows"
    log.log(level, "Ray: %d hosts, room for %d %s at once%s", hosts, room, units, suffix)


def _room(requested: dict[str, float]) -> tuple[int, int]:
    """Return the number of hosts, and how many times they can provide the requested resources in total."""
    import ray

    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return len(hosts), sum(
        int(min(host.get(name, 0) // amount for name, amount in requested.items())) for host in hosts
    )
