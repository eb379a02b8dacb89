"""Record of one night: its receipts and decisions, for the report and the outcome line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import BadUsage
from tasks.core.base.files import digest_of
from tasks.core.base.languages import language_key
from tasks.core.base.plain_text import check_text, visible
from tasks.core.base.ranking import Ranking
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
from tasks.core.base.synthetic_receipts import Synthesis
from tasks.core.drift.findings import Drift
from tasks.core.evaluation.gate import Decision, Probe
from tasks.core.evaluation.systems import System
from tasks.core.evaluation.tune import Tuning
from tasks.core.report.outcomes import Outcome
from tasks.core.report.refresh import Refresh
from tasks.core.snapshot.splits import SYNTHETIC
from tasks.core.training.budget import Recipe
from tasks.core.training.route import RouteChoice


class Night(BaseModel):
    """Record of a night, as far as it got. Immutable: `having` returns an updated copy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    began: datetime
    ended: datetime | None = None
    reason: str
    outcome: Outcome = Outcome.RUNNING
    ingested: Ingested | None = None
    snapshot: Snapshot | None = None
    synthesis: Synthesis | None = None  # training pairs made from passages; None: all pairs are from the source
    serving: Release | None = None  # the release that served when the night began
    drift: Drift | None = None
    index: Index | None = None
    base_vectors: Embeddings | None = None  # of the base model, evaluated for comparison
    budget: Recipe | None = None  # what `[training] minutes` chose
    route: RouteChoice | None = None  # how the night trains; None: it does not
    negatives: tuple[Negatives, ...] = ()  # one per round
    trained: tuple[Encoder, ...] = ()  # one per round
    encoder: Encoder | None = None
    embeddings: Embeddings | None = None
    trunk_vectors: Embeddings | None = None  # that `embeddings` are derived from
    probe: Probe | None = None
    ranking: Ranking | None = None  # of the challenger
    tuning: Tuning | None = None  # why it ranks so
    figures: dict[System, Evaluation] = {}
    verdict: Decision | None = None
    release: Release | None = None
    refresh: Refresh | None = None  # passages of a rejected or suspect night, with the serving encoder
    failure: str = ""  # error message of a failed night
    failed_step: str = ""  # step that raised the error; empty if unknown
    refused: Path | None = None  # folder with refused rows and contracts page of a stopped ingest
    settings: dict[str, Any] = {}  # settings in effect, by dotted name, without secrets
    run_url: str = ""  # run in the orchestrator's UI; empty without a UI
    log: str = ""  # command or file that shows the night's log
    report: Path | None = None

    @classmethod
    def begin(cls, reason: str, settings: Settings | None = None, **more: Any) -> Night:
        """Return the record of a night that starts now, with the settings in effect.

        Raises BadUsage when the reason is not valid text.
        """
        try:
            reason = check_text(reason)
        except ValueError as error:
            raise BadUsage(f"the reason {visible(reason)!r} cannot be stored: {error}. Use UTF-8.") from error
        resolved = {} if settings is None else resolve(settings)
        return cls(began=datetime.now(UTC), reason=reason, settings=resolved, **more)

    def having(self, **more: Any) -> Night:
        """Return a copy of this record with the fields in `more`."""
        return self.model_copy(update=more)

    @property
    def serving_known(self) -> bool:
        """Whether the night has read which release serves. Until then `serving` is None, too."""
        return "serving" in self.model_fields_set

    @property
    def made(self) -> Release | None:
        """The release that this night made."""
        return self.release or (self.refresh.release if self.refresh else None)

    @property
    def serves(self) -> Release | None:
        """The release that serves after this night."""
        return self.made or self.serving

    @property
    def why(self) -> str:
        """Reason for the outcome, on one line."""
        if self.failure:
            return " ".join(self.failure.split())
        if self.verdict is not None:
            return "; ".join(self.verdict.reasons)
        return self.drift.cause if self.drift is not None else ""


class Logbook:
    """Mutable record of a night in progress. Noted fields are kept when the night fails."""

    def __init__(self, night: Night) -> None:
        self.night = night

    def note(self, **more: Any) -> None:
        """Set fields of the record."""
        self.night = self.night.having(**more)


def recipe_of(settings: Settings) -> str:
    """Return the digest of the settings that shape an encoder. A change causes a retrain."""
    mining = settings.mining.model_dump(exclude={"language", "shards", "scorer", "threads", "heap_mb"})
    mining |= language_key(settings.mining.language)
    mining["cross_encoder"] |= settings.as_written("mining.cross_encoder")
    teacher = mining.pop("teacher") | settings.as_written("mining.teacher")
    if settings.mining.teacher.source != "none":  # recipes of earlier versions stay the same
        mining["teacher"] = teacher
    return digest_of(
        {
            "encoder": settings.encoder.recipe() | settings.as_written("encoder"),
            "mining": mining,
            "training": settings.training.recipe(),
            "embedding": settings.embedding.numeric(),
            **({"leave_out_self": True} if settings.evaluation.leave_out_self else {}),
        }
    )


QUIET_OUTCOMES = {
    Outcome.SKIPPED: "nothing to do, no training and no embedding",
    Outcome.SUSPECT: "input looks broken",
    Outcome.UNLABELED: "a person must label queries",
}


def outcome_line(night: Night) -> str:
    """Format the last line of a night: outcome, release, figures, report."""
    serving = night.serves
    parts = [f"{night.outcome}:"]
    if night.outcome in QUIET_OUTCOMES and night.drift is not None:
        parts.append(f"{QUIET_OUTCOMES[night.outcome]} ({night.drift.cause});")
    if night.outcome == Outcome.REJECTED:
        parts.append(f"{night.why};")
    if night.refresh is not None:
        parts.append(f"{night.refresh};")
    parts.append(f"release {serving.release} serves" if serving else _no_release(night))
    parts.append(_figures(night))
    parts.append(f"· report {night.report}")
    return " ".join(filter(None, parts))


def _no_release(night: Night) -> str:
    return "no release serves yet" if night.serving_known else "the night ended before it read which release serves"


def _figures(night: Night) -> str:
    """Format held-out nDCG@10 of the challenger or serving release, compared with BM25, base model, and previous."""
    if night.figures:
        named = {name: evaluation.metrics for name, evaluation in night.figures.items()}
        metrics, rivals = (
            named[System.CHALLENGER],
            [("BM25", named[System.BM25]), ("base", named.get(System.BASE)), ("previous", named.get(System.SERVING))],
        )
        label = "nDCG@10" if night.outcome == Outcome.PROMOTED else "challenger's nDCG@10"
    elif night.serves is not None:
        release = night.serves
        metrics = release.metrics
        rivals = [("BM25", release.bm25), ("base", release.base), ("previous", release.previous)]
        label = "nDCG@10"
    else:
        return ""
    label += " on synthetic queries" if night.settings.get("evaluation.split") == SYNTHETIC else ""
    compared = ", ".join(f"{name} {rival['ndcg@10']:.4f}" for name, rival in rivals if rival)
    return f"· {label} {metrics['ndcg@10']:.4f} ({compared})"
