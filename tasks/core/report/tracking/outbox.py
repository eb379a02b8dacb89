"""Send nights to the tracker of the settings, in a process of its own and within a time limit.

A night and a rollback first write a file to `home/tracking/outbox`. The sender sends the files in order, and deletes
each afterwards. While a tracker is down, files stay. They are sent after the next night, or by `nightshift track`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_text
from tasks.core.base.sections.tracking import TrackingSettings
from tasks.core.report.night import Night
from tasks.core.report.tracking.tracker import TrackedNight, Tracker

log = logging.getLogger("nightshift.tracking")

OUTBOX = Path("tracking") / "outbox"
SENDER = "tasks.core.report.tracking.outbox"
QUICK = {  # of the sender: fail early, print no links, and send no data to the makers of the trackers
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "WANDB_ERROR_REPORTING": "false",
}
LATER = "It is sent after the next night, or by `nightshift track`"


class Message(BaseModel):
    """A file of the outbox: a night, or a release that serves after a rollback."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    night: TrackedNight | None = None
    serving: str = ""


def track_night(home: Path, settings: TrackingSettings, night: Night) -> None:
    """Send a finished night, waiting at most `[tracking] seconds`. Never raises: failures are logged."""
    _track(home, settings, "the night", lambda: Message(night=TrackedNight.of(night, home)))


def track_serving(home: Path, settings: TrackingSettings, release: str) -> None:
    """Send that a release serves after the pointer moved, as `track_night` does."""
    _track(home, settings, "the move of the pointer", lambda: Message(serving=release))


def send_all(home: Path, settings: TrackingSettings) -> int:
    """Send all files of the outbox in this process, oldest first; return their number.

    Raises:
        NightshiftError: there is no tracker, another process is sending, or the tracker failed; the rest stays.
    """
    if settings.tracker == "none":
        raise NightshiftError('no tracker: set [tracking] tracker = "mlflow" or "wandb"')
    folder, sent = home / OUTBOX, 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            tracker = open_tracker(home, settings)
            for file in sorted(folder.glob("*.json")):
                sent += _send(tracker, file)
    except Timeout as error:
        raise NightshiftError("another process is sending to the tracker. Try again in a moment") from error
    return sent


def open_tracker(home: Path, settings: TrackingSettings) -> Tracker:
    """Open the tracker of the settings. Raises NightshiftError if its package is not installed."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUICK.items()})
    try:
        if settings.tracker == "mlflow":
            from tasks.core.report.tracking.mlflow_tracker import MlflowTracker

            return MlflowTracker(settings)
        from tasks.core.report.tracking.wandb_tracker import WandbTracker

        return WandbTracker(settings, home / "tracking" / "wandb")
    except ImportError as error:
        name = settings.tracker
        raise NightshiftError(
            f"[tracking] tracker = \"{name}\" needs the extra {name}: pip install 'nightshift[{name}]'"
        ) from error


def _track(home: Path, settings: TrackingSettings, event: str, message: Callable[[], Message]) -> None:
    if settings.tracker == "none":
        return
    try:
        _post(home, message())
        _send_in_process(home, settings)
    except Exception as error:  # a tracker must never fail a night, or hide that the pointer moved
        log.warning("%s was not recorded by %s: %s. %s", event, settings.tracker, error, LATER)


def _post(home: Path, message: Message) -> None:
    folder = home / OUTBOX
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}.json", message.model_dump_json())


def _send(tracker: Tracker, file: Path) -> int:
    """Send a file and delete it; return 1, or 0 if it is damaged and was set aside."""
    try:
        message = Message.model_validate_json(file.read_bytes())
    except ValidationError as error:
        file.rename(file.with_suffix(".damaged"))
        log.warning("%s: damaged, so it was not sent (%d faults)", file, error.error_count())
        return 0
    try:
        if message.night is not None:
            tracker.send_night(message.night)
        elif message.serving:
            tracker.mark_serving(message.serving)
    except Exception as error:  # each tracker has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise NightshiftError(f"the tracker failed ({type(error).__name__}: {reason}). {LATER}") from error
    file.unlink()
    return 1


def _send_in_process(home: Path, settings: TrackingSettings) -> None:
    """Run the sender in a new process; end it after `[tracking] seconds`. Raises NightshiftError if it failed."""
    command = [sys.executable, "-m", SENDER, str(home.absolute()), settings.model_dump_json()]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=subprocess.PIPE, text=True) as sender:  # noqa: S603
        try:
            _, errors = sender.communicate(timeout=settings.seconds)
        except subprocess.TimeoutExpired:
            sender.kill()
            raise NightshiftError(f"the tracker did not answer within {settings.seconds:g} s") from None
    if sender.returncode:
        raise NightshiftError(errors.strip().rpartition("\n")[2] or f"the sender ended with code {sender.returncode}")


def main() -> int:
    """Send the outbox of the home in the arguments; return the exit code."""
    home, settings = Path(sys.argv[1]), TrackingSettings.model_validate_json(sys.argv[2])
    try:
        send_all(home, settings)
    except NightshiftError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
