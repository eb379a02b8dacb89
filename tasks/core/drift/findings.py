"""Records of drift: measurements, signals, explanations, and the resulting action."""

from __future__ import annotations

import math
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

LISTED = 20  # unfamiliar queries in a record; the file has all of them
NOTHING_NEW = (
    "the source has nothing new to train on. Label unfamiliar queries: add them to the train queries with a qrel "
    "to a passage that answers each. The next night then retrains"
)
LOW = 0.05  # share of the reference queries that score low, by definition


class Action(StrEnum):
    """What a night does: the least work that is enough."""

    SKIP = "skip"  # nothing changed
    REFRESH = "refresh"  # embed the changed passages with the serving encoder
    RETRAIN = "retrain"  # mine and train
    SUSPECT = "suspect"  # the queries look broken: train nothing, ask a person
    LABEL = "label"  # queries have drifted, but nothing is new to train on: ask a person for labels


class Frozen(BaseModel):
    """An immutable record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Signal(Frozen):
    """A measured value; it fired if it passed its threshold. Without a threshold it is informative only."""

    name: str
    value: float
    threshold: float | None
    fired: bool


class Changes(Frozen):
    """Numbers of new, changed, and deleted passages since the serving snapshot."""

    new: int = 0
    changed: int = 0
    gone: int = 0

    @property
    def total(self) -> int:
        """Number of passages that differ."""
        return self.new + self.changed + self.gone


class MovedTerm(Frozen):
    """A term that is more or less frequent in new queries: its share of all terms now and in the reference."""

    term: str
    share: float
    reference: float
    divergence: float  # its part of the Jensen-Shannon divergence, in bits


class MovedSlice(Frozen):
    """A segment of the queries, by length or topic: its share of all queries now and in the reference."""

    name: str
    share: float
    reference: float
    low_score_share: float  # share of its new queries that score low


class Measurement(Frozen):
    """The figures of a sample of new queries, compared with the reference, that the decision depends on."""

    queries: int  # new queries in the sample
    low: float  # share that scores low, adjusted to the mix of topics in the reference
    raw_low: float  # the same without adjustment; LOW in the reference
    unseen: float  # share of their terms that are not in the serving corpus or its training queries
    held_out: int  # queries of the reference
    usual_unseen: float  # the same in the reference
    judged: int = 0  # new queries with a positive in the serving corpus
    recall: float = 0.0  # Recall@10 of the judged queries
    usual_judged: int = 0
    usual_recall: float = 0.0
    unfamiliarity: float = 1.0  # mean over the queries; 1 in the reference
    repeats: int = 0  # number of an earlier window with the same queries; 0: none


class Explanation(Frozen):
    """What moved, for the reader; no decision depends on it."""

    classifier_auc: float  # how well a linear classifier separates new and reference queries; 0.5: not at all
    term_divergence: float  # Jensen-Shannon, in bits
    terms: tuple[MovedTerm, ...]
    slices: tuple[MovedSlice, ...]


class Shortfall(StrEnum):
    """Why a topic is answered badly."""

    MISSING = "content gap"  # no passage scores well
    MISRANKED = "misranked"  # labels exist, and their passages rank low


class WeakPassage(Frozen):
    """A passage that is the best match of badly answered queries."""

    passage_id: str
    text: str  # its beginning
    queries: int  # that it is the best match of
    score: float  # mean over these queries


class NewTopic(Frozen):
    """A group of similar queries of a window that score unusually low for their topic."""

    name: str  # its most distinctive words
    queries: int
    share: float  # of the queries in the window
    unseen: float  # share of its queries with a term that no passage and no training query has
    examples: tuple[str, ...]
    passages: tuple[WeakPassage, ...]  # most queries first
    judged: int  # queries with labels
    recall: float  # Recall@10 of these
    shortfall: Shortfall


class Window(Frozen):
    """A batch of new queries that was judged together."""

    number: int
    at: datetime
    reference: str  # digest of the reference it was compared with
    snapshot: str  # digest of the snapshot at that time
    queries: int
    low: float
    threshold: float  # of the low-score share
    fired: bool
    worse: bool  # Recall@10 fell
    suspect: bool
    unfamiliarity: float = 1.0  # mean over the queries
    evidence: float = 0.0  # of drift, after this window
    line: float = 0.0  # evidence that confirms drift; 0: recorded before evidence was kept
    repeats: int = 0  # number of an earlier window with the same queries: it does not count

    @property
    def drifted(self) -> bool:
        """Whether the window shows signs of drift."""
        strong = self.line > 0 and self.evidence >= math.sqrt(self.line)
        return not self.suspect and self.repeats == 0 and (self.fired or self.worse or strong)

    @property
    def normal(self) -> bool:
        """Whether the window shows no sign of drift or damage."""
        return not self.drifted and not self.suspect and self.repeats == 0


class Drift(Frozen):
    """The action for a night, with its cause as a sentence and all signals."""

    verdict: Action
    cause: str
    signals: tuple[Signal, ...] = ()
    passages: Changes = Changes()
    fresh: dict[str, int] = {}  # new queries by origin: "snapshot" or "log"
    terms: tuple[MovedTerm, ...] = ()  # the terms that moved most
    slices: tuple[MovedSlice, ...] = ()
    trigger: bool = False  # start a retrain for drift of queries now
    held: str = ""  # why no retrain starts despite signs of drift
    window: int = 0  # number of the last judged window; 0: none yet
    windows: tuple[Window, ...] = ()  # the latest windows
    unfamiliar: tuple[str, ...] = ()  # queries of a fired window, lowest scores first; at most LISTED
    unfamiliar_file: Path | None = None  # all unfamiliar queries
    evidence: float = 0.0  # of drift, now
    line: float = 0.0  # evidence that confirms drift
    topics: tuple[NewTopic, ...] = ()  # what drifted; most queries first
    advice: tuple[str, ...] = ()  # what a person can do, most useful first
    label_file: Path | None = None  # queries to label, with candidates

    def at_least_a_retrain(self, because: str, *, learnt: bool) -> Drift:
        """Return the action of a night that was started to retrain.

        Input that looks broken is not trained on. With `learnt`, the serving release was trained on everything in the
        source, so the action is LABEL.
        """
        if self.verdict in (Action.RETRAIN, Action.SUSPECT, Action.LABEL):
            return self
        if learnt:
            return self.model_copy(update={"verdict": Action.LABEL, "cause": f"{because}; {NOTHING_NEW}"})
        return self.model_copy(update={"verdict": Action.RETRAIN, "cause": f"{because}; {self.cause}"})
