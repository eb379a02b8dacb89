"""A training in several processes: torchrun in a child, which ends with this process whatever happens to it.

Processes that something else starts, such as Ray Train, call `take_part` each.
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
TAIL = 40  # lines of failed processes that a person gets to see


def run_job(job: Job, processes: int) -> Outcome:
    """Train in this process, or in `processes` others that share each batch (gloo, or NCCL with GPUs).

    Raises NightshiftError with the end of their output when they fail.
    """
    if processes == 1:
        return run(job, Ranks())
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise NightshiftError(f"[training] processes = {processes}, and there are {torch.cuda.device_count()} GPUs")
    files = [job.folder / name for name in (JOB, OUTCOME)]
    for file in files:
        file.unlink(missing_ok=True)
    forget_refusal(job)
    write_text(files[0], job.model_dump_json())
    log.info("training in %d processes", processes)
    status, said = _watch(files[0], processes)
    if refused := refusal(job):
        raise NightshiftError(refused)
    if status != 0 or not files[1].exists():
        raise NightshiftError(
            f"training in {processes} processes ended with status {status}. Run again: it goes on from its last "
            f"checkpoint. The end of what the processes said:\n{said}"
        )
    outcome = Outcome.model_validate_json(files[1].read_text(encoding="utf-8"))
    for file in files:
        file.unlink(missing_ok=True)
    return outcome


def _watch(job_file: Path, processes: int) -> tuple[int, str]:
    """Run them to their end; exit status and last lines. Their progress goes into our log."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    command = [sys.executable, "-m", __name__, str(os.getpid()), str(processes), str(job_file)]
    child = subprocess.Popen(  # noqa: S603
        command,
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONSAFEPATH": "1"},  # not the user's folder
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said: deque[str] = deque(maxlen=TAIL)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            said.append(line)
            if line.startswith(f"{log.name}: "):
                log.info("%s", line.removeprefix(f"{log.name}: ").rstrip())
        return child.wait(), "".join(said)
    finally:
        child.kill()
        child.wait()


def take_part(job: Job, ranks: Ranks) -> Outcome:
    """This process's rank of the job. What it refuses stays in the job's folder, for `refusal`.

    Raises NightshiftError as `run` does.
    """
    try:
        return run(job, ranks)
    except NightshiftError as error:
        write_text(job.folder / REFUSED, str(error))
        raise


def refusal(job: Job) -> str:
    """Why a process of this start would not train; empty when none refused."""
    file = job.folder / REFUSED
    return file.read_text(encoding="utf-8") if file.exists() else ""


def forget_refusal(job: Job) -> None:
    """Remove what a process of an earlier start has refused."""
    (job.folder / REFUSED).unlink(missing_ok=True)


def main(parent: int, processes: int, job_file: str) -> None:
    """What the child does: be torchrun."""
    exit_with_parent(parent)
    from torch.distributed import run as torchrun

    torchrun.main(["--standalone", f"--nproc-per-node={processes}", "-m", "tasks.core.training.worker", job_file])


def work(job_file: Path) -> None:
    """What each process of torchrun does: its rank of the job. The first one writes the outcome."""
    exit_with_parent(os.getppid())
    job = Job.model_validate_json(job_file.read_text(encoding="utf-8"))
    with join_process_group() as ranks:
        if ranks.leads:
            logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s", force=True)
        outcome = take_part(job, ranks)
        if ranks.leads:
            write_text(job_file.with_name(OUTCOME), outcome.model_dump_json())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
