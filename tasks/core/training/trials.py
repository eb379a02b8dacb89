"""Choose learning rate and negatives of a budgeted training by short trainings, compared on dev queries.

Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization"): all recipes train for the time of n steps, then two of them for 2n steps. The recipe of the settings is
always one of them, and is kept unless the other gains more than the standard error of the paired difference.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.core.base.files import produce
from tasks.core.base.receipts import Encoder, Negatives, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.base.training_receipts import Trial
from tasks.core.encoder.dual_encoder import DualEncoder, read_spec
from tasks.core.snapshot.splits import Split
from tasks.core.training.budget import NEGATIVES, Recipe
from tasks.core.training.dev_decisions import best_alternative
from tasks.core.training.dev_evaluation import dev_evaluation
from tasks.core.training.launch import run_job
from tasks.core.training.loop import Job
from tasks.core.training.ranks import Ranks
from tasks.core.training.step import make_autocast
from tasks.core.training.trainer import processes_of, resolve_settings, training_key, trunk_vectors

log = logging.getLogger("nightshift.training")

AS_SET = "as set"
MORE_NEGATIVES = f"{NEGATIVES} hard negatives"  # fewer steps, which take as much time
NO_NEGATIVES = "no hard negatives"  # more steps, which take as much time


def try_recipes(
    home: Path,
    recipe: Recipe,
    start: Encoder,
    snapshot: Snapshot,
    negatives: Negatives,
    settings: Settings,
    candidates: Run | None = None,
) -> Recipe:
    """Return the recipe with the learning rate and the hard negatives that trials chose; see the module.

    Trials that a killed night finished are not repeated.

    Args:
        home: folder of the artifacts.
        recipe: from `plan_recipe`.
        start: encoder to start from.
        snapshot: training pairs and dev queries.
        negatives: mined negatives of the first round.
        settings: settings of the recipe (`Recipe.apply`).
        candidates: run over the dev queries.
    """
    steps, training = recipe.trial_steps, settings.training
    if steps == 0:
        return recipe
    settings = resolve_settings(home, settings)

    costs = {MORE_NEGATIVES: recipe.negatives_cost, NO_NEGATIVES: recipe.in_batch_cost}

    def in_time_of(steps: int, name: str) -> int:
        return max(1, round(steps / costs.get(name, 1.0)))

    options: dict[str, dict[str, float]] = {
        AS_SET: {},
        "twice the learning rate": {"learning_rate": 2 * training.learning_rate},
        "four times the learning rate": {"learning_rate": 4 * training.learning_rate},
    }
    if 0 < training.hard_negatives < NEGATIVES:
        options[MORE_NEGATIVES] = {"hard_negatives": NEGATIVES}
    if training.hard_negatives > 0 and not training.distills:  # distillation compares mined negatives
        options[NO_NEGATIVES] = {"hard_negatives": 0}
    ndcg = dict[str, float]()
    while True:
        values = {
            name: _try(home, start, snapshot, negatives, _short(settings, in_time_of(steps, name), changed), candidates)
            for name, changed in options.items()
        }
        ndcg |= {f"{steps} steps, {name}": float(of_query.mean()) for name, of_query in values.items()}
        best = best_alternative(values, AS_SET)
        if len(options) == 2:
            break
        options, steps = {AS_SET: {}, best.name: options[best.name]}, 2 * steps
    chosen = {**options[best.name], "steps": in_time_of(recipe.steps, best.name)} if best.pays else {}
    reason = (
        f"In trials of {steps} steps, {best.name} gained {best.gain:+.4f} nDCG@10 (standard error {best.error:.4f}) on "
        f"{len(values[AS_SET]):,} dev queries, {'and was chosen' if best.pays else 'which is not enough'}"
    )
    log.info("%s", reason)
    return recipe.model_copy(update={**chosen, "trials": ndcg, "reasons": (*recipe.reasons, reason)})


def _short(settings: Settings, steps: int, changed: Mapping[str, float]) -> Settings:
    short = {"max_steps": steps, "evaluate_every": 0, "merge": "none", **changed}
    return settings.model_copy(update={"training": settings.training.model_copy(update=short)})


def _try(
    home: Path,
    start: Encoder,
    snapshot: Snapshot,
    negatives: Negatives,
    settings: Settings,
    candidates: Run | None,
) -> np.ndarray:
    """Train for a few steps. Returns nDCG@10 of each dev query, float64 (queries,)."""
    key = training_key(start, snapshot, negatives, settings, candidates)

    def build(folder: Path) -> dict[str, Any]:
        job = Job(
            folder=folder.absolute(),
            start=start,
            snapshot=snapshot,
            negatives=negatives,
            settings=settings,
            trunk=trunk_vectors(settings, start, snapshot, None),
        )
        outcome = run_job(job, processes_of(settings.training))
        encoder = DualEncoder(folder, read_spec(folder))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for tower in (encoder.query, encoder.passage):
            tower.to(device)
        leave_out_self = settings.evaluation.leave_out_self
        dev = dev_evaluation(snapshot, Split.DEV, encoder, settings.training, candidates, leave_out_self=leave_out_self)
        assert dev is not None  # a recipe without dev queries has no trials
        values = dev.ndcg(encoder, Ranks(), make_autocast(settings.training, device))
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return {"rows": outcome.steps, "dev": tuple(values.tolist())}

    return np.array(produce(home, Trial, key, build, resumable=True).dev)
