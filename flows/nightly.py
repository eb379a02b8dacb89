"""A night: data in, a better release out, or none and the old one serves on."""

from __future__ import annotations

import logging
from pathlib import Path

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

from prefect import flow, get_run_logger  # isort: skip
from prefect.states import Completed, State

from flows.begun import record_begin
from flows.run_night import keep_outcome
from flows.runs import log_of, one_publisher, run_name, run_url
from flows.stages import Stage, begin, log_estimate
from tasks import evaluation, ingest, mining, release, report, training
from tasks.compute import run_shards
from tasks.core.base.artifact_store import attach
from tasks.core.base.receipts import Embeddings, Encoder, Index, Negatives, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.drift.findings import Action
from tasks.core.embedding.shards import find_embeddings
from tasks.core.evaluation.gate import Decision, judge_training
from tasks.core.report.night import Logbook, Night, recipe_of
from tasks.embedding import embed_shard, gather_shards
from tasks.server_loss import loss

log = logging.getLogger("nightshift.night")

ENDS = {Action.SKIP: "Skipped", Action.SUSPECT: "Suspect", Action.LABEL: "Unlabeled"}  # nights that change nothing


@flow(name="nightly", flow_run_name=run_name, on_running=[record_begin])
def nightly(settings_file: Path | None = None, reason: str = "schedule") -> State[Night]:
    """Validate, mine, train, embed, evaluate and, when the gate says so, swap.

    Args:
        settings_file: A TOML file; else the file that NIGHTSHIFT_SETTINGS names, else the defaults.
        reason: Why this night runs; kept with its release.

    Returns:
        Completed as Promoted, Rejected, Skipped, Unlabeled or Suspect, with the night's outcome as data.
    """
    return whole_night(load_settings(settings_file), reason)


def whole_night(settings: Settings, reason: str, *, retrain: bool = False) -> State[Night]:
    """One night under the publishing lock, on record also when it fails; with `retrain` no less than a retrain."""
    loss.install()
    log.info("home %s", settings.home.absolute())
    with one_publisher(settings):
        attach(settings.home, settings.store.url, settings.store.tries)
        book = Logbook(Night.begin(reason, settings, run_url=run_url(), log=log_of(settings)))
        try:
            return one_night(settings, book, retrain)
        except Exception as error:
            report.failed(settings, book.night, error)
            keep_outcome(error)
            raise


def one_night(settings: Settings, book: Logbook, retrain: bool) -> State[Night]:
    """The night itself, in the order in which it is told."""
    ingest.check_side_files(settings)
    serving, epoch = release.reconcile(settings, rebuild=True)
    book.note(serving=serving)
    begin(Stage.VALIDATE, f"{settings.data.format} data")
    ingested, snapshot = ingest.validate(settings)
    book.note(ingested=ingested, snapshot=snapshot)
    begin(Stage.COMPARE, f"with {serving.release}" if serving else "(no release serves yet)")
    recipe = recipe_of(settings)
    drift = ingest.compare_with_serving(settings, serving, snapshot, recipe, book.night.reason if retrain else "")
    book.note(drift=drift)
    if serving is not None and drift.verdict is Action.SKIP:
        mining.index_served(settings, serving)
    if drift.verdict in ENDS:
        return _end(settings, book, ENDS[drift.verdict])

    begin(Stage.INDEX, f"{snapshot.rows:,} passages with BM25 and the base model")
    ingest.warn_of_data(settings, snapshot)
    base = training.base_encoder(settings, snapshot)
    training.check_learnable(base, snapshot, will_train=drift.verdict is Action.RETRAIN)
    log_estimate(settings, snapshot, drift)
    index = mining.index_passages(settings, snapshot)
    held_out = mining.search_split(
        settings, snapshot, index, settings.evaluation.split, settings.evaluation.searched_depth
    )
    base_vectors = embed(settings, base, snapshot)
    book.note(index=index, base_vectors=base_vectors)
    before, known = base, base_vectors  # what the challenger has to hold its own against
    if serving is not None:
        before = release.encoder_of(settings, serving)
        known = embed(settings, before, snapshot)
    challenger = before
    if drift.verdict is Action.RETRAIN:
        start = before if settings.encoder.start == "serving" else base
        challenger = iterate(settings, snapshot, index, start, book)
        first = book.night.trained[0]
        if (fallen := judge_training(first)) is not None:
            book.note(encoder=first, verdict=Decision(findings=(fallen,)))
            return _end(settings, book, "Rejected")
        probe = evaluation.probe(settings, snapshot, challenger, before, known, held_out, serving)
        book.note(encoder=challenger, probe=probe)
        if probe.finding is not None:
            book.note(verdict=Decision(findings=(probe.finding,)))
            return _end(settings, book, "Rejected")
    which = "trained" if drift.verdict is Action.RETRAIN else "serving"
    begin(Stage.EMBED, f"{snapshot.rows:,} passages with the {which} encoder")
    vectors = embed(settings, challenger, snapshot)
    book.note(encoder=challenger, embeddings=vectors)

    begin(Stage.EVALUATE, f"on the {settings.evaluation.split} queries")
    figures = {
        "challenger": evaluation.evaluate(settings, "challenger", challenger, vectors, snapshot),
        "bm25": evaluation.evaluate_bm25(settings, held_out, snapshot),
        "base": evaluation.evaluate(settings, "base", base, base_vectors, snapshot),
    }
    if serving is not None:
        figures["serving"] = evaluation.evaluate(settings, "serving", before, known, snapshot)
    taken_back = release.withdrawn(settings, challenger, vectors, snapshot)
    trained = drift.verdict is Action.RETRAIN
    verdict = evaluation.gate(
        settings, figures, challenger, vectors, snapshot, serving, trained=trained, withdrawn=taken_back
    )
    book.note(figures=figures, verdict=verdict)
    if not verdict.promote:
        return _end(settings, book, "Rejected")

    begin(Stage.PUBLISH, f"{snapshot.rows:,} passages as a new release")
    published = release.publish(
        settings, challenger, vectors, snapshot, figures, recipe=recipe, reason=book.night.reason, expected_epoch=epoch
    )
    book.note(release=published)
    release.prune(settings)
    return _end(settings, book, "Promoted")


def iterate(settings: Settings, snapshot: Snapshot, index: Index, encoder: Encoder, book: Logbook) -> Encoder:
    """Mine and train for the rounds that the settings ask for; each mines with the encoder of the one before.

    A round that does not improve on its start ends them, and its start is the challenger.
    """
    begin(Stage.MINE, f"negatives for {snapshot.splits['train']:,} training queries")
    found = search(settings, snapshot, index)
    looks = settings.training.evaluate_every > 0 and "dev" in snapshot.splits
    dev = mining.search_split(settings, snapshot, index, "dev", settings.mining.depth) if looks else None
    for round_ in range(settings.mining.rounds):
        if round_ > 0:
            begin(Stage.MINE, f"negatives again, with the encoder of round {round_}")
        vectors = embed(settings, encoder, snapshot)
        negatives = mine(settings, snapshot, found, encoder, vectors, round_, book.night.serving)
        book.note(negatives=(*book.night.negatives, negatives))
        begin(Stage.TRAIN, f"on {negatives.rows:,} negatives")
        trained = training.train(settings, encoder, snapshot, negatives, dev, book.night.serving)
        book.note(trained=(*book.night.trained, trained))
        if not trained.improved:
            break
        encoder = trained
    return encoder


def search(settings: Settings, snapshot: Snapshot, index: Index) -> Run:
    """BM25's best passages for the training queries, in one piece or slice by slice."""
    if slices := mining.bm25_slices(settings, snapshot, index):
        run_shards(mining.search_bm25_slice, mining.on_processors(settings), snapshot, index, shards=slices)
    return mining.search_split(settings, snapshot, index, "train", settings.mining.depth)


def mine(
    settings: Settings,
    snapshot: Snapshot,
    bm25: Run,
    encoder: Encoder,
    vectors: Embeddings,
    round_: int,
    serving: Release | None,
) -> Negatives:
    """The round's negatives; what the encoder searches for them, in one piece or slice by slice."""
    if slices := mining.dense_slices(settings, snapshot, encoder, vectors, round_):
        mining.encode_queries(settings, snapshot, encoder, vectors)
        run_shards(mining.search_dense_slice, mining.on_processors(settings), snapshot, encoder, vectors, shards=slices)
    return mining.mine_negatives(settings, snapshot, bm25, encoder, vectors, round_, serving)


def embed(settings: Settings, encoder: Encoder, snapshot: Snapshot) -> Embeddings:
    """All passages under one encoder, shard by shard."""
    world_size = settings.embedding.shards
    if (known := find_embeddings(settings.home, encoder, snapshot, world_size, settings.embedding.vectors)) is not None:
        return known
    run_shards(embed_shard, settings, encoder, snapshot, shards=world_size)
    return gather_shards(settings, encoder, snapshot)


def _end(settings: Settings, book: Logbook, name: str) -> State[Night]:
    night = report.write(settings, book.night.having(outcome=name))
    release.remove_unused(settings)
    get_run_logger().info("%s: %s", name, night.why)
    keep_outcome(night)
    return Completed(name=name, message=night.why, data=night)
