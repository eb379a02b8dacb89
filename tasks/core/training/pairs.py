"""What training reads: the positives and mined negatives of a snapshot as token ids in compact tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.data.snapshot import passages, qrels, queries
from tasks.core.data.text import full_text
from tasks.core.errors import BadInput
from tasks.core.receipts import Negatives, Snapshot
from tasks.core.training.encoder import DualEncoder


class TokenTable:
    """Token ids of many texts in one int32 array, 4 bytes a token."""

    def __init__(self, texts: Iterable[Sequence[Sequence[int]]]) -> None:
        """Take batches of token id lists."""
        parts = [np.fromiter(row, np.int32, len(row)) for batch in texts for row in batch]
        self.flat = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        self.ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> list[int]:
        start = self.ends[row - 1] if row else 0
        return self.flat[start : self.ends[row]].tolist()


@dataclass(frozen=True)
class TrainingPairs:
    """Everything a batch is made of; queries and passages are named by row number.

    pairs: int64 (n, 2): query row, row of one of its positives; sorted by query id and passage id.
    negatives: a query row → rows of its mined negatives, best first.
    text_class: int64 (passages,): equal numbers for equal texts.
    known: a query row → the text classes of all its known positives, those of equally worded queries included.
    """

    query_tokens: TokenTable
    passage_tokens: TokenTable
    pairs: np.ndarray
    negatives: dict[int, np.ndarray]
    text_class: np.ndarray
    known: dict[int, np.ndarray]


def load_pairs(snapshot: Snapshot, negatives: Negatives, encoder: DualEncoder) -> TrainingPairs:
    """Read and tokenise the training split of a snapshot with its mined negatives.

    Raises BadInput when the training split holds no positive.
    """
    train = qrels(snapshot, "train")
    if train.num_rows == 0:
        raise BadInput("the snapshot holds no training pair: qrels/train.tsv needs lines with a score above 0")
    wording = queries(snapshot, "train")
    query_row = {name: row for row, name in enumerate(wording["query_id"].to_pylist())}
    mined = pq.read_table(negatives.path / "negatives.parquet", columns=["query_id", "passage_id"])
    all_qrels = qrels(snapshot)
    wanted = pa.chunked_array(
        train["passage_id"].chunks + mined["passage_id"].chunks + all_qrels["passage_id"].chunks, pa.string()
    )
    passage_row, hashes, tokens = _wanted_passages(snapshot, set(wanted.to_pylist()), encoder)
    pairs = sorted(zip(train["query_id"].to_pylist(), train["passage_id"].to_pylist(), strict=True))
    classes = np.unique(np.array(hashes), return_inverse=True)[1]
    return TrainingPairs(
        query_tokens=TokenTable([encoder.query.tokenize(wording["text"].to_pylist())]),
        passage_tokens=tokens,
        pairs=np.array([(query_row[query], passage_row[passage]) for query, passage in pairs], np.int64),
        negatives=_group(mined, query_row, passage_row),
        text_class=classes,
        known=_known(wording, all_qrels, query_row, passage_row, classes),
    )


def _wanted_passages(
    snapshot: Snapshot, wanted: set[str], encoder: DualEncoder
) -> tuple[dict[str, int], list[str], TokenTable]:
    rows: dict[str, int] = {}
    hashes: list[str] = []
    parts = []
    for batch in passages(snapshot):
        keep = [row for row in batch.to_pylist() if row["passage_id"] in wanted]
        parts.append(encoder.passage.tokenize([full_text(row["title"], row["text"]) for row in keep]))
        for row in keep:
            rows[row["passage_id"]] = len(hashes)
            hashes.append(row["text_hash"])
    return rows, hashes, TokenTable(parts)


def _group(mined: pa.Table, query_row: dict[str, int], passage_row: dict[str, int]) -> dict[int, np.ndarray]:
    grouped: dict[int, list[int]] = {}
    for query, passage in zip(mined["query_id"].to_pylist(), mined["passage_id"].to_pylist(), strict=True):
        grouped.setdefault(query_row[query], []).append(passage_row[passage])
    return {query: np.array(rows, np.int64) for query, rows in grouped.items()}


def _known(
    wording: pa.Table, all_qrels: pa.Table, query_row: dict[str, int], passage_row: dict[str, int], classes: np.ndarray
) -> dict[int, np.ndarray]:
    texts = wording["text"].to_pylist()
    by_text: dict[str, set[int]] = {}
    for query, passage in zip(all_qrels["query_id"].to_pylist(), all_qrels["passage_id"].to_pylist(), strict=True):
        if query in query_row:
            by_text.setdefault(texts[query_row[query]], set()).add(int(classes[passage_row[passage]]))
    return {row: np.array(sorted(by_text[text]), np.int64) for row, text in enumerate(texts)}
