"""The limit of nights, when the Prefect server cannot release it, and the lock of a home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import httpx
import pytest

from flows import runs
from tasks.core.base.files import exclusive


@pytest.fixture
def full_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a deployment on a server that lends slots, and cannot store their return."""

    @contextmanager
    def concurrency(*_: object, **__: object) -> Iterator[None]:
        try:
            yield
        finally:
            raise httpx.HTTPError("500 Internal Server Error")

    logger = SimpleNamespace(info=lambda *_: None)
    monkeypatch.setattr(runs, "concurrency", concurrency)
    monkeypatch.setattr(runs, "get_run_logger", lambda: logger)
    monkeypatch.setattr(runs, "runtime", SimpleNamespace(deployment=SimpleNamespace(id="1")))


@pytest.mark.usefixtures("full_server")
def test_a_night_ends_with_its_own_error_when_the_server_cannot_release_its_slot() -> None:
    with pytest.raises(OSError, match="No space left"), runs._limited(["nights"], "builds a release"):
        raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("full_server")
def test_a_night_ends_well_when_the_server_cannot_release_its_slot() -> None:
    with runs._limited(["nights"], "builds a release"):
        pass


@pytest.mark.usefixtures("full_server")
def test_an_http_error_of_the_night_is_raised() -> None:
    with pytest.raises(httpx.ConnectError), runs._limited(["nights"], "builds a release"):
        raise httpx.ConnectError("hub")


def test_a_night_logs_that_it_waits_for_another_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, builds = Event(), Event()
    monkeypatch.setattr(runs, "log", SimpleNamespace(info=lambda text: waits.set() if "Waiting" in text else None))

    def night() -> None:
        with runs._alone_in(tmp_path):
            builds.set()

    second = Thread(target=night)
    with exclusive(tmp_path / "night.lock"):
        second.start()
        assert waits.wait(timeout=60)
        assert not builds.is_set()
    second.join(timeout=60)
    assert builds.is_set()
    with runs._alone_in(tmp_path):  # free: no line
        pass
