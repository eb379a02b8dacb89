"""What each of several collections serves, how good it is, and how its last night ended: rows and one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_text
from tasks.core.base.templates import render
from tasks.core.release.history import known_releases
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.vector_stores import open_publisher
from tasks.core.report.history import REPORTS, page_name
from tasks.core.report.index import INDEX, nights_of


class CollectionStatus(BaseModel):
    """State of one collection at the time `at`. Fields of a release are None until a release serves."""

    model_config = ConfigDict(frozen=True)

    name: str
    at: datetime
    home: Path
    store: str  # address of the Milvus server, or milvus-lite
    release: str | None = None
    collection: str | None = None  # in Milvus
    created: datetime | None = None  # when the release was made
    passages: int | None = None
    ranking: str | None = None
    ndcg: float | None = None  # nDCG@10 of the release on its held-out queries
    bm25: float | None = None  # nDCG@10 of BM25 on the same queries
    last_night: datetime | None = None
    outcome: str | None = None
    why: str | None = None
    report: Path | None = None  # of the last night
    running_since: datetime | None = None  # of a night that runs, or waits for a night of another collection
    next_night: datetime | None = None
    problem: str = ""

    @property
    def age(self) -> timedelta | None:
        """Time since the release was made."""
        return self.at - self.created if self.created else None


def status_of(settings: HomeSettings, name: str, at: datetime | None = None) -> CollectionStatus:
    """Read the state of a collection from its pointer, ledger, and history. Repairs nothing.

    Returns:
        The state. `problem` is the reason if the serving release cannot be read.
    """
    status = CollectionStatus(
        name=name,
        at=at or datetime.now(UTC),
        home=settings.home.absolute(),
        store=settings.milvus.uri or "milvus-lite",
    )
    nights = nights_of(status.home)
    if nights:
        page = status.home / REPORTS / page_name(nights[-1]["began"])
        night = {"last_night": nights[-1]["began"], "outcome": nights[-1]["outcome"], "why": nights[-1]["why"]}
        status = status.model_copy(update={**night, "report": page if page.exists() else None})
    try:
        return status.model_copy(update=_serving(settings))
    except NightshiftError as error:
        return status.model_copy(update={"problem": str(error)})


def _serving(settings: HomeSettings) -> dict[str, object]:
    """Return the fields of the serving release.

    Raises NightshiftError when the pointer cannot be read, or names a release that the ledger lacks.
    """
    pointer = open_publisher(settings.home, settings.milvus).serving()
    if pointer is None:
        return {}
    release = next((known for known in known_releases(settings) if known.release == pointer.release), None)
    if release is None:
        raise NightshiftError(f"release {pointer.release} serves but is not in the ledger: run nightshift releases")
    return {
        "release": release.release,
        "collection": pointer.collection,
        "created": datetime.fromisoformat(release.created),
        "passages": release.rows,
        "ranking": str(release.ranking.mode),
        "ndcg": release.metrics.get("ndcg@10"),
        "bm25": release.bm25.get("ndcg@10"),
    }


def display_age(age: timedelta) -> str:
    """Format an age: 12 min, 5 h, 3 days."""
    minutes = int(age.total_seconds() // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"


def write_page(statuses: Sequence[CollectionStatus], to: Path) -> Path:
    """Write the states as one HTML page, with relative links to the reports of each home; return its path."""
    to = to.absolute()
    rows = []
    for status in statuses:
        index = status.home / REPORTS / INDEX
        rows.append(
            {
                "status": status,
                "age": display_age(status.age) if status.age else "",
                "index": _link(index, to) if index.exists() else "",
                "report": _link(status.report, to) if status.report else "",
            }
        )
    at = max((status.at for status in statuses), default=datetime.now(UTC))
    write_text(to, render(Path(__file__).with_name("collections.html.jinja"), rows=rows, at=at))
    return to


def _link(page: Path, start: Path) -> str:
    return quote(os.path.relpath(page, start.parent))
