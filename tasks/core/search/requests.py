"""Requests and responses of the search service."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tasks.core.base.plain_text import check_text
from tasks.core.base.ranking import Mode
from tasks.core.base.receipts import Release
from tasks.core.base.section import Section
from tasks.core.search.checks import MOST
from tasks.core.search.filters import Filters
from tasks.core.search.pinned import HITS_A_REQUEST, Answer

LONGEST = 4000  # characters of a query
QUERIES = 64  # queries per request


def _check_not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("the query is empty")
    return text


Query = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST),
    AfterValidator(check_text),
    AfterValidator(_check_not_empty),
]


class SearchRequest(Section):
    """A search request: one query, or several queries answered by one release."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "read a csv file", "k": 3, "filters": {"title": {"prefix": "pandas"}}}]
        }
    )

    query: Query | None = Field(None, description="one query; give either query or queries")
    queries: Annotated[list[Query], Field(min_length=1, max_length=QUERIES)] | None = Field(
        None, description="several queries, answered in this order"
    )
    k: int = Field(10, ge=1, le=MOST, description="passages per query")
    filters: Filters = Field(Filters(), description="rules that passages must match")
    mode: Mode | None = Field(
        None, description="rank with the encoder, BM25, or both; empty: as the night found best for the release"
    )
    # Not `deprecated=True`: reading the field would then warn.
    fuse: bool = Field(False, description='earlier name of mode = "hybrid"', json_schema_extra={"deprecated": True})
    release: str = Field("", max_length=100, description="release to search; empty: the serving release")

    @model_validator(mode="after")
    def _one_or_several(self) -> SearchRequest:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        if len(self.texts) * self.k > HITS_A_REQUEST:
            raise ValueError(f"queries times k is more than {HITS_A_REQUEST}; send fewer queries or a smaller k")
        return self

    @property
    def chosen_mode(self) -> Mode | None:
        """The mode of the request; None: that of the release."""
        return Mode.HYBRID if self.fuse and self.mode is None else self.mode

    @property
    def texts(self) -> list[str]:
        """All queries of the request, from `query` or `queries`."""
        return [self.query] if self.query is not None else self.queries or []


class SearchResponse(BaseModel):
    """Answers from one release, in the order of the queries."""

    release: str
    seconds: float  # in the service, including time in the queue
    answers: list[Answer]


class Refusal(BaseModel):
    """An error: the reason, and the next step."""

    error: str
    next: str


class Status(StrEnum):
    """Health of the service."""

    OK = "ok"
    DEGRADED = "degraded"  # the previous release answers, or BM25 does not
    FAILING = "failing"  # no query is answered


class Health(BaseModel):
    """Health, serving release, and the reason if something is wrong; the log has details."""

    status: Status = Status.OK
    release: str
    reason: str = ""


class Live(BaseModel):
    """The process responds."""

    status: Status = Status.OK


class Comparison(BaseModel):
    """A release that can be searched."""

    release: str
    created: str  # UTC, ISO 8601
    passages: int
    snapshot: str
    fingerprint: str
    dimension: int
    metrics: dict[str, float]
    reason: str
    mode: Mode  # how it ranks

    @classmethod
    def of(cls, release: Release) -> Comparison:
        """Select the public fields of a release's receipt."""
        fields = release.model_dump(include=set(cls.model_fields) - {"passages", "mode"})
        return cls(passages=release.rows, mode=release.ranking.mode, **fields)


class Releases(BaseModel):
    """The serving release, and all releases that can be searched by name, newest first."""

    serving: str
    releases: list[Comparison]
    feedback: bool = False  # whether the service accepts votes
