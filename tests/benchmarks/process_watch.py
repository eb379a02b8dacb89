"""Cost of all descendants of this process by stage, from /proc: CPU-seconds, peak memory by kind of process, bytes.

Memory is what a process holds: anonymous and shared memory. Pages of mapped files, which the kernel drops when memory
is scarce, are in `resident` only. Bytes are those of read and write calls, with or without the disk behind them.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

TICK = os.sysconf("SC_CLK_TCK")
SECONDS = 0.25  # between samples
KINDS = {"java": "java", "uvicorn": "prefect", "run": "night"}  # words of a command -> kind of its process


@dataclass
class StageCost:
    """The cost of a stage. Peaks are in MiB, by kind of process."""

    seconds: float = 0.0
    cpu: float = 0.0
    milvus_cpu: float = 0.0
    read: int = 0
    written: int = 0
    memory: dict[str, float] = field(default_factory=dict)
    resident: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Totals:
    time: float
    cpu: float
    milvus_cpu: float
    read: int
    written: int


class ProcessWatch:
    """Samples the descendants of this process. `enter` ends a stage and begins the next."""

    def __init__(self) -> None:
        self.stages: dict[str, StageCost] = {}
        self._stage, self._kinds = "start", dict[int, str]()
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._begin = self._charge_to = self._totals()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.enter("end")
        self._ended.set()
        self._thread.join()

    def enter(self, stage: str) -> None:
        """Charge what was used since the last call to the current stage, and begin `stage`."""
        with self._lock:
            now = self._totals()
            before, cost = self._charge_to, self.stages.setdefault(self._stage, StageCost())
            cost.seconds += now.time - before.time
            cost.cpu += max(0.0, now.cpu - before.cpu)
            cost.milvus_cpu += max(0.0, now.milvus_cpu - before.milvus_cpu)
            cost.read += max(0, now.read - before.read)
            cost.written += max(0, now.written - before.written)
            self._charge_to, self._stage = now, stage

    def costs(self) -> dict[str, dict[str, Any]]:
        """Return the cost of each stage, as JSON."""
        return {name: asdict(cost) for name, cost in self.stages.items() if cost.seconds >= 0.005}

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS):
            with self._lock:
                self._totals()

    def _totals(self) -> _Totals:
        """Sum the use of all descendants and of their finished children; note the peaks of the current stage."""
        cpu, milvus_cpu, read, written = 0.0, 0.0, 0, 0
        cost = self.stages.setdefault(self._stage, StageCost())
        for pid in _descendants(os.getpid()):
            try:
                kind = self._kind(pid)
                used, moved = _cpu(pid), _io(pid)
                memory, resident = _memory(pid)
            except (OSError, ValueError, IndexError):  # the process has ended; its parent has its use
                continue
            self._peak(cost, kind, memory, resident)
            if kind == "milvus":
                milvus_cpu += used
                continue
            cpu += used
            read += moved[0]
            written += moved[1]
        own, moved = os.times(), _io(os.getpid())  # with those of finished children
        cpu += own.children_user + own.children_system
        return _Totals(time.perf_counter(), cpu, milvus_cpu, read + moved[0], written + moved[1])

    @staticmethod
    def _peak(cost: StageCost, kind: str, memory: float, resident: float) -> None:
        cost.memory[kind] = max(cost.memory.get(kind, 0.0), memory)
        cost.resident[kind] = max(cost.resident.get(kind, 0.0), resident)

    def _kind(self, pid: int) -> str:
        if pid not in self._kinds:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if not command.strip():
                return "python"  # between fork and exec
            program = command.split(" ")[0].rsplit("/", 1)[-1]
            words = (program, *command.split())
            kind = next((kind for word, kind in KINDS.items() if word in words), "python")
            self._kinds[pid] = "milvus" if "milvus" in program else kind
        return self._kinds[pid]


def folder_bytes(folder: Path) -> int:
    """Return the disk that a folder takes, counting hard links once."""
    sizes: dict[tuple[int, int], int] = {}
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                state = (Path(root) / name).lstat()
            except FileNotFoundError:
                continue
            sizes[state.st_dev, state.st_ino] = 512 * state.st_blocks
    return sum(sizes.values())


def _descendants(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(value) for value in fields[11:15]) / TICK


def _io(pid: int) -> tuple[int, int]:
    values = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(values["rchar"]), int(values["wchar"])


def _memory(pid: int) -> tuple[float, float]:
    """Return anonymous and shared memory, and resident memory with mapped files, in MiB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    values = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "RssAnon:", "RssShmem:")}
    if not values:  # the process has ended, and its parent has not noticed
        return 0.0, 0.0
    return (values["RssAnon:"] + values["RssShmem:"]) / 1024, values["VmRSS:"] / 1024
