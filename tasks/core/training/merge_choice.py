"""Choose between the trained weights and their averages with other encoders, by nDCG@10 on dev queries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from torch import nn

from tasks.core.base.merge import TRAINED, Merge
from tasks.core.base.receipts import Encoder
from tasks.core.encoder.adapters import adapted_weights, merge_adapters
from tasks.core.encoder.dual_encoder import DualEncoder, read_spec
from tasks.core.encoder.passage_map import CHANGE, PassageMap, widened
from tasks.core.encoder.tokenizer_digest import tokenizer_key
from tasks.core.training.checkpoint import Weights, put_weights
from tasks.core.training.dev_decisions import best_alternative
from tasks.core.training.merging import linear, mean, spherical

log = logging.getLogger("nightshift.training")

SHARES = (0.5, 0.75)  # of the trained weights in an average with another encoder
LATE = (0.6, 0.8, 1.0)  # shares of the steps whose weights make the average of one training
MIN_QUERIES = 20  # with fewer dev queries, the trained weights are kept

Candidates = Mapping[str, Callable[[], Weights]]


def late_steps(steps: int) -> frozenset[int]:
    """Return the steps of a training whose weights are kept for the average of late weights."""
    return frozenset(round(share * steps) for share in LATE)


def changed_weights(model: nn.Module) -> Weights:
    """Copy the weights that training changes to main memory, by name, with adapters and changes of maps added."""
    maps = {name: module for name, module in model.named_modules() if isinstance(module, PassageMap)}
    added = {f"{name}.{part}" for name in maps for part in CHANGE}
    mapped = {f"{name}.weight": module.matrix() for name, module in maps.items() if module.changes}
    trained = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_" not in name and name not in added
    }
    return {
        name: weight.detach().cpu().clone() for name, weight in {**trained, **adapted_weights(model), **mapped}.items()
    }


def _merge_parts(encoder: DualEncoder) -> None:
    """Add adapters and the change of a map to the weights that they change, in place."""
    for tower in encoder.towers.values():
        merge_adapters(tower.transformer)
        if tower.passage_map is not None:
            tower.passage_map.fold_change()


def merge_weights(
    encoder: DualEncoder,
    model: nn.Module,
    others: Mapping[str, Encoder],
    late: Sequence[Weights],
    evaluate: Callable[[], np.ndarray],
) -> Merge:
    """Replace the weights that training changed by an average, if that is better on dev queries; see `choose`.

    The candidates are linear and spherical averages with each other encoder of the same shape, and the mean of late
    weights of this training. Frozen weights stay as they are. Adapters are merged into the weights.

    Args:
        encoder: its towers belong to `model`.
        model: holds the trained weights.
        others: encoders to merge with, by name. One of another shape is left out, with a log line.
        late: weights of late steps, as `trained_weights` returns them.
        evaluate: returns nDCG@10 of the model for each dev query, float64 (queries,).
    """
    trained = changed_weights(model)
    late_changed = []
    for weights in late:
        put_weights(model, weights)
        late_changed.append(changed_weights(model))
    _merge_parts(encoder)
    partners = {name: _weights_like(trained, other, encoder) for name, other in others.items()}
    options = {TRAINED: lambda: trained, **_candidates(trained, partners, late_changed)}
    values = {}
    for name, weights_of in options.items():
        put_weights(model, weights_of())
        values[name] = evaluate()
        log.info("Merging: dev nDCG@10 %.4f of %s", values[name].mean(), name)
    merge = choose(values)
    put_weights(model, options[merge.kept]())
    log.info("Merging: keeping %s: %s", merge.kept, merge.why)
    return merge


def merge_halfway(encoder: DualEncoder, model: nn.Module, others: Mapping[str, Encoder]) -> Merge:
    """Replace the weights that training changed by their mean with those of the only other encoder.

    Without dev queries, nothing shows whether training helped. The mean with the start keeps a part of a gain, and
    limits a loss (Wortsman et al. 2022, WiSE-FT, section 4).
    """
    trained = changed_weights(model)
    _merge_parts(encoder)
    ((name, other),) = others.items()
    weights = _weights_like(trained, other, encoder)
    if weights is None:
        return Merge(kept=TRAINED, why=f"{name} has another shape")
    put_weights(model, linear(weights, trained, 0.5))
    log.info("Merging: keeping the mean of %s and the trained weights", name)
    return Merge(kept=f"50% trained, rest {name}", why='set by [training] merge = "half"')


def choose(values: Mapping[str, np.ndarray]) -> Merge:
    """Choose the best candidate if it beats the trained weights by more than the standard error of the difference.

    The first of equal candidates is chosen.

    Args:
        values: nDCG@10 of each dev query, float64 (queries,), by candidate; `TRAINED` is one of them.
    """
    ndcg = {name: float(value.mean()) for name, value in values.items()}
    queries = len(values[TRAINED])
    if len(values) == 1:
        return Merge(kept=TRAINED, why="there is no encoder of the same shape to merge with", queries=queries)
    best = best_alternative(values, TRAINED)
    why = f"on {queries:,} dev queries, {best.name} gains {best.gain:+.4f} nDCG@10 (standard error {best.error:.4f})"
    return Merge(kept=best.name if best.pays else TRAINED, why=why, queries=queries, ndcg=ndcg)


def _candidates(trained: Weights, partners: Mapping[str, Weights | None], late: Sequence[Weights]) -> Candidates:
    options: dict[str, Callable[[], Weights]] = {}
    if len(late) > 1:
        options["the mean of late steps"] = partial(mean, late)
    for partner, weights in partners.items():
        if weights is None:
            log.info("Merging: %s has another shape, and is left out", partner)
            continue
        for share in SHARES:
            options[f"{share:.0%} trained, rest {partner}"] = partial(linear, weights, trained, share)
        options[f"halfway to {partner} on the arc"] = partial(spherical, weights, trained, 0.5)
    return options


def _weights_like(trained: Weights, other: Encoder, encoder: DualEncoder) -> Weights | None:
    """Return the weights of another encoder that correspond to the trained weights.

    Returns None if it is not of the same shape: another tokenizer, weights of other names or sizes, or shared weights
    in only one of both.
    """
    spec = read_spec(other.path)
    if (spec.shared, spec.dimension) != (encoder.spec.shared, encoder.spec.dimension):
        return None
    towers = DualEncoder(other.path, encoder.spec).towers
    for name, tower in towers.items():
        ours, theirs = encoder.towers[name].passage_map, tower.passage_map
        if ours is not None and (theirs is None or theirs.hidden == 0):
            tower.passage_map = widened(theirs, ours.width, ours.hidden)
    named = dict(nn.ModuleDict(dict(towers)).named_parameters())
    weights = {name: named[name].detach() for name in trained if name in named}
    alike = all(name in weights and weights[name].shape == weight.shape for name, weight in trained.items())
    same_tokens = all(tokenizer_key(towers[name]) == tokenizer_key(tower) for name, tower in encoder.towers.items())
    return weights if alike and same_tokens else None
