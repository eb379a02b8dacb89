"""The record of a running `nightshift up`, and the home that keeps it: that of the first of several collections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flows.collections import Collection
from tasks.core.base.files import write_json


class Running(BaseModel):
    """Processes that `nightshift up` started, as stored in `<home>/prefect/up.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    server: int  # process ids
    worker: int
    watchdog: int = 0
    collections: tuple[Collection, ...] = ()  # that run side by side; empty for one that runs alone

    def on(self, home: Path) -> Sequence[Collection]:
        """Return the collections of the server on `home`, a collection that runs alone included."""
        return self.collections or (Collection(home=home),)

    def collection_on(self, home: Path) -> Collection:
        """Return the collection whose home is `home`."""
        return next((known for known in self.collections if known.home == home.absolute()), Collection(home=home))

    @property
    def port(self) -> int:
        """Port of the server."""
        return int(self.url.rpartition(":")[2])


def host_of(home: Path) -> Path:
    """Return the home of the shared Prefect server, if `nightshift up` runs this collection there; else `home`."""
    try:
        host = Path(json.loads(_file(home).read_text(encoding="utf-8"))["host"])
        collections = json.loads((host / "prefect" / "up.json").read_text(encoding="utf-8"))["collections"]
        shared = str(home.absolute()) in [collection["home"] for collection in collections]
    except (OSError, ValueError, TypeError, KeyError):
        return home
    return host if shared else home


def link_to_host(home: Path, host: Path) -> None:
    """Record that the Prefect server of `host` runs the nights of `home`."""
    write_json(_file(home), {"host": str(host.absolute())})


def unlink_from_host(home: Path) -> None:
    """Forget the shared Prefect server."""
    _file(home).unlink(missing_ok=True)


def _file(home: Path) -> Path:
    return home / "prefect" / "host.json"
