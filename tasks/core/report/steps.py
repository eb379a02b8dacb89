"""What each step of a night did, for the report's table: rows, time, speed, memory, and work it did not have to do."""

from __future__ import annotations

from typing import NamedTuple

from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Ingested, Receipt
from tasks.core.report.night import Night

LABELS = {"challenger": "challenger", "serving": "serving release", "base": "base model", "bm25": "BM25"}


class Step(NamedTuple):
    """One step. Seconds and memory are of the run that did the work, tonight's or an earlier one's."""

    name: str
    rows: int
    seconds: float
    speed: str
    peak_mb: int
    avoided: str
    reused: bool
    digest: str


def steps_of(night: Night) -> list[Step]:
    """The steps that were reached, in their order."""
    named: list[tuple[str, Receipt | None]] = [
        ("validate", night.ingested),
        ("index for BM25", night.index),
        ("embed, base model", night.base_vectors),
        *((f"mine, round {one.round}", one) for one in night.negatives),
        *((f"train, round {number}", one) for number, one in enumerate(night.trained)),
        ("embed, challenger", night.embeddings),
        *((f"evaluate {LABELS[name]}", one) for name, one in night.figures.items()),
        ("publish", night.release),
    ]
    return [_step(name, one) for name, one in named if one is not None]


def _step(name: str, one: Receipt) -> Step:
    return Step(
        name, one.rows, one.seconds, _speed(one), one.peak_mb, _avoided(one), reused=one.reused, digest=one.digest
    )


def _speed(one: Receipt) -> str:
    if isinstance(one, Embeddings):
        return f"{one.tokens / one.seconds:,.0f} tokens/s" if one.tokens and one.seconds else ""
    units: dict[type[Receipt], str] = {Ingested: "rows", Encoder: "pairs", Evaluation: "queries"}
    unit = units.get(type(one))
    return f"{one.rows / one.seconds:,.0f} {unit}/s" if unit and one.rows and one.seconds else ""


def _avoided(one: Receipt) -> str:
    if one.reused:
        return f"all: done before, {one.seconds:.1f} s"
    if isinstance(one, Embeddings) and one.avoided:
        equal = f", {one.repeated:,} by an equal text" if one.repeated else ""
        return f"{one.avoided:,} of {one.rows:,} vectors known{equal}"
    return ""
