"""Decide whether to promote or reject a challenger, by paired statistics over held-out queries, with all reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.core.base.measure_names import label_of
from tasks.core.base.receipts import Encoder
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.evaluation.significance import MEASURE, Comparison, compare_paired

if TYPE_CHECKING:
    from tasks.core.evaluation.golden import Answers

SHOWN_MISSES = 3  # unanswered golden queries shown individually; the rest are counted


class GateCheck(BaseModel):
    """One check of the gate: whether it passed, its result as a sentence, and what would turn a failure into a pass."""

    model_config = ConfigDict(frozen=True)

    held: bool
    words: str
    informs: bool = False  # passed, but with a loss that does not count tonight
    remedy: str = ""  # of a failed check: what would have made it pass


class Decision(BaseModel):
    """The decision of the gate: a challenger is promoted when all checks pass."""

    model_config = ConfigDict(frozen=True)

    findings: tuple[GateCheck, ...]
    comparisons: tuple[Comparison, ...] = ()
    slices: dict[str, Comparison] = {}  # against the serving release, or the base model before there is one
    overlap: float | None = None  # share of the top ten passages in common with the serving release
    margin: float = 0.0  # loss in the measure that is allowed

    @property
    def promote(self) -> bool:
        """Whether all checks passed."""
        return all(check.held for check in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons as sentences: the failed checks of a rejection, or all checks of a promotion."""
        return tuple(check.words for check in self.findings if self.promote or not check.held)


class Probe(BaseModel):
    """The result of the probe on a pool of passages; if it did not run, `why` gives the reason."""

    model_config = ConfigDict(frozen=True)

    passages: int  # in the pool
    of: int  # in the snapshot
    comparison: Comparison | None = None
    why: str = ""
    finding: GateCheck | None = None  # set if the challenger is rejected


@dataclass(frozen=True)
class Evidence:
    """The inputs of a decision. All tables have query_id, ndcg@10, and the gate's measures, for the same queries."""

    challenger: pa.Table
    bm25: pa.Table
    base: pa.Table | None = None  # the model that the first training started from
    serving: pa.Table | None = None
    segments: Mapping[str, np.ndarray] = field(default_factory=dict)  # name → bool (queries,)
    golden: Answers | None = None
    overlap: float | None = None
    withdrawn: str | None = None  # the release with the same parts that a person rolled back
    trained: bool = False  # tonight; in a refresh, the challenger is the serving encoder
    dense: pa.Table | None = None  # the dense ranking of the challenger alone
    base_dense: pa.Table | None = None
    label_note: str = ""  # why the labels of the held-out queries are not those of people
    same_as_base: bool = False  # both encoders rank the same passages in the same order for every query


def decide(evidence: Evidence, settings: GateSettings) -> Decision:
    """Promote or reject a challenger.

    The checks use one-sided bootstrap intervals of the mean paired difference in nDCG@10:

    - No worse than the serving release: the lower end is at least −margin (a non-inferiority test). Better: it is
      above 0.
    - Clearly worse than BM25, or than the base model before there is a release: the upper end is below −margin.
    - Equal to the base model after training: no measure of any query differs, or no ranking does.
    - Worse on a segment: the loss is larger than `slice_margin`, and the interval, widened for the number of segments
      (Bonferroni), is below 0.

    Args:
        evidence: per-query measures and other results; see `gather_evidence`.
        settings: margins, confidence, and floors.
    """
    rivals = {"the serving release": evidence.serving, "BM25": evidence.bm25, "the base model": evidence.base}
    compared = {
        name: compare_paired(name, evidence.challenger, table, settings)
        for name, table in rivals.items()
        if table is not None
    }
    segments = _compare_segments(evidence, settings)
    findings = [
        *_check_withdrawn(evidence),
        *_note_labels(evidence),
        *_check_query_count(evidence, settings),
        *_check_learned(evidence),
        *_check_no_worse(compared, settings),
        *_check_floors(evidence, compared, settings),
        *(_check_segments(segments, settings) if evidence.serving is not None else []),
        *_check_golden(evidence),
    ]
    return Decision(
        findings=tuple(findings),
        comparisons=tuple(compared.values()),
        slices=segments,
        overlap=evidence.overlap,
        margin=settings.margin,
    )


def _check_withdrawn(evidence: Evidence) -> Iterator[GateCheck]:
    if evidence.withdrawn is not None:
        undo = "nightshift rollback --to serves it again"
        words = f"it is release {evidence.withdrawn}, which was rolled back manually ({undo})"
        yield GateCheck(held=False, words=words, remedy="new data or other settings, which make a different challenger")


def _note_labels(evidence: Evidence) -> Iterator[GateCheck]:
    if evidence.label_note:
        yield GateCheck(held=True, words=evidence.label_note, informs=True)


def _check_query_count(evidence: Evidence, settings: GateSettings) -> Iterator[GateCheck]:
    queries = evidence.challenger.num_rows
    if queries < settings.min_queries:
        least = f"at least {settings.min_queries} are needed"
        remedy = f"{settings.min_queries - queries} more judged queries, or a lower [gate] min_queries"
        yield GateCheck(held=False, words=f"only {queries} held-out queries, {least}", remedy=remedy)


def _check_learned(evidence: Evidence) -> Iterator[GateCheck]:
    """Reject a challenger whose encoder training left equal to the base model on all queries.

    If the base model answers every query perfectly, equal measures prove nothing; only equal rankings do.
    """
    if not evidence.trained or evidence.dense is None or evidence.base_dense is None:
        return
    perfect = float(evidence.base_dense[MEASURE].to_numpy().min()) == 1.0
    if evidence.same_as_base or (not perfect and evidence.dense.equals(evidence.base_dense)):
        queries = evidence.challenger.num_rows
        yield GateCheck(
            held=False,
            words=f"training changed nothing: the base model answers all {queries} held-out queries the same",
            remedy="a higher [training] learning_rate or more training pairs; check the log for unknown tokens",
        )


def judge_training(encoder: Encoder) -> GateCheck | None:
    """Return a failed check if training did not improve the encoder, before its passages are embedded; else None."""
    if encoder.improved:
        return None
    (_, start), *later = encoder.dev
    step, best = max(later, key=lambda point: point[1])
    words = f"training did not improve on step 0 (dev nDCG@10 {start:.4f}); best later step {best:.4f} at step {step}"
    return GateCheck(
        held=False,
        words=words,
        remedy="a lower [training] learning_rate, or training pairs more similar to the dev queries",
    )


def _check_no_worse(compared: Mapping[str, Comparison], settings: GateSettings) -> Iterator[GateCheck]:
    if (comparison := compared.get("the serving release")) is not None:
        held = comparison.low >= -settings.margin
        words = "better" if comparison.low > 0 else "no worse" if held else "not shown to be no worse"
        yield GateCheck(
            held=held,
            words=f"{words} than the serving release: {comparison}, margin {settings.margin}",
            remedy="" if held else _remedy_for_no_worse(comparison, settings.margin),
        )


def _remedy_for_no_worse(comparison: Comparison, margin: float) -> str:
    """Return the remedy: more queries if the mean difference is within the margin, otherwise a gain."""
    wider = f"[gate] margin of at least {-comparison.low:.3f}"
    if comparison.difference <= -margin:
        return f"a gain of {-margin - comparison.difference:.4f} {comparison.measure} or more, or a {wider}"
    # The interval shrinks with the square root of the number of queries.
    queries = math.ceil(
        comparison.queries * ((comparison.difference - comparison.low) / (comparison.difference + margin)) ** 2
    )
    return f"the same mean difference on about {queries:,} held-out queries, or a {wider}"


def _check_floors(
    evidence: Evidence, compared: Mapping[str, Comparison], settings: GateSettings
) -> Iterator[GateCheck]:
    binding = {"BM25": settings.bm25_floor, "the base model": evidence.serving is None}
    for name, binds in binding.items():
        if (comparison := compared.get(name)) is not None:
            yield _check_floor(name, comparison, settings.margin, binds=binds)
    ndcg = float(np.mean(evidence.challenger[MEASURE].to_numpy()))
    if ndcg < settings.min_ndcg:
        words = f"nDCG@10 {ndcg:.4f} is below the floor of {settings.min_ndcg}"
        yield GateCheck(held=False, words=words, remedy=f"a [gate] min_ndcg of at most {ndcg:.4f}")
    if settings.floor_measure:
        yield _check_second_measure(evidence.challenger, settings)


def _check_second_measure(challenger: pa.Table, settings: GateSettings) -> GateCheck:
    mean = float(np.mean(challenger[settings.floor_measure].to_numpy()))
    held = mean >= settings.floor
    words = f"{label_of(settings.floor_measure)} {mean:.4f} is {'at or above' if held else 'below'} {settings.floor}"
    return GateCheck(held=held, words=words, remedy="" if held else f"a [gate] floor of at most {mean:.4f}")


def _check_floor(name: str, comparison: Comparison, margin: float, *, binds: bool) -> GateCheck:
    """Compare with a rival; if `binds`, fail when the challenger is clearly worse. The wording follows the interval."""
    clearly_worse = comparison.high < -margin
    held = not (binds and clearly_worse)
    if comparison.low > 0:
        words = "better than"
    elif comparison.high < 0:
        words = "clearly worse than" if clearly_worse else "slightly worse than"
    else:
        words = "not clearly worse than" if comparison.difference < 0 else "not clearly better than"
    note = "; this does not count tonight" if clearly_worse and held else ""
    gain = f"a gain of {-margin - comparison.high:.4f} {comparison.measure} or more"
    remedy = "" if held else f"{gain}, or [gate] bm25_floor = false" if name == "BM25" else gain
    return GateCheck(
        held=held,
        words=f"{words} {name}: {comparison}{note}",
        informs=held and comparison.difference < 0,
        remedy=remedy,
    )


def _compare_segments(evidence: Evidence, settings: GateSettings) -> dict[str, Comparison]:
    if evidence.serving is not None:
        name, rival = "the serving release", evidence.serving
    elif evidence.base is not None:
        name, rival = "the base model", evidence.base
    else:
        return {}
    large = {segment: chosen for segment, chosen in evidence.segments.items() if chosen.sum() >= settings.slice_queries}
    confidence = 1 - (1 - settings.confidence) / max(1, len(large))
    return {
        segment: compare_paired(name, evidence.challenger, rival, settings, chosen=chosen, confidence=confidence)
        for segment, chosen in large.items()
    }


def _check_segments(segments: Mapping[str, Comparison], settings: GateSettings) -> Iterator[GateCheck]:
    worse = {
        name: comparison
        for name, comparison in segments.items()
        if comparison.difference < -settings.slice_margin and comparison.high < 0
    }
    for name, comparison in worse.items():
        words = f"worse on {name}: {comparison}, margin {settings.slice_margin}"
        remedy = f"a [gate] slice_margin of at least {-comparison.difference:.3f}"
        yield GateCheck(held=False, words=words, remedy=remedy)
    if segments and not worse:
        yield GateCheck(held=True, words=f"none of {len(segments)} segments lost more than {settings.slice_margin}")


def _check_golden(evidence: Evidence) -> Iterator[GateCheck]:
    if evidence.golden is None:
        return
    total, missed = evidence.golden
    for words in missed[:SHOWN_MISSES]:
        yield GateCheck(held=False, words=words, remedy="a higher [gate] golden_depth, or a change of the golden query")
    if len(missed) > SHOWN_MISSES:
        yield GateCheck(held=False, words=f"and {len(missed) - SHOWN_MISSES} more of {total} golden queries")
    if not missed:
        yield GateCheck(held=True, words=f"all {total} golden queries are answered")
