"""Settings of evaluation and promotion: `[evaluation]` and `[gate]` in the settings file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.core.base.measure_names import DEFAULT, canonical_measure
from tasks.core.base.section import Section, Share
from tasks.core.base.setting_paths import OptionalPath


class EvaluationSettings(Section):
    """Held-out queries to evaluate, and the depth of their rankings."""

    split: str = Field("test", description="split of the qrels that the gate evaluates")
    depth: int = Field(100, ge=10, description="passages per query; Recall@100 needs at least 100")
    ranking: Literal["tuned", "dense", "lexical", "hybrid"] = Field(
        "tuned",
        description="how a new release ranks passages; tuned: by the encoder, by BM25, or by a weighted sum of both, "
        "whichever ranks the dev queries best",
    )
    leave_out_self: bool = Field(
        False,
        description="exclude the passage with the same id as the query from its rankings and negatives; for "
        "collections whose queries are also passages",
    )
    max_queries: int = Field(
        2000,
        ge=0,
        description="held-out queries to measure, and dev queries that tune the ranking; a split with more is sampled, "
        "the same queries every night; 0: measure all",
    )
    probe_queries: int = Field(
        300, ge=0, description="queries of the probe that runs before the corpus is embedded; 0: no probe"
    )
    probe_depth: int = Field(
        20, ge=1, description="candidates per query from each retriever in the probe's passage pool"
    )
    probe_random: int = Field(2000, ge=0, description="random passages in the probe's pool")
    probe_share: Share = Field(0.5, description="skip the probe if its pool exceeds this fraction of the passages")

    @property
    def searched_depth(self) -> int:
        """Passages to search per query, so that `depth` remain after `leave_out_self`."""
        return self.depth + self.leave_out_self


class GateSettings(Section):
    """Conditions under which a challenger is promoted."""

    measure: str = Field(
        DEFAULT,
        description="measure that is compared with the serving release, BM25, and the base model; any of ir-measures, "
        "such as recall@20, RR@10, or P@5",
    )
    margin: float = Field(0.01, ge=0, description="loss in the measure up to which a challenger counts as no worse")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="one-sided confidence that the challenger is no worse")
    min_queries: int = Field(20, ge=1, description="reject a trained encoder if there are fewer held-out queries")
    bm25_floor: bool = Field(True, description="reject a challenger that is significantly worse than BM25")
    min_ndcg: Share = Field(0.0, description="reject a challenger whose nDCG@10 is lower, regardless of other results")
    floor_measure: str = Field("", description="second measure, which must reach floor; empty: none")
    floor: Share = Field(0.0, description="reject a challenger whose mean of floor_measure is lower")
    slice_margin: float = Field(0.05, ge=0, description="loss in the measure allowed in a query segment")
    slice_queries: int = Field(50, ge=1, description="compare only segments with at least this number of queries")
    golden: OptionalPath = Field(
        None, description='JSON lines file {"query", "passage_id"} of searches that must succeed'
    )
    golden_depth: int = Field(10, ge=1, description="lowest allowed rank of a golden query's passage")
    resamples: int = Field(5000, ge=200, description="bootstrap resamples of the paired differences")
    seed: int = Field(0, description="random seed of the resamples")

    @field_validator("measure", "floor_measure")
    @classmethod
    def _known_measure(cls, name: str) -> str:
        return canonical_measure(name) if name else name

    @model_validator(mode="after")
    def _measures_are_given(self) -> GateSettings:
        if not self.measure:
            raise ValueError(f'[gate] measure is empty; the default is "{DEFAULT}"')
        if bool(self.floor_measure) != (self.floor > 0):
            raise ValueError("[gate] floor_measure and floor are given together")
        return self
