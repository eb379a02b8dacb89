"""Settings of drift detection: `[drift]` in the settings file."""

from __future__ import annotations

from pydantic import Field, model_validator

from tasks.core.base.section import Section
from tasks.core.base.setting_paths import OptionalPath


class DriftSettings(Section):
    """Thresholds at which data drift triggers an action."""

    retrain_pairs: float = Field(0.02, ge=0, description="retrain from this fraction of new training pairs")
    retrain_passages: float = Field(0.2, ge=0, description="retrain from this fraction of new and changed passages")
    queries: OptionalPath = Field(
        None,
        description='append-only query log, JSON lines {"query": …}, to monitor in addition to the source',
    )
    min_queries: int = Field(50, ge=1, description="minimum number of new queries in a window")
    max_queries: int = Field(5000, ge=1, description="maximum number of queries in a window; more are sampled")
    window_hours: float = Field(20.0, ge=0, description="minimum hours between windows, for any number of queries")
    low_score_effect: float = Field(0.02, ge=0, description="smallest relevant increase of the fraction of low scores")
    wobble: float = Field(
        0.004,
        ge=0,
        description="assumed standard deviation between nights of the fraction of low scores, until it can be measured",
    )
    baseline_windows: int = Field(
        60, ge=1, description="number of first normal windows that calibrate the threshold of a release"
    )
    recall_effect: float = Field(
        0.05, ge=0, description="smallest relevant decrease of Recall@10 on new labeled queries"
    )
    unseen_terms: float = Field(
        0.05, ge=0, description="increase of the fraction of unseen terms that marks input as suspect"
    )
    false_alarms: float = Field(0.05, gt=0, description="maximum expected number of false alarms of drift per year")
    confirm_windows: int = Field(2, ge=1, description="minimum number of windows that confirm drift…")
    confirm_of: int = Field(3, ge=1, description="… for Recall@10, among this number of latest windows")
    cooldown_days: float = Field(7.0, ge=0, description="minimum days between two retrains for drift")
    budget: int = Field(3, ge=0, description="maximum number of retrains for drift…")
    budget_days: float = Field(30.0, gt=0, description="… within this number of days")
    approval: bool = Field(False, description="do not start a retrain for drift until a person starts it manually")

    derived_margin: float = Field(
        0.01,
        ge=0,
        description='[encoder] train = "auto" only: train all weights if derived trainings gain this much nDCG@10 less '
        "over the base model than the last full training",
    )
    derived_nights: int = Field(
        14, ge=1, description='[encoder] train = "auto" only: train all weights after this number of derived trainings'
    )

    @model_validator(mode="after")
    def _limits_fit(self) -> DriftSettings:
        if self.max_queries < self.min_queries:
            raise ValueError(f"max_queries = {self.max_queries} is less than min_queries = {self.min_queries}")
        if self.confirm_windows > self.confirm_of:
            raise ValueError(f"confirm_windows = {self.confirm_windows} is more than confirm_of = {self.confirm_of}")
        return self
