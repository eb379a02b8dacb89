"""How a release ranks passages: with its encoder, with BM25, or with both."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

DEPTH = 100  # passages that each retriever contributes to a hybrid ranking


class Mode(StrEnum):
    """Which retrievers rank the passages."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


class Ranking(BaseModel):
    """The part of a release that decides the order of passages, next to encoder and collection.

    `weight` is the share of the dense score in the hybrid score, see `retrieval.fusion`; 1 ranks by the dense score
    only, 0 by BM25 only. The default is that of releases without a lexical index.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, ge=0, le=1)
    dense_scale: float = Field(1.0, gt=0)  # mean score of the best passage of a query
    lexical_scale: float = Field(1.0, gt=0)
    postings: str = ""  # digest of the lexical index; empty: there is none
    language: str = "en"
    stemmer: str = "porter"
    k1: float = 0.9
    b: float = 0.4

    @property
    def mode(self) -> Mode:
        """Which retrievers rank the passages."""
        if self.weight == 1:
            return Mode.DENSE
        return Mode.LEXICAL if self.weight == 0 else Mode.HYBRID

    def __str__(self) -> str:
        if self.mode is Mode.HYBRID:
            return f"hybrid, {self.weight:.0%} dense + {1 - self.weight:.0%} BM25"
        return "dense" if self.mode is Mode.DENSE else "BM25"


DENSE = Ranking()  # without a lexical index
