"""Checks of mining: of a teacher, of the margin filter, and of false negatives that remain."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MIN_QUERIES = 20  # with fewer, the margin applies


class TeacherCheck(BaseModel):
    """How well a teacher and the encoder that mines rank the known positives of some queries above other passages.

    An accuracy is the share of (positive, other passage) pairs in the right order, ties counted half, averaged over
    queries. A spread is the standard deviation of scores around the mean of their query.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str  # description
    split: str
    queries: int
    pairs: int
    accuracy: float
    encoder_accuracy: float
    spread: float  # of the teacher's scores: training divides them by it
    encoder_spread: float

    @property
    def accepted(self) -> bool:
        """Whether the teacher is better than the encoder; otherwise its scores are not used."""
        return self.accuracy > self.encoder_accuracy

    @property
    def summary(self) -> str:
        """Sentences with both accuracies and the consequence."""
        result = (
            f"Teacher ({self.teacher}): ranks the positive first in {self.accuracy:.1%} of {self.pairs:,} pairs of "
            f"{self.queries:,} {self.split} queries; the encoder that mined does in {self.encoder_accuracy:.1%}."
        )
        if self.accepted:
            return f"{result} Spread of scores: {self.spread:g}, of the encoder {self.encoder_spread:g}."
        return (
            f"{result} It is not better than the encoder, so it does not teach: training uses the loss infonce. "
            "Set another [mining.teacher]."
        )


class MarginCheck(BaseModel):
    """How well BM25 and the encoder rank the known positives among BM25's candidates of some training queries.

    queries: those with a known positive among the candidates. bm25, encoder: mean reciprocal rank of the best positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    queries: int
    bm25: float
    encoder: float

    @property
    def applies(self) -> bool:
        """Whether the margin filter applies: a judge that ranks worse than BM25 would refuse the wrong candidates."""
        return self.queries < MIN_QUERIES or self.encoder >= self.bm25

    @property
    def summary(self) -> str:
        """A sentence for log and report."""
        verdict = "applied" if self.applies else "was off"
        return (
            f"On {self.queries:,} training queries, the encoder that mined ranks the candidates of BM25 with a mean "
            f"reciprocal rank of {self.encoder:.3f}, BM25 with {self.bm25:.3f}, so the margin filter {verdict}."
        )


class Hidden(BaseModel):
    """Estimate of how often the mining rules keep a false negative, from known positives hidden from the rules.

    Positives are hidden one at a time; the other positives of the query stay known. `low` to `high` is the 95 %
    confidence interval of `let_through / hidden`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int  # hidden positives
    found: int  # hidden positives that a retriever returned as candidates
    let_through: int  # returned positives that no rule rejected
    low: float
    high: float
