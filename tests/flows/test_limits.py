"""The limit of nights, when the Prefect server cannot release it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from flows import runs


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
