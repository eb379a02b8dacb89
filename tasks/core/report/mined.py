"""The audit of a round of mining, in sentences."""

from __future__ import annotations

from tasks.core.receipts import Negatives


def told(negatives: Negatives) -> list[str]:
    """Counts, what each rule refused, churn, and how often known positives slipped through when they were hidden."""
    sources = ", ".join(f"{count:,} {source}" for source, count in negatives.sources.items())
    refused = ", ".join(f"{rule.replace('_', ' ')} {count:,}" for rule, count in negatives.refused.items())
    starved = negatives.starved / max(negatives.queries, 1)
    lines = [
        f"Round {negatives.round}: {negatives.rows:,} negatives ({sources}) for {negatives.queries:,} queries, out of "
        f"{negatives.candidates:,} candidates.",
        f"{negatives.starved:,} queries ({starved:.1%}) got fewer than asked.",
        f"Refused: {refused}.",
    ]
    if negatives.churn is None:
        lines.append("No earlier negatives of this round to compare with.")
    else:
        lines.append(f"{negatives.churn:.1%} are pairs that the serving encoder did not learn from.")
    if (one := negatives.hidden) is None:
        lines.append("How many false negatives are left cannot be estimated: no query has two positives.")
    else:
        lines.append(
            f"Of {one.hidden:,} known positives that were hidden in turn, {one.found:,} were among the candidates and "
            f"{one.let_through:,} would have been let through: {one.let_through / one.hidden:.1%} of false negatives "
            f"(95 % interval {one.low:.1%} to {one.high:.1%})."
        )
    return lines
