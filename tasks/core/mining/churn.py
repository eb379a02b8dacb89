"""How far tonight's negatives differ from those that the serving encoder learned from."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tasks.core.base.files import read_receipt, read_verified
from tasks.core.base.receipts import Encoder, Negatives, Release
from tasks.core.mining.round import NEGATIVES_FILE


def churn(home: Path, negatives: Negatives, serving: Release | None) -> float | None:
    """Share of the (query, passage) pairs that the serving encoder did not learn from in the same round.

    None when there is nothing to compare: no release, or no negatives of that round that are still there.
    """
    last = None if serving is None else _learned_from(home, serving.encoder, negatives.round)
    if last is None or negatives.rows == 0:
        return None
    pair = ["query_id", "passage_id"]
    now, then = (pq.read_table(one.path / NEGATIVES_FILE, columns=pair) for one in (negatives, last))
    return float(now.join(then, pair, join_type="left anti").num_rows / negatives.rows)


def _learned_from(home: Path, encoder: str, round_number: int) -> Negatives | None:
    """The negatives of a round in the training of an encoder (by digest) or of those that it started from."""
    step = read_receipt(home / Encoder.shelf / encoder, Encoder)
    while step is not None:
        for digest in step.parents:
            one = read_verified(home / Negatives.shelf / digest, Negatives)
            if one is not None and one.round == round_number:
                return one
        starts = [read_receipt(home / Encoder.shelf / digest, Encoder) for digest in step.parents]
        step = next((one for one in starts if one is not None), None)
    return None
