"""Golden queries: a frozen list of questions that every release must answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tasks.core.base.errors import BadInput
from tasks.core.base.plain_text import check_text
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.side_files import numbered_lines, parse_object, read_side_file
from tasks.core.retrieval.exact import exact_search, passage_ids
from tasks.core.snapshot.reader import passages

LOOKED_AT = 100  # ranks, to say how far down a passage stands that is not high enough


class Golden(BaseModel):
    """A question and the passage that answers it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: Annotated[str, AfterValidator(check_text)]
    passage_id: Annotated[str, AfterValidator(check_text)]


class Answers(NamedTuple):
    """How the golden queries fared: how many they are, and a sentence for each that was not answered."""

    asked: int
    missed: tuple[str, ...]


def read_golden(file: Path) -> list[Golden]:
    """Read JSON lines {"query": …, "passage_id": …}.

    Raises:
        BadInput: the file is missing or cannot be read, holds no line, or a line is not such an object.
    """
    if not file.is_file():
        raise BadInput(f"golden queries {file}: not found. Correct [gate] golden, or leave it out.")
    golden = []
    for number, line in numbered_lines(read_side_file(file, "golden queries")):
        try:
            golden.append(Golden.model_validate(parse_object(line)))
        except ValueError as error:
            reason = _reason(error) if isinstance(error, ValidationError) else str(error)
            wanted = '{"query": "…", "passage_id": "…"}'
            raise BadInput(f"golden queries {file}, line {number}: {reason}. Each line is {wanted}.") from error
    if not golden:
        raise BadInput(f"golden queries {file}: no line. Add one, or leave [gate] golden out.")
    return golden


def answer_golden_queries(
    golden: list[Golden], encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot, depth: int
) -> Answers:
    """Ask every golden query by exact search; its passage must be among the first `depth`."""
    from tasks.core.encoder.dual_encoder import load_encoder

    vectors = load_encoder(encoder.path).encode_queries([one.query for one in golden])
    rows, _ = exact_search(vectors, embeddings, max(depth, LOOKED_AT))
    ids = passage_ids(embeddings, rows.ravel()).to_pylist()
    there = _present(snapshot, [one.passage_id for one in golden])
    missed = []
    for number, one in enumerate(golden):
        ranked = ids[number * rows.shape[1] : (number + 1) * rows.shape[1]]
        if one.passage_id in ranked[:depth]:
            continue
        if one.passage_id not in there:
            where = "is not in the snapshot"
        elif one.passage_id in ranked:
            where = f"stands at rank {ranked.index(one.passage_id) + 1}"
        else:
            where = f"is not among the first {len(ranked)}"
        missed.append(f"golden query “{one.query}”: passage {one.passage_id} {where}, at most {depth} is asked for")
    return Answers(len(golden), tuple(missed))


def _reason(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def _present(snapshot: Snapshot, ids: list[str]) -> set[str]:
    wanted = pa.array(sorted(set(ids)), pa.string())
    found: set[str] = set()
    for batch in passages(snapshot, columns=["passage_id"]):
        found.update(batch["passage_id"].filter(pc.is_in(batch["passage_id"], value_set=wanted)).to_pylist())
    return found
