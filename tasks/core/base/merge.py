"""The record of a choice between trained weights and averages of weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

TRAINED = "trained"  # candidate: the trained weights alone


class Merge(BaseModel):
    """Choice between the trained weights and their averages with other encoders, on dev queries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept: str  # candidate whose weights are stored
    why: str
    queries: int = 0  # dev queries
    ndcg: dict[str, float] = {}  # candidate -> nDCG@10; empty if nothing was compared
    forgetting: float | None = None  # nDCG@10 of the trained weights, without merging, on the older held-out queries
