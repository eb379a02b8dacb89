"""The dials of drift: `[drift]` in the settings file."""

from __future__ import annotations

from pydantic import Field, model_validator

from tasks.core.base.section import Section
from tasks.core.base.setting_paths import OptionalPath


class DriftSettings(Section):
    """When the data has moved far enough to do something about it."""

    retrain_pairs: float = Field(0.02, ge=0, description="share of new training pairs that is worth a retrain")
    retrain_passages: float = Field(0.2, ge=0, description="share of new and changed passages that is worth a retrain")
    queries: OptionalPath = Field(
        None,
        description='a log of queries that is only appended to, JSON lines {"query": …}; watched beside the source',
    )
    min_queries: int = Field(500, ge=1, description="new queries needed before their scores are judged: a window")
    max_queries: int = Field(5000, ge=1, description="queries of a window that are looked at; of more, a sample")
    window_hours: float = Field(20.0, ge=0, description="hours from one window to the next, however many queries come")
    low_score_effect: float = Field(0.02, ge=0, description="least rise of the low-score share that counts")
    wobble: float = Field(
        0.004, ge=0, description="standard deviation of the low-score share between nights, until nights have shown it"
    )
    baseline_windows: int = Field(
        20, ge=1, description="first normal windows of a release that calibrate its threshold"
    )
    recall_effect: float = Field(0.05, ge=0, description="least fall of Recall@10 on new labelled queries that counts")
    unseen_terms: float = Field(0.05, ge=0, description="rise of the unseen-term share that marks input as suspect")
    confirm_windows: int = Field(2, ge=1, description="windows that must have moved before it is drift…")
    confirm_of: int = Field(3, ge=1, description="… among so many last ones")
    cooldown_days: float = Field(7.0, ge=0, description="days after a retrain for drift in which no other one starts")
    budget: int = Field(3, ge=0, description="retrains for drift…")
    budget_days: float = Field(30.0, gt=0, description="… within so many days")
    approval: bool = Field(False, description="a retrain for drift waits for a person, who starts it by hand")

    @model_validator(mode="after")
    def _limits_fit(self) -> DriftSettings:
        if self.max_queries < self.min_queries:
            raise ValueError(f"max_queries = {self.max_queries} is fewer than min_queries = {self.min_queries}")
        if self.confirm_windows > self.confirm_of:
            raise ValueError(f"confirm_windows = {self.confirm_windows} is more than confirm_of = {self.confirm_of}")
        return self
