"""The nightly flow: build a new release from data, and publish it if it is better than the serving release.

Most nights change nothing. So modules that import torch are imported only after the comparison, when there is work.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

from prefect import flow, get_run_logger  # isort: skip
from prefect.states import Completed, State

from flows.begun import record_begin
from flows.run_night import keep_outcome
from flows.runs import log_of, one_publisher, run_name, run_url
from flows.stages import Stage, begin, log_estimate
from tasks import ingest, release, report
from tasks.core.base.artifact_store import attach
from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.base.tracing import span, start_tracing
from tasks.core.drift.findings import Action, Drift
from tasks.core.evaluation.gate import Decision, judge_training
from tasks.core.report.night import Logbook, Night, recipe_of
from tasks.core.report.outcomes import Outcome
from tasks.core.report.refresh import Refresh
from tasks.core.snapshot.splits import SYNTHETIC
from tasks.core.training.route import sections_of
from tasks.server_loss import loss

if TYPE_CHECKING:
    from flows.contest import Contest
    from tasks.core.base.receipts import Embeddings, Encoder
    from tasks.core.evaluation.tune import Tuned

log = logging.getLogger("nightshift.night")

EARLY_OUTCOMES = {  # of nights that change nothing
    Action.SKIP: Outcome.SKIPPED,
    Action.SUSPECT: Outcome.SUSPECT,
    Action.LABEL: Outcome.UNLABELED,
}


@flow(name="nightly", flow_run_name=run_name, on_running=[record_begin])
def nightly(settings_file: Path | None = None, reason: str = "schedule") -> State[Night]:
    """Validate, mine, train, embed, and evaluate; publish if the gate promotes the challenger.

    Args:
        settings_file: TOML settings file. Default: the file in NIGHTSHIFT_SETTINGS, or the built-in defaults.
        reason: Why this night runs. Stored with the release.

    Returns:
        Completed as Promoted, Rejected, Skipped, Unlabeled, or Suspect; the night's record is its data.
    """
    return whole_night(load_settings(settings_file), reason)


def whole_night(settings: Settings, reason: str, *, retrain: bool = False) -> State[Night]:
    """Run a night under the publishing lock, and report it even if it fails. `retrain` forces a retrain."""
    loss.install()
    log.info("home %s", settings.home.absolute())
    start_tracing()
    with span("nightshift.night", reason=reason), one_publisher(settings):
        attach(settings.home, settings.store.url, settings.store.tries)
        book = Logbook(Night.begin(reason, settings, run_url=run_url(), log=log_of(settings)))
        try:
            return one_night(settings, book, retrain)
        except Exception as error:
            report.failed(settings, book.night, error)
            keep_outcome(error)
            raise


def one_night(settings: Settings, book: Logbook, retrain: bool) -> State[Night]:
    """Run the steps of a night in order."""
    ingest.check_side_files(settings)
    serving, generation = release.reconcile(settings, rebuild=True)
    book.note(serving=serving)
    begin(Stage.VALIDATE, f"{settings.data.shown} data")
    ingested, snapshot = ingest.validate(settings)
    snapshot, synthesis = ingest.synthesize(settings, snapshot)
    book.note(ingested=ingested, snapshot=snapshot, synthesis=synthesis)
    begin(Stage.COMPARE, f"with {serving.release}" if serving else "(no release serves yet)")
    recipe = recipe_of(settings)
    drift = ingest.compare_with_serving(settings, serving, snapshot, recipe, book.night.reason if retrain else "")
    book.note(drift=drift)
    if drift.verdict is Action.SUSPECT and drift.passages.total:
        snapshot, withheld = ingest.with_serving_queries(settings, serving, snapshot)
        if withheld:
            book.note(refresh=Refresh(passages=drift.passages, withheld=withheld))
            return _end(settings, book, Outcome.SUSPECT)
    elif drift.verdict in EARLY_OUTCOMES:
        return _end(settings, book, EARLY_OUTCOMES[drift.verdict])

    if drift.verdict is Action.RETRAIN:
        return _retrain(settings, book, drift, snapshot, serving, generation, recipe)
    assert serving is not None  # the first night retrains
    return _refresh(settings, book, drift, snapshot, serving, generation, recipe)


def _refresh(
    settings: Settings, book: Logbook, drift: Drift, snapshot: Snapshot, serving: Release, generation: int, recipe: str
) -> State[Night]:
    """Publish the passages of a refresh or suspect night with the serving encoder. Only changed passages are encoded.

    Nothing is mined or trained, so Lucene's index and the vectors of the base model are not needed.
    """
    from flows.challenger import embed
    from flows.contest import Contest, publish_passages
    from tasks import evaluation, mining, training

    encoder = release.encoder_of(settings, serving)
    begin(Stage.INDEX, f"{snapshot.rows:,} passages with BM25")
    ingest.warn_of_data(settings, snapshot)
    log_estimate(settings, snapshot, drift)
    postings = mining.analyze_passages(settings, snapshot, settings.mining.language, settings.mining.stemmer)
    held_out = mining.search_held_out(settings, snapshot, postings)
    begin(Stage.EMBED, f"{snapshot.rows:,} passages with the serving encoder")
    training.check_learnable(encoder, snapshot, will_train=False)
    vectors = embed(settings, encoder, snapshot)
    contest = Contest(snapshot, serving, generation, encoder, vectors, held_out, postings)
    if drift.verdict is Action.SUSPECT:
        publish_passages(settings, contest, book)
        return _end(settings, book, Outcome.SUSPECT)
    book.note(embeddings=vectors)
    begin(Stage.EVALUATE, f"on the {settings.evaluation.split} queries")
    tuned = evaluation.ranking_of_refresh(settings, serving, encoder, vectors, snapshot, postings)
    return _contend(settings, book, contest, encoder, vectors, tuned, recipe)


def _retrain(
    settings: Settings,
    book: Logbook,
    drift: Drift,
    snapshot: Snapshot,
    serving: Release | None,
    generation: int,
    recipe: str,
) -> State[Night]:
    """Mine, train, and embed; publish the challenger if the gate promotes it."""
    from flows.challenger import embed, iterate, plan
    from flows.contest import Contest, serving_gain
    from tasks import evaluation, mining, training

    begin(Stage.INDEX, f"{snapshot.rows:,} passages with BM25 and the base model")
    ingest.warn_of_data(settings, snapshot)
    base = training.base_encoder(settings, snapshot)
    log_estimate(settings, snapshot, drift)
    index = mining.index_passages(settings, snapshot)
    postings = mining.analyze_passages(settings, snapshot, settings.mining.language, settings.mining.stemmer)
    held_out = mining.search_split(
        settings, snapshot, index, settings.evaluation.split, settings.evaluation.searched_depth
    )
    training.check_learnable(base, snapshot, will_train=True)
    base_vectors = embed(settings, base, snapshot)
    book.note(index=index, base_vectors=base_vectors)
    rival, rival_vectors = base, base_vectors  # the challenger is compared with these
    if serving is not None:
        rival = release.encoder_of(settings, serving)
        rival_vectors = embed(settings, rival, snapshot)
    contest = Contest(snapshot, serving, generation, rival, rival_vectors, held_out, postings, base, base_vectors)
    gain = serving_gain(settings, contest) if settings.encoder.train == "auto" else None
    choice = training.choose_route(settings, serving, recipe, gain)
    routed = settings.model_copy(update=sections_of(choice.route, settings.encoder, settings.training))
    book.note(route=choice)
    # With "auto", the route has chosen the start, so a budget does not change it.
    other_start = None if serving is None or settings.encoder.train == "auto" else rival
    planned = plan(routed, base, snapshot, other_start, book)
    start = rival if planned.encoder.start == "serving" else base
    challenger = iterate(planned, snapshot, index, start, book)
    first = book.night.trained[0]
    if (failed_check := judge_training(first)) is not None:
        book.note(encoder=first, verdict=Decision(findings=(failed_check,)))
        return _reject(settings, contest, book)
    probe = evaluation.probe(settings, snapshot, challenger, rival, rival_vectors, held_out, serving)
    book.note(encoder=challenger, probe=probe)
    if probe.finding is not None:
        book.note(verdict=Decision(findings=(probe.finding,)))
        return _reject(settings, contest, book)
    begin(Stage.EMBED, f"{snapshot.rows:,} passages with the trained encoder")
    vectors = embed(settings, challenger, snapshot)
    book.note(embeddings=vectors)
    begin(Stage.EVALUATE, f"on the {settings.evaluation.split} queries")
    tuned = evaluation.tune(settings, "challenger", challenger, vectors, snapshot, postings)
    return _contend(settings, book, contest, challenger, vectors, tuned, recipe)


def _contend(
    settings: Settings,
    book: Logbook,
    contest: Contest,
    challenger: Encoder,
    vectors: Embeddings,
    tuned: Tuned,
    recipe: str,
) -> State[Night]:
    """Let the gate judge a challenger with its ranking; publish it, or end the night as rejected."""
    from flows.challenger import embed
    from flows.contest import judge, publish
    from tasks.core.embedding.derived import trunk_of

    trunk = trunk_of(challenger)
    book.note(encoder=challenger, trunk_vectors=trunk and embed(settings, trunk, contest.snapshot))
    ranking, tuning = tuned
    figures, decision = judge(settings, contest, challenger, vectors, ranking, trained=bool(book.night.trained))
    book.note(figures=figures, verdict=decision, ranking=ranking, tuning=tuning)
    if not decision.promote:
        return _reject(settings, contest, book)
    published = publish(settings, contest, challenger, vectors, figures, ranking, book, recipe=recipe)
    book.note(release=published)
    return _end(settings, book, Outcome.PROMOTED)


def _reject(settings: Settings, contest: Contest, book: Logbook) -> State[Night]:
    """End a night whose challenger was rejected; publish its passages with the encoder and the ranking that serve.

    The first night without labeled queries publishes the base model instead.
    """
    from flows.contest import publish_base, publish_passages

    if contest.serving is None and settings.evaluation.split == SYNTHETIC:
        publish_base(settings, contest, book)
    else:
        publish_passages(settings, contest, book)
    return _end(settings, book, Outcome.REJECTED)


def _end(settings: Settings, book: Logbook, outcome: Outcome) -> State[Night]:
    night = report.write(settings, book.night.having(outcome=outcome))
    release.remove_unused(settings)
    message = "; ".join(filter(None, [night.why, str(night.refresh or "")]))
    get_run_logger().info("%s: %s", outcome, message)
    keep_outcome(night)
    return Completed(name=outcome, message=message, data=night)
