"""The faults of the soak: what breaks in which night, and what the night must say then."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soak_site import Site

OUTAGE = 25.0  # seconds without Milvus; a step is tried again for about three minutes


@dataclass(frozen=True)
class Fault:
    """A fault in a night.

    `damage` spoils the source. `strike` acts on the site when the night begins `stage`, `restore` after the night. If
    the night does not end in one of `ends`, it did not handle the fault. If it did not heal the fault, one alert must
    match `next_step`: cause and next step.
    """

    name: str
    damage: Callable[[Path], None] | None = None
    stage: str = ""
    strike: Callable[[Site], None] | None = None
    restore: Callable[[Site], None] | None = None
    flow: str = "nightly"
    ends: frozenset[str] = frozenset({"Promoted", "Rejected"})
    next_step: str = ""
    second: str = ""  # deployment that starts at the same time
    world: bool = False  # the fault is in the world's source or query log


def truncate(source: Path) -> None:
    """Cut the corpus in the middle of a row."""
    file = source / "corpus.jsonl"
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])


def shuffle_qrels(source: Path) -> None:
    """Give every query the passages of another."""
    for file in (source / "qrels").glob("*.tsv"):
        header, *lines = file.read_text().splitlines()
        rows = [line.split("\t") for line in lines]
        passages = [row[1] for row in rows]
        random.Random(0).shuffle(passages)
        shuffled = [f"{row[0]}\t{passage}\t{row[2]}" for row, passage in zip(rows, passages, strict=True)]
        file.write_text("\n".join([header, *shuffled]) + "\n")


def break_encoding(source: Path) -> None:
    """Write a third of the rows as Latin-1, with accents."""
    file = source / "corpus.jsonl"
    rows = file.read_bytes().splitlines(keepends=True)
    for number in range(0, len(rows), 3):
        start, text, rest = rows[number].partition(b'"text"')
        rows[number] = start + text + rest.replace(b"e", b"\xe9")
    file.write_bytes(b"".join(rows))


FAILED = frozenset({"Failed"})
KILLED = frozenset({"Crashed"})
KILL_TRAINING = Fault("kill -9 in training", None, "train", Site.kill_night, flow="retrain-on-drift", ends=KILLED,
    next_step="next run resumes")  # fmt: skip
KILL_PUBLISH = Fault("kill -9 in publishing", None, "publish", Site.kill_night, ends=KILLED,
    next_step="next run resumes")  # fmt: skip
DISK_FULL = Fault("disk full", None, "index", Site.fill_disk, ends=FAILED | KILLED,
    next_step="space|disk|next run")  # fmt: skip
MILVUS = Fault("Milvus gone and back", None, "publish", lambda site: site.stop_milvus(OUTAGE), Site.wait_for_milvus)
PREFECT = Fault("Prefect server killed", None, "index", Site.kill_server)
TRUNCATED = Fault("source truncated", truncate, ends=FAILED, next_step="corpus")
SHUFFLED = Fault("qrels shuffled", shuffle_qrels, ends=FAILED, next_step="shuffled")
ENCODING = Fault("encoding broken", break_encoding, ends=FAILED, next_step="UTF-8")
DELETED = Fault("10 % deleted", world=True)
DRIFT = Fault("drift", world=True, ends=frozenset({"Promoted", "Rejected", "Unlabeled"}))
BOTS = Fault("bot traffic", world=True, ends=frozenset({"Promoted", "Rejected", "Suspect"}), next_step="the source")
TWO = Fault(
    "two nights at once", second="retrain-on-drift", ends=frozenset({"Promoted", "Rejected", "Skipped", "Unlabeled"})
)
UPGRADE = Fault("upgrade of the package", world=True)

SCRIPT = {
    4: UPGRADE, 6: KILL_TRAINING, 8: KILL_PUBLISH, 10: DISK_FULL, 12: MILVUS, 13: PREFECT, 15: TRUNCATED, 17: SHUFFLED,
    19: ENCODING, 21: DELETED, 23: DRIFT, 24: DRIFT, 27: BOTS, 29: TWO,
}  # fmt: skip
THIN = {2: KILL_PUBLISH, 4: SHUFFLED}
