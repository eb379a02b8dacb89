"""Describe the mining and training of a night in sentences."""

from __future__ import annotations

from tasks.core.base.merge import TRAINED, Merge
from tasks.core.base.receipts import Encoder, Negatives
from tasks.core.training.route import RouteChoice


def describe_negatives(negatives: Negatives) -> list[str]:
    """Describe a round of mining: counts, churn, and estimated false negatives."""
    sources = ", ".join(f"{count:,} {source}" for source, count in negatives.sources.items())
    refused = sum(negatives.refused.values())
    starved = negatives.starved / max(negatives.queries, 1)
    lines = [
        f"Round {negatives.round}: {negatives.rows:,} negatives ({sources}) for {negatives.queries:,} queries, from "
        f"{negatives.candidates:,} candidates ({refused:,} refused).",
        f"{negatives.starved:,} queries ({starved:.1%}) got fewer negatives than requested.",
    ]
    if negatives.churn is None:
        lines.append("No earlier negatives of this round to compare with.")
    else:
        lines.append(f"{negatives.churn:.1%} of the pairs are new (churn): the serving encoder did not train on them.")
    if negatives.margin_check is not None:
        lines.append(negatives.margin_check.summary)
    if negatives.teacher is not None:
        lines.append(negatives.teacher.summary)
    if (hidden := negatives.hidden) is None:
        lines.append("Remaining false negatives cannot be estimated: no query has two positives.")
    else:
        share = hidden.let_through / hidden.hidden
        lines.append(
            f"Audit: of {hidden.hidden:,} known positives, hidden one at a time, {hidden.found:,} were among the "
            f"candidates and {hidden.let_through:,} passed all filters. Estimated share of false "
            f"negatives that pass: {share:.1%} (95 % interval {hidden.low:.1%} to {hidden.high:.1%})."
        )
    return lines


def describe_training(encoder: Encoder) -> str:
    """Describe a round of training: its length, and the dev score of the weights that were kept."""
    text = f"{encoder.steps:,} {'step' if encoder.steps == 1 else 'steps'} on {encoder.rows:,} pairs."
    measured = dict(encoder.dev)
    if encoder.kept in measured:
        text += f" Kept the weights of step {encoder.kept}: nDCG@10 {measured[encoder.kept]:.4f} on dev queries"
        best = max(measured, key=lambda step: (measured[step], step))
        if measured[best] > measured[encoder.kept]:
            where = "before training" if best == 0 else f"at step {best}"
            text += f", {measured[best] - measured[encoder.kept]:.4f} less than {where}."
        else:
            text += (
                ", the best of all evaluated steps."
                if best
                else ", better than every later step: training did not help."
            )
    if encoder.forgetting is not None:
        before, after = encoder.forgetting
        text += (
            f" On the held-out queries of the serving release's snapshot: nDCG@10 {before:.4f} before training, "
            f"{after:.4f} after."
        )
    return text if encoder.merge is None else f"{text} {_describe_merge(encoder.merge)}"


def _describe_merge(merge: Merge) -> str:
    """Describe which weights were chosen on dev queries, and what the merge kept of the older queries."""
    kept = "kept the trained weights" if merge.kept == TRAINED else f"kept an average ({merge.kept})"
    text = f"Merging {kept}: {merge.why}."
    if merge.forgetting is not None:
        text += f" Without merging, nDCG@10 after training on the older queries: {merge.forgetting:.4f}."
    return text


def describe_route(choice: RouteChoice, seconds: float, gain: float | None) -> str:
    """Describe the route of a night: why, what it saved against a full training, and what quality it may have cost.

    Args:
        choice: the route and the figures of the last full training.
        seconds: of training, and of embedding the passages with the trained encoder.
        gain: nDCG@10 of the challenger minus that of the base model; None if it was not evaluated.
    """
    text = f"Trained: {choice.route} ({choice.reason or 'set in the settings'})."
    if choice.route.full or choice.full_seconds is None or choice.full_gain is None:
        return text
    saved = choice.full_seconds - seconds
    text += (
        f" Training and embedding took {seconds:,.0f} s, and {choice.full_seconds:,.0f} s in the last full training: "
        f"{abs(saved):,.0f} s {'saved' if saved >= 0 else 'more'}."
    )
    if gain is None:
        return text
    lost = choice.full_gain - gain
    cost = f"the derived training may have cost {lost:.4f}" if lost > 0 else "no loss is measured"
    return text + (
        f" Gain over the base model: {gain:+.4f} nDCG@10, and {choice.full_gain:+.4f} after the last full training: "
        f"{cost}."
    )
