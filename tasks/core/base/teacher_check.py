"""Result of the comparison of a teacher with the encoder that mines."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
