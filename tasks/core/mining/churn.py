"""Compare tonight's negatives with those that the serving encoder was trained on."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tasks.core.base.files import read_receipt, read_verified
from tasks.core.base.receipts import Encoder, Negatives, Release
from tasks.core.mining.round import NEGATIVES_FILE


def churn(home: Path, negatives: Negatives, serving: Release | None) -> float | None:
    """Return the share of (query, passage) pairs that the serving encoder was not trained on in the same round.

    None if there is no serving release, or its negatives of that round no longer exist.
    """
    previous = None if serving is None else _find_training_negatives(home, serving.encoder, negatives.round)
    if previous is None or negatives.rows == 0:
        return None
    columns = ["query_id", "passage_id"]
    now, then = (pq.read_table(part.path / NEGATIVES_FILE, columns=columns) for part in (negatives, previous))
    return float(now.join(then, columns, join_type="left anti").num_rows / negatives.rows)


def _find_training_negatives(home: Path, encoder: str, round_number: int) -> Negatives | None:
    """Return the negatives of a round that trained `encoder` (a digest) or an encoder that it started from."""
    current = read_receipt(home / Encoder.shelf / encoder, Encoder)
    while current is not None:
        for digest in current.parents:
            negatives = read_verified(home / Negatives.shelf / digest, Negatives)
            if negatives is not None and negatives.round == round_number:
                return negatives
        parents = [read_receipt(home / Encoder.shelf / digest, Encoder) for digest in current.parents]
        current = next((parent for parent in parents if parent is not None), None)
    return None
