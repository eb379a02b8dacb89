"""The training queries of a night: all, or a random draw of as many as its training steps use.

Mining costs queries × passages, so a training with a limit of steps mines only for the pairs that it can use. Each
snapshot draws other queries: over the nights, an encoder that trains on sees all of them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.held_out import JudgedQueries
from tasks.core.snapshot.reader import qrels, queries
from tasks.core.snapshot.splits import Split
from tasks.core.text.normalization import uniform


def drawn_queries(snapshot: Snapshot, pairs: int = 0) -> JudgedQueries:
    """Return training queries in order of id and their qrels: all, or a draw of queries that have `pairs` pairs.

    The draw depends on the snapshot, the ids, and `pairs`.

    Args:
        snapshot: The snapshot.
        pairs: Least number of pairs; the last query may add more of its own. 0: all.

    Raises:
        BadInput: the snapshot has no training pair.
    """
    everything = JudgedQueries(queries(snapshot, Split.TRAIN), qrels(snapshot, Split.TRAIN))
    if everything.qrels.num_rows == 0:
        raise BadInput("the snapshot has no training pair: qrels/train.tsv needs lines with a score above 0")
    if not is_draw(pairs, everything.qrels):
        return everything
    ids = everything.queries["query_id"].combine_chunks()
    order = np.argsort([uniform(f"{snapshot.digest} {name}") for name in ids.to_pylist()])
    counts = np.bincount(pc.index_in(everything.qrels["query_id"], value_set=ids).to_numpy(), minlength=len(ids))
    return everything.take(order[: np.searchsorted(np.cumsum(counts[order]), pairs) + 1])


def is_draw(pairs: int, train: pa.Table) -> bool:
    """Return whether `pairs` training pairs are fewer than all in `train`; 0: all."""
    return bool(0 < pairs < train.num_rows)
