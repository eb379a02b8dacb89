"""Forecast the cost of a night from earlier nights or from a measurement on a few passages."""

from __future__ import annotations

import math
import time
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tasks.core.base.files import find_artifact, receipts_newest_first
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Release, Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Drift
from tasks.core.snapshot.drawn_queries import drawn_queries
from tasks.core.snapshot.reader import passage_texts, qrels, queries
from tasks.core.snapshot.splits import Split
from tasks.core.training.budget import Recipe

SAMPLE = 128  # passages encoded to measure the speed of this machine
QUERIES_PER_SECOND = 400  # BM25 and the filters of mining, on two cores
ROWS_PER_SECOND = 2000  # loaded into an embedded collection and checked
START = 15  # seconds of fixed costs: Java, models, contracts


class Cost(NamedTuple):
    """Forecast of one step: amount of work, seconds, and what the estimate is based on."""

    step: str
    amount: str
    seconds: float
    basis: str


class Forecast(NamedTuple):
    """Forecast of a night: costs of its steps, and bytes added on disk."""

    steps: list[Cost]
    bytes: int

    @property
    def seconds(self) -> float:
        """Duration of the whole night."""
        return START + sum(cost.seconds for cost in self.steps)


def forecast(settings: Settings, snapshot: Snapshot, drift: Drift, *, sample: int = SAMPLE) -> Forecast:
    """Forecast steps and cost of the night that `drift` calls for, within a factor of two.

    Measures the speed of this machine on `sample` passages. Stores the base encoder if it does not exist, as the night
    would.
    """
    if drift.verdict in (Action.SKIP, Action.SUSPECT, Action.LABEL):
        return Forecast([], 0)
    changed = drift.passages.new + drift.passages.changed
    if drift.verdict is Action.REFRESH and (recorded := _recorded_speed(settings.home)) is not None:
        return _refreshing(snapshot, changed, recorded)
    from tasks.core.training.trainer import base_encoder

    base = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    training = settings.training if drift.verdict is Action.RETRAIN else None
    speed = _speed(settings.home, snapshot, base.path, sample, training)
    if drift.verdict is Action.REFRESH:
        return _refreshing(snapshot, changed, speed)
    recipe = _recipe(settings, base, snapshot)
    settings = settings if recipe is None else recipe.apply(settings)
    compared = changed if receipts_newest_first(settings.home, Embeddings) else snapshot.rows
    rounds = settings.mining.rounds
    steps = [
        _mining(settings.home, snapshot, rounds, settings.training.pairs_used),
        _embedding(speed, compared, "compared encoder"),
        *_choosing(recipe),
        _training(settings, snapshot, speed),
        _embedding(speed, rounds * snapshot.rows if settings.encoder.train in ("both", "auto") else 0, "challenger"),
        _publishing(snapshot.rows),
    ]
    # Vectors are stored in shards and in the collection; each round stores an encoder.
    return Forecast(steps, (2 + rounds) * snapshot.rows * speed.dimension * 4 + (1 + rounds) * speed.weights)


def _refreshing(snapshot: Snapshot, changed: int, speed: _Speed) -> Forecast:
    steps = [_embedding(speed, changed, "changed passages, serving encoder"), _publishing(snapshot.rows)]
    return Forecast(steps, snapshot.rows * speed.dimension * 8)


class _Speed(NamedTuple):
    dimension: int
    weights: int  # bytes of an encoder
    passage_tokens: float  # mean per passage
    encode: float  # tokens per second, as in serving
    train: float  # tokens per second, forward and backward; 0: not measured
    basis: str


def _speed(home: Path, snapshot: Snapshot, folder: Path, sample: int, settings: TrainingSettings | None) -> _Speed:
    """Measure the encoder in `folder` on `sample` passages; measure its training if there are settings for it."""
    from tasks.core.encoder.dual_encoder import DualEncoder, load_encoder, read_spec
    from tasks.core.training.ranks import Ranks
    from tasks.core.training.step import Stepper

    served = load_encoder(folder)
    ids = served.passage.tokenize(list(islice(passage_texts(snapshot), sample)))
    tokens = sum(map(len, ids))
    served.passage.encode(ids[:8], served.token_budget)  # the first call compiles and allocates
    begin = time.perf_counter()
    served.passage.encode(ids, served.token_budget)
    encode, basis = tokens / (time.perf_counter() - begin), f"{len(ids)} encoded passages"
    train = 0.0
    if settings is not None and _earlier_training(home) is None:
        stepper = Stepper(DualEncoder(folder, read_spec(folder)), settings, 1, Ranks())
        stepper.pace(ids[:8])
        train = stepper.pace(ids)
    if (recorded := _recorded_speed(home)) is not None:
        encode, basis = recorded.encode, recorded.basis
    weights = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return _Speed(served.dimension, weights, tokens / len(ids), encode, train, basis)


def _recorded_speed(home: Path) -> _Speed | None:
    """Return the pace of the newest embeddings for which at least `SAMPLE` passages were encoded, without a model."""
    known = receipts_newest_first(home, Embeddings)
    earlier = next((embeddings for embeddings in known if embeddings.embedded >= SAMPLE), None)
    if earlier is None or not earlier.seconds or not earlier.tokens:
        return None
    tokens = earlier.tokens / earlier.embedded
    return _Speed(earlier.dimension, 0, tokens, earlier.tokens / earlier.seconds, 0.0, "an earlier night")


def _embedding(speed: _Speed, rows: int, label: str) -> Cost:
    return Cost(f"embed ({label})", f"{rows:,} passages", rows * speed.passage_tokens / speed.encode, speed.basis)


def _mining(home: Path, snapshot: Snapshot, rounds: int, pairs: int) -> Cost:
    queries = drawn_queries(snapshot, pairs).queries.num_rows
    amount = f"{queries:,} queries" + (f" in {rounds} rounds" if rounds > 1 else "")
    earlier = next(iter(receipts_newest_first(home, Negatives)), None)
    if earlier is not None and earlier.seconds:
        return Cost("mine", amount, rounds * queries * earlier.seconds / earlier.queries, "an earlier night")
    return Cost("mine", amount, rounds * queries / QUERIES_PER_SECOND, "rule of thumb")


def _training(settings: Settings, snapshot: Snapshot, speed: _Speed) -> Cost:
    from tasks.core.training.batches import steps_for

    training = settings.training
    steps = settings.mining.rounds * steps_for(len(qrels(snapshot, Split.TRAIN)), training.batch_size, training)
    amount = f"{steps:,} steps of {training.batch_size} queries"
    if (earlier := _earlier_training(settings.home)) is not None:
        seconds = steps * training.batch_size * earlier.seconds / earlier.rows
        return Cost("train", amount, seconds, "an earlier night")
    query = min(settings.encoder.query_tokens, 1.5 * _mean_words(snapshot))
    tokens = query
    if settings.encoder.train != "query+map":  # which trains on stored vectors of the passages
        tokens += (1 + training.hard_negatives) * training.cut(speed.passage_tokens)
    seconds = steps * training.batch_size * tokens / speed.train
    return Cost("train", amount, seconds, speed.basis)


def _recipe(settings: Settings, base: Encoder, snapshot: Snapshot) -> Recipe | None:
    """Return the recipe that `[training] minutes` would choose; None without a budget."""
    if not settings.training.minutes:
        return None
    from tasks.core.training.pace import plan_within_budget

    newest = next(iter(receipts_newest_first(settings.home, Release)), None)
    serving = None if newest is None else find_artifact(settings.home, Encoder, newest.encoder)
    return plan_within_budget(settings.home, base, snapshot, settings, serving)


def _choosing(recipe: Recipe | None) -> list[Cost]:
    """Return the cost of choosing the recipe of a budget: its trials, and the recipe that they start from."""
    if recipe is None:
        return []
    return [Cost("choose a recipe", recipe.describe(), recipe.trial_seconds, "recorded pace")]


def _earlier_training(home: Path) -> Encoder | None:
    """Return the newest trained encoder with a recorded duration."""
    return next(
        (encoder for encoder in receipts_newest_first(home, Encoder) if encoder.steps and encoder.seconds),
        None,
    )


def _mean_words(snapshot: Snapshot) -> float:
    texts = queries(snapshot)["text"].slice(0, SAMPLE).to_pylist()
    return math.fsum(len(text.split()) for text in texts) / len(texts)


def _publishing(rows: int) -> Cost:
    return Cost("publish", f"{rows:,} rows", rows / ROWS_PER_SECOND, "rule of thumb")
