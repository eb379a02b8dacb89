"""The part of a night after training (embed, publish, prune), without an orchestrator, in a process that may be killed.

Run as a program, it imports everything once and forks a child for each line of standard input. So a night takes one
second, and the kill hits the night, not the imports. Each line is the JSON of a `Plan`; the reply is the child's exit
code. A thread of the child sends the signal, because its timing is more precise than that of another process.
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
    tag: str  # selects the passages
    log: str  # the file that the night logs to
    line: int | None = None  # kill the night after this log line, counted from 0
    delay: float = 0  # seconds between that line and the kill


def night(settings, encoder, tag) -> Release:
    """Embed the passages named by `tag`, publish a release of them, and prune."""
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
    """A process that forks nights."""

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
        """Run a night; return 0, 1 after an error, or the negative number of the signal that killed it."""
        print(json.dumps(plan), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def live(plan) -> None:
    log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def strike():
        time.sleep(plan.delay)
        os.kill(os.getpid(), signal.SIGKILL)

    class Unbuffered(logging.Handler):
        logged = 0

        def emit(self, record):
            with suppress(OSError):
                os.write(log, f"{time.monotonic()} {record.getMessage()}\n".encode())
            if self.logged == plan.line and plan.delay:
                threading.Thread(target=strike).start()
            elif self.logged == plan.line:
                strike()
            self.logged += 1

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
    """Return the lines that a night has logged so far, each with its time in seconds."""
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
