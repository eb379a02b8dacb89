"""A night after training, in a process that may be killed: embed, publish, prune. It knows no orchestrator.

Run as a program it loads everything heavy once, and forks a child for each line of standard input; so a night takes a
second, and what is killed is the night and not the imports. A line is the JSON of a `Plan`; the answer is how the child
ended. The signal comes from a thread of the child, which meets a moment better than another process would.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from release_world import settings_from, snapshot_of, texts

from tasks.core.base.files import load
from tasks.core.base.receipts import Encoder, Release
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.release.publish import prune, publish, serving

ROWS, SHARDS = 60, 3


class Plan(NamedTuple):
    settings: str  # see `release_world.as_text`
    encoder: str  # digest of the Encoder artifact
    tag: str  # which passages
    log: str  # the file that the night's lines go to
    line: int | None = None  # after this one, counted from 0, it is killed
    delay: float = 0  # so many seconds after it


def night(settings, encoder, tag) -> Release:
    """Embed the passages that `tag` names, make a release of them, remove what is too old."""
    snapshot = snapshot_of(settings.home, texts(ROWS, tag))
    embeddings = gather_shards(settings.home, encoder, snapshot, SHARDS)
    release = publish(
        settings,
        encoder=encoder,
        embeddings=embeddings,
        snapshot=snapshot,
        metrics={"ndcg@10": 0.5},
        bm25={},
        base={},
        previous=None,
        recipe="recipe",
        reason=tag,
        expected_epoch=serving(settings)[1],
        loader=load_encoder,
    )
    prune(settings)
    return release


class Nursery:
    """The process that forks nights."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def live(self, plan) -> int:
        """Live a night: 0, or 1 after an error, or minus the signal that killed it."""
        print(json.dumps(plan), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def live(plan) -> None:
    log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def strike():
        time.sleep(plan.delay)
        os.kill(os.getpid(), signal.SIGKILL)

    class Unbuffered(logging.Handler):
        said = 0

        def emit(self, record):
            with suppress(OSError):
                os.write(log, f"{time.monotonic()} {record.getMessage()}\n".encode())
            if self.said == plan.line and plan.delay:
                threading.Thread(target=strike).start()
            elif self.said == plan.line:
                strike()
            self.said += 1

    logger = logging.getLogger("nightshift")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Unbuffered())
    logger.info("begun")
    settings = settings_from(plan.settings)
    try:
        night(settings, load(settings.home, Encoder, plan.encoder), plan.tag)
    except BaseException as error:
        logger.info("ended by %s: %s", type(error).__name__, error)
        os._exit(1)
    logger.info("ended")
    os._exit(0)


def lines_of(log) -> list[tuple[float, str]]:
    """What a night has said so far, each with its time in seconds."""
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    return [(float(line.partition(" ")[0]), line.partition(" ")[2]) for line in lines]


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(Plan(*json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import milvus_lite.adapter.grpc.server  # noqa: F401
    import pymilvus  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    main()
