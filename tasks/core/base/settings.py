"""All settings of a night as one typed tree. Values come from defaults, a TOML file, and `NIGHTSHIFT_…` variables.

`NIGHTSHIFT_TRAINING__BATCH_SIZE=64` sets `[training] batch_size`. The environment overrides the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tasks.core.base.measure_names import cutoff_of
from tasks.core.base.section import Section, Share
from tasks.core.base.sections.compute import ComputeSettings, StoreSettings
from tasks.core.base.sections.drift import DriftSettings
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.base.sections.evaluation import EvaluationSettings, GateSettings
from tasks.core.base.sections.feedback import FeedbackSettings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.sections.release import MilvusSettings, ReleaseSettings
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.base.sections.synthetic import GenerateSettings, SyntheticSettings
from tasks.core.base.sections.tracking import TrackingSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.setting_paths import LocalPath, ModelName, OptionalLocation, Written

Pooling = Literal["mean", "cls", "last", "max", "weighted_mean", "mean_sqrt_len"]


class Refusable(Section):
    """Allowed fraction of rejected rows for each table, such as `[data.max_refused] qrels = 0.2`."""

    passages: Share = 0.05
    queries: Share = 0.05
    qrels: Share = 0.05


class DataSettings(Section):
    """Source of the passages, queries, and qrels, and the limits on data quality."""

    format: Literal["demo", "beir", "msmarco", "dpr", "tevatron", "parquet", "pairs", "corpus"] = Field(
        "demo",
        description="source format; demo: documentation of installed Python packages; other formats read the files at "
        "path (examples in infra/settings/<format>.toml); tevatron also reads sentence-transformers JSON lines; "
        "parquet also reads Hugging Face datasets folders; pairs reads any two columns of JSON lines, CSV, TSV, or "
        "Parquet; corpus reads passages without queries, from such files or from Markdown and text documents",
    )
    path: OptionalLocation = Field(
        None, description="location of the source: a folder, a file, or an address such as s3://bucket/folder"
    )
    query_column: str = Field("", description="pairs only: column of the query; empty: detect it by name")
    passage_column: str = Field(
        "", description="pairs and corpus only: column of the passage; empty: detect it by name"
    )
    max_passages: int = Field(4000, ge=10, description="demo only: maximum number of passages")
    dev_share: float = Field(
        0.1, gt=0, lt=1, description="fraction of training queries to hold out when there is no dev split"
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

    @field_validator("path", mode="after")
    @classmethod
    def _addresses_stay_text(cls, path: Path | str | None) -> Path | str | None:
        return Path(path) if isinstance(path, str) and "://" not in path else path

    @model_validator(mode="after")
    def _files_need_a_path(self) -> DataSettings:
        if self.format != "demo" and self.path is None:
            raise ValueError(f'[data] format = "{self.format}" needs [data] path = "…", the location of its files')
        columns = self.query_column or (self.passage_column and self.format != "corpus")
        if columns and self.format != "pairs":
            raise ValueError('[data] query_column and passage_column need format = "pairs"')
        return self

    def limit_of(self, table: str) -> float:
        """Return the maximum fraction of rejected rows of `table`."""
        return getattr(self.max_refused, table) if isinstance(self.max_refused, Refusable) else self.max_refused


class EncoderSettings(Section):
    """The dual encoder: its initial weights, and how it turns a text into a vector."""

    model: ModelName = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="base model: a local folder or a Hugging Face Hub id; the default is read from the offline package "
        "if that is installed",
    )
    query_model: ModelName = Field("", description="base model of the query encoder; empty: the same as model")
    start: Literal["base", "serving"] = Field(
        "base", description="initial weights of each training: the base model or the serving encoder"
    )
    shared: bool = Field(True, description="true: queries and passages share one encoder; false: separate encoders")
    pooling: Pooling = Field(
        "mean",
        description="how token states become one vector: mean; first token; last token; maximum of each component; "
        "mean weighted by position; sum divided by the square root of the length; not set: as the base model was "
        "trained",
    )
    normalize: bool = Field(
        True,
        description="true: unit vectors and cosine similarity; false: inner product; not set: as the model was trained",
    )
    dimension: int = Field(
        0,
        ge=0,
        description="output size of a trained linear layer after pooling; 0: no layer; not set: the base model's Dense",
    )
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Matryoshka: vector prefixes to train as well, such as [256, 128, 64]"
    )
    serve_dimension: int = Field(
        0,
        ge=0,
        description="number of leading vector components to serve; 0: all; not set: the base model's truncate_dim",
    )
    query_prompt: str = Field("", description="prefix of every query; not set: the base model's own")
    passage_prompt: str = Field("", description="prefix of every passage; not set: the base model's own")
    query_tokens: int = Field(64, ge=4, description="maximum tokens of a query, including special tokens")
    passage_tokens: int = Field(128, ge=4, description="maximum tokens of a passage, including special tokens")
    train: Literal["both", "query", "query+map", "auto"] = Field(
        "both",
        description="encoders to train; query: keep the passage encoder and the vectors of the collection unchanged; "
        "query+map: also train a map of the passage vectors, and derive new vectors from the stored ones; auto: "
        "each night chooses what to train and where to start ([drift] derived_margin)",
    )
    map_rank: int = Field(0, ge=0, description="query+map only: rank of the trained change of the map; 0: full rank")
    map_hidden: int = Field(
        0, ge=0, description="query+map only: hidden units of a residual layer in the map; 0: the map is linear"
    )
    lora_rank: int = Field(0, ge=0, description="rank of the LoRA adapters to train (needs peft); 0: train all weights")
    lora_targets: tuple[str, ...] = Field(
        (), description="linear layers that get an adapter, such as [query, value]; empty: all"
    )

    @model_validator(mode="after")
    def _sides_need_weights_of_their_own(self) -> EncoderSettings:
        for name, value in (("train", self.train != "both"), ("query_model", self.query_model)):
            if value and self.shared:
                raise ValueError(f"[encoder] {name} applies to separate encoders: set shared = false")
        return self

    @model_validator(mode="after")
    def _map_settings_need_a_map(self) -> EncoderSettings:
        has_map = self.train in ("query+map", "auto")
        for name in ("map_rank", "map_hidden"):
            if getattr(self, name) and not has_map:
                raise ValueError(f'[encoder] {name} needs train = "query+map" or "auto"')
        if has_map and (self.serve_dimension or not self.normalize):
            raise ValueError(f'[encoder] train = "{self.train}" needs serve_dimension = 0 and normalize = true')
        return self

    def recipe(self) -> dict[str, Any]:
        """Return the settings, without settings of the passage map that have their default value."""
        defaults = {name for name in ("map_rank", "map_hidden") if not getattr(self, name)}
        return self.model_dump(exclude=defaults)


class Settings(BaseSettings):
    """All settings of a night."""

    model_config = SettingsConfigDict(env_prefix="NIGHTSHIFT_", env_nested_delimiter="__", frozen=True, extra="forbid")

    home: LocalPath = Field(
        Path("var"), description="folder of all artifacts and the embedded Milvus (NIGHTSHIFT_HOME)"
    )
    keep_days: float = Field(
        30,
        ge=0,
        description="delete artifacts that no retained release references and no night has used for this many days; "
        "0: never",
    )
    data: DataSettings = DataSettings()
    encoder: EncoderSettings = EncoderSettings()
    synthetic: SyntheticSettings = SyntheticSettings()
    generate: GenerateSettings = GenerateSettings()
    mining: MiningSettings = MiningSettings()
    training: TrainingSettings = TrainingSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()
    milvus: MilvusSettings = MilvusSettings()
    release: ReleaseSettings = ReleaseSettings()
    drift: DriftSettings = DriftSettings()
    service: ServiceSettings = ServiceSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    compute: ComputeSettings = ComputeSettings()
    store: StoreSettings = StoreSettings()
    tracking: TrackingSettings = TrackingSettings()
    _written: dict[str, Written] = PrivateAttr(default_factory=dict)

    def having_written(self, written: dict[str, Written]) -> Settings:
        """Return a copy that records which relative paths of the file `resolve_paths` made absolute."""
        settings = self.model_copy()
        settings._written = written
        return settings

    def as_written(self, section: str) -> dict[str, str]:
        """Return the paths of a section, such as "encoder", that the settings file gives as relative paths.

        Artifact names and digests use them, because absolute paths would depend on the working directory.

        Returns:
            The text in the file for each key. Keys whose value was changed since are left out.
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
            raise ValueError(
                '[compute] engine = "ray" needs an absolute path as home (NIGHTSHIFT_HOME), the same on every host'
            )
        return self

    @model_validator(mode="after")
    def _rankings_are_deep_enough(self) -> Settings:
        for name, measure in (("measure", self.gate.measure), ("floor_measure", self.gate.floor_measure)):
            if measure and cutoff_of(measure) > max(100, self.evaluation.depth):
                raise ValueError(
                    f"[gate] {name} = {measure!r} needs [evaluation] depth of {cutoff_of(measure)} or more"
                )
        return self

    @model_validator(mode="after")
    def _ray_training_has_a_cluster(self) -> Settings:
        if self.training.launcher == "ray" and (self.compute.engine != "ray" or self.training.processes == 0):
            raise ValueError(
                '[training] launcher = "ray" needs [compute] engine = "ray" and [training] processes (their maximum)'
            )
        return self

    @property
    def makes_pairs(self) -> bool:
        """Whether training pairs are made from passages."""
        return self.synthetic.structure or bool(self.generate.url)

    @model_validator(mode="after")
    def _passages_get_queries(self) -> Settings:
        if self.data.format == "corpus" and not self.makes_pairs:
            raise ValueError(
                '[data] format = "corpus" has no queries: set [synthetic] structure = true, or [generate] url and model'
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
        """Read the environment in addition to the defaults."""
        return init_settings, env_settings


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
