"""Train in several processes: start torchrun as a child process that exits with this process, even if it is killed.

Processes started by another launcher, such as Ray Train, call `run_rank` directly.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import torch

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_text
from tasks.core.base.processes import exit_with_parent
from tasks.core.base.settings import cores
from tasks.core.training.loop import Job, Outcome, run
from tasks.core.training.ranks import Ranks, join_process_group

log = logging.getLogger("nightshift.training")

JOB, OUTCOME, REFUSED = "job.json", "outcome.json", "refused.txt"
TAIL = 40  # last lines of output to show when training processes fail


def run_job(job: Job, processes: int) -> Outcome:
    """Train in this process, or in several child processes that share each batch (gloo, or NCCL with GPUs).

    Args:
        job: what to train, and the folder for the result.
        processes: number of processes; 1 trains in this process.

    Raises:
        NightshiftError: there are fewer GPUs than processes, or training failed. The message ends with the last lines
            of their output.
    """
    if processes == 1:
        return run(job, Ranks())
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise NightshiftError(
            f"[training] processes = {processes}, but this machine has {torch.cuda.device_count()} GPUs"
        )
    files = [job.folder / name for name in (JOB, OUTCOME)]
    for file in files:
        file.unlink(missing_ok=True)
    forget_refusal(job)
    write_text(files[0], job.model_dump_json())
    log.info("training in %d processes", processes)
    status, output = _run_torchrun(files[0], processes)
    if refused := refusal(job):
        raise NightshiftError(refused)
    if status != 0 or not files[1].exists():
        raise NightshiftError(
            f"training in {processes} processes ended with status {status}. Run again: training resumes from its last "
            f"checkpoint. Last lines of output:\n{output}"
        )
    outcome = Outcome.model_validate_json(files[1].read_text(encoding="utf-8"))
    for file in files:
        file.unlink(missing_ok=True)
    return outcome


def _run_torchrun(job_file: Path, processes: int) -> tuple[int, str]:
    """Run torchrun until it ends; log its progress. Returns the exit status and the last lines of output."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    command = [sys.executable, "-m", __name__, str(os.getpid()), str(processes), str(job_file)]
    child = subprocess.Popen(  # noqa: S603
        command,
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONSAFEPATH": "1"},  # do not import from the current folder
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    tail: deque[str] = deque(maxlen=TAIL)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            tail.append(line)
            if line.startswith(f"{log.name}: "):
                log.info("%s", line.removeprefix(f"{log.name}: ").rstrip())
        return child.wait(), "".join(tail)
    finally:
        child.kill()
        child.wait()


def run_rank(job: Job, ranks: Ranks) -> Outcome:
    """Run this process's rank of the job.

    Raises:
        NightshiftError: as `run`. The message is also written to the job's folder, where `refusal` reads it.
    """
    try:
        return run(job, ranks)
    except NightshiftError as error:
        write_text(job.folder / REFUSED, str(error))
        raise


def refusal(job: Job) -> str:
    """Return the error that a training process wrote to the job's folder; empty if there is none."""
    file = job.folder / REFUSED
    return file.read_text(encoding="utf-8") if file.exists() else ""


def forget_refusal(job: Job) -> None:
    """Delete the error of an earlier attempt from the job's folder."""
    (job.folder / REFUSED).unlink(missing_ok=True)


def main(parent: int, processes: int, job_file: str) -> None:
    """Run torchrun in this (child) process; exit when the parent process exits."""
    exit_with_parent(parent)
    from torch.distributed import run as torchrun

    torchrun.main(["--standalone", f"--nproc-per-node={processes}", "-m", "tasks.core.training.worker", job_file])


def run_worker(job_file: Path) -> None:
    """Run one rank of the job in a torchrun process. Rank 0 writes the outcome."""
    exit_with_parent(os.getppid())
    job = Job.model_validate_json(job_file.read_text(encoding="utf-8"))
    with join_process_group() as ranks:
        if ranks.leads:
            logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s", force=True)
        outcome = run_rank(job, ranks)
        if ranks.leads:
            write_text(job_file.with_name(OUTCOME), outcome.model_dump_json())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
