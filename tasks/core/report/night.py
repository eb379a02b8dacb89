"""The record of one night: every receipt and decision, as the report and the last line tell it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import BadUsage
from tasks.core.base.files import digest_of
from tasks.core.base.plain_text import check_text, visible
from tasks.core.base.receipts import (
    Embeddings,
    Encoder,
    Evaluation,
    Index,
    Ingested,
    Negatives,
    Release,
    Snapshot,
)
from tasks.core.base.resolved_settings import resolve
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Drift
from tasks.core.evaluation.gate import Decision, Probe


class Night(BaseModel):
    """What happened, as far as it got. Frozen: `having` returns the record with more filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    began: datetime
    ended: datetime | None = None
    reason: str
    outcome: str = "Running"
    ingested: Ingested | None = None
    snapshot: Snapshot | None = None
    serving: Release | None = None  # the release that served when the night began
    drift: Drift | None = None
    index: Index | None = None
    base_vectors: Embeddings | None = None  # of the base model, which is measured beside the others
    negatives: tuple[Negatives, ...] = ()  # one a round
    trained: tuple[Encoder, ...] = ()  # one a round
    encoder: Encoder | None = None
    embeddings: Embeddings | None = None
    probe: Probe | None = None
    figures: dict[str, Evaluation] = {}
    verdict: Decision | None = None
    release: Release | None = None
    failure: str = ""  # what ended the night before its end
    failed_step: str = ""  # the step that raised it; empty: not known
    refused: Path | None = None  # folder of a reading of the source that was stopped: its refused rows and its page
    settings: dict[str, Any] = {}  # in effect, by dotted name, without secrets
    run_url: str = ""  # of the run in the orchestrator's user interface, if it has one
    log: str = ""  # the command or the file that shows the night's log
    report: Path | None = None

    @classmethod
    def begin(cls, reason: str, settings: Settings | None = None, **more: Any) -> Night:
        """Return the record of a night that begins now, with the settings in effect.

        Raises BadUsage for a reason that is no text.
        """
        try:
            reason = check_text(reason)
        except ValueError as error:
            raise BadUsage(f"the reason {visible(reason)!r} cannot be kept: {error}. Give UTF-8.") from error
        known = {} if settings is None else resolve(settings)
        return cls(began=datetime.now(UTC), reason=reason, settings=known, **more)

    def having(self, **more: Any) -> Night:
        """This record with `more` filled in."""
        return self.model_copy(update=more)

    @property
    def serving_known(self) -> bool:
        """Whether the night got as far as reading what serves; `serving` is None before that, too."""
        return "serving" in self.model_fields_set

    @property
    def serves(self) -> Release | None:
        """The release that serves after this night."""
        return self.release or self.serving

    @property
    def why(self) -> str:
        """Why it ended as it did, on one line."""
        if self.failure:
            return " ".join(self.failure.split())
        if self.verdict is not None:
            return "; ".join(self.verdict.reasons)
        return self.drift.cause if self.drift is not None else ""


class Logbook:
    """The record of a night under way. What was noted stays known when the night fails."""

    def __init__(self, night: Night) -> None:
        self.night = night

    def note(self, **more: Any) -> None:
        """Fill `more` into the record."""
        self.night = self.night.having(**more)


def recipe_of(settings: Settings) -> str:
    """Name the settings that shape an encoder: when they change, the encoder is trained anew."""
    mining = settings.mining.model_dump(exclude={"shards", "threads", "heap_mb"})
    mining["cross_encoder"] |= settings.as_written("mining.cross_encoder")
    return digest_of(
        {
            "encoder": settings.encoder.model_dump() | settings.as_written("encoder"),
            "mining": mining,
            "training": settings.training.recipe(),
            "embedding": settings.embedding.numeric(),
            **({"leave_out_self": True} if settings.evaluation.leave_out_self else {}),
        }
    )


QUIET = {
    "Skipped": "nothing to do, no training and no embedding",
    "Suspect": "input looks broken",
    "Unlabeled": "a person must label queries",
}


def outcome_line(night: Night) -> str:
    """The line that a night ends with: outcome, release, figures, report."""
    served = night.serves
    words = [f"{night.outcome}:"]
    if night.outcome in QUIET and night.drift is not None:
        words.append(f"{QUIET[night.outcome]} ({night.drift.cause});")
    if night.outcome == "Rejected":
        words.append(f"{night.why};")
    words.append(f"release {served.release} serves" if served else _nothing(night))
    words.append(_figures(night))
    words.append(f"· report {night.report}")
    return " ".join(word for word in words if word)


def _nothing(night: Night) -> str:
    return "no release serves yet" if night.serving_known else "the night ended before it read what serves"


def _figures(night: Night) -> str:
    """Held-out nDCG@10 of what serves or was judged, beside BM25, the base model and the release before."""
    if night.figures:
        named = {name: evaluation.metrics for name, evaluation in night.figures.items()}
        ours, others = (
            named["challenger"],
            [("BM25", named["bm25"]), ("base", named["base"]), ("previous", named.get("serving"))],
        )
        label = "nDCG@10" if night.outcome == "Promoted" else "challenger's nDCG@10"
    elif night.serves is not None:
        release = night.serves
        ours, others = release.metrics, [("BM25", release.bm25), ("base", release.base), ("previous", release.previous)]
        label = "nDCG@10"
    else:
        return ""
    rest = ", ".join(f"{name} {metrics['ndcg@10']:.4f}" for name, metrics in others if metrics)
    return f"· {label} {ours['ndcg@10']:.4f} ({rest})"
