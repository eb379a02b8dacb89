"""Names of measures in settings: those of every evaluation, and any that ir-measures computes."""

from __future__ import annotations

import functools

STORED = ("ndcg@10", "mrr@10", "recall@100", "map@100")  # columns of every evaluation
DEFAULT = STORED[0]
ALIASES = {"ndcg": "nDCG", "mrr": "RR", "recall": "R", "map": "AP", "precision": "P", "success": "Success"}
LABELS = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@100": "Recall@100", "map@100": "MAP@100"}


@functools.cache
def canonical_measure(name: str) -> str:
    """Return the name under which a measure is computed: a name in `STORED`, or that of ir-measures, such as "R@20".

    Raises:
        ValueError: ir-measures does not know the measure, or cannot compute it on this machine.
    """
    if name.lower() in STORED:
        return name.lower()
    import ir_measures

    family, at, cutoff = name.partition("@")
    try:
        measure = ir_measures.parse_measure(ALIASES.get(family.lower(), family) + at + cutoff)
        ir_measures.calc_aggregate([measure], {"query": {"passage": 1}}, {"query": {"passage": 1.0}})
    except Exception as error:  # the parser and each provider have errors of their own
        raise ValueError(
            f"{name!r} is no measure that ir-measures can compute ({error}). Examples: recall@20, nDCG@5, RR@10, P@5"
        ) from error
    return str(measure)


def label_of(name: str) -> str:
    """Return the label of a measure for people."""
    return LABELS.get(name, f"Recall{name[1:]}" if name.startswith("R@") else name)


def cutoff_of(name: str) -> int:
    """Return the number of passages per query that a measure reads; 0: all."""
    if name in STORED:
        return int(name.partition("@")[2])
    import ir_measures

    return int(ir_measures.parse_measure(name).params.get("cutoff", 0))
