"""What a night would cost, before it does anything: as earlier nights went, or measured on a few passages."""

from __future__ import annotations

import math
import time
from itertools import islice
from typing import NamedTuple

from tasks.core.base.files import receipts_newest_first
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Drift
from tasks.core.snapshot.reader import passage_texts, qrels, queries

SAMPLE = 128  # passages that are encoded to see how fast this machine is
QUERIES_A_SECOND = 400  # BM25 and its filters, on two cores
ROWS_A_SECOND = 2000  # into an embedded collection, its checks included
START = 15  # seconds of a night that does little: Java, models, contracts


class Cost(NamedTuple):
    """One step: how much of what, how long it takes, and how that is known."""

    step: str
    amount: str
    seconds: float
    known: str


class Forecast(NamedTuple):
    """The steps of a night, and what it adds to the disk."""

    steps: list[Cost]
    bytes: int

    @property
    def seconds(self) -> float:
        """Of the whole night."""
        return START + sum(one.seconds for one in self.steps)


def forecast(settings: Settings, snapshot: Snapshot, drift: Drift, *, sample: int = SAMPLE) -> Forecast:
    """Forecast what the night that `drift` calls for would do and cost, within a factor of two.

    The speed of this machine is measured on `sample` passages.

    Makes the base encoder's artifact if it is not there, as the night would.
    """
    if drift.verdict in (Action.SKIP, Action.SUSPECT, Action.LABEL):
        return Forecast([], 0)
    speed = _speed(settings, snapshot, sample, trains=drift.verdict is Action.RETRAIN)
    moved = drift.passages.new + drift.passages.changed
    if drift.verdict is Action.REFRESH:
        steps = [_embedding(speed, moved, "changed passages, serving encoder"), _publishing(snapshot.rows)]
        return Forecast(steps, snapshot.rows * speed.dimension * 8)
    compared = moved if receipts_newest_first(settings.home, Embeddings) else snapshot.rows
    rounds = settings.mining.rounds
    steps = [
        _mining(settings, snapshot),
        _embedding(speed, compared, "what it is compared with"),
        _training(settings, snapshot, speed, rounds),
        _embedding(speed, rounds * snapshot.rows, "challenger"),
        _publishing(snapshot.rows),
    ]
    # Vectors lie in shards and in the collection; each round leaves an encoder.
    return Forecast(steps, (2 + rounds) * snapshot.rows * speed.dimension * 4 + (1 + rounds) * speed.weights)


class _Speed(NamedTuple):
    dimension: int
    weights: int  # bytes of an encoder
    passage_tokens: float  # in the mean
    encode: float  # tokens a second on the path that serves
    train: float  # through the path that trains, and back; 0: not measured
    known: str


def _speed(settings: Settings, snapshot: Snapshot, sample: int, *, trains: bool) -> _Speed:
    from tasks.core.encoder.dual_encoder import DualEncoder, load_encoder, read_spec
    from tasks.core.training.ranks import Ranks
    from tasks.core.training.step import Stepper
    from tasks.core.training.trainer import base_encoder

    folder = base_encoder(settings.home, snapshot, settings).path
    served = load_encoder(folder)
    ids = served.passage.tokenize(list(islice(passage_texts(snapshot), sample)))
    tokens = sum(map(len, ids))
    served.passage.encode(ids[:8], served.token_budget)  # the first call compiles and allocates
    begin = time.perf_counter()
    served.passage.encode(ids, served.token_budget)
    encode, known = tokens / (time.perf_counter() - begin), f"measured on {len(ids)} passages"
    train = 0.0
    if trains and _earlier_training(settings) is None:
        stepper = Stepper(DualEncoder(folder, read_spec(folder)), settings, 1, Ranks())
        stepper.pace(ids[:8])
        train = stepper.pace(ids)
    earlier = next((one for one in receipts_newest_first(settings.home, Embeddings) if one.embedded >= SAMPLE), None)
    if earlier is not None and earlier.seconds:
        encode, known = earlier.tokens / earlier.seconds, "as in an earlier night"
    weights = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return _Speed(served.dimension, weights, tokens / len(ids), encode, train, known)


def _embedding(speed: _Speed, rows: int, what: str) -> Cost:
    return Cost(f"embed ({what})", f"{rows:,} passages", rows * speed.passage_tokens / speed.encode, speed.known)


def _mining(settings: Settings, snapshot: Snapshot) -> Cost:
    asked, rounds = snapshot.splits.get("train", 0), settings.mining.rounds
    amount = f"{asked:,} queries" + (f" in {rounds} rounds" if rounds > 1 else "")
    earlier = next(iter(receipts_newest_first(settings.home, Negatives)), None)
    if earlier is not None and earlier.seconds:
        return Cost("mine", amount, rounds * asked * earlier.seconds / earlier.queries, "as in an earlier night")
    return Cost("mine", amount, rounds * asked / QUERIES_A_SECOND, "a rule of thumb")


def _training(settings: Settings, snapshot: Snapshot, speed: _Speed, rounds: int) -> Cost:
    from tasks.core.training.batches import steps_for

    dials = settings.training
    steps = rounds * steps_for(len(qrels(snapshot, "train")), dials.batch_size, dials)
    amount = f"{steps:,} steps of {dials.batch_size} queries"
    if (earlier := _earlier_training(settings)) is not None:
        seconds = steps * dials.batch_size * earlier.seconds / earlier.rows
        return Cost("train", amount, seconds, "as in an earlier night")
    query = min(settings.encoder.query_tokens, 1.5 * _words(snapshot))
    tokens = query + (1 + dials.hard_negatives) * speed.passage_tokens
    seconds = steps * dials.batch_size * tokens / speed.train
    return Cost("train", amount, seconds, speed.known)


def _earlier_training(settings: Settings) -> Encoder | None:
    """The newest encoder that a night trained and timed."""
    return next(
        (encoder for encoder in receipts_newest_first(settings.home, Encoder) if encoder.steps and encoder.seconds),
        None,
    )


def _words(snapshot: Snapshot) -> float:
    texts = queries(snapshot)["text"].slice(0, SAMPLE).to_pylist()
    return math.fsum(len(text.split()) for text in texts) / len(texts)


def _publishing(rows: int) -> Cost:
    return Cost("publish", f"{rows:,} rows", rows / ROWS_A_SECOND, "a rule of thumb")
