"""From `[training] minutes` to a recipe: steps, rounds, and the start of a training, by fixed rules.

The steps follow from a recorded pace (`pace.py`), never from the clock of a night. The recipe enters the keys of
artifacts as if the settings had given it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import Settings

FORWARD = 3.0  # a training step costs this many forward passes over the same tokens
EPOCHS = 4.0  # more passes over the pairs are not planned; the rest of the budget stays unused
TRIAL_SHARE = 0.25  # of the steps, for trials of recipes
MIN_TRIAL_STEPS = 8  # of the shortest trial; with fewer, there are no trials
ROUND_STEPS = 50  # least steps of each of two rounds
ROUND_SHARE = 0.2  # of the budget: most that embedding all passages for a second round may cost
WARM_EPOCHS = 0.5  # with fewer passes over the pairs, training starts from the serving encoder
REPLAY = 0.2  # then: share of a batch from pairs that only the serving release saw
NEGATIVES = 3  # hard negatives per positive of the recipe with more of them
TRIALS = 7  # five recipes of n steps, then two of 2n steps
TRIAL_UNITS = 9  # they cost as much as 9n steps
EVALUATIONS = 4  # dev evaluations of a round, at least


class Work(NamedTuple):
    """Sizes that decide how long training takes."""

    pairs: int
    passages: int
    query_tokens: float  # mean
    passage_tokens: float  # mean
    dev_queries: int  # 0: there are none
    width: int  # hidden size of the passage encoder


class Recipe(BaseModel):
    """What a budget chose, and why. `trials`: nDCG@10 on dev queries of each recipe that was tried, in steps · name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float
    tokens_per_second: float  # recorded pace of training
    steps: int  # of each round
    epochs: float  # large enough for the steps
    rounds: int
    start: str
    replay: float
    evaluate_every: int
    trial_steps: int  # of the shortest trial; 0: no trials
    learning_rate: float
    hard_negatives: int
    dropout: float
    trial_seconds: float  # forecast of all trials
    negatives_cost: float  # time of a step with `NEGATIVES` hard negatives, relative to a step of this recipe
    in_batch_cost: float = 1.0  # the same of a step without hard negatives
    trials: dict[str, float] = {}
    reasons: tuple[str, ...] = ()

    def apply(self, settings: Settings) -> Settings:
        """Return the settings of this recipe, without a budget: the same as if a user had written them."""
        names = {"epochs", "replay", "evaluate_every", "learning_rate", "hard_negatives", "dropout"}
        changed = {"minutes": 0.0, "max_steps": self.steps, **self.model_dump(include=names)}
        return settings.model_copy(
            update={
                "training": settings.training.model_copy(update=changed),
                "encoder": settings.encoder.model_copy(update={"start": self.start}),
                "mining": settings.mining.model_copy(update={"rounds": self.rounds}),
            }
        )

    def describe(self) -> str:
        """Describe the recipe in sentences."""
        rounds = "one round" if self.rounds == 1 else f"{self.rounds} rounds"
        return (
            f"{self.minutes:g} minutes at {self.tokens_per_second:,.0f} tokens per second: {rounds} of {self.steps:,} "
            f"steps from the {self.start} encoder, learning rate {self.learning_rate:g}, {self.hard_negatives} hard "
            f"negatives, dropout {self.dropout:g}. " + " ".join(f"{reason}." for reason in self.reasons)
        )


def plan_recipe(settings: Settings, work: Work, pace: float, *, has_serving: bool) -> Recipe:
    """Choose steps, rounds, and start for `[training] minutes`, by rules; learning rate and negatives stay as set.

    The budget pays for training steps, dev evaluations, trials, and the embedding that a second round needs.

    Args:
        settings: all settings; `[training] minutes` is above 0.
        work: sizes of the snapshot.
        pace: tokens per second of training.
        has_serving: whether an encoder serves that training could start from.

    Raises:
        NightshiftError: the budget does not pay for a step.
    """
    training, reasons = settings.training, list[str]()
    budget = training.minutes * 60 * pace  # tokens
    step = tokens_per_step(settings, work, training.hard_negatives)
    evaluation = _tokens_per_evaluation(settings, work)
    per_epoch = work.pairs / training.batch_size
    least = (1 + EVALUATIONS) * evaluation  # step 0 is evaluated, too
    steps = int((budget - least) / (step + evaluation / training.evaluate_every if evaluation else step))
    if steps < 1:
        raise NightshiftError(
            f"[training] minutes = {training.minutes:g} do not pay for one step at {pace:,.0f} tokens per second: "
            f"give at least {2 * (step + least) / pace / 60:.2g}"
        )
    if steps > EPOCHS * per_epoch:
        steps = max(1, round(EPOCHS * per_epoch))
        reasons.append(f"No more than {EPOCHS:g} passes over the pairs, so part of the budget stays unused")
    steps, trial_steps = _take_trials(steps, step, evaluation, reasons)
    second = work.passages * work.passage_tokens / FORWARD
    left = int(steps - second / step)
    rounds = settings.mining.rounds
    if rounds == 1 and left >= 2 * ROUND_STEPS and second <= ROUND_SHARE * budget:
        rounds, steps = 2, left
        reasons.append(f"Two rounds, because each has at least {ROUND_STEPS} steps")
    start, replay = settings.encoder.start, training.replay
    if has_serving and start == "base" and steps < WARM_EPOCHS * per_epoch:
        start, replay = "serving", replay or REPLAY
        reasons.append(f"From the serving encoder, because {steps:,} steps see less than half of the pairs")
    steps = max(1, min(steps // rounds, training.max_steps or steps))
    return Recipe(
        minutes=training.minutes,
        tokens_per_second=pace,
        steps=steps,
        epochs=math.ceil(steps * training.batch_size / work.pairs) + 1.0,
        rounds=rounds,
        start=start,
        replay=replay,
        evaluate_every=min(training.evaluate_every, math.ceil(steps / EVALUATIONS)),
        trial_steps=trial_steps,
        trial_seconds=(TRIAL_UNITS * trial_steps * step + TRIALS * evaluation) / pace if trial_steps else 0.0,
        negatives_cost=tokens_per_step(settings, work, NEGATIVES) / step,
        in_batch_cost=tokens_per_step(settings, work, 0) / step,
        reasons=tuple(reasons),
        learning_rate=training.rate_for(work.width),
        **training.model_dump(include={"hard_negatives", "dropout"}),
    )


def tokens_per_step(settings: Settings, work: Work, hard_negatives: int) -> float:
    """Return the mean number of tokens of a training step with this number of hard negatives per positive."""
    training = settings.training
    passages = 1 + hard_negatives + training.more_positives
    return training.batch_size * (work.query_tokens + passages * training.cut(work.passage_tokens))


def _tokens_per_evaluation(settings: Settings, work: Work) -> float:
    """Return the cost of a dev evaluation, in tokens of training."""
    training = settings.training
    if not (work.dev_queries and training.evaluate_every):
        return 0.0
    query_tokens = min(training.dev_queries, work.dev_queries) * work.query_tokens
    return (query_tokens + min(training.dev_passages, work.passages) * work.passage_tokens) / FORWARD


def _take_trials(steps: int, step: float, evaluation: float, reasons: list[str]) -> tuple[int, int]:
    """Return the steps left for training, and the steps of the shortest trial."""
    evaluations = TRIALS * evaluation / step
    trial_steps = int((TRIAL_SHARE * steps - evaluations) / TRIAL_UNITS)
    if evaluation == 0 or trial_steps < MIN_TRIAL_STEPS:
        reasons.append("The learning rate and the negatives are as set, because trials would be too short")
        return steps, 0
    return int(steps - TRIAL_UNITS * trial_steps - evaluations), trial_steps
