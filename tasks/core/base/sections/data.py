"""The section `[data]`: one or several sources of a collection, and how clicks become pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from tasks.core.base.section import Section, Share
from tasks.core.base.setting_paths import Location, OptionalLocation

SourceFormat = Literal["beir", "msmarco", "dpr", "tevatron", "parquet", "pairs", "corpus", "clicks"]


class Refusable(Section):
    """Allowed fraction of rejected rows for each table, such as `[data.max_refused] qrels = 0.2`."""

    passages: Share = 0.05
    queries: Share = 0.05
    qrels: Share = 0.05


def _path_unless_address(path: Path | str | None) -> Path | str | None:
    return Path(path) if isinstance(path, str) and "://" not in path else path


class SourceSettings(Section):
    """One of several sources of a collection."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="name in reports, and the beginning of its query ids"
    )
    format: SourceFormat = Field(description="source format, as [data] format")
    path: Annotated[Location, AfterValidator(_path_unless_address)] = Field(
        description="location of the source: a folder, a file, or an address"
    )
    weight: float = Field(1.0, gt=0, le=1, description="how sure the pairs of the source are; multiplies their weights")
    splits: Literal["as labeled", "train only"] = Field(
        "as labeled", description="train only: all pairs of the source are training pairs, and never held out"
    )
    query_column: str = Field("", description="pairs only: column of the query; empty: detect it by name")
    passage_column: str = Field(
        "", description="pairs and corpus only: column of the passage; empty: detect it by name"
    )

    @property
    def only_trains(self) -> bool:
        """Whether no pair of the source is held out. Clicks never are, since nobody judged them."""
        return self.splits == "train only" or self.format == "clicks"

    @model_validator(mode="after")
    def _columns_are_of_pairs(self) -> SourceSettings:
        return _check_columns(self, "[[data.sources]]")


class ClickSettings(Section):
    """How a click log becomes training pairs."""

    min_impressions: int = Field(
        3, ge=1, description="lowest number of result pages of a query that showed a passage, for the two to be a pair"
    )
    min_weight: Share = Field(
        0.9, description="lowest probability of relevance, the weight of a pair, with which it becomes a training pair"
    )
    propensity: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (),
        description="probability that a user looks at position 1, 2, …, relative to position 1; the last value holds "
        "for all later positions; [1.0] corrects nothing; empty: estimate it from the log",
    )
    max_correction: float = Field(
        10.0, ge=1, description="a click counts at most this number of times as much as a click at position 1"
    )
    max_refused: Share = Field(0.5, description="stop the night if a larger fraction of the click log is rejected")


class DataSettings(Section):
    """Source of the passages, queries, and qrels, and the limits on data quality."""

    format: Literal["demo", SourceFormat] = Field(
        "demo",
        description="source format; demo: documentation of installed Python packages; other formats read the files at "
        "path (examples in infra/settings/<format>.toml); tevatron also reads sentence-transformers JSON lines; "
        "parquet also reads Hugging Face datasets folders; pairs reads any two columns of JSON lines, CSV, TSV, or "
        "Parquet; corpus reads passages without queries, from such files or from Markdown and text documents; clicks "
        "reads a BEIR folder with a click log next to it",
    )
    path: Annotated[OptionalLocation, AfterValidator(_path_unless_address)] = Field(
        None, description="location of the source: a folder, a file, or an address such as s3://bucket/folder"
    )
    query_column: str = Field("", description="pairs only: column of the query; empty: detect it by name")
    passage_column: str = Field(
        "", description="pairs and corpus only: column of the passage; empty: detect it by name"
    )
    max_passages: int = Field(3000, ge=10, description="demo only: maximum number of passages")
    dev_share: float = Field(
        0.1, gt=0, lt=1, description="fraction of training queries to hold out when there is no dev split"
    )
    held_out_weight: float = Field(
        1.0,
        gt=0,
        le=1,
        description="lowest weight of a pair that may be held out for dev or test; other pairs are for training only",
    )
    max_refused: Share | Refusable = Field(
        0.05,
        description="stop the night if a larger fraction of a table's rows is rejected; one number, or one per table",
    )
    feed: str = Field(
        "", description="name of the feed; a night is compared with earlier nights of its feed; empty: use path"
    )
    replace_feed: bool = Field(
        False,
        description="allow a source of another feed to replace the collection that this home serves; false: stop with "
        "an error",
    )
    compare: bool = Field(True, description="compare the tables with the last snapshot of this feed")
    min_lift: float = Field(
        5.0,
        ge=0,
        description="report qrels as shuffled if BM25 ranks positives less than this factor above chance; 0: off",
    )
    seed: int = Field(0, description="random seed of all data samples and splits")
    sources: tuple[SourceSettings, ...] = Field(
        (),
        description="several sources of one collection, each a table [[data.sources]] with name, format, path, weight "
        "(1.0), and splits (as labeled, or train only); instead of format and path",
    )
    clicks: ClickSettings = Field(ClickSettings(), description="how clicks become training pairs")

    @property
    def parts(self) -> tuple[SourceSettings, ...]:
        """Return the named sources of the collection; empty for a single source without a name."""
        if self.format != "clicks":
            return self.sources
        forms: tuple[SourceFormat, ...] = ("beir", "clicks")
        names = ("labels", "clicks")
        return tuple(
            SourceSettings(name=name, format=form, path=self.path or "")
            for name, form in zip(names, forms, strict=True)
        )

    @property
    def shown(self) -> str:
        """Return the formats of the sources, for people."""
        return " + ".join(dict.fromkeys(part.format for part in self.parts)) or self.format

    @model_validator(mode="after")
    def _sources_stand_alone(self) -> DataSettings:
        names = [source.name for source in self.sources]
        if self.sources and (self.format != "demo" or self.path is not None):
            raise ValueError("[[data.sources]] replaces [data] format and path: remove them, or remove the sources")
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"[[data.sources]] name {min(repeated)!r} occurs twice: give each source its own name")
        return self

    @model_validator(mode="after")
    def _files_need_a_path(self) -> DataSettings:
        if self.format != "demo" and self.path is None:
            raise ValueError(f'[data] format = "{self.format}" needs [data] path = "…", the location of its files')
        return _check_columns(self, "[data]")

    def limit_of(self, table: str) -> float:
        """Return the maximum fraction of rejected rows of `table`."""
        if table == "clicks":
            return self.clicks.max_refused
        return getattr(self.max_refused, table) if isinstance(self.max_refused, Refusable) else self.max_refused

    @property
    def has_only_passages(self) -> bool:
        """Return whether no source has queries."""
        return {part.format for part in self.parts or (self,)} == {"corpus"}


_Columns = TypeVar("_Columns", SourceSettings, DataSettings)


def _check_columns(settings: _Columns, section: str) -> _Columns:
    """Refuse the name of a column that the format does not use."""
    columns = settings.query_column or (settings.passage_column and settings.format != "corpus")
    if columns and settings.format != "pairs":
        raise ValueError(f'{section} query_column and passage_column need format = "pairs"')
    return settings
