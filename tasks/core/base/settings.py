"""Every dial of a night, in one typed tree: defaults here, then a TOML file, then `NIGHTSHIFT_…` variables.

`NIGHTSHIFT_TRAINING__BATCH_SIZE=64` sets `[training] batch_size`; the environment wins over the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tasks.core.base.section import Section
from tasks.core.base.sections.compute import ComputeSettings, StoreSettings
from tasks.core.base.sections.drift import DriftSettings
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.base.sections.release import MilvusSettings, ReleaseSettings
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.setting_paths import LocalPath, ModelName, OptionalLocation, OptionalPath, Written

Share = Annotated[float, Field(ge=0, le=1)]
Pooling = Literal["mean", "cls", "last", "max", "weighted_mean", "mean_sqrt_len"]


class Refusable(Section):
    """Shares of refused rows, table by table: `[data.max_refused] qrels = 0.2`."""

    passages: Share = 0.05
    queries: Share = 0.05
    qrels: Share = 0.05


class DataSettings(Section):
    """Where the passages, queries and qrels come from, and how bad they may be."""

    format: Literal["demo", "beir", "msmarco", "dpr", "tevatron", "parquet", "pairs"] = Field(
        "demo",
        description="demo: docs of installed packages; the others: files at path, see infra/settings/<format>.toml; "
        "tevatron reads sentence-transformers' JSON lines too, parquet reads Hugging Face datasets folders too, "
        "pairs reads any two columns of JSON lines, CSV, TSV or Parquet",
    )
    path: OptionalLocation = Field(
        None, description="where the source lies: a folder (or file), or an address such as s3://bucket/folder"
    )
    query_column: str = Field("", description="pairs only: the column with the query; empty: found by its name")
    passage_column: str = Field("", description="pairs only: the column with the passage; empty: found by its name")
    max_passages: int = Field(4000, ge=10, description="demo only: cap on the number of passages")
    dev_share: float = Field(0.1, gt=0, lt=1, description="share of train queries held back when there is no dev split")
    max_refused: Share | Refusable = Field(
        0.05, description="a larger share of refused rows in a table stops the night; one number, or one per table"
    )
    feed: str = Field("", description="nights of one feed are compared with each other; empty: the path names it")
    replace_feed: bool = Field(
        False, description="let another collection take the place of the one that the home serves; else it is refused"
    )
    compare: bool = Field(True, description="hold the tables against the last snapshot of this feed")
    min_lift: float = Field(
        5.0,
        ge=0,
        description="qrels look shuffled when BM25 ranks positives less than so many times above chance; 0: off",
    )
    seed: int = Field(0, description="seed of every sample and split of the data")

    @field_validator("path", mode="after")
    @classmethod
    def _addresses_stay_text(cls, path: Path | str | None) -> Path | str | None:
        return Path(path) if isinstance(path, str) and "://" not in path else path

    @model_validator(mode="after")
    def _files_need_a_path(self) -> DataSettings:
        if self.format != "demo" and self.path is None:
            raise ValueError(f'[data] format = "{self.format}" needs [data] path = "…", where its files lie')
        if (self.query_column or self.passage_column) and self.format != "pairs":
            raise ValueError('[data] query_column and passage_column need format = "pairs"')
        return self

    def limit_of(self, table: str) -> float:
        """The share of refused rows that `table` may have."""
        return getattr(self.max_refused, table) if isinstance(self.max_refused, Refusable) else self.max_refused


class EncoderSettings(Section):
    """The dual encoder: what it starts from and how a text becomes a vector."""

    model: ModelName = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="a local folder or a hub id; the default is read from the offline package when that is installed",
    )
    query_model: ModelName = Field("", description="another model to start the query encoder from; empty: the same one")
    start: Literal["base", "serving"] = Field("base", description="what a night's training starts from")
    shared: bool = Field(True, description="one encoder for both sides, or a query and a passage encoder of their own")
    pooling: Pooling = Field(
        "mean",
        description="how token states become one vector: their mean, the first token's, the last token's, the greatest "
        "of each number, the mean weighted by position, or the sum over the square root of the length",
    )
    normalize: bool = Field(True, description="unit vectors (cosine); false gives the plain inner product")
    dimension: int = Field(0, ge=0, description="a trained linear map to so many numbers after pooling; 0: none")
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Matryoshka: train the first so many numbers as well, such as [256, 128, 64]"
    )
    serve_dimension: int = Field(0, ge=0, description="serve the first so many numbers of a vector; 0: all")
    query_prompt: str = Field("", description="text put before every query")
    passage_prompt: str = Field("", description="text put before every passage")
    query_tokens: int = Field(64, ge=4, description="token limit of a query, special tokens included")
    passage_tokens: int = Field(128, ge=4, description="token limit of a passage, special tokens included")
    train: Literal["both", "query"] = Field(
        "both", description="query: the passage encoder stays as it is, and so do all vectors of the collection"
    )
    lora_rank: int = Field(0, ge=0, description="train low-rank adapters of this rank (needs peft); 0: all weights")
    lora_targets: tuple[str, ...] = Field(
        (), description="names of the linear layers that get an adapter, such as [query, value]; empty: all of them"
    )

    @model_validator(mode="after")
    def _sides_need_weights_of_their_own(self) -> EncoderSettings:
        for name, value in (("train", self.train == "query"), ("query_model", self.query_model)):
            if value and self.shared:
                raise ValueError(f"[encoder] {name} tells the two encoders apart, so it needs shared = false")
        return self


class Shares(Section):
    """How the negatives of a query are divided among the retrievers; what is not named gets none."""

    bm25: Share = Field(0.0, description="of BM25's best passages")
    dense: Share = Field(0.0, description="of the current encoder's best passages")
    random: Share = Field(0.0, description="of passages drawn evenly from all")

    @model_validator(mode="after")
    def _together_all(self) -> Shares:
        if abs(self.bm25 + self.dense + self.random - 1) > 1e-6:
            raise ValueError(f"the shares add up to {self.bm25 + self.dense + self.random:g}; together they must be 1")
        return self


class CrossEncoderSettings(Section):
    """A model that reads query and passage together and refuses what it takes for relevant."""

    model: ModelName = Field("", description="sequence classification model: a local folder or a hub id; empty: none")
    most: Share = Field(0.1, description="refuse a candidate that it gives a higher probability of being relevant")
    tokens: int = Field(256, ge=8, description="token limit of query and passage together")


class MiningSettings(Section):
    """Hard negatives: where candidates come from and what keeps false negatives out."""

    rounds: int = Field(1, ge=1, description="mine → train rounds; from the second on, the last encoder mines too")
    depth: int = Field(100, ge=1, le=1000, description="candidates a query, from each retriever")
    per_query: int = Field(8, ge=1, description="negatives kept for a query")
    shares: Shares = Field(
        Shares(bm25=0.5, dense=0.4, random=0.1),
        description="retrievers' shares of the negatives from the second round on; the first is all BM25",
    )
    k1: float = Field(0.9, ge=0, description="BM25 term frequency saturation")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalisation")
    stemmer: Literal["porter", "krovetz", "none"] = Field("porter", description="Lucene's English stemmer")
    margin: float = Field(0.95, gt=0, le=1, description="drop a candidate that scores above this share of the positive")
    margin_over: Literal["min", "mean"] = Field("mean", description="of the query's lowest positive, or of their mean")
    skip_top: int = Field(0, ge=0, description="ranks at the head of a run that are never used as negatives")
    last_rank: int = Field(0, ge=0, description="the last rank of a run that may be used; 0: all of depth")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard of 5-word shingles: as near as a duplicate")
    cross_encoder: CrossEncoderSettings = Field(
        CrossEncoderSettings(), description="a second opinion on every negative: a table of its own"
    )
    shards: int = Field(
        1, ge=1, description="slices of the training queries that are searched by themselves, each a task; 1: one piece"
    )
    threads: int = Field(0, ge=0, description="Lucene threads; 0: one per core")
    heap_mb: int = Field(1024, ge=128, description="largest heap of the Java process, MiB")
    seed: int = Field(0, description="seed of random negatives and of all samples")

    @model_validator(mode="after")
    def _some_ranks_are_left(self) -> MiningSettings:
        if (self.last_rank or self.depth) <= self.skip_top:
            raise ValueError(f"skip_top = {self.skip_top} leaves no rank to mine from")
        return self


class EvaluationSettings(Section):
    """Which held-out queries are measured, and how deep."""

    split: str = Field("test", description="split of the qrels the gate looks at")
    depth: int = Field(100, ge=10, description="passages a query; at least 100 for Recall@100")
    leave_out_self: bool = Field(
        False,
        description="leave the passage with a query's own id out of its rankings and negatives: for collections whose "
        "queries are passages too",
    )
    probe_queries: int = Field(300, ge=0, description="queries of the probe before the corpus is embedded; 0: no probe")
    probe_depth: int = Field(20, ge=1, description="candidates a query, of each retriever, in the probe's pool")
    probe_random: int = Field(2000, ge=0, description="random passages in the pool")
    probe_share: Share = Field(0.5, description="no probe when its pool would be more than this share of the passages")

    @property
    def searched_depth(self) -> int:
        """Passages to search for a query, so that `depth` are left without its own."""
        return self.depth + self.leave_out_self


class GateSettings(Section):
    """When a challenger may serve."""

    margin: float = Field(0.01, ge=0, description="nDCG@10 that a challenger may lose before it counts as worse")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="one-sided confidence of 'no worse'")
    min_queries: int = Field(20, ge=1, description="fewer held-out queries than this decide nothing: reject")
    bm25_floor: bool = Field(True, description="reject a challenger that is clearly worse than BM25")
    min_ndcg: Share = Field(0.0, description="reject a challenger whose nDCG@10 is lower, whatever the others reach")
    slice_margin: float = Field(0.05, ge=0, description="nDCG@10 that a segment of the queries may lose")
    slice_queries: int = Field(50, ge=1, description="segments with fewer queries are not compared")
    golden: OptionalPath = Field(None, description='JSON lines {"query", "passage_id"} that must always be answered')
    golden_depth: int = Field(10, ge=1, description="the rank by which a golden query's passage must come")
    resamples: int = Field(5000, ge=200, description="bootstrap resamples of the paired differences")
    seed: int = Field(0, description="seed of the resamples")


class Settings(BaseSettings):
    """All settings of a night."""

    model_config = SettingsConfigDict(env_prefix="NIGHTSHIFT_", env_nested_delimiter="__", frozen=True, extra="forbid")

    home: LocalPath = Field(
        Path("var"), description="where all artifacts and the embedded Milvus live (NIGHTSHIFT_HOME)"
    )
    keep_days: float = Field(
        30, ge=0, description="artifacts of no release that is kept go when no night used them for so long; 0: never"
    )
    data: DataSettings = DataSettings()
    encoder: EncoderSettings = EncoderSettings()
    mining: MiningSettings = MiningSettings()
    training: TrainingSettings = TrainingSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()
    milvus: MilvusSettings = MilvusSettings()
    release: ReleaseSettings = ReleaseSettings()
    drift: DriftSettings = DriftSettings()
    service: ServiceSettings = ServiceSettings()
    compute: ComputeSettings = ComputeSettings()
    store: StoreSettings = StoreSettings()
    _written: dict[str, Written] = PrivateAttr(default_factory=dict)

    def having_written(self, written: dict[str, Written]) -> Settings:
        """Return these settings with what `resolve_paths` made of the relative paths in their file."""
        settings = self.model_copy()
        settings._written = written
        return settings

    def as_written(self, section: str) -> dict[str, str]:
        """Return the relative paths of a section, such as "encoder", that were made absolute, as their file has them.

        Names and digests that a night keeps are made of these: they do not depend on the working directory.
        """
        table: Any = self
        for name in filter(None, section.split(".")):
            table = getattr(table, name)
        below = {
            key.rpartition(".")[2]: path for key, path in self._written.items() if key.rpartition(".")[0] == section
        }
        return {key: path.text for key, path in below.items() if str(getattr(table, key)) == path.absolute}

    @model_validator(mode="after")
    def _hosts_share_a_home(self) -> Settings:
        if self.compute.engine == "ray" and not self.home.is_absolute():
            raise ValueError('[compute] engine = "ray" needs home (NIGHTSHIFT_HOME) as an absolute path on every host')
        return self

    @model_validator(mode="after")
    def _a_cluster_is_asked_for_processes(self) -> Settings:
        if self.training.launcher == "ray" and (self.compute.engine != "ray" or self.training.processes == 0):
            raise ValueError(
                '[training] launcher = "ray" needs [compute] engine = "ray", and [training] processes: how many at most'
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, over the defaults."""
        return init_settings, env_settings


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
