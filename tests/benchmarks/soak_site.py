"""What the soak operates: a small disk, a Milvus server, `nightshift up`, a webhook, and the clock."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

from milvus_servers import LiteServer  # noqa: E402
from operated_server import ENDED, Operated, receiving_alerts  # noqa: E402
from prefect_servers import free_port  # noqa: E402

from tasks.core.base.checksums import read_record, write_record  # noqa: E402
from tasks.core.release.retention import DELETABLE  # noqa: E402

DAY = timedelta(days=1)
PAGE, DISK = 4096, 4 << 30  # bytes of the disk of the home
PATIENCE = 900  # seconds for a night
FULL = 300  # seconds that the disk stays full, at most
STAGE = r"\[\d/\d\] {} "  # heading of a stage in the worker's log


class Site:
    """A home on its own disk, with Prefect, Milvus, and a webhook.

    Args:
        folder: for all files.
        settings: of the nights, without home and Milvus, as TOML.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder, self.home, self.version = folder, folder / "home", ROOT
        self.milvus_folder = folder / "milvus"
        self.settings = folder / "settings.toml"
        self._text = settings
        self.up: Operated | None = None
        self.outages: list[list[float]] = []  # of Milvus: begin and end, seconds since 1970
        self._peak, self._run = 0, ""

    @contextmanager
    def operating(self) -> Iterator[Site]:
        """Mount the disk, start Milvus and the webhook; end everything afterwards."""
        self.home.mkdir(parents=True)
        self.resize_disk(DISK, mounted=False)
        self.milvus = LiteServer(self.milvus_folder)
        text = f'home = "{self.home}"\n{self._text}[milvus]\nuri = "{self.milvus.uri}"\n'
        self.settings.write_text(text)
        try:
            with receiving_alerts() as (self.webhook, self.alerts):
                yield self
        finally:
            if self.up is not None:
                self.stop()
            self.milvus.kill()
            subprocess.run(["umount", "-l", self.home], check=True)

    def resize_disk(self, size: int, *, mounted: bool = True) -> None:
        """Give the file system of the home this number of bytes."""
        options = f"{'remount,' if mounted else ''}size={size // PAGE * PAGE}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self.home], check=True)

    def fill_disk(self) -> None:
        """Leave no free byte on the disk of the home, until the process of the night has ended."""
        process = self._process()
        self.resize_disk(shutil.disk_usage(self.home).used + PAGE)

        def free() -> None:
            with suppress(psutil.TimeoutExpired):
                process.wait(FULL)
            self.resize_disk(DISK)

        threading.Thread(target=free, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every process of the product, in the version that is installed now."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTSHIFT_", "PREFECT_"))}
        return {
            **kept,
            "PYTHONPATH": str(self.version),
            "NIGHTSHIFT_SETTINGS": str(self.settings),
            "NIGHTSHIFT_ALERT_URL": self.webhook,
            "PREFECT_HOME": str(self.folder / "prefect-client"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }

    def command(self, *arguments: str) -> str:
        """Run `nightshift` with arguments; return its output."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"nightshift {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, version: Path) -> None:
        """Start `nightshift up` of the version in a folder. The hourly drift check is left out: the nights check."""
        self.version = version
        file = yaml.safe_load((version / "infra" / "prefect.yaml").read_text())
        for deployment in file["deployments"]:
            if deployment["name"] == "watch-drift":
                deployment.pop("schedules")
        deployments = self.folder / "deployments.yaml"
        deployments.write_text(yaml.safe_dump(file))
        port = free_port()
        self.command("up", "--port", str(port), "--deployments", str(deployments))
        self.up = Operated(self.home, f"http://127.0.0.1:{port}")

    def stop(self) -> None:
        """Run `nightshift down`."""
        self.up = None
        self.command("down", "--now")

    def begin_night(self, flow: str) -> str:
        """Start a run of a deployment; return its id."""
        assert self.up is not None
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._peak = 0
        self._run = self.up.start(flow, reason="schedule")
        return self._run

    def wait_for_stage(self, stage: str) -> bool:
        """Wait until the night begins a stage; return false if it ends without."""
        assert self.up is not None
        heading, end = re.compile(STAGE.format(stage)), time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if heading.search(self.log_of_night()):
                return True
            if self.up.request(f"flow_runs/{self._run}")["state"]["type"] in ENDED:
                return False
            self._sample_memory()
            time.sleep(0.1)
        return False

    def wait_for_end(self, run: str) -> dict[str, Any]:
        """Wait until a run has ended; return it. Its state is called Hung if it does not end in time."""
        assert self.up is not None
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            flow_run: dict[str, Any] = self.up.request(f"flow_runs/{run}")
            if flow_run["state"]["type"] in ENDED:
                return flow_run
            for _ in range(5):
                self._sample_memory()
                time.sleep(0.2)
        return {**flow_run, "state": {"name": "Hung", "message": str(flow_run["state"])}}

    @property
    def _log(self) -> Path:
        return self.home / "prefect" / "worker.log"

    def log_of_night(self) -> str:
        """Return what the worker has logged since the night began."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def kill_night(self) -> None:
        """Kill the process of the night, and its children."""
        process = self._process()
        for each in (*process.children(recursive=True), process):
            each.send_signal(signal.SIGKILL)

    def _process(self) -> psutil.Process:
        """Return the process of the night."""
        assert self.up is not None
        return psutil.Process(int(self.up.request(f"flow_runs/{self._run}")["infrastructure_pid"]))

    def kill_server(self) -> None:
        """Kill the Prefect server."""
        assert self.up is not None
        os.kill(self.up.process("server"), signal.SIGKILL)

    def stop_milvus(self, seconds: float) -> None:
        """Kill Milvus, and start it again after `seconds`."""
        outage = [time.time(), float("inf")]
        self.outages.append(outage)
        self.milvus.kill()

        def back() -> None:
            time.sleep(seconds)
            self.milvus.start()
            outage[1] = time.time()

        threading.Thread(target=back, daemon=True).start()

    def wait_for_milvus(self) -> None:
        """Wait until the last outage has ended."""
        while self.outages and self.outages[-1][1] == float("inf"):
            time.sleep(0.2)

    def _sample_memory(self) -> None:
        assert self.up is not None
        with suppress(psutil.Error, OSError):
            nights = psutil.Process(self.up.process("worker")).children(recursive=True)
            self._peak = max(self._peak, sum(_resident(process) for process in nights))

    def figures(self) -> dict[str, float]:
        """Return disk and memory in MB: home, Milvus, the Prefect database in the home, and the peak of the night."""
        prefect = sum(file.stat().st_size for file in (self.home / "prefect").rglob("*") if file.is_file())
        milvus = sum(file.stat().st_size for file in self.milvus_folder.rglob("*") if file.is_file())
        used = shutil.disk_usage(self.home).used
        sizes = {"home": used - prefect, "prefect": prefect, "milvus": milvus, "peak": self._peak}
        return {name: round(size / 1e6, 1) for name, size in sizes.items()}

    def alerts_about(self, run: str, seconds: float) -> list[dict[str, str]]:
        """Return the alerts with a link to a run; wait `seconds` for the first."""
        end = time.monotonic() + seconds
        while not (alerts := [alert for alert in self.alerts if run in alert["body"]]) and time.monotonic() < end:
            time.sleep(0.5)
        return alerts

    def forward_clock(self) -> None:
        """Set the clock forward by a day: move every time that the product compares with now back by a day.

        These are the last use of each artifact (retention), the moves of the pointer (grace of a release), and the
        windows and triggers of the drift check.
        """
        for kind in DELETABLE:
            for folder in (self.home / kind.shelf).glob("*"):
                status = folder.stat()
                times = status.st_atime - DAY.total_seconds(), status.st_mtime - DAY.total_seconds()
                os.utime(folder, times)
        with closing(sqlite3.connect(self.home / "ledger.sqlite")) as ledger, ledger:
            moves = ledger.execute("SELECT epoch, at FROM moves").fetchall()
            ledger.executemany(
                "UPDATE moves SET at = ? WHERE epoch = ?", [(_earlier(at), epoch) for epoch, at in moves]
            )
        state = self.home / "drift" / "state.json"
        if state.exists():
            write_record(state, _shifted(read_record(state)))


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        size: int = process.memory_info().rss
        return size
    return 0


def _earlier(at: str) -> str:
    return (datetime.fromisoformat(at) - DAY).isoformat()


def _shifted(value: Any) -> Any:
    """Move each time under the key `at` back by a day."""
    if isinstance(value, dict):
        return {key: _earlier(child) if key == "at" and child else _shifted(child) for key, child in value.items()}
    return [_shifted(child) for child in value] if isinstance(value, list) else value
