"""Votes on search results: limits the rate of each visitor, and appends votes to the log before it acknowledges them.

The log has a pseudonym of a visitor, never the address: an HMAC of the address under a key that only the home has. With
it, a night counts how many visitors agree, and gives each of them one vote about a pair.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from tasks.core.base.atomic_files import exclusive
from tasks.core.base.errors import NightshiftError
from tasks.core.base.plain_text import check_text
from tasks.core.base.section import Section
from tasks.core.base.sections.feedback import FeedbackSettings
from tasks.core.search.requests import Query, Refusal
from tasks.core.search.worker_pool import WorkerPool
from tasks.core.sources.feedback_log import FOLDER, Origin, Record, Verdict, append_records, now

PATH = "/feedback"
BODY_BYTES = 1 << 16  # largest request body: 4,000 characters as JSON escapes, and an id
KEY = "visitors.key"  # in home/feedback
VISITORS = 10_000  # visitors whose rate is remembered; the one without a vote for the longest time is forgotten
THREADS = 8

PassageId = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(check_text)]


class Vote(Section):
    """A visitor's vote about a passage for a query."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "read a csv file", "passage_id": "pandas.read_csv", "verdict": "answers"}]
        }
    )

    query: Query
    passage_id: PassageId
    verdict: Verdict = Field(description="the last vote of a visitor about a pair counts; withdrawn takes it back")
    release: str = Field("", max_length=100, description="the release that returned the passage")


class Recorded(BaseModel):
    """The vote is in the log, and survives a crash."""

    recorded: Verdict


class TooMany(NightshiftError):
    """A visitor voted too often in the last minute."""


class VoteLog:
    """Records votes in the home. Use it from one event loop, and close it at the end."""

    def __init__(self, home: Path, settings: FeedbackSettings, seconds: float) -> None:
        self._home, self._settings, self._seconds = home, settings, seconds
        self._key = _visitor_key(home)
        self._pool = WorkerPool("votes", THREADS)
        self._writing = threading.Lock()  # faster than the lock between processes
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()  # visitor -> votes left, and when

    async def record(self, vote: Vote, address: str) -> None:
        """Append a vote durably.

        Args:
            vote: the vote.
            address: network address of the visitor.

        Raises:
            TooMany: more than `per_minute` votes of this visitor in this process.
            LogFull: the log has `megabytes` already.
            Full: too many votes wait.
            TooSlow: not written in time.
            NightshiftError: the log cannot be written.
        """
        visitor = self._pseudonym(address)
        self._take(visitor)
        record = Record(
            query=vote.query,
            passage_id=vote.passage_id,
            verdict=vote.verdict,
            judge=visitor,
            judged_at=now(),
            release=vote.release,
        )
        await self._pool.run(lambda: self._append(record), self._seconds)

    def close(self) -> None:
        """Write the votes that wait, then stop."""
        self._pool.close()

    def _append(self, record: Record) -> None:
        with self._writing:
            append_records(self._home, Origin.FEEDBACK, [record], self._settings.megabytes * 2**20)

    def _pseudonym(self, address: str) -> str:
        return "visitor-" + hmac.new(self._key, _network(address).encode(), hashlib.sha256).hexdigest()[:16]

    def _take(self, visitor: str) -> None:
        """Take a vote from the visitor's bucket, which refills in a minute. Raises TooMany if it is empty."""
        most, instant = float(self._settings.per_minute), time.monotonic()
        left, before = self._rates.pop(visitor, (most, instant))
        left = min(most, left + (instant - before) * most / 60)
        self._rates[visitor] = (left - 1 if left >= 1 else left), instant
        while len(self._rates) > VISITORS:
            self._rates.popitem(last=False)
        if left < 1:
            raise TooMany(f"more than {most:.0f} votes in a minute")


def add_feedback(app: FastAPI, votes: VoteLog) -> None:
    """Add `POST /feedback` to the application. A vote that is not sent as JSON raises HTTPException (415)."""
    responses: dict[int | str, dict[str, type[Refusal]]] = {
        code: {"model": Refusal} for code in (401, 403, 408, 413, 415, 422, 429, 503, 504, 507)
    }

    @app.post(PATH, responses=responses)
    async def feedback(vote: Vote, request: Request) -> Recorded:
        """Record whether a passage is relevant to a query. Nights train on votes on which visitors agree."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # pages of other sites can send any other type without asking the browser
            raise HTTPException(415, "a vote needs the header content-type: application/json")
        await votes.record(vote, request.client.host if request.client else "")
        return Recorded(recorded=vote.verdict)


def _network(address: str) -> str:
    """Return the address of a visitor; for IPv6 its /64 network, because a visitor can use every address in it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _visitor_key(home: Path) -> bytes:
    """Return the key of pseudonyms, the same in every process of the home."""
    file = home / FOLDER / KEY
    with exclusive(file.with_suffix(".lock")):
        if not file.exists() or not file.read_bytes():
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(handle, secrets.token_hex(32).encode())
                os.fsync(handle)
            finally:
                os.close(handle)
        return file.read_bytes()
