"""Can a model tell these texts apart? Looks at tokens and vectors before a night trains on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.encoder.dual_encoder import DualEncoder, load_encoder
from tasks.core.encoder.tokenizing import token_ids
from tasks.core.snapshot.reader import judged, passages, qrels
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.training")

SAMPLE = 2_000  # training pairs
ENCODED = 32  # of their texts that are encoded, to see whether vectors differ
SOME_UNKNOWN = 0.05  # share of unknown tokens that is worth a warning; English has less than 0.001 under MiniLM
UNREADABLE = 0.5  # share of unknown tokens from which on a text is lost
LEAST_READABLE = 0.05  # share of training pairs with both texts readable, below which nothing can be learned
SAME_VECTOR = 1e-5  # the largest difference, in any number, of vectors that count as the same


class Tokenized(NamedTuple):
    """Token ids of texts, without special tokens, and the share of unknown ones: of all tokens, and text by text."""

    ids: list[list[int]]
    unknown: float
    by_text: np.ndarray  # float64 (n,); 1 for a text that has no token

    @property
    def different(self) -> int:
        """How many of the texts have ids of their own."""
        return len(set(map(tuple, self.ids)))


def tokenize_sample(tokenizer: Any, texts: Sequence[str], limit: int) -> Tokenized:
    """Tokenize texts without a prompt, up to `limit` tokens each."""
    special = set(tokenizer.all_special_ids)
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        unknown = None  # a tokenizer of bytes knows every text; the name stands for another token
    dropped = special - {unknown}
    ids = [[one for one in row if one not in dropped] for row in token_ids(tokenizer, texts, limit)]
    counts = np.array([row.count(unknown) if unknown is not None else 0 for row in ids])
    sizes = np.array([len(row) for row in ids])
    by_text = np.where(sizes > 0, counts / np.maximum(sizes, 1), 1.0)
    return Tokenized(ids, float(counts.sum() / max(1, sizes.sum())), by_text)


def warn_of_unknown_tokens(model: str, queries: float, passages: float) -> str:
    """A warning where the tokenizer of `model` does not know more than a few of the tokens; else empty."""
    if max(queries, passages) < SOME_UNKNOWN:
        return ""
    return (
        f"{queries:.1%} of the queries' tokens and {passages:.1%} of the passages' are unknown to the tokenizer of "
        f"{model}, which cannot tell those words apart. Give [encoder] model one that was made for this language"
    )


def check_learnable(encoder: Encoder, snapshot: Snapshot, *, will_train: bool) -> None:
    """Look at a sample of training pairs as the encoder sees them; warn of unknown tokens.

    Raises BadInput, where the night will train, when the encoder cannot tell the texts apart.
    """
    queries, positives = _sample(snapshot)
    model = load_encoder(encoder.path)
    asked = tokenize_sample(model.query.tokenizer, queries, model.query.max_tokens)
    answers = tokenize_sample(model.passage.tokenizer, positives, model.passage.max_tokens)
    if warning := warn_of_unknown_tokens(encoder.base, asked.unknown, answers.unknown):
        log.warning("%s.", warning)
    if not will_train:
        return
    reason = _unreadable(asked, answers) or _same_tokens(queries, asked, positives, answers)
    if reason := reason or _same_vectors(model, queries, positives):
        raise BadInput(
            f"nothing can be learned from this data with {encoder.base}: {reason}. Give [encoder] model one that was "
            "made for the language and script of the data."
        )


def _sample(snapshot: Snapshot) -> tuple[list[str], list[str]]:
    """Queries and one positive of each, evenly spread over the training queries."""
    asked = judged(snapshot, "train")
    rows = np.unique(np.linspace(0, asked.num_rows - 1, SAMPLE).astype(int))
    asked = asked.take(pa.array(rows))
    pairs = qrels(snapshot, "train").select(["query_id", "passage_id"]).to_pylist()
    first = {pair["query_id"]: pair["passage_id"] for pair in reversed(pairs)}
    wanted = pa.array(sorted({first[query] for query in asked["query_id"].to_pylist()}), pa.string())
    texts: dict[str, str] = {}
    for batch in passages(snapshot, columns=["passage_id", "title", "text"]):
        for row in batch.filter(pc.is_in(batch["passage_id"], value_set=wanted)).to_pylist():
            texts[row["passage_id"]] = full_text(row["title"], row["text"])
    return asked["text"].to_pylist(), [texts[first[query]] for query in asked["query_id"].to_pylist()]


def _unreadable(asked: Tokenized, answers: Tokenized) -> str:
    lost = (asked.by_text >= UNREADABLE) | (answers.by_text >= UNREADABLE)
    if 1 - lost.mean() >= LEAST_READABLE:
        return ""
    return (
        f"in {lost.sum():,} of {len(lost):,} training pairs the query or the passage consists of unknown tokens by "
        "half or more"
    )


def _same_tokens(queries: list[str], asked: Tokenized, positives: list[str], answers: Tokenized) -> str:
    for name, texts, tokenized in (("queries", queries, asked), ("passages", positives, answers)):
        if len(set(texts)) > 1 and tokenized.different == 1:
            return f"all {len(set(texts)):,} different training {name} have the same tokens"
    return ""


def _same_vectors(model: DualEncoder, queries: list[str], positives: list[str]) -> str:
    for name, texts, encode in (
        ("queries", queries, model.encode_queries),
        ("passages", positives, model.encode_passages),
    ):
        some = list(dict.fromkeys(texts))[:ENCODED]
        if len(some) > 1 and float(np.ptp(encode(some), axis=0).max()) < SAME_VECTOR:
            return f"the vectors of {len(some)} different {name} are all the same"
    return ""
