"""A training in processes on the hosts of a Ray cluster: Ray Train starts them and gives lost ones a new place."""

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
from tasks.core.training.launch import forget_refusal, refusal, take_part
from tasks.core.training.loop import Job, Outcome
from tasks.core.training.ranks import Ranks, join_process_group
from tasks.policy import ON_RAY

log = logging.getLogger("nightshift.training")

RAY_FOLDER = "ray"  # Ray Train's own notes, in the job's folder; it wants one that all hosts see


def train_on_ray(job: Job) -> Outcome:
    """Do the job in up to `[training] processes` processes, as many as the cluster has room for, and at least one.

    Their number does not change what is learned, but for rounding. When a host is lost they begin again at the last
    checkpoint, in as many places as are left; three times, then the training fails.

    Raises NightshiftError when Ray, or a Prefect server for its workers, is missing, when a process refuses or when
    processes are lost too often; Unreachable when no cluster answers.
    """
    check_ray()
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    compute, most = job.settings.compute, job.settings.training.processes
    asked = training_request(compute)
    forget_refusal(job)
    shutil.rmtree(job.folder / RAY_FOLDER, ignore_errors=True)
    trainer = TorchTrainer(  # its types are those of Ray's first Train, which has nothing elastic
        _process,  # type: ignore[arg-type]
        train_loop_config={"job": job.model_dump_json(), "context": serialize_context()},
        scaling_config=ScalingConfig(
            num_workers=(1, most),  # type: ignore[arg-type]
            use_gpu="GPU" in asked,
            resources_per_worker=asked,
        ),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=str(job.folder),
            failure_config=FailureConfig(max_failures=ON_RAY["max_retries"]),
        ),
    )
    with connect_to_ray(compute):
        log_room(asked, "training processes")
        try:
            outcome = trainer.fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            raise NightshiftError(
                refusal(job)
                or f"training on Ray failed. Run again: it goes on from its last checkpoint. What Ray says: {error}"
            ) from error
    if refused := refusal(job):
        raise NightshiftError(refused)
    shutil.rmtree(job.folder / RAY_FOLDER, ignore_errors=True)
    return Outcome.model_validate_json(outcome)


def training_request(compute: ComputeSettings) -> dict[str, float]:
    """What a training process asks for, by Ray's names of resources: what a shard does, but no part of a GPU."""
    asked = request(compute)
    return asked | ({"GPU": math.ceil(asked["GPU"])} if "GPU" in asked else {})


def _process(config: dict[str, Any]) -> str | None:
    """What each process does: its rank of the job. The first one returns the outcome, as JSON."""
    job = Job.model_validate_json(config["job"])
    with join_process_group() as ranks:
        if ranks.as_the_first(bool(refusal(job))):
            return None  # begun again after a refusal, which another try would not change
        with _logging_to_prefect(ranks, config["context"]):
            outcome = take_part(job, ranks)
    return outcome.model_dump_json() if ranks.leads else None


@contextmanager
def _logging_to_prefect(ranks: Ranks, context: dict[str, Any]) -> Iterator[None]:
    """Let the first process's log lines go to the task run that trains; the others say the same."""
    logger = logging.getLogger("nightshift")
    if not ranks.leads:
        logger.setLevel(logging.CRITICAL)
        yield
        return
    with hydrated_context(context):
        log.info("training on Ray, in %d process%s", ranks.size, "" if ranks.size == 1 else "es")
        APILogHandler().flush()  # else sent some seconds later, when the process may be gone
        try:
            yield
        finally:
            APILogHandler().flush()
