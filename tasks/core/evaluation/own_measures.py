"""Measures that the gate needs and an evaluation does not store, computed again from its run.

So evaluations keep their names and content for all settings of the gate.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.receipts import Evaluation, Snapshot
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.evaluation.evaluate import read_per_query, read_run, run_of
from tasks.core.evaluation.measures import calculate
from tasks.core.snapshot.reader import qrels


def read_measures(home: Path, evaluation: Evaluation, snapshot: Snapshot, gate: GateSettings) -> pa.Table:
    """Read the measures per query, with a column for each measure of the gate; see `measures.per_query`."""
    table = read_per_query(evaluation)
    missing = [name for name in _wanted(gate) if name not in table.column_names]
    if not missing:
        return table
    pairs = qrels(snapshot, evaluation.split)
    pairs = pairs.filter(pc.is_in(pairs["query_id"], value_set=table["query_id"]))
    values = calculate(missing, read_run(run_of(home, evaluation)), pairs)
    assert values["query_id"].equals(table["query_id"]), "an evaluation measures queries in order of id"
    for name in missing:
        table = table.append_column(name, values[name])
    return table


def _wanted(gate: GateSettings) -> Iterable[str]:
    return filter(None, (gate.measure, gate.floor_measure))
