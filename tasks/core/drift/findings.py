"""What was found of drift, as plain records: measurements, signals, what moved most."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

LISTED = 20  # unfamiliar queries in a decision; its file has all of them
NOTHING_NEW = (
    "the source holds nothing new to train on. Label unfamiliar queries: add them to the train queries with a qrel "
    "to a passage that answers each. The next night then retrains"
)
LOW = 0.05  # share of the reference's own queries that score low, by definition


class Action(StrEnum):
    """The least work that is enough."""

    SKIP = "skip"  # nothing changed
    REFRESH = "refresh"  # embed the changed passages with the serving encoder
    RETRAIN = "retrain"  # mine and train
    SUSPECT = "suspect"  # the input looks broken: touch nothing, ask a person
    LABEL = "label"  # queries have drifted, and nothing is new to train on: ask a person for labels


class Frozen(BaseModel):
    """A record that is never altered and has no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Signal(Frozen):
    """One measured figure; it fired when its value passed its threshold. Without a threshold it only explains."""

    name: str
    value: float
    threshold: float | None
    fired: bool


class Changes(Frozen):
    """Passages that are new, changed and gone since the serving snapshot."""

    new: int = 0
    changed: int = 0
    gone: int = 0


class MovedTerm(Frozen):
    """A term that new queries use more or less often than the reference's: its share of all terms in both."""

    term: str
    share: float
    reference: float
    divergence: float  # its part of the Jensen-Shannon divergence, in bits


class MovedSlice(Frozen):
    """A part of the queries, by length or by topic: its share of them now and in the reference."""

    name: str
    share: float
    reference: float
    low_score_share: float  # of its new queries, those that score low


class Measurement(Frozen):
    """A sample of new queries beside the reference, in the figures that a decision is made on."""

    queries: int  # new queries looked at
    low: float  # share of them that score low, adjusted to the reference's mix of topics
    raw_low: float  # the share itself: LOW of the reference's queries score as low
    unseen: float  # share of their terms that the serving corpus and its training queries do not have
    held_out: int  # queries of the reference
    usual_unseen: float  # the reference's own share
    judged: int = 0  # new queries with a positive in the serving corpus
    recall: float = 0.0  # Recall@10 on those
    usual_judged: int = 0
    usual_recall: float = 0.0


class Explanation(Frozen):
    """What moved, for a person to read; nothing is decided on it."""

    classifier_auc: float  # how well a linear classifier tells new queries from the reference's; 0.5: not at all
    term_divergence: float  # Jensen-Shannon, in bits
    terms: tuple[MovedTerm, ...]
    slices: tuple[MovedSlice, ...]


class Window(Frozen):
    """A batch of new queries that was judged as one."""

    number: int
    at: datetime
    reference: str  # digest of the reference that it was held against
    snapshot: str  # digest of the snapshot as it was then
    queries: int
    low: float
    threshold: float  # of the low-score share
    fired: bool
    worse: bool  # Recall@10 fell
    suspect: bool


class Drift(Frozen):
    """The verdict, with its cause in words and every signal behind it."""

    verdict: Action
    cause: str
    signals: tuple[Signal, ...] = ()
    passages: Changes = Changes()
    fresh: dict[str, int] = {}  # where new queries come from, snapshot or log -> how many of them there are
    terms: tuple[MovedTerm, ...] = ()  # those that moved most
    slices: tuple[MovedSlice, ...] = ()
    trigger: bool = False  # a retrain for drift of queries should start now
    held: str = ""  # why not, when there are signs of drift
    window: int = 0  # number of the last window that was judged; 0: none yet
    windows: tuple[Window, ...] = ()  # the last ones, for a look back
    unfamiliar: tuple[str, ...] = ()  # queries of a window that fired, the lowest scores first; at most LISTED
    unfamiliar_file: Path | None = None  # all of them

    def at_least_a_retrain(self, because: str, *, learnt: bool) -> Drift:
        """Return the decision of a night that was started to retrain.

        Input that looks broken is not trained on. With `learnt`, the serving release has trained on all that the
        source holds: a person is asked for labels.
        """
        if self.verdict in (Action.RETRAIN, Action.SUSPECT, Action.LABEL):
            return self
        if learnt:
            return self.model_copy(update={"verdict": Action.LABEL, "cause": f"{because}; {NOTHING_NEW}"})
        return self.model_copy(update={"verdict": Action.RETRAIN, "cause": f"{because}; {self.cause}"})
