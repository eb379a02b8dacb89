"""Train the challenger of a night: plan, mine, and train, and embed passages with an encoder."""

from __future__ import annotations

from flows.stages import Stage, begin
from tasks import mining, training
from tasks.compute import run_shards
from tasks.core.base.receipts import Embeddings, Encoder, Index, Negatives, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.derived import trunk_of
from tasks.core.embedding.shards import find_embeddings
from tasks.core.report.night import Logbook
from tasks.core.snapshot.splits import Split
from tasks.embedding import embed_shard, gather_shards


def plan(settings: Settings, base: Encoder, snapshot: Snapshot, serving: Encoder | None, book: Logbook) -> Settings:
    """Return the settings with the recipe that `[training] minutes` pay for; without a budget, the settings."""
    if not settings.training.minutes:
        return settings
    recipe = training.plan_training(settings, base, snapshot, serving)
    book.note(budget=recipe)
    return recipe.apply(settings)


def iterate(settings: Settings, snapshot: Snapshot, index: Index, encoder: Encoder, book: Logbook) -> Encoder:
    """Mine and train for `[mining] rounds`. Each round mines with the encoder of the round before.

    Stops at the first round that does not improve on its start encoder.

    Returns:
        The challenger: the encoder of the last round that improved, or `encoder` if no round did.
    """
    begin(Stage.MINE, f"negatives for {snapshot.splits[Split.TRAIN]:,} training queries")
    bm25 = search(settings, snapshot, index)
    uses_dev = settings.training.evaluate_every > 0 and Split.DEV in snapshot.splits
    dev = mining.search_split(settings, snapshot, index, Split.DEV, settings.mining.depth) if uses_dev else None
    recipe = settings  # for training; every round mines for the same queries
    for round_ in range(settings.mining.rounds):
        if round_ > 0:
            begin(Stage.MINE, f"negatives again, with the encoder of round {round_}")
        vectors = embed(settings, encoder, snapshot)
        negatives = mine(settings, snapshot, bm25, encoder, vectors, round_, book.night.serving)
        book.note(negatives=(*book.night.negatives, negatives))
        begin(Stage.TRAIN, f"on {negatives.rows:,} negatives")
        if round_ == 0 and book.night.budget is not None:
            budget = training.try_recipes(settings, book.night.budget, encoder, snapshot, negatives, dev)
            book.note(budget=budget)
            recipe = budget.apply(settings)
        trained = training.train(recipe, encoder, snapshot, negatives, dev, book.night.serving)
        book.note(trained=(*book.night.trained, trained))
        if not trained.improved:
            break
        encoder = trained
    return encoder


def search(settings: Settings, snapshot: Snapshot, index: Index) -> Run:
    """Search the training queries with BM25; on Ray, in `[mining] shards`."""
    if shards := mining.count_bm25_shards(settings, snapshot, index):
        run_shards(mining.search_bm25_shard, mining.cpu_settings(settings), snapshot, index, shards=shards)
    return mining.search_split(settings, snapshot, index, Split.TRAIN, settings.mining.depth)


def mine(
    settings: Settings,
    snapshot: Snapshot,
    bm25: Run,
    encoder: Encoder,
    vectors: Embeddings,
    round_: int,
    serving: Release | None,
) -> Negatives:
    """Mine the negatives of a round. The dense search is in `[mining] shards` on Ray."""
    if shards := mining.count_dense_shards(settings, snapshot, encoder, vectors, round_):
        mining.encode_queries(settings, snapshot, encoder, vectors)
        run_shards(mining.search_dense_shard, mining.cpu_settings(settings), snapshot, encoder, vectors, shards=shards)
    return mining.mine_negatives(settings, snapshot, bm25, encoder, vectors, round_, serving)


def embed(settings: Settings, encoder: Encoder, snapshot: Snapshot) -> Embeddings:
    """Embed all passages with an encoder, shard by shard; with a passage map, first with its trunk."""
    world_size = settings.embedding.shards
    embeddings = find_embeddings(settings.home, encoder, snapshot, world_size, settings.embedding.vectors)
    if embeddings is not None:
        return embeddings
    if (trunk := trunk_of(encoder)) is not None:
        embed(settings, trunk, snapshot)
    run_shards(embed_shard, settings, encoder, snapshot, shards=world_size)
    return gather_shards(settings, encoder, snapshot)
