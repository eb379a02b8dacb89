"""The sections `[[data.sources]]` and `[data.clicks]`: sources of one collection, and how clicks become pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.core.base.section import Section, Share
from tasks.core.base.setting_paths import Location

SourceFormat = Literal["beir", "msmarco", "dpr", "tevatron", "parquet", "pairs", "clicks"]


class Refusable(Section):
    """Allowed fraction of rejected rows for each table, such as `[data.max_refused] qrels = 0.2`."""

    passages: Share = 0.05
    queries: Share = 0.05
    qrels: Share = 0.05


class SourceSettings(Section):
    """One of several sources of a collection."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="name in reports, and the beginning of its query ids"
    )
    format: SourceFormat = Field(description="source format, as [data] format")
    path: Location = Field(description="location of the source: a folder, a file, or an address")
    weight: float = Field(1.0, gt=0, le=1, description="how sure the pairs of the source are; multiplies their weights")
    splits: Literal["as labeled", "train only"] = Field(
        "as labeled", description="train only: all pairs of the source are training pairs, and never held out"
    )
    query_column: str = Field("", description="pairs only: column of the query; empty: detect it by name")
    passage_column: str = Field("", description="pairs only: column of the passage; empty: detect it by name")

    @property
    def only_trains(self) -> bool:
        """Whether no pair of the source is held out. Clicks never are, since nobody judged them."""
        return self.splits == "train only" or self.format == "clicks"

    @model_validator(mode="after")
    def _columns_are_of_pairs(self) -> SourceSettings:
        if (self.query_column or self.passage_column) and self.format != "pairs":
            raise ValueError('query_column and passage_column need format = "pairs"')
        return self


class ClickSettings(Section):
    """How a click log becomes training pairs."""

    min_impressions: int = Field(
        3, ge=1, description="lowest number of result pages of a query that showed a passage, for the two to be a pair"
    )
    min_weight: Share = Field(0.2, description="lowest weight of a pair, the probability that the passage is relevant")
    propensity: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (),
        description="probability that a user looks at position 1, 2, …, relative to position 1; the last value holds "
        "for all later positions; [1.0] corrects nothing; empty: estimate it from the log",
    )
    max_correction: float = Field(
        10.0, ge=1, description="a click counts at most this number of times as much as a click at position 1"
    )
    max_refused: Share = Field(0.5, description="stop the night if a larger fraction of the click log is rejected")
