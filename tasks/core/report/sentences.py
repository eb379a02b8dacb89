"""Mining and training of a night in sentences."""

from __future__ import annotations

from tasks.core.base.receipts import Encoder, Negatives


def describe_negatives(negatives: Negatives) -> list[str]:
    """A round of mining: counts, churn, and how many known positives passed the rules when they were hidden."""
    sources = ", ".join(f"{count:,} {source}" for source, count in negatives.sources.items())
    refused = sum(negatives.refused.values())
    starved = negatives.starved / max(negatives.queries, 1)
    lines = [
        f"Round {negatives.round}: {negatives.rows:,} negatives ({sources}) for {negatives.queries:,} queries, out of "
        f"{negatives.candidates:,} candidates, of which {refused:,} were refused.",
        f"{negatives.starved:,} queries ({starved:.1%}) got fewer than requested.",
    ]
    if negatives.churn is None:
        lines.append("There are no earlier negatives of this round to compare with.")
    else:
        lines.append(f"{negatives.churn:.1%} are pairs that the serving encoder was not trained on (churn).")
    if (hidden := negatives.hidden) is None:
        lines.append("The remaining false negatives cannot be estimated: no query has two positives.")
    else:
        passed = f"{hidden.let_through:,} passed all rules: {hidden.let_through / hidden.hidden:.1%} of false negatives"
        lines.append(
            f"Of {hidden.hidden:,} known positives that were hidden in turn, {hidden.found:,} were among the "
            f"candidates and {passed} (95 % interval {hidden.low:.1%} to {hidden.high:.1%})."
        )
    return lines


def describe_training(encoder: Encoder) -> str:
    """A round of training: its length, and how the weights that were kept did on dev queries."""
    text = f"{encoder.steps:,} {'step' if encoder.steps == 1 else 'steps'} on {encoder.rows:,} pairs."
    measured = dict(encoder.dev)
    if encoder.kept in measured:
        text += f" The weights of step {encoder.kept} were kept: nDCG@10 {measured[encoder.kept]:.4f} on dev queries"
        best = max(measured, key=lambda step: (measured[step], step))
        if measured[best] > measured[encoder.kept]:
            where = "before training" if best == 0 else f"at step {best}"
            text += f", {measured[best] - measured[encoder.kept]:.4f} less than {where}."
        else:
            text += (
                ", the best of all measured steps."
                if best
                else ", better than every later step: training did not help."
            )
    if encoder.forgetting is not None:
        before, after = encoder.forgetting
        text += f" On the held-out queries of the older snapshot: nDCG@10 {before:.4f} before, {after:.4f} after."
    return text
