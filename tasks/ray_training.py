"""Train in processes on a Ray cluster. Ray Train starts the processes and restarts lost ones on other hosts."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.context import hydrated_context, serialize_context
from prefect.logging.handlers import APILogHandler

from tasks.compute import check_ray, connect_to_ray, log_room, request
from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.compute import ComputeSettings
from tasks.core.training.launch import forget_refusal, refusal, run_rank
from tasks.core.training.loop import Job, Outcome
from tasks.core.training.ranks import Ranks, join_process_group
from tasks.policy import ON_RAY

log = logging.getLogger("nightshift.training")

RAY_FOLDER = "ray"  # Ray Train's state in the job's folder, which all hosts must see


def train_on_ray(job: Job) -> Outcome:
    """Run the job in 1 to `[training] processes` processes, as many as the cluster has room for.

    The number of processes changes the result only by rounding. When a host is lost, training restarts from the last
    checkpoint on the remaining hosts, at most three times.

    Raises:
        NightshiftError: Ray, or a Prefect server for its workers, is missing; a process refuses the job; or processes
            are lost too often.
        Unreachable: no cluster answers.
    """
    check_ray()
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    compute, max_processes = job.settings.compute, job.settings.training.processes
    requested = training_request(compute)
    forget_refusal(job)
    shutil.rmtree(job.folder / RAY_FOLDER, ignore_errors=True)
    trainer = TorchTrainer(  # its type hints lack elastic worker counts
        _process,  # type: ignore[arg-type]
        train_loop_config={"job": job.model_dump_json(), "context": serialize_context()},
        scaling_config=ScalingConfig(
            num_workers=(1, max_processes),  # type: ignore[arg-type]
            use_gpu="GPU" in requested,
            resources_per_worker=requested,
        ),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=str(job.folder),
            failure_config=FailureConfig(max_failures=ON_RAY["max_retries"]),
        ),
    )
    with connect_to_ray(compute):
        log_room(requested, "training processes")
        try:
            outcome = trainer.fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            raise NightshiftError(
                refusal(job)
                or f"training on Ray failed. Run again to resume from the last checkpoint. Ray reports: {error}"
            ) from error
    if reason := refusal(job):
        raise NightshiftError(reason)
    shutil.rmtree(job.folder / RAY_FOLDER, ignore_errors=True)
    return Outcome.model_validate_json(outcome)


def training_request(compute: ComputeSettings) -> dict[str, float]:
    """Return the resources of a training process, by Ray resource name: those of a shard, with whole GPUs."""
    requested = request(compute)
    return requested | ({"GPU": math.ceil(requested["GPU"])} if "GPU" in requested else {})


def _process(config: dict[str, Any]) -> str | None:
    """Run one rank of the job. Rank 0 returns the outcome as JSON, the others None."""
    job = Job.model_validate_json(config["job"])
    with join_process_group() as ranks:
        if ranks.broadcast(bool(refusal(job))):
            return None  # restarted after a refusal, which a retry cannot change
        with _logging_to_prefect(ranks, config["context"]):
            outcome = run_rank(job, ranks)
    return outcome.model_dump_json() if ranks.leads else None


@contextmanager
def _logging_to_prefect(ranks: Ranks, context: dict[str, Any]) -> Iterator[None]:
    """Send the log lines of rank 0 to the training task run; mute the other ranks, which log the same."""
    logger = logging.getLogger("nightshift")
    if not ranks.leads:
        logger.setLevel(logging.CRITICAL)
        yield
        return
    with hydrated_context(context):
        log.info("Training on Ray in %d process%s", ranks.size, "" if ranks.size == 1 else "es")
        APILogHandler().flush()  # without this they are sent seconds later, when the process may be gone
        try:
            yield
        finally:
            APILogHandler().flush()
