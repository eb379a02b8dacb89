"""Golden queries: a fixed list of queries that every release must answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tasks.core.base.errors import BadInput
from tasks.core.base.plain_text import check_text
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.side_files import numbered_lines, parse_object, read_side_file
from tasks.core.evaluation.evaluate import read_run, release_run
from tasks.core.snapshot.reader import passages

REPORTED_RANKS = 100  # the rank of a missed passage is reported up to here


class Golden(BaseModel):
    """A query and the passage that answers it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: Annotated[str, AfterValidator(check_text)]
    passage_id: Annotated[str, AfterValidator(check_text)]


class Answers(NamedTuple):
    """The number of golden queries, and a sentence for each query that was not answered."""

    total: int
    missed: tuple[str, ...]


def read_golden(file: Path) -> list[Golden]:
    """Read JSON lines {"query": …, "passage_id": …}.

    Raises:
        BadInput: the file is missing, unreadable, or empty, or a line is not such an object.
    """
    if not file.is_file():
        raise BadInput(f"golden queries {file}: not found. Correct [gate] golden, or remove it.")
    golden = []
    for number, line in numbered_lines(read_side_file(file, "golden queries")):
        try:
            golden.append(Golden.model_validate(parse_object(line)))
        except ValueError as error:
            reason = _describe_problems(error) if isinstance(error, ValidationError) else str(error)
            wanted = '{"query": "…", "passage_id": "…"}'
            raise BadInput(f"golden queries {file}, line {number}: {reason}. Each line is {wanted}.") from error
    if not golden:
        raise BadInput(f"golden queries {file}: no line. Add a golden query, or remove [gate] golden.")
    return golden


def answer_golden_queries(
    home: Path,
    golden: list[Golden],
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    ranking: Ranking,
    depth: int,
) -> Answers:
    """Rank the passages for every golden query; it is answered if its passage is among the first `depth`."""
    numbers = [str(number) for number in range(len(golden))]
    queries = pa.table({"query_id": numbers, "text": [query.query for query in golden]})
    hits = release_run(home, "golden", queries, encoder, embeddings, ranking, max(depth, REPORTED_RANKS))
    run = read_run(hits)
    ranked_ids: dict[str, list[str]] = {number: [] for number in numbers}
    for number, passage in zip(run["query_id"].to_pylist(), run["passage_id"].to_pylist(), strict=True):
        ranked_ids[number].append(passage)
    present = _present(snapshot, [query.passage_id for query in golden])
    missed = []
    for index, query in enumerate(golden):
        ranked = ranked_ids[str(index)]
        if query.passage_id in ranked[:depth]:
            continue
        if query.passage_id not in present:
            where = "is not in the snapshot"
        elif query.passage_id in ranked:
            where = f"is at rank {ranked.index(query.passage_id) + 1}"
        else:
            where = f"is not among the first {len(ranked)}"
        missed.append(f"golden query “{query.query}”: passage {query.passage_id} {where} (must be at {depth} or above)")
    return Answers(len(golden), tuple(missed))


def _describe_problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())


def _present(snapshot: Snapshot, ids: list[str]) -> set[str]:
    wanted = pa.array(sorted(set(ids)), pa.string())
    present: set[str] = set()
    for batch in passages(snapshot, columns=["passage_id"]):
        present.update(batch["passage_id"].filter(pc.is_in(batch["passage_id"], value_set=wanted)).to_pylist())
    return present
