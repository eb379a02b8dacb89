"""What the search service is asked and what it says."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tasks.core.base.plain_text import check_text
from tasks.core.base.receipts import Release
from tasks.core.base.section import Section
from tasks.core.search.filters import Filters
from tasks.core.search.pinned import HITS_A_REQUEST, Answer
from tasks.core.search.searcher import MOST

LONGEST = 4000  # characters of a query
QUERIES = 64  # of one request


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; ask for something")
    return text


Query = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST),
    AfterValidator(check_text),
    AfterValidator(_says_something),
]


class SearchRequest(Section):
    """One query, or several that one release answers together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "read a csv file", "k": 3, "filters": {"title": {"prefix": "pandas"}}}]
        }
    )

    query: Query | None = Field(None, description="one query; or give queries")
    queries: Annotated[list[Query], Field(min_length=1, max_length=QUERIES)] | None = Field(
        None, description="several, answered in this order"
    )
    k: int = Field(10, ge=1, le=MOST, description="passages a query")
    filters: Filters = Field(Filters(), description="rules that passages must keep")
    fuse: bool = Field(False, description="join the ranking with BM25's by reciprocal rank; scores are then small")
    release: str = Field("", max_length=100, description="the release that answers; empty: the serving one")

    @model_validator(mode="after")
    def _one_or_several(self) -> SearchRequest:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        if len(self.asked) * self.k > HITS_A_REQUEST:
            raise ValueError(f"queries times k is more than {HITS_A_REQUEST}; ask for less at once")
        return self

    @property
    def asked(self) -> list[str]:
        """The queries, however they were given."""
        return [self.query] if self.query is not None else self.queries or []


class SearchResponse(BaseModel):
    """The answers, all from `release`, in the order of the queries."""

    release: str
    seconds: float  # in the service, waiting included
    answers: list[Answer]


class Refusal(BaseModel):
    """Why there is no answer, and what to do next."""

    error: str
    next: str


class Status(StrEnum):
    """How well the service answers."""

    OK = "ok"
    DEGRADED = "degraded"  # the release before answers, or BM25 does not
    FAILING = "failing"  # no query is answered


class Health(BaseModel):
    """Whether the service answers, from which release, and what is wrong; the log says more."""

    status: Status = Status.OK
    release: str
    reason: str = ""


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

    @classmethod
    def of(cls, one: Release) -> Comparison:
        """What is shown of a release's receipt."""
        return cls(passages=one.rows, **one.model_dump(include=set(cls.model_fields) - {"passages"}))


class Releases(BaseModel):
    """The release that answers now, and all that can be asked by name, newest first."""

    serving: str
    releases: list[Comparison]
