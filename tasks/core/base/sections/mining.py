"""Settings of BM25 and of mining hard negatives: `[mining]` in the settings file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.core.base.languages import ENGLISH, Language
from tasks.core.base.section import Section, Share
from tasks.core.base.setting_paths import ModelName


class Shares(Section):
    """Fraction of a query's negatives from each retriever. A retriever without a value supplies none."""

    bm25: Share = Field(0.0, description="fraction from the top passages of BM25")
    dense: Share = Field(0.0, description="fraction from the top passages of the current encoder")
    random: Share = Field(0.0, description="fraction drawn uniformly from all passages")

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Shares:
        if abs(self.bm25 + self.dense + self.random - 1) > 1e-6:
            raise ValueError(f"the shares add up to {self.bm25 + self.dense + self.random:g}; they must add up to 1")
        return self


class CrossEncoderSettings(Section):
    """A cross-encoder that rejects negatives it scores as relevant."""

    model: ModelName = Field(
        "", description="sequence classification model: a local folder or a Hugging Face Hub id; empty: none"
    )
    most: Share = Field(0.1, description="reject a candidate whose predicted probability of relevance is higher")
    tokens: int = Field(256, ge=8, description="maximum tokens of query and passage together")


class TeacherSettings(Section):
    """A model whose scores of positives and negatives the losses kl and margin_mse learn."""

    source: Literal["none", "blend", "cross-encoder", "encoder"] = Field(
        "none",
        description="what scores positives and negatives; blend: the weighted sum of the encoder that mines and BM25, "
        "tuned on dev queries; cross-encoder: the model of [mining.cross_encoder]; encoder: the embedding model below",
    )
    model: ModelName = Field(
        "", description="encoder only: embedding model, a local folder or a Hugging Face Hub id; empty: none"
    )
    query_prompt: str | None = Field(
        None, description="encoder only: prefix of every query; not set: as saved with the model"
    )
    passage_prompt: str | None = Field(
        None, description="encoder only: prefix of every passage; not set: as saved with the model"
    )
    query_tokens: int = Field(64, ge=4, description="encoder only: maximum tokens of a query")
    passage_tokens: int = Field(256, ge=4, description="encoder only: maximum tokens of a passage")


class MiningSettings(Section):
    """Hard negatives: sources of candidates, and filters for false negatives."""

    rounds: int = Field(
        1, ge=1, description="rounds of mining and training; from round 2 the encoder of the previous round mines too"
    )
    depth: int = Field(100, ge=1, le=1000, description="candidates per query from each retriever")
    per_query: int = Field(8, ge=1, description="negatives to keep per query")
    shares: Shares = Field(
        Shares(bm25=0.5, dense=0.4, random=0.1),
        description="fraction of negatives from each retriever, from round 2; round 1 uses BM25 only",
    )
    k1: float = Field(0.9, ge=0, description="BM25 term frequency saturation")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalization")
    language: Language = Field(
        ENGLISH, description="language of the texts (ISO 639-1): how BM25 splits and stems words; th needs a full JDK"
    )
    stemmer: Literal["porter", "krovetz", "none"] = Field("porter", description="stemmer of Lucene; English only")
    margin: float = Field(
        0.95,
        gt=0,
        le=1,
        description="drop a candidate that scores above this fraction of the positive's score; only if the encoder "
        "ranks the positives of training queries at least as well as BM25",
    )
    margin_over: Literal["min", "mean"] = Field(
        "mean", description="positive score for margin: the lowest of the query's positives, or their mean"
    )
    skip_top: int = Field(0, ge=0, description="number of top ranks never used as negatives")
    last_rank: int = Field(0, ge=0, description="lowest rank that may be used as a negative; 0: depth")
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of 5-word shingles from which texts are near duplicates"
    )
    cross_encoder: CrossEncoderSettings = Field(
        CrossEncoderSettings(), description="cross-encoder that checks every negative"
    )
    teacher: TeacherSettings = Field(
        TeacherSettings(), description="model whose scores [training] loss kl and margin_mse learn"
    )
    shards: int = Field(
        1, ge=1, description="Ray only: number of shards of the training queries; each is searched in its own task"
    )
    scorer: Literal["compiled", "lucene"] = Field(
        "compiled",
        description="what searches with BM25; compiled: loops with Lucene's arithmetic, compared with Lucene on a "
        "sample of the queries; lucene: also used if the comparison fails or the postings exceed half of the memory",
    )
    threads: int = Field(0, ge=0, description="threads of BM25 searches and of Lucene; 0: one per core")
    heap_mb: int = Field(1024, ge=128, description="maximum heap of the Java process, MiB")
    seed: int = Field(0, description="random seed of negatives and samples")

    @model_validator(mode="after")
    def _stemmers_are_english(self) -> MiningSettings:
        if self.language != ENGLISH and self.stemmer != "porter":
            raise ValueError(
                f'[mining] stemmer = "{self.stemmer}" applies to English only, and language is "{self.language}": '
                "remove stemmer. Other languages use the stemmer of their analyzer"
            )
        return self

    @model_validator(mode="after")
    def _ranks_remain(self) -> MiningSettings:
        if (self.last_rank or self.depth) <= self.skip_top:
            raise ValueError(f"skip_top = {self.skip_top} leaves no rank to mine from: raise last_rank or depth")
        return self

    @model_validator(mode="after")
    def _teachers_have_a_model(self) -> MiningSettings:
        if self.teacher.source == "cross-encoder" and not self.cross_encoder.model:
            raise ValueError('[mining.teacher] source = "cross-encoder" needs [mining.cross_encoder] model')
        if (self.teacher.source == "encoder") != bool(self.teacher.model):
            raise ValueError('[mining.teacher] source = "encoder" and [mining.teacher] model belong together: set both')
        return self
