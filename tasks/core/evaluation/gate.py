"""Promote or reject: paired statistics over held-out queries, with every reason in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.core.base.receipts import Encoder
from tasks.core.base.settings import GateSettings
from tasks.core.evaluation.golden import Answers
from tasks.core.evaluation.significance import MEASURE, Comparison, compare_paired

SHOWN_MISSES = 3  # golden queries named one by one; the rest are counted


class GateCheck(BaseModel):
    """One check of the gate: whether it passed, its result as a sentence, and what would change a failure."""

    model_config = ConfigDict(frozen=True)

    held: bool
    words: str
    informs: bool = False  # a loss that decides nothing tonight: it passed, but it is no point in favor
    remedy: str = ""  # of a check that failed: what would have made it pass


class Decision(BaseModel):
    """What the gate found; a challenger is promoted when every finding held."""

    model_config = ConfigDict(frozen=True)

    findings: tuple[GateCheck, ...]
    comparisons: tuple[Comparison, ...] = ()
    slices: dict[str, Comparison] = {}  # against the serving release, or the base model before there is one
    overlap: float | None = None  # share of the ten best passages in common with the serving release
    margin: float = 0.0  # what may be lost before it counts

    @property
    def promote(self) -> bool:
        """True when nothing speaks against it."""
        return all(one.held for one in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, as sentences: what did not hold, or, when all did, everything that was looked at."""
        return tuple(one.words for one in self.findings if self.promote or not one.held)


class Probe(BaseModel):
    """What a look at a pool of passages said, before all were embedded; without a comparison, `why` it was left out."""

    model_config = ConfigDict(frozen=True)

    passages: int  # in the pool
    of: int  # in the snapshot
    comparison: Comparison | None = None
    why: str = ""
    finding: GateCheck | None = None  # set when it is reason enough to reject


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on. Tables have query_id and ndcg@10, the same queries in the same order."""

    challenger: pa.Table
    bm25: pa.Table
    base: pa.Table | None = None  # the model that training started from at first
    serving: pa.Table | None = None
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)  # name → bool (queries,)
    golden: Answers | None = None
    overlap: float | None = None
    withdrawn: str | None = None  # the release of these very parts that a person rolled back
    trained: bool = False  # tonight; a night that only refreshes has the serving encoder as its challenger
    same_as_base: bool = False  # the base model ranks the same passages in the same order for every query


def decide(evidence: Evidence, settings: GateSettings) -> Decision:
    """Judge a challenger.

    No worse than the serving release: the lower end of the one-sided interval of the mean paired difference is above
    −margin (a non-inferiority test); better: it is above 0. Clearly worse than BM25 or, before there is a release,
    than the base model: the upper end is below −margin. Equal to the base model after a training: no measure of any
    query differs, or no ranking does. A slice regressed: it lost more than its own margin, and the
    interval, widened for the number of slices (Bonferroni), lies below 0.
    """
    rivals = {"the serving release": evidence.serving, "BM25": evidence.bm25, "the base model": evidence.base}
    compared = {
        name: compare_paired(name, evidence.challenger, table, settings)
        for name, table in rivals.items()
        if table is not None
    }
    slices = _compare_slices(evidence, settings)
    findings = [
        *_history(evidence),
        *_enough(evidence, settings),
        *_learned(evidence),
        *_no_worse(compared, settings),
        *_floors(evidence, compared, settings),
        *(_slices(slices, settings) if evidence.serving is not None else []),
        *_golden(evidence),
    ]
    return Decision(
        findings=tuple(findings),
        comparisons=tuple(compared.values()),
        slices=slices,
        overlap=evidence.overlap,
        margin=settings.margin,
    )


def _history(evidence: Evidence) -> Iterator[GateCheck]:
    if evidence.withdrawn is not None:
        undo = "nightshift rollback --to brings it back"
        words = f"it is release {evidence.withdrawn}, which was rolled back by hand ({undo})"
        yield GateCheck(held=False, words=words, remedy="new data or other settings make another challenger")


def _enough(evidence: Evidence, settings: GateSettings) -> Iterator[GateCheck]:
    queries = evidence.challenger.num_rows
    if queries < settings.min_queries:
        least = f"at least {settings.min_queries} are needed"
        remedy = f"{settings.min_queries - queries} more judged queries, or a lower [gate] min_queries"
        yield GateCheck(held=False, words=f"only {queries} held-out queries, {least}", remedy=remedy)


def _learned(evidence: Evidence) -> Iterator[GateCheck]:
    """A training that left every query as the base model answers it has taught nothing, and a tie is no merit.

    Where the base model answers every query perfectly, equal measures are no sign of that; equal rankings are.
    """
    if not evidence.trained or evidence.base is None:
        return
    perfect = float(evidence.base[MEASURE].to_numpy().min()) == 1.0
    if evidence.same_as_base or (not perfect and evidence.challenger.equals(evidence.base)):
        queries = evidence.challenger.num_rows
        yield GateCheck(
            held=False,
            words=f"training changed nothing: the base model answers all {queries} held-out queries the same",
            remedy="a higher [training] learning_rate or more training pairs; look for unknown tokens in the log",
        )


def judge_training(encoder: Encoder) -> GateCheck | None:
    """The reason to reject an encoder before its passages are embedded; None when its training did not fall behind."""
    if encoder.improved:
        return None
    (_, start), *later = encoder.dev
    step, best = max(later, key=lambda point: point[1])
    words = f"training did not improve on step 0 (dev nDCG@10 {start:.4f}); best later step {best:.4f} at step {step}"
    return GateCheck(
        held=False,
        words=words,
        remedy="a lower [training] learning_rate, or training pairs that are more like the dev queries",
    )


def _no_worse(compared: Mapping[str, Comparison], settings: GateSettings) -> Iterator[GateCheck]:
    if (one := compared.get("the serving release")) is not None:
        held = one.low >= -settings.margin
        words = "better" if one.low > 0 else "no worse" if held else "not shown to be no worse"
        yield GateCheck(
            held=held,
            words=f"{words} than the serving release: {one}, margin {settings.margin}",
            remedy="" if held else _to_be_no_worse(one, settings.margin),
        )


def _to_be_no_worse(one: Comparison, margin: float) -> str:
    """What would show that a challenger is no worse: queries, where the mean allows it; else quality."""
    wider = f"[gate] margin of at least {-one.low:.3f}"
    if one.difference <= -margin:
        return f"a gain of {-margin - one.difference:.4f} nDCG@10 or more, or a {wider}"
    # The interval shrinks with the square root of the number of queries.
    queries = math.ceil(one.queries * ((one.difference - one.low) / (one.difference + margin)) ** 2)
    return f"the same mean difference on about {queries:,} held-out queries, or a {wider}"


def _floors(evidence: Evidence, compared: Mapping[str, Comparison], settings: GateSettings) -> Iterator[GateCheck]:
    binding = {"BM25": settings.bm25_floor, "the base model": evidence.serving is None}
    for name, binds in binding.items():
        if (one := compared.get(name)) is not None:
            yield _floor(name, one, settings.margin, binds=binds)
    reached = float(np.mean(evidence.challenger[MEASURE].to_numpy()))
    if reached < settings.min_ndcg:
        words = f"nDCG@10 {reached:.4f} is below the floor of {settings.min_ndcg}"
        yield GateCheck(held=False, words=words, remedy=f"a [gate] min_ndcg of at most {reached:.4f}")


def _floor(name: str, one: Comparison, margin: float, *, binds: bool) -> GateCheck:
    """A rival that a challenger may not be clearly worse than, where it binds; its words follow the interval."""
    clearly = one.high < -margin
    held = not (binds and clearly)
    if one.low > 0:
        words = "better than"
    elif one.high < 0:
        words = "clearly worse than" if clearly else "slightly worse than"
    else:
        words = "not clearly worse than" if one.difference < 0 else "not clearly better than"
    aside = "; decides nothing tonight" if clearly and held else ""
    gain = f"a gain of {-margin - one.high:.4f} nDCG@10 or more"
    remedy = "" if held else f"{gain}, or [gate] bm25_floor = false" if name == "BM25" else gain
    return GateCheck(
        held=held, words=f"{words} {name}: {one}{aside}", informs=held and one.difference < 0, remedy=remedy
    )


def _compare_slices(evidence: Evidence, settings: GateSettings) -> dict[str, Comparison]:
    if evidence.serving is not None:
        name, rival = "the serving release", evidence.serving
    elif evidence.base is not None:
        name, rival = "the base model", evidence.base
    else:
        return {}
    large = {slice_: chosen for slice_, chosen in evidence.slices.items() if chosen.sum() >= settings.slice_queries}
    sure = 1 - (1 - settings.confidence) / max(1, len(large))
    return {
        slice_: compare_paired(name, evidence.challenger, rival, settings, chosen=chosen, confidence=sure)
        for slice_, chosen in large.items()
    }


def _slices(slices: Mapping[str, Comparison], settings: GateSettings) -> Iterator[GateCheck]:
    worse = {name: one for name, one in slices.items() if one.difference < -settings.slice_margin and one.high < 0}
    for name, one in worse.items():
        words = f"worse on {name}: {one}, margin {settings.slice_margin}"
        remedy = f"a [gate] slice_margin of at least {-one.difference:.3f}"
        yield GateCheck(held=False, words=words, remedy=remedy)
    if slices and not worse:
        yield GateCheck(held=True, words=f"none of {len(slices)} segments lost more than {settings.slice_margin}")


def _golden(evidence: Evidence) -> Iterator[GateCheck]:
    if evidence.golden is None:
        return
    asked, missed = evidence.golden
    for words in missed[:SHOWN_MISSES]:
        yield GateCheck(held=False, words=words, remedy="a higher [gate] golden_depth, or a change of the golden query")
    if len(missed) > SHOWN_MISSES:
        yield GateCheck(held=False, words=f"and {len(missed) - SHOWN_MISSES} more of {asked} golden queries")
    if not missed:
        yield GateCheck(held=True, words=f"all {asked} golden queries are answered")
