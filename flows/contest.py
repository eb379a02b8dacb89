"""Compare a challenger with its rivals, and publish it; also publish the passages of a night without a new encoder."""

from __future__ import annotations

from dataclasses import dataclass

from flows.stages import Stage, begin
from tasks import evaluation, release
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Postings, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Changes
from tasks.core.drift.verdict import untrained_changes
from tasks.core.evaluation.gate import Decision
from tasks.core.evaluation.systems import System
from tasks.core.report.night import Logbook, recipe_of
from tasks.core.report.refresh import Refresh


@dataclass(frozen=True)
class Contest:
    """The passages of a night, and the systems that its challenger is compared with."""

    snapshot: Snapshot
    serving: Release | None
    generation: int  # of the pointer when the night began
    rival: Encoder  # of the serving release, or the base model before there is one
    rival_vectors: Embeddings
    held_out: Run  # of BM25
    postings: Postings
    base: Encoder | None = None  # None in a refresh, which is not compared with the base model
    base_vectors: Embeddings | None = None


def judge(
    settings: Settings, contest: Contest, encoder: Encoder, vectors: Embeddings, ranking: Ranking, *, trained: bool
) -> tuple[dict[System, Evaluation], Decision]:
    """Evaluate a challenger and its rivals on the held-out queries; return the measures and the gate's decision."""
    snapshot, serving = contest.snapshot, contest.serving
    figures = {
        System.CHALLENGER: evaluation.evaluate(settings, System.CHALLENGER, encoder, vectors, snapshot, ranking),
        System.DENSE: evaluation.evaluate(settings, System.DENSE, encoder, vectors, snapshot, DENSE),
        System.BM25: evaluation.evaluate_bm25(settings, contest.held_out, snapshot),
        **evaluate_rivals(settings, contest),
    }
    withdrawn = release.withdrawn(settings, encoder, vectors, snapshot, ranking)
    decision = evaluation.gate(
        settings, figures, encoder, vectors, snapshot, ranking, serving, trained=trained, withdrawn=withdrawn
    )
    return figures, decision


def evaluate_rivals(settings: Settings, contest: Contest) -> dict[System, Evaluation]:
    """Evaluate the base model, except in a refresh, and the serving release, if there is one."""
    snapshot, base, vectors = contest.snapshot, contest.base, contest.base_vectors
    figures: dict[System, Evaluation] = {}
    if base is not None and vectors is not None:
        ranking, _ = evaluation.tune(settings, "base model", base, vectors, snapshot, contest.postings)
        figures |= {
            System.BASE: evaluation.evaluate(settings, System.BASE, base, vectors, snapshot, ranking),
            System.BASE_DENSE: evaluation.evaluate(settings, System.BASE_DENSE, base, vectors, snapshot, DENSE),
        }
    if contest.serving is not None:
        figures[System.SERVING] = evaluation.evaluate(
            settings, System.SERVING, contest.rival, contest.rival_vectors, snapshot, contest.serving.ranking
        )
    return figures


def serving_gain(settings: Settings, contest: Contest) -> float | None:
    """Return what the serving release gains over the base model tonight, in nDCG@10; None before the first release."""
    if contest.serving is None:
        return None
    figures = evaluate_rivals(settings, contest)
    return figures[System.SERVING].metrics["ndcg@10"] - figures[System.BASE].metrics["ndcg@10"]


def publish(
    settings: Settings,
    contest: Contest,
    encoder: Encoder,
    vectors: Embeddings,
    figures: dict[System, Evaluation],
    ranking: Ranking,
    book: Logbook,
    *,
    recipe: str,
) -> Release:
    """Publish a promoted challenger, and remove the collections that are no longer needed."""
    drift = book.night.drift
    begin(Stage.PUBLISH, f"{contest.snapshot.rows:,} passages as a new release")
    published = release.publish(
        settings,
        encoder,
        vectors,
        contest.snapshot,
        figures,
        ranking,
        recipe=recipe,
        reason=book.night.reason,
        expected_epoch=contest.generation,
        since_training={} if drift is None or book.night.trained else untrained_changes(drift),
    )
    release.prune(settings)
    return published


def publish_base(settings: Settings, contest: Contest, book: Logbook) -> None:
    """Publish the base model, ranked with BM25, if no challenger was accepted and no labeled query can judge it.

    Called before the first release, so the rival is the base model.
    """
    passages = Changes(new=contest.snapshot.rows)
    begin(Stage.EVALUATE, f"the base model on {passages.new:,} passages")
    base, vectors = contest.rival, contest.rival_vectors
    ranking, _ = evaluation.tune(settings, "base model", base, vectors, contest.snapshot, contest.postings)
    figures, decision = judge(settings, contest, base, vectors, ranking, trained=False)
    published, withheld = None, "; ".join(decision.reasons)
    if decision.promote:
        recipe, withheld = recipe_of(settings), ""
        published = publish(settings, contest, base, vectors, figures, ranking, book, recipe=recipe)
    book.note(refresh=Refresh(passages=passages, release=published, withheld=withheld, with_base=True))


def publish_passages(settings: Settings, contest: Contest, book: Logbook) -> None:
    """Publish the night's passages with the encoder and the ranking that serve, if the gate of a refresh promotes them.

    Does nothing before the first release, or when no passage changed. The release keeps the recipe of the serving
    release, so changed settings still cause a retrain.
    """
    serving, drift = contest.serving, book.night.drift
    if serving is None or drift is None or not drift.passages.total:
        return
    begin(Stage.EVALUATE, f"the refresh: {drift.passages.total:,} changed passages with the serving encoder")
    ranking = release.ranking_over(settings, serving, contest.snapshot)
    figures, decision = judge(settings, contest, contest.rival, contest.rival_vectors, ranking, trained=False)
    published = None
    if decision.promote:
        published = publish(
            settings, contest, contest.rival, contest.rival_vectors, figures, ranking, book, recipe=serving.recipe
        )
    reasons = "; ".join(decision.reasons)
    again = "the gate rejects them with the serving ranking for the same reasons"
    withheld = "" if decision.promote else again if reasons == book.night.why else reasons
    book.note(refresh=Refresh(passages=drift.passages, release=published, withheld=withheld))
