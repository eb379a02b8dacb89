"""Rows of the report's step table: rows, time, speed, memory, and work avoided."""

from __future__ import annotations

from typing import NamedTuple

from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Ingested, Receipt
from tasks.core.evaluation.systems import System
from tasks.core.report.night import Night

LABELS = {
    System.CHALLENGER: "challenger",
    System.DENSE: "its encoder alone",
    System.SERVING: "serving release",
    System.BASE: "base model",
    System.BASE_DENSE: "base model alone",
    System.BM25: "BM25",
}


class Step(NamedTuple):
    """One step. Seconds and memory belong to the run that did the work, tonight or earlier."""

    name: str
    rows: int
    seconds: float
    speed: str
    peak_mb: int
    avoided: str
    reused: bool
    digest: str


def steps_of(night: Night) -> list[Step]:
    """Return the steps that the night reached, in order."""
    receipts: list[tuple[str, Receipt | None]] = [
        ("validate", night.ingested),
        ("make training pairs", night.synthesis),
        ("index for BM25", night.index),
        ("embed, base model", night.base_vectors),
        *((f"mine, round {negatives.round}", negatives) for negatives in night.negatives),
        *((f"train, round {number}", encoder) for number, encoder in enumerate(night.trained)),
        ("embed, challenger", night.embeddings),
        *((f"evaluate {LABELS[name]}", evaluation) for name, evaluation in night.figures.items()),
        ("publish", night.made),
    ]
    return [_step(name, receipt) for name, receipt in receipts if receipt is not None]


def _step(name: str, receipt: Receipt) -> Step:
    return Step(
        name,
        rows=receipt.rows,
        seconds=receipt.seconds,
        speed=_speed(receipt),
        peak_mb=receipt.peak_mb,
        avoided=_avoided(receipt),
        reused=receipt.reused,
        digest=receipt.digest,
    )


def _speed(receipt: Receipt) -> str:
    if isinstance(receipt, Embeddings):
        return f"{receipt.tokens / receipt.seconds:,.0f} tokens/s" if receipt.tokens and receipt.seconds else ""
    units: dict[type[Receipt], str] = {Ingested: "rows", Encoder: "pairs", Evaluation: "queries"}
    unit = units.get(type(receipt))
    return f"{receipt.rows / receipt.seconds:,.0f} {unit}/s" if unit and receipt.rows and receipt.seconds else ""


def _avoided(receipt: Receipt) -> str:
    if receipt.reused:
        return f"all (done earlier in {receipt.seconds:.1f} s)"
    if isinstance(receipt, Embeddings) and receipt.avoided:
        details = f", {receipt.repeated:,} with duplicate text" if receipt.repeated else ""
        details += f", {receipt.derived:,} derived from vectors of the trunk" if receipt.derived else ""
        return f"{receipt.avoided:,} of {receipt.rows:,} vectors reused{details}"
    return ""
